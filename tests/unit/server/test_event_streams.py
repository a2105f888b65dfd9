"""Server-sent events: framing, heartbeats, ends and errors."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable

import pytest
from server_fakes import SID, Exchange, FakeService, Item, app_of, not_found

from parrot.core.limits import Limits
from parrot.errors import StoreError
from parrot.server import streaming
from parrot.server.config import ServerConfig

STREAM = f"/v1/sessions/{SID}/variables/x/stream"


async def three() -> AsyncGenerator[Item, None]:
    yield Item(event="delta", data={"attempt": 1, "text": "a\r\n\ndata: é"}, event_id="1.1")
    yield Item(event="reset", data={"attempt": 2})
    yield Item(event="ready", data={"value": "b"}, event_id="2.0")


async def one_and_silence() -> AsyncGenerator[Item, None]:
    yield Item(event="delta", data={"text": "a"}, event_id="1")
    await asyncio.Event().wait()


async def silence() -> AsyncGenerator[Item, None]:
    await asyncio.Event().wait()
    yield Item(event="never", data={})


async def flood() -> AsyncGenerator[Item, None]:
    while True:
        yield Item(event="delta", data={"text": "x" * 1000})


def events_of(body: bytes) -> list[tuple[str, object, str | None]]:
    events = []
    for block in body.decode().split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        if fields:
            events.append((fields["event"], json.loads(fields["data"]), fields.get("id")))
    return events


async def run(service: FakeService, exchange: Exchange, config: ServerConfig | None = None) -> None:
    await app_of(service, config)(exchange.scope, exchange.receive, exchange.send)


async def test_items_come_out_as_events_with_ids() -> None:
    exchange = Exchange(STREAM, headers={"Last-Event-ID": "1.0"})
    service = FakeService(stream=three)
    await run(service, exchange)
    assert exchange.status == 200
    assert (b"content-type", b"text/event-stream; charset=utf-8") in exchange.sent[0]["headers"]
    assert events_of(exchange.body) == [
        ("delta", {"attempt": 1, "text": "a\r\n\ndata: é"}, "1.1"),
        ("reset", {"attempt": 2}, None),
        ("ready", {"value": "b"}, "2.0"),
    ]
    assert exchange.complete
    assert service.asked[0][4] == "1.0"


async def test_an_error_before_the_first_event_is_an_http_error() -> None:
    exchange = Exchange(STREAM)
    await run(FakeService(error=not_found()), exchange)
    assert exchange.status == 404
    assert json.loads(exchange.body)["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("failure", "code"), [(StoreError("gone"), "store_unavailable"), (KeyError("secret"), "internal")]
)
async def test_an_error_after_it_is_an_event(failure: Exception, code: str) -> None:
    async def failing() -> AsyncGenerator[Item, None]:
        yield Item(event="delta", data={})
        raise failure

    exchange = Exchange(STREAM)
    await run(FakeService(stream=failing), exchange)
    event, data, _ = events_of(exchange.body)[-1]
    assert event == "error"
    assert isinstance(data, dict)
    assert data["code"] == code
    assert "secret" not in exchange.body.decode()
    assert exchange.complete


async def test_a_client_that_leaves_closes_the_generator() -> None:
    service = FakeService(stream=one_and_silence)
    exchange = Exchange(STREAM)
    async with asyncio.TaskGroup() as group:
        group.create_task(run(service, exchange))
        await exchange.until(b"delta")
        exchange.gone.set()
        await asyncio.wait_for(service.stream_closed.wait(), 20)
    assert not exchange.complete


async def test_a_silent_stream_begins_and_carries_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "FIRST_EVENT_GRACE_S", 0.01)
    exchange = Exchange(STREAM)
    async with asyncio.TaskGroup() as group:
        group.create_task(run(FakeService(stream=silence), exchange, ServerConfig(heartbeat_s=0.01)))
        await exchange.until(b": ping\n\n: ping\n\n")
        exchange.gone.set()
    assert exchange.status == 200
    assert events_of(exchange.body) == []


@pytest.mark.parametrize("items", [one_and_silence, silence])
async def test_a_stream_ends_after_its_time(
    items: Callable[[], AsyncGenerator[Item, None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "FIRST_EVENT_GRACE_S", 0.01)
    service = FakeService(stream=items, limits=Limits(max_stream_s=0.05))
    exchange = Exchange(STREAM)
    await asyncio.wait_for(run(service, exchange), 20)
    assert exchange.complete
    assert service.stream_closed.is_set()


async def test_a_stream_ends_when_the_service_shuts_down() -> None:
    service = FakeService(stream=one_and_silence)
    app = app_of(service)
    exchange = Exchange(f"/v1/sessions/{SID}/events")
    async with asyncio.TaskGroup() as group:
        group.create_task(app(exchange.scope, exchange.receive, exchange.send))
        await exchange.until(b"delta")
        app.closing.set()
    assert exchange.complete
    assert service.stream_closed.is_set()


async def test_nothing_is_taken_for_a_client_that_does_not_read_and_it_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "FIRST_EVENT_GRACE_S", 0.01)
    taken = 0

    async def counted() -> AsyncGenerator[Item, None]:
        nonlocal taken
        async for item in flood():
            taken += 1
            yield item

    service = FakeService(stream=counted)
    exchange = Exchange(STREAM)
    exchange.readable.clear()
    await asyncio.wait_for(run(service, exchange, ServerConfig(heartbeat_s=0.01)), 2.0)
    assert taken == 1
    assert service.stream_closed.is_set()
    assert not exchange.complete
