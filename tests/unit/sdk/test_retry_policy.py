"""How long the client waits before it sends again."""

from hypothesis import given
from hypothesis import strategies as st

from parrot.sdk.retry import RetryPolicy


def test_delays_double_up_to_their_bound() -> None:
    policy = RetryPolicy(first_delay_s=0.1, max_delay_s=1.0)
    delays = [policy.delay_s(attempt, chance=lambda: 1.0) for attempt in range(1, 7)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 1e9))
def test_delay_lies_between_half_the_bound_and_what_is_asked(
    attempt: int, chance: float, asked_s: float | None
) -> None:
    policy = RetryPolicy()
    delay_s = policy.delay_s(attempt, asked_s, chance=lambda: chance)
    assert policy.first_delay_s / 2 <= delay_s <= max(policy.max_delay_s, policy.max_asked_s)
    if asked_s is not None:
        assert delay_s >= min(asked_s, policy.max_asked_s)
