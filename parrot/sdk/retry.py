"""When a request is sent again, and how long to wait before."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

_chance = secrets.SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter, bounded."""

    attempts: int = 12
    """Requests sent at most, the first one included. With the waits below they take twenty to thirty seconds,
    which is what a service that drains may take to be there again."""
    first_delay_s: float = 0.1
    """The wait after the first failure; doubled after each further one."""
    max_delay_s: float = 5.0
    """No wait is longer, unless the service asks for it."""
    max_asked_s: float = 30.0
    """A longer `Retry-After` is cut to this."""

    def delay_s(
        self, attempt: int, asked_s: float | None = None, *, chance: Callable[[], float] = _chance.random
    ) -> float:
        """Seconds to wait after failure number `attempt` (1, 2, …): half of the bound to all of it, by
        chance.

        `asked_s`, what the service asked for, goes before when it is longer.
        """
        bound = min(self.max_delay_s, self.first_delay_s * 2.0 ** min(attempt - 1, 30))
        asked = min(asked_s or 0.0, self.max_asked_s)
        return max(bound * (0.5 + chance() / 2), asked)


NO_RETRY = RetryPolicy(attempts=1)
QUICK_RETRY = RetryPolicy(attempts=6)
"""For the first contact, where a wrong address should be told soon, after two or three seconds."""
