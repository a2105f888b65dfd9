"""A program goes on when the service is killed and started again."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import parrot
from parrot import Input, Output, semantic_function
from parrot.sdk.retry import RetryPolicy

PATIENT = RetryPolicy(attempts=60, max_delay_s=0.5)


@semantic_function(max_tokens=200, ignore_eos=True)
def ramble(subject: Input, text: Output) -> None:
    """Talk about {{subject}}: {{text}}"""


@semantic_function(max_tokens=20)
def sum_up(text: Input, summary: Output) -> None:
    """{{text}} In short: {{summary}}"""


def serve(port: int, directory: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "parrot.cli",
        "serve",
        "--port",
        str(port),
        "--db",
        str(directory / "db"),
    ]
    environment = os.environ | {
        "PARROT_ENGINES__MAIN__KIND": "scripted",
        "PARROT_ENGINES__MAIN__DECODE_STEP_S": "0.01",
    }
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=directory)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def stop(process: subprocess.Popen[bytes], with_signal: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(with_signal)
        process.wait(30)


async def opened(url: str) -> None:
    """Wait until the service takes sessions."""
    for _ in range(100):
        try:
            async with parrot.connect(url) as session:
                await session.open()
                return
        except parrot.UnreachableError:
            continue
    raise AssertionError("the service did not come up")


async def test_stream_and_dependent_call_go_on_after_a_kill(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = serve(port, tmp_path)
    try:
        await opened(url)
        async with parrot.connect(url, retry=PATIENT):
            text: Any = ramble("rain")
            summary = sum_up(text)
            pieces: list[str] = []
            async for piece in text.stream():
                pieces.append(piece)
                if len(pieces) == 20:
                    stop(process, signal.SIGKILL)
                    process = serve(port, tmp_path)
            assert "".join(pieces) == await text.get(timeout_s=30)
            assert len(await summary.get(timeout_s=30)) > 0
    finally:
        stop(process, signal.SIGTERM)
