"""`connect`: from an address, or from nothing, to a session."""

import ipaddress
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx2
from pydantic import ValidationError

from parrot.errors import UsageError
from parrot.sdk.asgi import StreamingASGITransport
from parrot.sdk.client import Client
from parrot.sdk.current import CURRENT
from parrot.sdk.embedding import default_url, starter
from parrot.sdk.retry import RetryPolicy
from parrot.sdk.session import Session, invalid
from parrot.types.objective import Objective
from parrot.wire.requests import SessionCreate

_EMBEDDED_URL = "http://embedded.localhost"
_TIMEOUT = httpx2.Timeout(connect=10.0, read=60.0, write=30.0, pool=None)
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=32)


@asynccontextmanager
async def connect(
    url: str | None = None,
    *,
    api_key: str | None = None,
    name: str | None = None,
    objective: Objective | None = None,
    deadline_s: float | None = None,
    metadata: dict[str, str] | None = None,
    model: str | None = None,
    engine: str | None = None,
    keep: bool = False,
    insecure: bool = False,
    transport: httpx2.AsyncBaseTransport | None = None,
    retry: RetryPolicy | None = None,
) -> AsyncIterator[Session]:
    """A session for the `async with` block; functions called inside run in it.

    The service opens it with the first calls, in one request: what is wrong with the address or the key is
    told to who waits for their values. `Session.open` opens it before.

    At the end of the block, also when it raises, the session is deleted: what still runs is cancelled and
    everything it holds is freed.

    Args:
        url: The service, such as `http://127.0.0.1:8321`. None starts one in this process, for this session
            alone.
        api_key: Sent as `Authorization: Bearer`.
        name: For people who look at the service.
        objective: How results are waited for, where `get` does not say.
        deadline_s: Seconds from the opening; what is not ready then fails with `deadline`.
        metadata: A few short texts that the service keeps with the session.
        model: The model for functions that do not name one; for an embedded service also the one it loads, a
            directory or Hugging Face identifier.
        engine: For an embedded service, the kind of engine: `torch` or `scripted`.
        keep: Leave the session as it is at the end of the block; it expires by itself.
        insecure: Send the key over plain HTTP to another machine all the same.
        transport: An HTTP transport in place of the network.
        retry: How often requests are sent again when the service cannot be reached.

    Raises:
        UsageError: a value that cannot be used, or a key that would travel unencrypted.
    """
    request = _session_create(name, objective, deadline_s, metadata)
    async with AsyncExitStack() as stack:
        address = url or (None if transport is not None else default_url())
        embedded = address is None and transport is None
        if embedded:
            transport = await _embedded(stack, model, engine)
        elif engine is not None:
            raise UsageError("engine= is for an embedded service; the one at an address has its own")
        client = client_at(
            address or _EMBEDDED_URL, api_key=api_key, insecure=insecure, transport=transport, retry=retry
        )
        stack.push_async_callback(client.aclose)
        session = Session(client, request, model=None if embedded else model)
        previous = CURRENT.get()
        CURRENT.set(session)
        try:
            yield session
        finally:
            if CURRENT.get() is session:
                CURRENT.set(previous)
            await session.close(keep=keep)


def client_at(
    url: str,
    *,
    api_key: str | None = None,
    insecure: bool = False,
    transport: httpx2.AsyncBaseTransport | None = None,
    retry: RetryPolicy | None = None,
) -> Client:
    """A client of the service at `url`, to be closed by whoever asked for it; nothing is sent yet.

    Raises:
        UsageError: as `connect`.
    """
    base_url = _checked_url(url, api_key, insecure=insecure)
    http = httpx2.AsyncClient(
        base_url=base_url,
        headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
        transport=transport,
        timeout=_TIMEOUT,
        limits=_LIMITS,
        trust_env=not _is_loopback(base_url.host),
    )
    return Client(http, retry)


def _session_create(
    name: str | None, objective: Objective | None, deadline_s: float | None, metadata: dict[str, str] | None
) -> SessionCreate:
    try:
        return SessionCreate(
            name=name, objective=objective, deadline_s=deadline_s, metadata=dict(metadata or {})
        )
    except ValidationError as error:
        problem = invalid(error, "connect")
        raise UsageError(problem.message, param=problem.param) from None


async def _embedded(stack: AsyncExitStack, model: str | None, engine: str | None) -> StreamingASGITransport:
    start = starter()
    if start is None:
        raise UsageError("no service can be started in this process; give connect an address")
    return StreamingASGITransport(await stack.enter_async_context(start(model=model, engine=engine)))


def _checked_url(address: str, api_key: str | None, *, insecure: bool) -> httpx2.URL:
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL as error:
        raise UsageError(f"{address!r} is not an address: {error}", param="url") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(f"{address!r} is not an address such as http://127.0.0.1:8321", param="url")
    if url.scheme == "http" and api_key is not None and not insecure and not _is_loopback(url.host):
        raise UsageError(
            f"the key would travel unencrypted to {url.host}: use https, "
            "or insecure=True if the way there is safe",
            param="url",
        )
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
