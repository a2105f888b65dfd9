"""Where a result comes from: the machine, the versions and the commit."""

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import parrot

NOTED_CPU_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "asimd",
    "sve",
    "bf16",
)
"""Vector extensions that decide how fast a model runs."""
_GIT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a measurement ran on."""

    system: str
    cpu: str
    cpu_flags: tuple[str, ...]
    """Those of `NOTED_CPU_FLAGS` that it has."""
    num_cpus: int
    """Those that this process may use."""
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The version of the source that ran, when it ran from a checkout."""

    commit: str
    is_modified: bool
    """Files of the package differ from the commit."""


def machine() -> Machine:
    """This machine; what it does not tell is empty."""
    fields = _cpu_fields()
    flags = frozenset((fields.get("flags") or fields.get("features") or "").split())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        system=platform.platform(),
        cpu=fields.get("model name") or platform.processor() or platform.machine(),
        cpu_flags=tuple(flag for flag in NOTED_CPU_FLAGS if flag in flags),
        num_cpus=usable,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Python's, Parrot's, and those of `packages` that are installed."""
    found = {"python": platform.python_version(), "parrot": parrot.__version__}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> Commit | None:
    """The checkout's commit; None when the package is installed from elsewhere or git is not there."""
    package = Path(parrot.__file__).resolve().parent
    if not (package.parent / ".git").exists():
        return None
    head = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--", ".")
    if head is None or changes is None:
        return None
    return Commit(commit=head, is_modified=bool(changes))


def peak_rss_bytes() -> int:
    """The most memory that this process has had resident so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed words
            ["git", "-C", str(directory), *arguments],  # noqa: S607 - the user's own git
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_fields() -> dict[str, str]:
    """The first processor's entry in the kernel's list."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
