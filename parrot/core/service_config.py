"""How the service runs, apart from its limits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PolicyName = Literal[
    "fifo",
    "longest-prefix",
    "request-level",
    "throughput",
    "priority-hints",
    "cache-aware",
    "app-centric",
]

Ingredient = Literal["groups", "sharing", "affinity", "prefill-ahead", "pipelining", "retention", "fairness"]
"""What makes the service application-centric; each can be switched off to see what it brings.

`groups`: task groups are batched and placed together; without it, each of their calls is taken as if it were
waited for by itself. `sharing`: calls fork from contexts that hold a prefix of theirs. `affinity`: calls go
where their prefixes are. `prefill-ahead`: what stands before a missing input is filled while the input is
being made. `pipelining`: a prompt takes its next input's tokens while they are generated. `retention`: cached
contexts that waiting calls will need are evicted last. `fairness`: ready calls are admitted by what their
tenants and sessions were served; without it, as they came.
"""


SessionOrder = Literal["due", "turns"]
"""Which of a tenant's sessions is next: the one that is due first, or the one that was served least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """Settings of the core."""

    policy: PolicyName = "app-centric"
    """How ready calls are given to engines."""
    without: tuple[Ingredient, ...] = ()
    """Ingredients that are switched off, to measure what they bring."""
    session_order: SessionOrder = "due"
    """Of a tenant's sessions, `due`: the older, and the one with less work left, goes on, within bounds;
    `turns`: the one that was served the fewest tokens is next, so that all get on alike."""
    latency_target_s: float = 0.1
    """A step of an engine with a latency-sensitive call in it should not take longer: it bounds the batch."""
    salt: str = ""
    """The secret under which prefix keys are made, so that tenants share nothing and guess nothing. Without
    it `parrot serve` makes one and keeps it in a file beside the store."""
    shared_prefixes: tuple[str, ...] = ()
    """Beginnings of prompts, or of their first chat message, that are no secret: tenants share the memory of
    these, and of nothing else."""
    shared_prefix_files: tuple[Path, ...] = ()
    """Text files, each with one more of them; the line end at its end is not part of it."""
    restart_delay_s: float = 0.5
    """An engine that was lost is started again after this; the delay doubles with each failure, and with each
    loss until the engine has once lived for as long as the delay can be."""
    max_restart_delay_s: float = 30.0
    """The delay grows no further than this."""
    engine_ping_interval_s: float = 2.0
    """An engine's process is asked for a sign of life this often."""
    engine_dead_after_s: float = 15.0
    """It is killed when it has given none for so long. Time in which the service itself did not run does not
    count."""
    engine_stuck_after_s: float = 30.0
    """It is killed when it has had requests in its batch for so long and taken no step, though it answers."""
    sweep_interval_s: float = 2.0
    """How often deadlines, idle sessions and calls without progress are looked for."""

    def has(self, ingredient: Ingredient) -> bool:
        """Whether an ingredient is on."""
        return ingredient not in self.without
