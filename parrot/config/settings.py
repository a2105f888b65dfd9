"""What can be set: each component's own configuration, under its section's name."""

from dataclasses import dataclass, field

from parrot.core.limits import Limits
from parrot.core.service_config import ServiceConfig
from parrot.engine.scripted_config import ScriptedConfig
from parrot.engine.torch.config import TorchConfig
from parrot.server.config import ServerConfig
from parrot.store.config import StoreConfig

EngineConfig = ScriptedConfig | TorchConfig

ENGINE_KINDS: dict[str, type[ScriptedConfig | TorchConfig]] = {
    "scripted": ScriptedConfig,
    "torch": TorchConfig,
}
"""Values of `engines.<name>.kind`, and the configuration that each takes."""

SECTIONS: dict[str, type] = {
    "server": ServerConfig,
    "service": ServiceConfig,
    "store": StoreConfig,
    "limits": Limits,
}
"""Sections with one configuration each; `engines` has one for each named engine."""

SECRETS = frozenset({"server.keys", "service.salt", "store.url"})
"""Keys whose values are never shown in full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """One named engine: `[engines.NAME]`."""

    name: str
    """What the engine is called; its replicas are `NAME-0`, `NAME-1` and so on when there are several."""
    config: EngineConfig
    """The configuration that belongs to its kind."""
    replicas: int = 1
    """So many equal engines are started, each in a process of its own under `parrot serve`."""

    @property
    def kind(self) -> str:
        """`scripted` or `torch`."""
        return next(kind for kind, cls in ENGINE_KINDS.items() if isinstance(self.config, cls))

    def engine_ids(self) -> tuple[str, ...]:
        """The replicas' identifiers."""
        if self.replicas == 1:
            return (self.name,)
        return tuple(f"{self.name}-{number}" for number in range(self.replicas))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a service is built from."""

    server: ServerConfig = field(default_factory=ServerConfig)
    """The HTTP service."""
    service: ServiceConfig = field(default_factory=ServiceConfig)
    """The scheduler and what watches over engines and sessions."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """Where sessions survive a restart."""
    limits: Limits = field(default_factory=Limits)
    """What one request, session or tenant may ask for."""
    engines: tuple[EngineSettings, ...] = ()
    """The engines to start, in the order in which they are named."""
