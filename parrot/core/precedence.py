"""Which of a tenant's ready calls comes first: the one that is due first.

    due = when it was submitted + what its session has left, in seconds of an engine's work

Of applications that came together, the one that is nearest to its end goes on, so that one after the other
ends and the mean completion time is short (shortest remaining work first; Schrage 1968). Of those that came
at different times, the older one goes on, so that a chain of calls does not begin anew at the end of the
queue with each step. A deadline makes a call due when it has to begin at the latest; throughput work is due
later than what somebody waits for.

A client that sees more than the graph shows may say that a call is more or less urgent than it looks.

All of this counts only so much, and nothing starves by it: a call is never behind one of its tenant that gets
ready more than `STARVATION_S` later.
"""

from parrot.core.estimates import Work

PROMPT_TOKEN_S = 0.0002
OUTPUT_TOKEN_S = 0.0004
"""An engine's time for a token, about: what is compared is how much work sessions have left."""
AGE_S = 300.0
"""A call's age before it was ready counts no more than this."""
WORK_S = 60.0
"""What a session has left counts no more than this."""
BULK_S = 60.0
"""Throughput work is due so much later."""
URGENCY_S = 30.0
"""What a client says of a call's urgency counts no more than this, earlier or later."""
STARVATION_S = AGE_S + WORK_S + BULK_S + 2 * URGENCY_S
"""A call is behind no call of its tenant that gets ready so much later than itself."""


def due_s(
    *,
    ready_at_s: float,
    submitted_at_s: float,
    remaining: Work,
    bulk: bool = False,
    start_by_s: float | None = None,
    urgency_s: float = 0.0,
) -> float:
    """When a call is due, by the clock of its times; who is due first is first.

    Args:
        ready_at_s: it had all its inputs.
        submitted_at_s: it was submitted, not later than that.
        remaining: all that its session still has to do, the call itself included.
        bulk: nobody waits for it in particular.
        start_by_s: when it has to begin for a deadline to be kept.
        urgency_s: its client wants it so much earlier; later when negative.
    """
    left_s = PROMPT_TOKEN_S * remaining.prompt_tokens + OUTPUT_TOKEN_S * remaining.output_tokens
    due = submitted_at_s + min(left_s, WORK_S)
    if start_by_s is not None:
        due = min(due, start_by_s)
    urgency_s = max(-URGENCY_S, min(URGENCY_S, urgency_s))
    return max(due, ready_at_s - AGE_S) + (BULK_S if bulk else 0.0) - urgency_s
