"""What placing a call on an engine costs, in seconds: its own time, and that of the calls that are there.

    own      the prompts before it and its own are computed, then there is a step for each output token
    others'  each call that is there waits while its prompt is computed, and has longer steps while it decodes

Mean completion time grows by the sum of the two, so a placement is chosen by the sum. What calls share
shortens both: it is not computed again, and, where attention reads shared KV once, not read again in every
step.
"""

from parrot.core.roster import EngineState
from parrot.core.scheduler import ReadyCall

OTHERS = 0.5
"""What a second of another call counts: the calls that are there are halfway through, on average."""

TO_COME = 1
"""Calls that are not there yet, and will be delayed too. So no work is done twice for next to nothing."""


def forecast(engine: EngineState, call: ReadyCall, shared: int, num_beside: int = 0) -> tuple[float, float]:
    """What becomes of a call on an engine, which has `shared` tokens of its prompt, and of the calls that are
    there, but for `num_beside` of its own group: of a group only the last counts.

    Returns:
        Seconds from now until it is done, and the cost: these, and by how much others that are there are done
        later, all together, if they stay as long as it does.
    """
    pace, num_steps, num_calls = engine.pace, call.num_output_tokens, engine.num_calls
    to_fill = call.num_prompt_tokens - shared
    to_fill = max(to_fill, 0)
    to_hold = to_fill + num_steps
    batch = num_calls + 1
    batch = min(batch, engine.max_batch)
    # `fill_s` and `step_s` written out: this is asked of many engines for each call.
    prefill_s, decode_s, kv_s = pace.prefill_s, pace.decode_s, pace.kv_s
    finish_s = prefill_s * (engine.num_unfilled_tokens + to_fill)
    finish_s += num_steps * (pace.base_s + decode_s * batch + kv_s * (engine.num_tokens + to_hold))
    longer_s = prefill_s * to_fill + num_steps * (decode_s + kv_s * to_hold)
    return finish_s, finish_s + OTHERS * ((num_calls - num_beside + TO_COME) * longer_s)
