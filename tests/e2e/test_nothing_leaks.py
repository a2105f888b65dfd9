"""Canaries in every secret and prompt of a service that runs at the level of debugging, then a search for
them in everything it wrote or told anybody else.
"""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest

from parrot.server.keys import KeyEntry, KeyFile, make_key, make_key_id, write_key_file

SAID = (
    "prompt",
    "value",
    "output",
    "name",
    "metadata",
    "message",
    "pattern",
    "schema",
    "stop",
    "path",
    "query",
    "header",
    "broken",
    "poison",
    "idempotency",
    "late",
)
CANARIES = {name: f"canary-{name}-{base64.b16encode(os.urandom(6)).decode()}" for name in SAID}
SALT = f"canary-salt-{os.urandom(16).hex()}"

CONFIG = f"""
[server]
keys_file = "keys.json"
port = 0

[service]
salt = "{SALT}"
restart_delay_s = 0.05

[engines.main]
kind = "scripted"
answers = [{{pattern = "#speak", answer = "{CANARIES["output"]}"}}]
faults = [{{kind = "exit", marker = "{CANARIES["poison"]}"}}]
"""


class Run:
    """A service, and what was gathered from it."""

    def __init__(self, directory: Path) -> None:
        self.keys = {tenant: make_key() for tenant in ("acme", "other", "operator")}
        entries = tuple(
            KeyEntry(
                key_id=make_key_id(),
                tenant=tenant,
                sha256=key[1],
                admin=tenant == "operator",
                created=datetime.now(UTC),
            )
            for tenant, key in self.keys.items()
        )
        write_key_file(directory / "keys.json", KeyFile(keys=entries))
        config = directory / "parrot.toml"
        config.write_text(CONFIG)
        config.chmod(0o600)
        self.log = directory / "stderr.txt"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARROT_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "parrot.cli",
                    "--debug",
                    "serve",
                    "--json",
                    "--db",
                    "store.db",
                    "--log-level",
                    "debug",
                ],
                cwd=directory,
                env={**inherited, "XDG_CONFIG_HOME": str(directory), "PYTHONFAULTHANDLER": "1"},
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.url = ""
        self.told: list[bytes] = []
        """Answers to anybody but the tenant whose canaries they are."""

    def await_ready(self) -> None:
        assert self.process.stdout is not None
        self.url = json.loads(self.process.stdout.readline())["url"]

    def client(self, tenant: str) -> httpx2.Client:
        return httpx2.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.keys[tenant][0]}"}, timeout=30
        )

    def end(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    service = Run(tmp_path)
    try:
        service.await_ready()
        yield service
    finally:
        service.end(signal.SIGKILL)


def call(template: str, **parameters: object) -> dict[str, object]:
    return {"template": template, "parameters": {"out": {"output": {}}, **parameters}}


def work(client: httpx2.Client) -> tuple[str, list[str]]:
    """Say every canary, in requests that succeed and in such that fail; gives the session and variables."""
    said = CANARIES
    body = {"name": said["name"], "metadata": {"what": said["metadata"]}}
    sid = client.post("/v1/sessions", json=body).json()["session_id"]
    base = f"/v1/sessions/{sid}"
    chat = {
        "messages": [
            {"role": "user", "content": said["message"]},
            {"role": "assistant", "content": "{{out}}"},
        ],
        "parameters": {"out": {"output": {}}},
    }
    calls = [
        call(f"{said['prompt']} #speak {{{{out}}}}"),
        call("{{a}} {{out}}", a={"value": said["value"]}),
        chat,
        call(
            "#speak{{out}}", out={"output": {"transforms": [{"type": "regex", "pattern": said["pattern"]}]}}
        ),
        call("#speak{{out}}", out={"output": {"transforms": [{"type": "json", "pointer": ""}]}}),
        call("x {{out}}", out={"output": {"sampling": {"stop": [said["stop"]]}}}),
        call(f"{said['poison']} {{{{out}}}}"),
        call("{{late}} {{out}}", late={"variable": "late"}),
    ]
    accepted = client.post(
        f"{base}/calls", json={"calls": calls}, headers={"Idempotency-Key": said["idempotency"]}
    )
    assert accepted.status_code == 202, accepted.text
    client.put(f"{base}/variables/late", json={"value": said["late"] * 10_000})
    variables = [made["outputs"]["out"]["variable_id"] for made in accepted.json()["calls"]]
    views = [client.get(f"{base}/variables/{v}", params={"wait": 20}).json() for v in variables]
    assert views[0]["value"] == said["output"]
    assert {view["state"] for view in views} == {"ready", "failed"}
    refused(client, base)
    return sid, variables


def refused(client: httpx2.Client, base: str) -> None:
    """Canaries in requests that are refused."""
    said = CANARIES
    schema = {"type": said["schema"]}
    bad = [
        client.post(f"{base}/calls", json={"calls": [call("x {{out}}", out={"output": {"schema": schema}})]}),
        client.post(f"{base}/calls", json={"calls": [call("{{" + said["broken"] + "!}} {{out}}")]}),
        client.post(f"{base}/calls", json={said["broken"]: 1}),
        client.post(
            f"{base}/calls",
            content=b'{"' + said["broken"].encode(),
            headers={"Content-Type": "application/json"},
        ),
        client.get(f"/v1/{said['path']}"),
        client.get(f"{base}?api_key={said['query']}"),
        client.get(f"{base}/events", headers={"Last-Event-ID": said["header"]}),
        client.post("/v1/completions", json={"model": said["path"], "prompt": said["prompt"]}),
    ]
    assert all(400 <= answer.status_code < 500 for answer in bad)
    client.get(base, headers={"X-Request-Id": said["header"], "User-Agent": said["header"]})


def look_around(run: Run, sid: str, variables: list[str]) -> None:
    """Everything another tenant, an operator and a stranger can ask for."""
    paths = [
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/v1/models",
        "/v1/engines",
        "/v1/limits",
        "/v1/sessions",
        "/v1/functions",
        f"/v1/sessions/{sid}",
        f"/v1/sessions/{sid}/graph",
        *(f"/v1/sessions/{sid}/variables/{variable}" for variable in variables),
    ]
    for tenant in ("other", "operator"):
        with run.client(tenant) as client:
            run.told += [client.get(path).content for path in paths]
    with httpx2.Client(base_url=run.url) as stranger:
        wrong = {"Authorization": f"Bearer {run.keys['acme'][0]}x"}
        run.told += [stranger.get(path, headers=wrong).content for path in paths]


def written(canary: str) -> list[bytes]:
    """A canary in the ways in which it could be written."""
    ways = {
        canary,
        canary.upper(),
        canary.lower(),
        quote(canary),
        json.dumps(canary)[1:-1],
        canary.encode().hex(),
    }
    ways |= {base64.b64encode(canary.encode()).decode().rstrip("=")[:-1]}
    return [way.encode() for way in ways]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What was looked through, and for how much."""

    num_canaries: int
    num_bytes: int
    hits: tuple[str, ...]
    """What was found where it must not be."""


def search(end: signal.Signals, run: Run, directory: Path) -> Search:
    """Say every canary, end the service, and look for them in all that it wrote and told."""
    with run.client("acme") as client:
        sid, variables = work(client)
    look_around(run, sid, variables)
    run.end(end)
    secrets = {tenant: key[0] for tenant, key in run.keys.items()} | {"salt": SALT}
    log = run.log.read_bytes()
    assert b"route=" in log, "the log is on"
    assert len(run.told) > 40
    hits = []
    for name, canary in {**CANARIES, **secrets}.items():
        for way in written(canary):
            if way in log:
                hits.append(f"{name} in the log")
            if any(way in answer for answer in run.told):
                hits.append(f"{name} in an answer to others")
    files = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert any(CANARIES["prompt"].encode() in data for data in files.values()), (
        "the search finds what is there"
    )
    kept = {path: data for path, data in files.items() if path.name != "parrot.toml"}
    for name, canary in secrets.items():
        found = [path.name for path, data in kept.items() for way in written(canary) if way in data]
        hits += [f"{name} is kept in {file}" for file in found]
    return Search(
        num_canaries=len(CANARIES) + len(secrets),
        num_bytes=sum(map(len, kept.values())) + sum(map(len, run.told)),
        hits=tuple(hits),
    )


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGABRT], ids=["ended", "crashed"])
def test_secrets_and_prompts_are_in_nothing_that_is_written_or_told(
    end: signal.Signals, run: Run, tmp_path: Path
) -> None:
    assert search(end, run, tmp_path).hits == ()
