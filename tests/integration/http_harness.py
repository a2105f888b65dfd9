"""A real service, its engine and its socket, and the requests that tests make of it."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from parrot.core.limits import Limits
from parrot.core.service import Service
from parrot.core.service_config import ServiceConfig
from parrot.engine.launch import EngineConfig, start_here
from parrot.engine.scripted_config import ScriptedAnswer, ScriptedConfig
from parrot.ports.clock import SystemClock
from parrot.server.app import create_app
from parrot.server.config import ApiKey, ServerConfig
from parrot.server.run import serve
from parrot.store import MemoryStore
from parrot.types.ids import EngineId, TenantId

KEY_A, KEY_B, KEY_ADMIN = "key-of-a", "key-of-b", "key-of-operator"
CONTEXT_TOKENS = 4096

ANSWERS = {
    "#bomb": "a" * 50 + "!",
    "#placeholder": "{{x}} {{out}}",
    "#json": '{"a": [1, {"b/c": "é"}], "n": null}',
    "#fenced": '```json\n{"a": 1}\n```',
    "#text": "no JSON at all",
    "#truncated": '{"a": [1, 2',
    "#nan": '{"a": NaN}',
    "#twice": '{"a": 1, "a": 2}',
    "#deep": "[" * 600 + "]" * 600,
    "#digits": "[" + "9" * 1500 + "]",
    "#blank": "   ",
    "#x": "x" * 100,
}
"""What the engine says to a prompt that ends with a mark; all other prompts get made-up words."""

LIMITS = Limits(
    max_sessions=10_000,
    max_pending_calls=50,
    max_value_bytes=64 << 10,
    max_batch_bytes=2 << 20,
    max_call_bytes=1 << 20,
    requests_per_s=0,
    tokens_per_minute=0,
    max_streams=0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness:
    """A service that runs, and a client of tenant A."""

    service: Service
    client: httpx2.AsyncClient
    port: int

    async def session(self, **fields: object) -> str:
        """A new session's id."""
        answer = await self.client.post("/v1/sessions", json=fields)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["session_id"])

    async def submit(
        self, sid: str, *calls: Mapping[str, object], headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """The answer to a submission."""
        return await self.client.post(f"/v1/sessions/{sid}/calls", json={"calls": calls}, headers=headers)

    async def variable(self, sid: str, ref: str, wait: float = 20) -> dict[str, Any]:
        """A variable, waited for."""
        answer = await self.client.get(f"/v1/sessions/{sid}/variables/{ref}", params={"wait": wait})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def run(self, call: Mapping[str, object], output: str = "out") -> dict[str, Any]:
        """What becomes of one call's output, in a session of its own."""
        sid = await self.session()
        answer = await self.submit(sid, call)
        assert answer.status_code == 202, answer.text
        view = await self.variable(sid, answer.json()["calls"][0]["outputs"][output]["variable_id"])
        await self.client.delete(f"/v1/sessions/{sid}")
        return view

    async def check_canary(self) -> None:
        """See that a well-behaved session gets its values."""
        sid = await self.session(name="canary")
        first = call("#text{{out}}", out={"output": {"variable": "a"}})
        second = call("{{a}} #json{{out}}", a={"variable": "a"}, out={"output": {"variable": "b"}})
        assert (await self.submit(sid, first, second)).status_code == 202
        assert (await self.variable(sid, "a"))["value"] == "no JSON at all"
        assert json.loads((await self.variable(sid, "b"))["value"])["n"] is None
        assert (await self.client.delete(f"/v1/sessions/{sid}")).status_code == 204
        assert (await self.client.get("/readyz")).status_code == 200
        engine = (await self.client.get("/v1/engines")).json()["engines"][0]
        assert (engine["state"], engine["num_restarts"]) == ("up", 0)

    async def raw(self, data: bytes, *, timeout_s: float = 5.0) -> bytes:
        """What the server says to bytes until it closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(), timeout_s)
        finally:
            writer.close()


def call(template: str = "Say {{out}}", **parameters: object) -> dict[str, Any]:
    """A call whose output is `out`, unless `parameters` say otherwise."""
    return {"template": template, "parameters": {"out": {"output": {}}, **parameters}}


def output(**fields: object) -> dict[str, Any]:
    """A call with settings of its output."""
    return call(out={"output": fields})


def error_code(answer: httpx2.Response) -> str:
    """The code in the envelope, which must be there and well formed."""
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.content) <= 4096
    inside = answer.json()["error"]
    assert {"code", "message", "param", "request_id"} <= inside.keys()
    assert inside["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    return str(inside["code"])


def json_bytes(value: object) -> bytes:
    """A body."""
    return json.dumps(value).encode()


@asynccontextmanager
async def running_service(
    *,
    limits: Limits = LIMITS,
    engine: EngineConfig | None = None,
    service_config: ServiceConfig | None = None,
    **server: Any,
) -> AsyncIterator[Harness]:
    """A service with one engine in this process, on a free port, with keys for two tenants."""
    engine_id = EngineId("scripted-0")
    scripted = engine or ScriptedConfig(
        context_tokens=CONTEXT_TOKENS,
        answers=tuple(ScriptedAnswer(pattern=mark, answer=text) for mark, text in ANSWERS.items()),
    )
    service = Service(
        config=service_config or ServiceConfig(salt="a secret of these tests"),
        limits=limits,
        store=MemoryStore(),
        engines={engine_id: start_here(scripted, engine_id)},
        clock=SystemClock(),
        fresh=lambda: uuid.uuid4().hex,
        version="test",
    )
    keys = (
        ApiKey.of(TenantId("a"), KEY_A),
        ApiKey.of(TenantId("b"), KEY_B),
        ApiKey.of(TenantId("operator"), KEY_ADMIN, admin=True),
    )
    config = ServerConfig(port=0, keys=keys, drain_timeout_s=1.0, close_timeout_s=1.0, **server)
    await service.start()
    await service.wait_ready()
    stop = asyncio.Event()
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve(
            create_app(service, config),
            config,
            on_ready=lambda _host, port: ready.set_result(port),
            stop=stop,
        )
    )
    try:
        port = await asyncio.wait_for(ready, 10)
        headers = {"Authorization": f"Bearer {KEY_A}"}
        base_url = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient(base_url=base_url, headers=headers, timeout=30) as client:
            yield Harness(service=service, client=client, port=port)
    finally:
        stop.set()
        await serving
        await service.close()
