"""What determined when a call ended: the chain of calls each of which waited for the one before it."""

from collections.abc import Mapping

from parrot.core.analysis.dataflow import producers
from parrot.core.graph import ApplicationGraph
from parrot.types.ids import CallId


def determining_chain(
    graph: ApplicationGraph,
    last: CallId,
    *,
    ended_at: Mapping[CallId, float],
    submitted_at: Mapping[CallId, float],
) -> tuple[CallId, ...]:
    """The calls that determined when `last` could begin, in the order in which they ran, and `last` itself.

    Before each call stands the one of its producers that ended last. The chain begins with a call that waited
    for no other: one without producers, or one that was submitted when they all had ended, so that it was its
    client that it waited for.

    Args:
        graph: read only.
        last: the chain's end; it need not have ended itself.
        ended_at: when calls ended; those that have not are not in it.
        submitted_at: when calls were submitted, by the same clock.
    """
    chain = [last]
    while True:
        call = graph.calls[chain[-1]]
        ended = [p.call_id for p in producers(graph, call) if p.call_id in ended_at]
        if not ended:
            break
        slowest = max(ended, key=ended_at.__getitem__)
        if ended_at[slowest] < submitted_at[call.call_id]:
            break
        chain.append(slowest)
    return tuple(reversed(chain))
