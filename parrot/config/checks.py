"""Settings that are each allowed but cannot hold together."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from parrot.config.settings import EngineSettings, Settings
from parrot.engine.torch.config import TorchConfig
from parrot.server.config import is_loopback

MAX_PORT = 65_535

NOT_ABOVE = (
    ("limits.max_call_bytes", "limits.max_batch_bytes"),
    ("limits.max_template_bytes", "limits.max_call_bytes"),
    ("limits.max_value_bytes", "limits.max_batch_bytes"),
    ("limits.max_pending_calls", "limits.max_session_calls"),
    ("limits.max_batch_calls", "limits.max_session_calls"),
    ("limits.max_graph_depth", "limits.max_session_calls"),
    ("limits.session_idle_ttl_s", "limits.session_ttl_s"),
    ("limits.max_crash_attempts", "limits.max_attempts"),
    ("limits.call_timeout_s", "limits.session_ttl_s"),
    ("service.restart_delay_s", "service.max_restart_delay_s"),
)
"""The first of each pair may not be above the second."""

POSITIVE = (
    "limits.max_attempts",
    "limits.max_batch_calls",
    "limits.max_sessions",
    "limits.max_json_depth",
    "limits.max_wait_s",
    "limits.call_timeout_s",
    "service.sweep_interval_s",
    "service.engine_ping_interval_s",
    "server.max_connections",
)
"""With 0 here, nothing could be done at all."""


class Contradiction(NamedTuple):
    """A setting that cannot hold."""

    key: str
    complaint: str
    code: str = "bad_config"


def contradictions(settings: Settings) -> Iterator[Contradiction]:
    """Everything that cannot be served as it is set."""
    for key in POSITIVE:
        if _number(settings, key) == 0:
            yield Contradiction(key, "must be above 0")
    for low, high in NOT_ABOVE:
        if _number(settings, low) > _number(settings, high):
            complaint = f"{_number(settings, low):,} is above {high} = {_number(settings, high):,}"
            yield Contradiction(low, complaint)
    if settings.server.port > MAX_PORT:
        yield Contradiction("server.port", f"{settings.server.port} is not a port; ports go up to {MAX_PORT}")
    yield from _listening(settings)
    yield from _engines(settings.engines)


def _listening(settings: Settings) -> Iterator[Contradiction]:
    server = settings.server
    if not is_loopback(server.host) and not server.keys and server.keys_file is None:
        yield Contradiction(
            "server.host", f"refusing to listen on {server.host} without auth", "no_auth_listen"
        )
    if (server.tls_cert is None) != (server.tls_key is None):
        alone = "tls_key" if server.tls_cert is None else "tls_cert"
        yield Contradiction(f"server.{alone}", "server.tls_cert and server.tls_key go together")


def _engines(engines: tuple[EngineSettings, ...]) -> Iterator[Contradiction]:
    seen: dict[str, str] = {}
    for engine in engines:
        for engine_id in engine.engine_ids():
            if engine_id in seen:
                yield Contradiction(
                    f"engines.{engine.name}", f"its replica {engine_id} has the name of another engine"
                )
            seen[engine_id] = engine.name
        if isinstance(engine.config, TorchConfig) and not Path(engine.config.model_dir).is_dir():
            yield Contradiction(
                f"engines.{engine.name}.model_dir", f"no directory {engine.config.model_dir!r}"
            )


def _number(settings: Settings, key: str) -> float:
    section, _, name = key.partition(".")
    value: float = getattr(getattr(settings, section), name)
    return value
