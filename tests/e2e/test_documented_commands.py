"""What the documentation tells people to type works, as it stands there."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from documents import Block, blocks
from project_files import ROOT, markdown_files, shown

DOCUMENTED_PORT = 8321
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
BLOCK_TIMEOUT_S = 100.0


def _runnable(page: Path) -> list[Block]:
    return [
        b
        for b in blocks(page)
        if (b.language in {"python", "sh"} and b.not_run is None) or b.printed is not None
    ]


PAGES = [page for page in markdown_files() if _runnable(page)]


def _environment(home: Path) -> dict[str, str]:
    """The tests' own programs first, nothing configured, and everything written to `home`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PARROT_", "XDG_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return {**kept, "PATH": path, "HOME": str(home), "NO_COLOR": "1"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Reader:
    """Somebody who types a page's blocks, one after the other, in a directory of their own.

    The documented port is replaced by `port`, so that nothing that listens on this machine disturbs.
    """

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self._port = port
        self._environment = {**_environment(directory), "PARROT_URL": f"http://127.0.0.1:{port}"}

    def type(self, block: Block) -> str:
        """Run a block; its standard output."""
        done = subprocess.run(
            self._command(block),
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=BLOCK_TIMEOUT_S,
            check=False,
        )
        where = f"{shown(block.page)}:{block.line}"
        assert done.returncode == 0, f"{where} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def keep_running(self, block: Block) -> Iterator[None]:
        """Run a block that starts a server, from when it answers until the context ends."""
        log = self._directory / "server.log"
        with log.open("w", encoding="utf-8") as output:
            server = subprocess.Popen(
                self._command(block),
                cwd=self._directory,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(server, self._here(block.until_url or ""), log)
            yield
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(STOP_TIMEOUT_S)

    def routes(self) -> set[str]:
        """`METHOD /path` of every route of the running service."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/openapi.json", timeout=10) as answer:
            paths = json.load(answer)["paths"]
        return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}

    def _command(self, block: Block) -> list[str]:
        code = self._here(block.code)
        if block.language == "python":
            return [sys.executable, "-c", code]
        return ["bash", "-euo", "pipefail", "-c", code]

    def _here(self, text: str) -> str:
        return text.replace(str(DOCUMENTED_PORT), str(self._port))

    @staticmethod
    def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
        patience_ends_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < patience_ends_s and server.poll() is None:
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        pytest.fail(f"the server did not answer at {url}:\n{log.read_text(encoding='utf-8')}")


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_command_and_program_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path, _free_port())
    with ExitStack() as servers:
        outputs: list[str] = []
        for block in _runnable(page):
            if block.printed is not None:
                where = f"{shown(page)}:{block.line}"
                assert block.matches(outputs[-1]), (
                    f"{where} shows\n{block.code}\nbut this is printed\n{outputs[-1]}"
                )
            elif block.until_url:
                servers.enter_context(reader.keep_running(block))
            else:
                outputs.append(reader.type(block))
        if page.name == "quickstart.md":
            assert reader.routes() == _documented_routes()
        if page.name == "README.md":
            assert any('"state":"ready"' in output for output in outputs)
    assert outputs


def _documented_routes() -> set[str]:
    page = (ROOT / "docs" / "reference" / "http.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([A-Z]+ /[^`]*)`", page, re.MULTILINE))
