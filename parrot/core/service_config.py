"""How the service runs, apart from its limits."""

from dataclasses import dataclass
from typing import Literal

PolicyName = Literal["fifo", "longest-prefix", "request-level", "throughput", "cache-aware", "app-centric"]

Ingredient = Literal["groups", "sharing", "affinity", "prefill-ahead", "pipelining", "retention", "fairness"]
"""What makes the service application-centric; each can be switched off to see what it brings.

`groups`: task groups are placed together. `sharing`: calls fork from contexts that hold a prefix of theirs.
`affinity`: calls go where their prefixes are. `prefill-ahead`: what stands before a missing input is filled
while the input is being made. `pipelining`: a prompt takes its next input's tokens while they are generated.
`retention`: cached contexts that waiting calls will need are evicted last. `fairness`: ready calls are
admitted by what their tenants and sessions were served; without it, as they came.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """Settings of the core."""

    policy: PolicyName = "app-centric"
    """How ready calls are given to engines."""
    without: tuple[Ingredient, ...] = ()
    """Ingredients that are switched off, to measure what they bring."""
    latency_target_s: float = 0.1
    """A step of an engine with a latency-sensitive call in it should not take longer: it bounds the batch."""
    salt: str = ""
    """A secret that is mixed into every tenant's prefix keys, so that no tenant can guess another's."""
    restart_delay_s: float = 0.5
    """An engine that was lost is started again after this; the delay doubles with each failure."""
    max_restart_delay_s: float = 30.0
    """The delay grows no further than this."""
    sweep_interval_s: float = 2.0
    """How often deadlines, idle sessions and calls without progress are looked for."""

    def has(self, ingredient: Ingredient) -> bool:
        """Whether an ingredient is on."""
        return ingredient not in self.without
