"""Servers as processes of their own, started for a measurement and ended after it."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import httpx2

from parrot.errors import ConfigError, UnreachableError
from parrot.ports.clock import Clock

START_TIMEOUT_S = 600.0
"""A server that compiles its model takes minutes."""
_END_TIMEOUT_S = 30.0
_ASK_AGAIN_S = 0.5
_TOLD_CHARS = 2000


R = TypeVar("R")


def run_to_end(main: Coroutine[Any, Any, R]) -> R:
    """`asyncio.run`, in which a TERM signal cancels `main` as an INT signal does: servers are ended first."""

    async def guarded() -> R:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await main

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@dataclass(slots=True)
class Interruption:
    """Whether a measurement was stopped before its plan was through."""

    happened: bool = False


@contextmanager
def keeping(results: Sequence[object], tell: Callable[[str], None]) -> Iterator[Interruption]:
    """A measurement that is cancelled inside, or whose server fails, ends here and goes on with the `results`
    that there are; with none, it is cancelled or fails.
    """
    interruption = Interruption()
    try:
        yield interruption
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or not results:
            raise
        task.uncancel()
        interruption.happened = True
        tell("interrupted; what was measured so far is kept")
    except UnreachableError as error:
        if not results:
            raise
        interruption.happened = True
        tell(f"{error}; what was measured so far is kept")


class ServerProcess:
    """A running server."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, log: Path) -> None:
        self.url = url
        self.pid = process.pid
        self._process = process
        self._log = log

    def said(self) -> str:
        """The end of what it said on standard error."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-_TOLD_CHARS:]

    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.returncode is not None

    def hold(self) -> None:
        """Stop it and its children where they are, so that others have the machine to themselves."""
        if not self.has_ended():
            os.killpg(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """End a hold; without one, nothing happens."""
        if not self.has_ended():
            os.killpg(self.pid, signal.SIGCONT)


@asynccontextmanager
async def parrot_service(settings: str) -> AsyncIterator[ServerProcess]:
    """`parrot serve` on a free port of this machine, with these settings (TOML) and no others.

    Raises:
        UnreachableError: it ended instead of listening.
    """
    with TemporaryDirectory(prefix="parrot-bench-") as scratch:
        directory = Path(scratch)
        file = directory / "bench.toml"
        file.write_text(settings, encoding="utf-8")
        arguments = [sys.executable, "-m", "parrot.cli", "serve", "--json", "--config", str(file)]
        arguments += ["--host", "127.0.0.1", "--port", "0", "--db", str(directory / "parrot.db")]
        async with _process(arguments, directory, {}) as (process, log):
            assert process.stdout is not None
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await process.stdout.readline()
            if not line:
                raise UnreachableError(f"parrot serve ended: {_tail(log)}", code="bad_answer")
            yield ServerProcess(process, json.loads(line)["url"], log)


@asynccontextmanager
async def vllm_server(
    venv: Path, model: Path, *, max_model_len: int, clock: Clock
) -> AsyncIterator[ServerProcess]:
    """A vLLM from a virtual environment of its own, on the CPU, with all cores and prefix caching.

    Both paths are absolute.

    Raises:
        ConfigError: it is not installed there.
        UnreachableError: it ended instead of listening.
    """
    program = vllm_program(venv)
    port = _free_port()
    with TemporaryDirectory(prefix="parrot-bench-") as scratch:
        async with _process(
            vllm_command(program, model, port=port, max_model_len=max_model_len),
            Path(scratch),
            VLLM_ENVIRONMENT,
        ) as (process, log):
            server = ServerProcess(process, f"http://127.0.0.1:{port}", log)
            await _listening(server, clock)
            yield server


def vllm_program(venv: Path) -> Path:
    """The program in its environment.

    Raises:
        ConfigError: it is not installed there.
    """
    program = venv / "bin" / "vllm"
    if not program.is_file():
        raise ConfigError(f"there is no vllm in {venv}", param="--baseline")
    return program


@asynccontextmanager
async def llamacpp_server(venv: Path, model: Path, *, clock: Clock) -> AsyncIterator[ServerProcess]:
    """A llama.cpp server from a virtual environment with `xllamacpp` and `gguf`: 32 slots, one pool of KV,
    prompts cached. The model is converted first. Both paths are absolute.

    Raises:
        ConfigError: it is not installed there.
        UnreachableError: it ended instead of listening.
    """
    python = llamacpp_python(venv)
    port = _free_port()
    with TemporaryDirectory(prefix="parrot-bench-") as scratch:
        program = Path(__file__).parent / "peers" / "llamacpp.py"
        arguments = [str(python), str(program), str(model), str(port)]
        async with _process(arguments, Path(scratch), {}) as (process, log):
            server = ServerProcess(process, f"http://127.0.0.1:{port}", log)
            await _listening(server, clock)
            yield server


def llamacpp_python(venv: Path) -> Path:
    """The interpreter of the environment.

    Raises:
        ConfigError: llama.cpp is not installed there.
    """
    if not any(venv.glob("lib/python*/site-packages/xllamacpp")):
        raise ConfigError(f"there is no xllamacpp in {venv}", param="--baseline")
    return venv / "bin" / "python"


VLLM_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "4",
    "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""GiB of KV, and every core to its threads."""


def vllm_command(program: Path, model: Path, *, port: int, max_model_len: int) -> list[str]:
    """The command line of vLLM: its defaults have prefix caching and chunked prefill on."""
    options = {
        "--served-model-name": "m",
        "--dtype": "bfloat16",
        "--max-model-len": str(max_model_len),
        "--max-num-seqs": "64",
        "--host": "127.0.0.1",
        "--port": str(port),
    }
    return [str(program), "serve", str(model), *(word for option in options.items() for word in option)]


@asynccontextmanager
async def _process(
    arguments: Sequence[str], directory: Path, environment: Mapping[str, str]
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Path]]:
    """A process in a session of its own, ended with its children."""
    log = directory / "said.txt"
    with log.open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            "/usr/bin/env",
            *(f"{name}={value}" for name, value in environment.items()),
            *arguments,
            cwd=directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            start_new_session=True,
        )
    draining: asyncio.Task[None] | None = None
    try:
        yield process, log
    finally:
        draining = asyncio.create_task(_drain(process))
        await _end(process)
        await asyncio.gather(draining, return_exceptions=True)


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Read standard output to its end, so that the process can end."""
    if process.stdout is not None:
        while await process.stdout.read(1 << 16):
            pass


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        os.killpg(process.pid, signal.SIGCONT)  # it may be held
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _listening(server: ServerProcess, clock: Clock) -> None:
    """Return when the server lists its models: there is no other word from it."""
    began_s = clock.now_s()
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=10.0) as http:
        while clock.now_s() - began_s < START_TIMEOUT_S:
            if server.has_ended():
                raise UnreachableError(f"the server ended: {server.said()}", code="bad_answer")
            try:
                if (await http.get("/v1/models")).is_success:
                    return
            except httpx2.TransportError:
                pass
            await clock.sleep(_ASK_AGAIN_S)
    raise UnreachableError(f"the server does not listen: {server.said()}", code="bad_answer")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-_TOLD_CHARS:]
