"""Facts that flow backwards through an application's graph, kept up to date as it changes.

This is the backward data-flow analysis of compilers, on a graph without cycles: each call has a **fact** that
follows from itself and from the strictest of what its consumers **ask** of it, and each call asks something
of the calls that produce its inputs.

    producer  ◀──ask──  call  ◀──ask──  consumer ×3
                         │
                  fact = judge(call, strictest ask)

Only **open** calls have facts: those that have not ended and have an output that is still pending. A consumer
asks only for variables that are pending. Events mark what they touch; `settle` then judges the marked calls,
the latest stages first, and goes on to the producers of those for whom the strictest ask has changed. Every
edge leads to a later stage, so each time a call is judged at most once. The cost is that of the marked calls,
of the calls whose facts change and of their inputs, times the logarithm of their fan-out, whatever else
lives.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Generic, Protocol, TypeVar

from parrot.core.graph import ApplicationGraph, Call
from parrot.types.ids import CallId, VariableId

Fact = TypeVar("Fact")
Ask = TypeVar("Ask", bound=tuple[Any, ...])


class Rule(Protocol[Fact, Ask]):
    """What is to be known of each call. Asks are compared: the least is the strictest."""

    def judge(self, call: Call, strictest: Ask | None) -> Fact:
        """A call's fact, from itself and from the strictest ask; None when no consumer that lives asks."""
        ...

    def ask(self, call: Call, fact: Fact, producer: Call, num_beside: int) -> Ask | None:
        """What a call with this fact asks of one of its producers.

        `num_beside` counts the call's producers at this producer's stage, ended or not: it and those beside
        it.
        """
        ...


class _Node(Generic[Fact, Ask]):
    """What is known of one open call."""

    __slots__ = ("asked", "call", "fact", "judged", "stage")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.stage = call.stage
        self.judged = False
        self.fact: Fact
        """Set when judged, and only then."""
        self.asked: _Asked[Ask] | None = None


class BackwardAnalysis(Generic[Fact, Ask]):
    """One fact for each call of a graph that has not ended."""

    def __init__(self, graph: ApplicationGraph, rule: Rule[Fact, Ask]) -> None:
        self._graph = graph
        self._calls = graph.calls
        self._variables = graph.variables
        self._rule = rule
        self._nodes: dict[CallId, _Node[Fact, Ask]] = {}
        self._to_judge: set[CallId] = set()
        self._to_tell: set[CallId] = set()
        """To be judged too, and to ask anew even if that changes nothing about themselves."""

    def added(self, call_ids: Iterable[CallId]) -> None:
        """The graph has these new calls."""
        nodes, variables, calls = self._nodes, self._variables, self._calls
        new = [calls[call_id] for call_id in call_ids]
        for call in new:
            for variable_id in call.inputs.values():
                producer = variables[variable_id].producer
                if producer is not None:
                    self._to_judge.add(producer)
            if is_open(self._graph, call):
                nodes[call.call_id] = _Node(call)
                self._to_tell.add(call.call_id)
        moved = deque(new)
        while moved:
            for variable_id in moved.popleft().outputs.values():
                for consumer_id in variables[variable_id].consumers:
                    node = nodes.get(consumer_id)
                    if node is None:
                        continue
                    self._to_tell.add(consumer_id)
                    if node.stage != node.call.stage:
                        node.stage = node.call.stage
                        moved.append(node.call)

    def touched(self, call_ids: Iterable[CallId]) -> None:
        """Something about these calls that the rule looks at has changed."""
        self._to_judge.update(call_ids)

    def resolved(self, variable_id: VariableId) -> None:
        """A variable has become ready or failed: its consumers ask for it no longer."""
        variable = self._variables[variable_id]
        node = self._nodes.get(variable.producer) if variable.producer is not None else None
        if node is None:
            return
        producer = node.call
        if not is_open(self._graph, producer):
            self.ended(producer.call_id)
            return
        self._to_judge.add(producer.call_id)
        if node.asked is None:
            return
        still = {
            consumer
            for output in producer.outputs.values()
            if self._variables[output].state == "pending"
            for consumer in self._variables[output].consumers
        }
        for consumer in variable.consumers:
            if consumer not in still:
                node.asked.put(consumer, None)

    def ended(self, call_id: CallId) -> None:
        """A call has nothing more to produce: it has no fact and asks for nothing any more."""
        nodes = self._nodes
        ended = nodes.pop(call_id, None)
        if ended is None:
            return
        self._to_judge.discard(call_id)
        self._to_tell.discard(call_id)
        variables = self._variables
        for variable_id in ended.call.inputs.values():
            producer = variables[variable_id].producer
            node = nodes.get(producer) if producer is not None else None
            if node is not None and node.asked is not None and node.asked.put(call_id, None):
                self._to_judge.add(node.call.call_id)

    @property
    def is_settled(self) -> bool:
        """Whether all facts are up to date."""
        return not (self._to_judge or self._to_tell)

    def settle(self, most: int | None = None) -> Sequence[CallId]:
        """Bring all facts up to date, or judge `most` calls towards that; the rest stays marked.

        Returns the calls whose facts changed, consumers before producers.
        """
        if not (self._to_judge or self._to_tell):
            return ()
        nodes, judge = self._nodes, self._rule.judge
        queued = self._to_judge | self._to_tell
        queued &= nodes.keys()
        heap = [(-nodes[call_id].call.stage, call_id) for call_id in queued]
        heapify(heap)
        changed: list[CallId] = []
        num_judged = 0
        while heap and num_judged != most:
            num_judged += 1
            call_id = heappop(heap)[1]
            node = nodes[call_id]
            fact = judge(node.call, None if node.asked is None else node.asked.strictest)
            if node.judged and node.fact == fact:
                if call_id not in self._to_tell:
                    continue
            else:
                node.fact, node.judged = fact, True
                changed.append(call_id)
            for producer in self._tell(node.call, fact):
                if producer.call_id not in queued:
                    queued.add(producer.call_id)
                    heappush(heap, (-producer.stage, producer.call_id))
        self._to_judge = {call_id for _, call_id in heap}
        self._to_tell &= self._to_judge
        return changed

    def fact(self, call_id: CallId) -> Fact | None:
        """A call's fact as of the last `settle`; None when it is not open or not known yet."""
        node = self._nodes.get(call_id)
        return node.fact if node is not None and node.judged else None

    def strictest_consumer(self, call_id: CallId) -> CallId | None:
        """The consumer whose ask decides a call's fact, if one asks."""
        node = self._nodes.get(call_id)
        return None if node is None or node.asked is None else node.asked.strictest_consumer

    @property
    def facts(self) -> Mapping[CallId, Fact]:
        """All facts as of the last `settle`."""
        return {call_id: node.fact for call_id, node in self._nodes.items() if node.judged}

    def _tell(self, call: Call, fact: Fact) -> list[Call]:
        """Ask a call's producers; gives those for whom that makes a difference."""
        nodes, variables, calls = self._nodes, self._variables, self._calls
        before: dict[CallId, bool] = {}
        """Producers, and whether an input of theirs is waited for."""
        for variable_id in call.inputs.values():
            variable = variables[variable_id]
            if variable.producer is not None:
                waits = variable.state == "pending" and variable.producer in nodes
                before[variable.producer] = waits or before.get(variable.producer, False)
        if True not in before.values():
            return []
        beside: dict[int, int] = {}
        for producer_id in before:
            stage = calls[producer_id].stage
            beside[stage] = beside.get(stage, 0) + 1
        told: list[Call] = []
        ask = self._rule.ask
        for producer_id, waits in before.items():
            if not waits:
                continue
            node = nodes[producer_id]
            if node.asked is None:
                node.asked = _Asked()
            asks = ask(call, fact, node.call, beside[node.call.stage])
            if node.asked.put(call.call_id, asks):
                told.append(node.call)
        return told


class _Asked(Generic[Ask]):
    """What a call's consumers ask of it. A heap from which outdated entries are taken when they come up."""

    __slots__ = ("_by_consumer", "_heap")

    def __init__(self) -> None:
        self._by_consumer: dict[CallId, Ask] = {}
        self._heap: list[tuple[Ask, CallId]] = []

    @property
    def strictest(self) -> Ask | None:
        """The least of the asks."""
        return self._heap[0][0] if self._heap else None

    @property
    def strictest_consumer(self) -> CallId | None:
        """Whose ask that is."""
        return self._heap[0][1] if self._heap else None

    def put(self, consumer: CallId, ask: Ask | None) -> bool:
        """Set or, with None, take back a consumer's ask; says whether the strictest has changed."""
        asks, heap = self._by_consumer, self._heap
        if asks.get(consumer) == ask:
            return False
        before = heap[0][0] if heap else None
        if ask is None:
            del asks[consumer]
            if not asks:
                heap.clear()
                return True
        else:
            asks[consumer] = ask
            heappush(heap, (ask, consumer))
        while heap and asks.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        if len(heap) > 2 * len(asks) + 8:
            self._heap = heap = [(ask, consumer) for consumer, ask in asks.items()]
            heapify(heap)
        return heap[0][0] != before


def is_open(graph: ApplicationGraph, call: Call) -> bool:
    """Whether a call has something to produce still."""
    if call.ended:
        return False
    variables = graph.variables
    for variable_id in call.outputs.values():  # noqa: SIM110 - asked for every change of every call
        if variables[variable_id].state == "pending":
            return True
    return False


def producers(graph: ApplicationGraph, call: Call) -> Iterator[Call]:
    """The calls that produce a call's inputs, each once, in the order of the inputs."""
    calls, variables = graph.calls, graph.variables
    found = dict.fromkeys(variables[variable_id].producer for variable_id in call.inputs.values())
    return (calls[call_id] for call_id in found if call_id is not None)


def consumers(graph: ApplicationGraph, call: Call) -> Iterator[Call]:
    """The calls that consume a call's outputs, each once, in the order in which they were submitted."""
    calls, variables = graph.calls, graph.variables
    found = dict.fromkeys(
        c for variable_id in call.outputs.values() for c in variables[variable_id].consumers
    )
    return (calls[call_id] for call_id in found)
