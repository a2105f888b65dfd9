"""Serving on a real socket of this machine."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from server_fakes import SID, FakeService, Item, app_of

from parrot.errors import ConfigError
from parrot.server.config import ApiKey, ServerConfig
from parrot.server.run import require_safe_listen, serve
from parrot.types.ids import TenantId
from parrot.wire.answers import Health

CONFIG = ServerConfig(port=0, close_timeout_s=1.0)


@asynccontextmanager
async def serving(
    service: FakeService, config: ServerConfig = CONFIG, stop: asyncio.Event | None = None
) -> AsyncIterator[int]:
    """The port of a server that is stopped at the end."""
    stop = stop or asyncio.Event()
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            serve(
                app_of(service, config),
                config,
                on_ready=lambda _host, port: ready.set_result(port),
                stop=stop,
            )
        )
        yield await asyncio.wait_for(ready, 5.0)
        stop.set()


async def exchange(port: int, data: bytes, *, timeout_s: float = 3.0) -> bytes:
    """Everything the server says to `data` until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), timeout_s)
    finally:
        writer.close()


def get(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def error_of(answer: bytes) -> dict[str, Any]:
    inside: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    return inside


async def test_a_free_port_is_taken_and_told() -> None:
    async with serving(FakeService()) as port:
        answer = await exchange(port, get("/healthz"))
    assert port > 0
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"server:" not in answer.lower()


async def test_stopping_drains_the_service_first() -> None:
    service = FakeService()
    async with serving(service, replace(CONFIG, drain_timeout_s=7.0)):
        pass
    assert ("drain", 7.0) in service.asked


async def test_sigterm_drains_and_ends() -> None:
    service = FakeService()
    config = CONFIG
    await asyncio.wait_for(
        serve(
            app_of(service, config),
            config,
            on_ready=lambda _host, _port: os.kill(os.getpid(), signal.SIGTERM),
        ),
        5.0,
    )
    assert service.drained


async def test_a_second_signal_does_not_wait_for_the_drain() -> None:
    class Endless(FakeService):
        async def drain(self, timeout_s: float) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

    async def run() -> bool:
        await serve(
            app_of(Endless(), CONFIG), CONFIG, on_ready=lambda _h, _p: os.kill(os.getpid(), signal.SIGINT)
        )
        return True

    assert await asyncio.wait_for(run(), 5.0)


async def test_streams_end_well_when_the_service_stops() -> None:
    async def items() -> AsyncGenerator[Item, None]:
        yield Item(event="delta", data={"text": "a"}, event_id="1")
        await asyncio.Event().wait()

    stop = asyncio.Event()
    async with serving(FakeService(stream=items), CONFIG, stop) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get(f"/v1/sessions/{SID}/events"))
        await reader.readuntil(b"delta")
        stop.set()
        rest = await asyncio.wait_for(reader.read(), 3.0)
        writer.close()
    assert rest.endswith(b"0\r\n\r\n")


async def test_a_client_that_hangs_up_closes_its_stream() -> None:
    async def items() -> AsyncGenerator[Item, None]:
        yield Item(event="delta", data={"text": "a"})
        await asyncio.Event().wait()

    service = FakeService(stream=items)
    async with serving(service) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get(f"/v1/sessions/{SID}/events"))
        await reader.readuntil(b"delta")
        writer.close()
        await asyncio.wait_for(service.stream_closed.wait(), 2.0)
    assert service.stream_closed.is_set()


async def test_a_client_that_hangs_up_ends_its_long_poll() -> None:
    service = FakeService()
    async with serving(service) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get(f"/v1/sessions/{SID}/variables/x?wait=60"))
        await asyncio.wait_for(service.waiting.wait(), 2.0)
        writer.close()
        await asyncio.wait_for(service.released.wait(), 2.0)
    assert service.released.is_set()


async def test_headers_that_drip_in_are_cut_off() -> None:
    async with serving(FakeService(), replace(CONFIG, header_timeout_s=0.1)) as port:
        first = await exchange(port, b"GET /healthz HT")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get("/healthz").replace(b"Connection: close\r\n", b""))
        await reader.readuntil(b"}")
        writer.write(b"GET /hea")
        second = await asyncio.wait_for(reader.read(), 3.0)
        writer.close()
    assert (first, second) == (b"", b"")


async def test_a_body_that_never_comes_is_answered_and_closed() -> None:
    head = b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    async with serving(FakeService(), replace(CONFIG, body_timeout_s=0.1)) as port:
        answer = await exchange(port, head + b"Content-Length: 9\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408")
    assert error_of(answer)["code"] == "request_timeout"


async def test_connections_beyond_the_limit_are_refused_and_the_rest_go_on() -> None:
    async with serving(FakeService(), replace(CONFIG, max_connections=2)) as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        refused = await exchange(port, b"")
        idle[0][1].write(get("/healthz"))
        served = await asyncio.wait_for(idle[0][0].read(), 3.0)
        for _, writer in idle:
            writer.close()
    assert refused.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in refused
    assert error_of(refused)["code"] == "unavailable"
    assert served.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
        b"\x00" * 1_000_000,
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /" + b"x" * 65536 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 65536 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnothex\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"x%d: y\r\n" % i for i in range(500)) + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: evil/?\r\n\r\n",
    ],
    ids=[
        "tls",
        "zeros",
        "http-0.9",
        "no-host",
        "long-uri",
        "long-header",
        "two-lengths",
        "length-and-chunked",
        "bad-chunk",
        "500-headers",
        "bad-host",
    ],
)
async def test_what_is_not_http_gets_400_in_the_envelope_and_is_closed(data: bytes) -> None:
    service = FakeService()
    async with serving(service) as port:
        answer = await exchange(port, data)
        after = await exchange(port, get("/healthz"))
    assert answer.split(b" ", 2)[1] in (b"400", b"404")
    assert error_of(answer)["code"] in ("bad_header", "no_route")
    assert after.startswith(b"HTTP/1.1 200")
    assert service.asked[:-1] == []


@pytest.mark.parametrize(
    ("framing", "body"),
    [(b"Content-Length: 2", b"{}"), (b"Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\nTrailer: x\r\n\r\n")],
    ids=["length", "chunked"],
)
async def test_an_offer_of_another_protocol_is_ignored_and_the_body_read(framing: bytes, body: bytes) -> None:
    head = b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
    async with serving(FakeService()) as port:
        answer = await exchange(port, head + offer + framing + b"\r\n\r\n" + body + get("/healthz"))
    assert answer.startswith(b"HTTP/1.1 201")
    assert b"HTTP/1.1 200" in answer


async def test_headers_without_end_are_refused_before_they_fill_memory() -> None:
    async with serving(FakeService()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        num_sent = 0
        while not reader._buffer and num_sent < 8 << 20:  # type: ignore[attr-defined]
            writer.write(b"x" * 16384)
            num_sent += 16384
            await asyncio.sleep(0.001)
        answer = await asyncio.wait_for(reader.read(), 3.0)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400")
    assert num_sent < 1 << 20


async def test_a_request_id_of_the_client_is_not_repeated() -> None:
    evil = "tcp://evil:1" + "x" * 5000
    async with serving(FakeService()) as port:
        answer = await exchange(port, get("/healthz", f"X-Request-Id: {evil}"))
    assert b"evil" not in answer
    assert answer.lower().count(b"x-request-id: req_") == 1


async def test_a_taken_port_is_said_to_be_taken_by_whom() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        config = replace(CONFIG, port=port)
        with pytest.raises(ConfigError) as caught:
            await serve(app_of(FakeService(), config), config)
    assert caught.value.code == "port_in_use"
    assert f"port {port} is taken by another program" in caught.value.message


async def test_a_port_taken_by_parrot_is_said_with_its_process() -> None:
    async with serving(FakeService()) as port:
        config = replace(CONFIG, port=port)
        with pytest.raises(ConfigError) as caught:
            await serve(app_of(FakeService(), config), config)
    assert f"Parrot 9.9, process {os.getpid()}" in caught.value.message
    assert Health(status="ok", version="9.9", pid=1).pid == 1


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70000), ("no.such.host.invalid", 0)])
async def test_an_address_that_cannot_be_used_is_a_setting_that_is_wrong(host: str, port: int) -> None:
    config = replace(CONFIG, host=host, port=port, keys=(ApiKey.of(TenantId("t"), "k"),))
    with pytest.raises(ConfigError) as caught:
        await serve(app_of(FakeService(), config), config)
    assert caught.value.code == "bad_config"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org"])
def test_nobody_is_let_in_from_elsewhere_without_keys(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_safe_listen(ServerConfig(host=host))
    assert caught.value.code == "no_auth_listen"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_no_keys(host: str) -> None:
    require_safe_listen(ServerConfig(host=host))
    assert not ServerConfig(host=host).keys
