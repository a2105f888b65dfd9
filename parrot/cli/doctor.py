"""`parrot doctor`: what this machine and installation have, and what to do about what is missing."""

import os
import platform
import re
import shutil
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import click

from parrot.cli.failures import EXIT_FAILED
from parrot.cli.output import json_option, write_json
from parrot.errors import ConfigError

State = Literal["ok", "warn", "fail"]

OLDEST_PYTHON = (3, 11)
USEFUL_CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
MIN_FREE_BYTES = 512 << 20
PROBE_TIMEOUT_S = 1.0
MIN_MEMORY_BYTES = 2 << 30
GIB = 1 << 30
COLOURS: dict[State, str] = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    detail: str
    fix: str | None = None
    """What to do, unless all is well."""


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool) -> None:
    """Check Python, packages, processor, memory, GPU, ports, data directory and store.

    The exit status is 1 when something must be mended before Parrot can serve.
    """
    checks = [check for look in CHECKS for check in look()]
    if as_json:
        write_json([asdict(check) for check in checks])
    else:
        for check in checks:
            click.echo(
                f"{click.style(f'{check.state:<5}', fg=COLOURS[check.state])}{check.name:<12}{check.detail}"
            )
            if check.fix:
                click.echo(f"{'':<17}→ {check.fix}")
    if any(check.state == "fail" for check in checks):
        ctx.exit(EXIT_FAILED)


def _python() -> Iterator[Check]:
    new_enough = sys.version_info[:2] >= OLDEST_PYTHON
    yield Check(
        name="python",
        state="ok" if new_enough else "fail",
        detail=f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}",
        fix=None if new_enough else f"install Python {'.'.join(map(str, OLDEST_PYTHON))} or newer",
    )


def _packages() -> Iterator[Check]:
    """The package's own requirements and, one by one, its extras."""
    missing: dict[str, list[str]] = {"": []}
    for requirement in metadata.requires("parrot-llm") or ():
        extra = requirement.rpartition("extra ==")[2].strip(" \"'") if "extra ==" in requirement else ""
        absent = missing.setdefault(extra, [])
        name = re.match(r"[\w.-]+", requirement)
        if name and not _version_of(name[0]):
            absent.append(name[0])
    for extra, absent in missing.items():
        label = f"extra {extra}" if extra else "core"
        package = f'"parrot-llm[{extra}]"' if extra else "parrot-llm"
        yield Check(
            name="packages",
            state="ok" if not absent else "warn" if extra else "fail",
            detail=f"{label}: complete" if not absent else f"{label}: missing {', '.join(absent)}",
            fix=f"pip install {package}" if absent else None,
        )


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> Iterator[Check]:
    flags = _cpu_flags()
    useful = [flag for flag in USEFUL_CPU_FLAGS if flag in flags]
    usable, present = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    cores = f"{usable} cores" if usable == present else f"{usable} of {present} cores"
    slow = bool(flags) and "avx512f" not in flags and "avx2" not in flags and "asimd" not in flags
    yield Check(
        name="processor",
        state="warn" if slow else "ok",
        detail=f"{platform.machine()}, {cores}, {' '.join(useful) or 'no vector extensions known'}",
        fix="the CPU engine will be slow without AVX2; use a GPU" if slow else None,
    )


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features")))
    return frozenset(next(found, "").split())


def _memory() -> Iterator[Check]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    enough = total >= MIN_MEMORY_BYTES
    yield Check(
        name="memory",
        state="ok" if enough else "warn",
        detail=f"{total / GIB:.1f} GiB, {free / GIB:.1f} GiB free",
        fix=None if enough else "serve a small model, or bound its KV memory: engines.NAME.kv_bytes",
    )


def _torch() -> Iterator[Check]:
    if _version_of("torch") is None:
        yield Check(
            name="torch",
            state="warn",
            detail="not installed; only the scripted engine can run",
            fix='pip install "parrot-llm[engine]"',
        )
        return
    import torch

    yield Check(name="torch", state="ok", detail=f"{torch.__version__}, {torch.get_num_threads()} threads")
    yield _kernels()
    if not torch.cuda.is_available():
        yield Check(name="gpu", state="ok", detail="none that torch can use; models run on the processor")
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        detail = f"{device.name}, {device.total_memory / GIB:.0f} GiB, CUDA {torch.version.cuda}"
        yield Check(name="gpu", state="ok", detail=detail)


def _kernels() -> Check:
    from parrot.engine.native.library import open_library

    library = open_library()
    if library is None:
        return Check(
            name="kernels",
            state="warn",
            detail="no native kernels; models on the processor run in torch alone, slower",
            fix="install a C++ compiler, then install Parrot again from its source",
        )
    best, *others = reversed(library.supported())
    return Check(
        name="kernels", state="ok", detail=f"native, {best} (also {', '.join(others) or 'no other'})"
    )


def _settings() -> Iterator[Check]:
    """The settings, and what they name: the port, the data directory and the store."""
    from parrot.config import Settings, load_settings
    from parrot.config.directories import default_store
    from parrot.config.sources import default_files

    settings = Settings()
    try:
        loaded = load_settings(defaults={"store.path": default_store()})
    except ConfigError as error:
        fix = "correct it; `parrot config docs` describes every setting"
        yield Check(name="settings", state="fail", detail=error.message, fix=fix)
        store = default_store()
    else:
        files = ", ".join(f"{path}{'' if path.exists() else ' (absent)'}" for path in default_files())
        yield Check(name="settings", state="ok", detail=files)
        for warning in loaded.warnings:
            yield Check(name="settings", state="warn", detail=warning, fix="rename it, or unset it")
        settings, store = loaded.settings, loaded.settings.store.path
    yield _port(settings.server.host, settings.server.port)
    if settings.store.url:
        yield Check(name="store", state="ok", detail="a PostgreSQL database; it is opened by `parrot serve`")
        return
    yield from _data(store.parent)
    yield _store(store.absolute())


def _port(host: str, port: int) -> Check:
    try:
        with socket.create_connection((host, port), timeout=PROBE_TIMEOUT_S):
            taken = True
    except OSError:
        taken = False
    return Check(
        name="port",
        state="warn" if taken else "ok",
        detail=f"{host}:{port} is {'taken' if taken else 'free'}",
        fix="see what it is with `parrot ps`, or serve on another with --port" if taken else None,
    )


def _data(directory: Path) -> Iterator[Check]:
    from parrot.config.directories import model_cache

    place = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    yield Check(
        name="data",
        state="fail" if not writable else "warn" if free < MIN_FREE_BYTES else "ok",
        detail=f"{directory}, {free / GIB:.1f} GiB free{'' if writable else ', not writable'}",
        fix=None if writable and free >= MIN_FREE_BYTES else "name a file elsewhere: parrot serve --db FILE",
    )
    yield Check(name="models", state="ok", detail=f"{model_cache()}")


def _store(file: Path) -> Check:
    if not file.exists():
        return Check(name="store", state="ok", detail=f"{file} (none yet)")
    try:
        with sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=1.0) as database:
            (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        answer = str(error)
    return Check(
        name="store",
        state="ok" if answer == "ok" else "fail",
        detail=f"{file}, {file.stat().st_size / 2**20:.1f} MiB, {'sound' if answer == 'ok' else answer}",
        fix=None if answer == "ok" else "restore it from a backup, or move it away to begin anew",
    )


CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    _python,
    _packages,
    _processor,
    _memory,
    _torch,
    _settings,
)
"""Everything that is looked at, in the order in which it is shown."""
