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
from collections.abc import Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from types import MappingProxyType
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


class BackwardAnalysis(Generic[Fact, Ask]):
    """One fact for each call of a graph that has not ended."""

    def __init__(self, graph: ApplicationGraph, rule: Rule[Fact, Ask]) -> None:
        self._graph = graph
        self._calls = graph.calls
        self._variables = graph.variables
        self._rule = rule
        self._facts: dict[CallId, Fact] = {}
        self._asked: dict[CallId, _Asked[Ask]] = {}
        self._stages: dict[CallId, int] = {}
        self._to_judge: set[CallId] = set()
        self._to_tell: set[CallId] = set()
        """To be judged too, and to ask anew even if that changes nothing about themselves."""

    def added(self, call_ids: Iterable[CallId]) -> None:
        """The graph has these new calls."""
        new = [self._calls[call_id] for call_id in call_ids]
        for call in new:
            self._to_judge.update(producer.call_id for producer in producers(self._graph, call))
            if is_open(self._graph, call):
                self._stages[call.call_id] = call.stage
                self._to_tell.add(call.call_id)
        moved = deque(new)
        while moved:
            for consumer in consumers(self._graph, moved.popleft()):
                stage = self._stages.get(consumer.call_id)
                if stage is None:
                    continue
                self._to_tell.add(consumer.call_id)
                if stage != consumer.stage:
                    self._stages[consumer.call_id] = consumer.stage
                    moved.append(consumer)

    def touched(self, call_ids: Iterable[CallId]) -> None:
        """Something about these calls that the rule looks at has changed."""
        self._to_judge.update(call_ids)

    def resolved(self, variable_id: VariableId) -> None:
        """A variable has become ready or failed: its consumers ask for it no longer."""
        producer = self._graph.producer(variable_id)
        if producer is None:
            return
        if not is_open(self._graph, producer):
            self.ended(producer.call_id)
            return
        self._to_judge.add(producer.call_id)
        asked = self._asked.get(producer.call_id)
        if asked is None:
            return
        still = {
            consumer
            for output in producer.outputs.values()
            if self._variables[output].state == "pending"
            for consumer in self._variables[output].consumers
        }
        for consumer in self._variables[variable_id].consumers:
            if consumer not in still:
                asked.put(consumer, None)

    def ended(self, call_id: CallId) -> None:
        """A call has nothing more to produce: it has no fact and asks for nothing any more."""
        if self._stages.pop(call_id, None) is None:
            return
        self._facts.pop(call_id, None)
        self._asked.pop(call_id, None)
        self._to_judge.discard(call_id)
        self._to_tell.discard(call_id)
        for producer in producers(self._graph, self._calls[call_id]):
            asked = self._asked.get(producer.call_id)
            if asked is not None and asked.put(call_id, None):
                self._to_judge.add(producer.call_id)

    @property
    def is_settled(self) -> bool:
        """Whether all facts are up to date."""
        return not (self._to_judge or self._to_tell)

    def settle(self, most: int | None = None) -> tuple[CallId, ...]:
        """Bring all facts up to date, or judge `most` calls towards that; the rest stays marked.

        Returns the calls whose facts changed, consumers before producers.
        """
        calls = self._calls
        queued = (self._to_judge | self._to_tell) & self._stages.keys()
        heap = [(-calls[call_id].stage, call_id) for call_id in queued]
        heapify(heap)
        changed: list[CallId] = []
        num_judged = 0
        while heap and num_judged != most:
            num_judged += 1
            call = calls[heappop(heap)[1]]
            asked = self._asked.get(call.call_id)
            fact = self._rule.judge(call, None if asked is None else asked.strictest)
            same = call.call_id in self._facts and self._facts[call.call_id] == fact
            if not same:
                self._facts[call.call_id] = fact
                changed.append(call.call_id)
            if not same or call.call_id in self._to_tell:
                for producer in self._tell(call, fact):
                    if producer.call_id not in queued:
                        queued.add(producer.call_id)
                        heappush(heap, (-producer.stage, producer.call_id))
        self._to_judge = {call_id for _, call_id in heap}
        self._to_tell &= self._to_judge
        return tuple(changed)

    def fact(self, call_id: CallId) -> Fact | None:
        """A call's fact as of the last `settle`; None when it is not open or not known yet."""
        return self._facts.get(call_id)

    def strictest_consumer(self, call_id: CallId) -> CallId | None:
        """The consumer whose ask decides a call's fact, if one asks."""
        asked = self._asked.get(call_id)
        return None if asked is None else asked.strictest_consumer

    @property
    def facts(self) -> Mapping[CallId, Fact]:
        """All facts as of the last `settle`; a view."""
        return MappingProxyType(self._facts)

    def _tell(self, call: Call, fact: Fact) -> Iterator[Call]:
        """Ask a call's producers; gives those for whom that makes a difference."""
        waited_for = {
            self._variables[variable_id].producer
            for variable_id in call.inputs.values()
            if self._variables[variable_id].state == "pending"
        } & self._stages.keys()
        if not waited_for:
            return
        before = list(producers(self._graph, call))
        beside: dict[int, int] = {}
        for producer in before:
            beside[producer.stage] = beside.get(producer.stage, 0) + 1
        for producer in before:
            if producer.call_id not in waited_for:
                continue
            asked = self._asked.get(producer.call_id)
            if asked is None:
                asked = self._asked[producer.call_id] = _Asked()
            if asked.put(call.call_id, self._rule.ask(call, fact, producer, beside[producer.stage])):
                yield producer


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
        if self._by_consumer.get(consumer) == ask:
            return False
        before = self.strictest
        if ask is None:
            del self._by_consumer[consumer]
        else:
            self._by_consumer[consumer] = ask
            heappush(self._heap, (ask, consumer))
        while self._heap and self._by_consumer.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)
        if len(self._heap) > 2 * len(self._by_consumer) + 8:
            self._heap = [(ask, consumer) for consumer, ask in self._by_consumer.items()]
            heapify(self._heap)
        return self.strictest != before


def is_open(graph: ApplicationGraph, call: Call) -> bool:
    """Whether a call has something to produce still."""
    variables = graph.variables
    return not call.ended and any(variables[v].state == "pending" for v in call.outputs.values())


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
