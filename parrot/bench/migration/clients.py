"""The versions as processes: programs of `examples/migration`, which run what they are told on their standard
input.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import parrot
from parrot.errors import ConfigError, UnreachableError

PROGRAMS = Path(parrot.__file__).resolve().parent.parent / "examples" / "migration"
READY = "ready"
_ASK = """\
import importlib.util, sys
print(*[name for name in sys.argv[1:] if not importlib.util.find_spec(name)])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of the application."""

    name: str
    """Of its program."""
    title: str
    needs: tuple[str, ...] = ()
    """Packages beside Parrot."""


VERSIONS = (
    Version(name="openai_loop", title="OpenAI client, a plain loop", needs=("openai",)),
    Version(name="openai_hints", title="the same with session hints", needs=("openai",)),
    Version(name="openai_graph", title="the same with the `parrot` object", needs=("openai",)),
    Version(
        name="langchain_lazy",
        title="LangChain, lazy",
        needs=("langchain_core", "langchain_openai"),
    ),
    Version(name="parrot_sdk", title="Parrot SDK"),
)
"""From the first to the last step of a migration."""


class Client:
    """A version's program, which runs."""

    def __init__(self, process: asyncio.subprocess.Process, version: Version) -> None:
        self._process = process
        self.version = version

    async def run(self, job: Path) -> float:
        """Run the application once; how many seconds it took.

        Raises:
            UnreachableError: the program failed.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{job}\n".encode())
        await self._process.stdin.drain()
        answer = json.loads(await self.line())
        return float(answer["seconds"])

    async def line(self) -> str:
        """The next line that it writes.

        Raises:
            UnreachableError: it ended instead.
        """
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise UnreachableError(f"{self.version.name} ended without a result", code="bad_answer")
        return line.decode().strip()


def interpreter(venv: Path | None) -> str:
    """The Python that runs the programs; without an environment, this one.

    Raises:
        ConfigError: there is none, or the programs are not there.
    """
    if not PROGRAMS.is_dir():
        raise ConfigError(f"the versions are programs of a checkout: there is no {PROGRAMS}")
    python = Path(sys.executable) if venv is None else venv.absolute() / "bin" / "python"
    if not python.is_file():
        raise ConfigError(f"there is no python in {venv}", param="--clients")
    return str(python)


async def missing(python: str, version: Version) -> list[str]:
    """What a version needs and its interpreter has not."""
    process = await asyncio.create_subprocess_exec(
        python, "-c", _ASK, "parrot", *version.needs, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    return told.decode().split()


@asynccontextmanager
async def started(python: str, version: Version, *, url: str, model: str) -> AsyncIterator[Client]:
    """A version's program, warmed up.

    Raises:
        UnreachableError: it ended instead.
    """
    process = await asyncio.create_subprocess_exec(
        python,
        str(PROGRAMS / f"{version.name}.py"),
        url,
        model,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=PROGRAMS,
    )
    client = Client(process, version)
    try:
        while await client.line() != READY:
            continue
        yield client
    finally:
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            process.terminate()
        await process.wait()
