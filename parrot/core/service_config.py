"""How the service runs, apart from its limits."""

from dataclasses import dataclass
from typing import Literal

PolicyName = Literal["fifo", "longest-prefix", "request-level", "throughput", "cache-aware", "app-centric"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredients:
    """Parts of the application-centric service, each of which can be switched off to see what it brings."""

    groups: bool = True
    """Task groups are placed together."""
    sharing: bool = True
    """Calls fork from contexts that hold a prefix of theirs."""
    affinity: bool = True
    """Calls go where their prefixes are."""
    fairness: bool = True
    """Ready calls are admitted by what their tenants and sessions were served; without it, as they came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """Settings of the core."""

    policy: PolicyName = "longest-prefix"
    """How ready calls are given to engines."""
    salt: str = ""
    """A secret that is mixed into every tenant's prefix keys, so that no tenant can guess another's."""
    restart_delay_s: float = 0.5
    """An engine that was lost is started again after this; the delay doubles with each failure."""
    max_restart_delay_s: float = 30.0
    """The delay grows no further than this."""
    sweep_interval_s: float = 2.0
    """How often deadlines, idle sessions and calls without progress are looked for."""
