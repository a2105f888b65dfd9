"""What the parts of the executor share: ports, settings, and the state that lives beside the graphs."""

from collections import Counter
from dataclasses import dataclass, field

from parrot.core.admission import Admission
from parrot.core.estimates import OutputLengths
from parrot.core.executor.ahead import Ahead
from parrot.core.executor.bells import Bells
from parrot.core.executor.deltas import LiveTexts
from parrot.core.executor.fleet import Fleet
from parrot.core.executor.journal import Journal
from parrot.core.executor.locks import SessionLocks
from parrot.core.executor.retention import Retention
from parrot.core.functions import FunctionRegistry
from parrot.core.limits import Limits
from parrot.core.prompts import TokenCache
from parrot.core.service_config import ServiceConfig
from parrot.ports.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One service's shared parts."""

    config: ServiceConfig
    limits: Limits
    clock: Clock
    fleet: Fleet
    journal: Journal
    admission: Admission
    """What each tenant may still ask for."""
    bells: Bells = field(default_factory=Bells)
    """Rung by variable id when there is more of it."""
    locks: SessionLocks = field(default_factory=SessionLocks)
    live: LiveTexts = field(default_factory=LiveTexts)
    tokens: TokenCache = field(default_factory=TokenCache)
    lengths: OutputLengths = field(default_factory=OutputLengths)
    """How long outputs of semantic functions have been."""
    functions: FunctionRegistry = field(default_factory=FunctionRegistry)
    ahead: Ahead = field(init=False)
    retention: Retention = field(init=False)
    counters: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        retention = Retention(self.fleet)
        ahead = Ahead(
            config=self.config,
            fleet=self.fleet,
            tokens=self.tokens,
            clock=self.clock,
            is_awaited=retention.is_wanted,
        )
        object.__setattr__(self, "ahead", ahead)
        object.__setattr__(self, "retention", retention)
