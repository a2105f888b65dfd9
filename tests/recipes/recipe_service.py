"""A `parrot serve` process, what a framework sends to it, and the programs of a page that send it."""

import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from documents import blocks
from project_files import ROOT
from reliability.served_process import Served

DOCUMENTED = "127.0.0.1:8321"
PROGRAM_TIMEOUT_S = 150.0
QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OTEL_SDK_DISABLED": "true",
}
"""Frameworks report nothing from tests, and look nothing up."""
NOT_PASSED_ON = {"connection", "host", "transfer-encoding", "keep-alive"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as the service got it."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By lower-case name."""
    body: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A service that runs, and what it was asked."""

    url: str
    directory: Path
    requests: list[Request] = field(default_factory=list)

    def run_page(self, page: str) -> list[str]:
        """Run the page's programs one after the other; what each of them printed."""
        found = [b for b in blocks(ROOT / "docs" / page) if b.language == "python" and b.not_run is not None]
        return [self._run(block.code, f"{page}:{block.line}") for block in found]

    def asked(self, path: str) -> list[Request]:
        """The requests to one route."""
        return [request for request in self.requests if request.path == path]

    def _run(self, code: str, where: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code.replace(DOCUMENTED, urlsplit(self.url).netloc)],
            cwd=self.directory,
            env={**_environment(self.directory), "PARROT_URL": self.url},
            capture_output=True,
            text=True,
            timeout=PROGRAM_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{where} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@contextmanager
def recipe_service(directory: Path, arguments: Sequence[str], answers: Mapping[str, str]) -> Iterator[Recipe]:
    """`parrot serve` with `arguments`, and something before it that notes what passes."""
    settings = directory / "parrot.toml"
    if answers:
        rules = ", ".join(
            f"{{pattern = {json.dumps(mark)}, answer = {json.dumps(text)}}}" for mark, text in answers.items()
        )
        settings.write_text(f'[engines.main]\nkind = "scripted"\nanswers = [{rules}]\n', encoding="utf-8")
        arguments = ["--config", str(settings)]
    served = Served(["--port", "0", *arguments], directory, {})
    try:
        address = urlsplit(served.url()).netloc
        requests: list[Request] = []
        with _noting(address, requests) as url:
            yield Recipe(url=url, directory=directory, requests=requests)
    finally:
        served.close()


@contextmanager
def _noting(address: str, requests: list[Request]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            requests.append(
                Request(
                    method=self.command,
                    path=self.path,
                    headers=headers,
                    body=json.loads(body) if body else None,
                )
            )
            upstream = http.client.HTTPConnection(address, timeout=PROGRAM_TIMEOUT_S)
            try:
                kept = {name: value for name, value in headers.items() if name not in NOT_PASSED_ON}
                upstream.request(self.command, self.path, body or None, kept)
                answer = upstream.getresponse()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in NOT_PASSED_ON:
                        self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                while piece := answer.read1():
                    self.wfile.write(piece)
            finally:
                upstream.close()
                self.close_connection = True

        do_GET = do_POST = do_PUT = do_DELETE = _pass_on  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


def _environment(home: Path) -> dict[str, str]:
    """The tests' own programs first, nothing configured, and everything written to `home`."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("PARROT_", "XDG_", "OPENAI_"))
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return {**kept, **QUIET, "PATH": path, "HOME": str(home)}
