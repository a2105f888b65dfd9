"""Putting the parts together: settings to a service, for `parrot serve` and for one inside a program."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from parrot import __version__
from parrot.config import EngineSettings, Settings, load_settings
from parrot.config.directories import data_directory, model_cache
from parrot.config.settings import ENGINE_KINDS
from parrot.core.service import Service
from parrot.core.service_config import ServiceConfig
from parrot.engine.launch import start_here, start_in_process
from parrot.engine.remote import Liveness
from parrot.engine.scripted_config import ScriptedConfig
from parrot.engine.torch.config import TorchConfig
from parrot.errors import ConfigError
from parrot.ports.chance import fresh_hex
from parrot.ports.clock import SystemClock
from parrot.ports.store import Store
from parrot.server.app import ParrotApp, create_app
from parrot.server.private import read_or_make_secret
from parrot.store import MemoryStore, StoreConfig, open_store
from parrot.types.ids import EngineId

OnProgress = Callable[[EngineId, str, float | None], None]
"""Told what each engine is busy with while it starts: engine, phase, fraction done."""

DEFAULT_PRESET = "small"
ENGINE_NAME = "main"

NOISE = "its words are noise; data flow, sharing and timing are real"


async def build_service(
    settings: Settings,
    *,
    on_progress: OnProgress | None = None,
    store: Store | None = None,
    in_process: bool = False,
) -> Service:
    """A service, not started yet. It owns its store and its engines; closing it closes them.

    Engines run in processes of their own unless `in_process`. Without `store`, the settings' own is opened.

    Raises:
        StoreError: the store cannot be opened.
        ConfigError: the secret beside it, or a file of a shared prefix, cannot be used.
    """
    liveness = Liveness(
        ping_interval_s=settings.service.engine_ping_interval_s,
        dead_after_s=settings.service.engine_dead_after_s,
        stuck_after_s=settings.service.engine_stuck_after_s,
    )
    start = start_here if in_process else partial(start_in_process, liveness=liveness)
    engines = {
        engine_id: start(engine.config, engine_id)
        for engine in settings.engines
        for engine_id in map(EngineId, engine.engine_ids())
    }
    secret = fresh_hex if store is not None else lambda: read_or_make_secret(_secret_file(settings.store))
    opened = store if store is not None else await open_store(settings.store)
    try:
        config = await asyncio.to_thread(_with_secrets, settings.service, secret)
    except ConfigError:
        await opened.close()
        raise
    return Service(
        config=config,
        limits=settings.limits,
        store=opened,
        engines=engines,
        clock=SystemClock(),
        fresh=fresh_hex,
        version=__version__,
        on_progress=on_progress,
    )


def _secret_file(store: StoreConfig) -> Path:
    return data_directory() / "secret" if store.url else Path(f"{store.path}.secret")


def _with_secrets(config: ServiceConfig, secret: Callable[[], str]) -> ServiceConfig:
    """The configuration with a secret, and with the texts of shared prefixes in place of their files."""
    texts: list[str] = list(config.shared_prefixes)
    for path in config.shared_prefix_files:
        try:
            texts.append(path.read_text(encoding="utf-8").removesuffix("\n"))
        except (OSError, UnicodeDecodeError):
            raise ConfigError(
                f"the shared prefix {path} cannot be read as text", param="service.shared_prefix_files"
            ) from None
    return replace(config, salt=config.salt or secret(), shared_prefixes=tuple(texts), shared_prefix_files=())


@asynccontextmanager
async def embedded_app(
    *,
    model: str | None = None,
    engine: str | None = None,
    settings: Settings | None = None,
    on_progress: OnProgress | None = None,
) -> AsyncIterator[ParrotApp]:
    """A whole service inside this process, as an ASGI application; it forgets everything when it ends.

    `model` and `engine` are as in `choose_engine`; without both, the configured engines are taken, and
    without any configured, a small random model (or, without torch, the scripted engine), which is said on
    standard error.

    Raises:
        ConfigError: settings or model are wrong, or a part of Parrot is not installed.
        EngineError: the engine could not start.
    """
    chosen = settings if settings is not None else load_settings().settings
    if model is not None or engine is not None or not chosen.engines:
        main = await asyncio.to_thread(choose_engine, model=model, engine=engine, on_progress=on_progress)
        chosen = replace(chosen, engines=(main,))
    if on_progress is not None:
        for each in chosen.engines:
            on_progress(EngineId(each.name), "starting", None)
    service = await build_service(chosen, on_progress=on_progress, store=MemoryStore(), in_process=True)
    try:
        await service.start()
        await service.wait_ready()
        yield create_app(service, replace(chosen.server, keys=(), keys_file=None))
    finally:
        await service.close()


def choose_engine(
    *,
    model: str | None = None,
    engine: str | None = None,
    replicas: int = 1,
    on_progress: OnProgress | None = None,
) -> EngineSettings:
    """The engine that a user names by `model` (a directory or a Hugging Face name) and `engine` (its kind).

    A model alone means the torch engine. With neither, a small random model that is made once in the user's
    cache; where torch is missing, the scripted engine. Both are said on standard error.

    Raises:
        ConfigError: no such kind or model, or torch is needed and missing.
    """
    if engine is not None and engine not in ENGINE_KINDS:
        raise ConfigError(f"no engine {engine!r}; there are {', '.join(ENGINE_KINDS)}", param="engine")
    if engine == "scripted" or (engine is None and model is None and find_spec("torch") is None):
        if engine is None:
            tell("torch is not installed: the scripted engine answers, with made-up words")
        return EngineSettings(name=ENGINE_NAME, replicas=replicas, config=ScriptedConfig())
    if model is None:
        directory = random_model(on_progress=on_progress)
        tell(f"no model is named, so a small random one is used:\n        {NOISE}")
    else:
        directory = find_model(model)
    return EngineSettings(name=ENGINE_NAME, replicas=replicas, config=TorchConfig(model_dir=str(directory)))


def find_model(model: str) -> Path:
    """The directory of a model given as a directory or as a Hugging Face name, fetched if it must be.

    Raises:
        ConfigError: `bad_model` when there is no such directory or name.
    """
    directory = Path(model)
    if directory.is_dir():
        return directory
    if model.count("/") != 1 or model.startswith((".", "/", "~")) or find_spec("huggingface_hub") is None:
        raise ConfigError(f"no model directory {model!r}", code="bad_model", param="model")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    tell(f"looking for {model} on the Hugging Face hub")
    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{model} is neither a directory nor to be had from the Hugging Face hub: {reason}",
            code="bad_model",
            param="model",
        ) from None


def random_model(*, preset: str = DEFAULT_PRESET, on_progress: OnProgress | None = None) -> Path:
    """The directory of a random model of a preset's shape; made once, in the user's cache.

    Raises:
        ConfigError: `missing_extra` when torch is not installed.
    """
    from parrot.engine.torch.init import init_model

    directory = model_cache() / preset
    if (directory / "config.json").is_file():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)

    def progress(phase: str, fraction: float | None) -> None:
        if on_progress is not None:
            on_progress(EngineId(preset), f"making a random model: {phase}", fraction)

    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        made = Path(scratch) / preset
        init_model(preset, made, seed=0, progress=progress)
        try:
            made.rename(directory)
        except OSError:
            if not (directory / "config.json").is_file():
                raise
    return directory


def tell(text: str) -> None:
    """Tell the person at the terminal something that must not go unsaid."""
    sys.stderr.write(f"parrot: {text}\n")
