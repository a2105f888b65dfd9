"""Stages of a graph that grows: longest paths from its sources, and the cycles that growing would close."""

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)


def downstream(sources: Iterable[Node], successors: Callable[[Node], Iterable[Node]]) -> list[Node]:
    """`sources` and everything that can be reached from them, each once, fewest edges first."""
    found = list(dict.fromkeys(sources))
    seen = set(found)
    queue = deque(found)
    while queue:
        for node in successors(queue.popleft()):
            if node not in seen:
                seen.add(node)
                found.append(node)
                queue.append(node)
    return found


def restage(
    affected: Collection[Node],
    successors: Callable[[Node], Iterable[Node]],
    predecessors: Callable[[Node], Iterable[Node]],
    stage_outside: Callable[[Node], int],
) -> Mapping[Node, int]:
    """The stages of `affected`, which is closed under `successors`, by Kahn's algorithm (1962).

    A node's stage is the number of edges on the longest path that leads to it. `stage_outside` gives the
    stage of a predecessor that is not affected. A node on a cycle, or behind one, is missing from the answer.
    """
    inside = set(affected)
    num_open: dict[Node, int] = {}
    stages: dict[Node, int] = {}
    for node in affected:
        before = set(predecessors(node))
        num_open[node] = len(before & inside)
        stages[node] = max((stage_outside(other) + 1 for other in before - inside), default=0)
    queue = deque(node for node in affected if num_open[node] == 0)
    done: dict[Node, int] = {}
    while queue:
        node = queue.popleft()
        done[node] = stages[node]
        for after in dict.fromkeys(successors(node)):
            stages[after] = max(stages[after], stages[node] + 1)
            num_open[after] -= 1
            if num_open[after] == 0:
                queue.append(after)
    return done


def find_cycle(
    unstaged: Collection[Node], predecessors: Callable[[Node], Iterable[Node]]
) -> tuple[Node, ...]:
    """A cycle among nodes each of which has a predecessor among them, in the direction of its edges."""
    among = set(unstaged)
    node = next(iter(unstaged))
    walked: dict[Node, None] = {}
    while node not in walked:
        walked[node] = None
        node = next(other for other in predecessors(node) if other in among)
    path = list(walked)
    return tuple(reversed(path[path.index(node) :]))
