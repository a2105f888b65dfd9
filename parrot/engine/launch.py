"""From an engine's configuration to a running engine, in this process or in one of its own."""

import asyncio
from importlib.util import find_spec
from typing import TypeAlias

import msgspec

from parrot.engine.messages import Start
from parrot.engine.remote import Liveness, start_remote
from parrot.engine.scripted import ScriptedConfig, ScriptedEngine, ScriptedTokenizer
from parrot.engine.torch.config import TorchConfig
from parrot.errors import ConfigError
from parrot.ports.engine import Engine, Progress, StartEngine, Tokenizer
from parrot.types.ids import EngineId

EngineConfig: TypeAlias = ScriptedConfig | TorchConfig
"""What is needed to make an engine."""

_KINDS: dict[str, type[EngineConfig]] = {"scripted": ScriptedConfig, "torch": TorchConfig}

INSTALL_HINT = (
    "the torch engine needs torch, which is not installed. Install it with\n"
    '  CPU:   pip install torch (PyTorch\'s CPU build), then pip install "parrot-llm[engine]"\n'
    '  CUDA:  pip install "parrot-llm[engine]"'
)
"""What a user without torch is told."""


def encode_config(config: EngineConfig) -> tuple[str, dict[str, object]]:
    """A configuration's kind and its plain form, which can be sent."""
    kind = next(kind for kind, cls in _KINDS.items() if isinstance(config, cls))
    plain: dict[str, object] = msgspec.to_builtins(config)
    return kind, plain


def decode_config(kind: str, plain: dict[str, object]) -> EngineConfig:
    """The inverse of `encode_config`. Raises `ConfigError`."""
    if kind not in _KINDS:
        raise ConfigError(f"there is no engine of the kind {kind!r}", param="kind")
    try:
        return msgspec.convert(plain, _KINDS[kind])
    except msgspec.ValidationError as error:
        raise ConfigError(f"the configuration of the {kind} engine is wrong: {error}") from error


async def build_engine(config: EngineConfig, engine_id: EngineId, progress: Progress) -> Engine:
    """Make an engine in this process.

    Raises:
        ConfigError: `missing_extra`, `bad_model`, or a setting that is wrong.
        EngineError: `engine_start_failed`.
    """
    if isinstance(config, ScriptedConfig):
        progress("ready", 1.0)
        return ScriptedEngine(config, engine_id=engine_id)
    need_torch()
    from parrot.engine.torch.engine import TorchEngine

    return await TorchEngine.start(config, engine_id=engine_id, progress=progress)


def start_here(config: EngineConfig, engine_id: EngineId) -> StartEngine:
    """How to start the engine in this process."""

    async def start(progress: Progress) -> Engine:
        return await build_engine(config, engine_id, progress)

    return start


def start_in_process(
    config: EngineConfig, engine_id: EngineId, *, liveness: Liveness | None = None
) -> StartEngine:
    """How to start the engine in a process of its own, which is watched."""

    async def start(progress: Progress) -> Engine:
        tokenizer = await _load_tokenizer(config)
        kind, plain = encode_config(config)
        message = Start(engine_id=engine_id, kind=kind, config=plain)
        return await start_remote(message, tokenizer=tokenizer, progress=progress, liveness=liveness)

    return start


async def _load_tokenizer(config: EngineConfig) -> Tokenizer:
    if isinstance(config, ScriptedConfig):
        return ScriptedTokenizer()
    need_torch()
    from parrot.engine.torch.tokenizer import load_tokenizer

    return await asyncio.to_thread(load_tokenizer, config.model_dir)


def need_torch() -> None:
    """Raise `ConfigError` (`missing_extra`), which says how to install it, when torch is not there."""
    if find_spec("torch") is None:
        raise ConfigError(INSTALL_HINT, code="missing_extra", param="engine")
