"""A service made of a dictionary: enough of the HTTP contract to see what the SDK sends and takes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from parrot.sdk.connect import connect
from parrot.sdk.retry import RetryPolicy
from parrot.sdk.session import Session

FAST = RetryPolicy(attempts=4, first_delay_s=0.001, max_delay_s=0.002)

Fault = Callable[[httpx2.Request], httpx2.Response | Exception]


def error_response(status: int, code: str, message: str = "told so") -> httpx2.Response:
    return httpx2.Response(status, json={"error": {"code": code, "message": message}})


def sse(*events: tuple[str, object, str]) -> httpx2.Response:
    text = "".join(
        f"event: {name}\ndata: {json.dumps(data)}\n" + (f"id: {ident}\n" if ident else "") + "\n"
        for name, data, ident in events
    )
    return httpx2.Response(200, text=text, headers={"content-type": "text/event-stream"})


class FakeService:
    """Answers every output with its own name in capitals, unless told otherwise."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.submissions: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.cancels: list[dict[str, Any]] = []
        self.puts: dict[str, str] = {}
        self.polls: list[dict[str, str]] = []
        self.variables: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        self.faults: list[tuple[str, Fault]] = []
        self.streams: list[httpx2.Response] = []
        self.last_event_ids: list[str | None] = []
        self.deleted: list[str] = []
        self.submit_gate: asyncio.Event | None = None
        self.tells = True
        """Whether answers to submissions go on to tell values that are there."""
        self.follows: list[list[dict[str, Any]]] = []

    def fail(self, pattern: str, fault: Fault | httpx2.Response | Exception, times: int = 1) -> None:
        """The next `times` requests whose `METHOD path` matches meet this fault."""
        made: Fault = fault if callable(fault) else lambda _: fault
        self.faults += [(pattern, made)] * times

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        line = f"{request.method} {request.url.path}"
        self.requests.append((request.method, request.url.path))
        for index, (pattern, fault) in enumerate(self.faults):
            if re.search(pattern, line):
                del self.faults[index]
                result = fault(request)
                if isinstance(result, Exception):
                    raise result
                return result
        body = json.loads(request.content) if request.content else {}
        parts = request.url.path.strip("/").split("/")
        match request.method, parts[2:]:
            case "POST", [] if parts[1] == "run":
                return await self._run(request, body)
            case "POST", [_, "run"]:
                return await self._run(request, body)
            case "DELETE", [sid]:
                self.deleted.append(sid)
                return httpx2.Response(204)
            case "POST", [_, "cancel"]:
                self.cancels.append(body)
                return httpx2.Response(200, json={"cancelled": ["call_1"]})
            case "PUT", [_, "variables", name]:
                self.puts[name] = body["value"]
                self.variables[name] = {"state": "ready", "value": body["value"]}
                return httpx2.Response(200, json=self._view(name))
            case "GET", [_, "variables", name]:
                self.polls.append(dict(request.url.params))
                view = self._view(name)
                if view["state"] == "pending":
                    await asyncio.sleep(min(0.05, float(request.url.params["wait"])))
                return httpx2.Response(200, json=view)
            case "GET", [_, "variables", _, "stream"]:
                self.last_event_ids.append(request.headers.get("last-event-id"))
                return self.streams.pop(0)
        return error_response(404, "no_route")

    async def _run(self, request: httpx2.Request, body: dict[str, Any]) -> httpx2.Response:
        if self.submit_gate is not None:
            await self.submit_gate.wait()
        if body.get("calls"):
            self.submissions.append(body)
        self.follows.append(body.get("follow", []))
        self.keys.append(request.headers["idempotency-key"])
        given = []
        for one in body.get("variables", ()):
            self.puts[one["variable"]] = one["value"]
            self.variables[one["variable"]] = {"state": "ready", "value": one["value"]}
            given.append({"variable_id": f"id_{one['variable']}", "name": one["variable"]})
        accepted = []
        for number, call in enumerate(body.get("calls", ())):
            outputs = {}
            for placeholder, parameter in call["parameters"].items():
                if "output" in parameter:
                    name = parameter["output"]["variable"]
                    answer = self.answers.get(placeholder, {"state": "ready", "value": placeholder.upper()})
                    self.variables[name] = answer
                    outputs[placeholder] = {"variable_id": f"id_{name}", "name": name}
            accepted.append({"call_id": f"call_{number}", "name": call["name"], "outputs": outputs})
        session = session_view(body.get("session", {}))
        first = ("accepted", {"session": session, "variables": given, "calls": accepted}, "")
        views = [self._view(one["variable"]) for one in body.get("follow", ())]
        tells = self.tells and not self.streams
        told = [(view["state"], view, "") for view in views if tells and view["state"] != "pending"]
        return sse(first, *told)

    def _view(self, reference: str) -> dict[str, Any]:
        name = reference.removeprefix("id_")
        return {"variable_id": f"id_{name}", "name": name, **self.variables.get(name, {"state": "pending"})}


def session_view(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "session_id": "ses_1",
        "name": body.get("name"),
        "state": "open",
        "objective": body.get("objective"),
        "deadline_s": body.get("deadline_s"),
        "metadata": body.get("metadata", {}),
        "created_at": 0.0,
        "calls": {},
        "num_variables": 0,
    }


@asynccontextmanager
async def open_session(service: FakeService, **options: Any) -> AsyncIterator[Session]:
    """A session on the fake service."""
    transport = httpx2.MockTransport(service)
    async with connect("http://127.0.0.1:1", transport=transport, **{"retry": FAST, **options}) as session:
        yield session
