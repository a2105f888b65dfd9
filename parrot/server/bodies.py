"""Request bodies: bounded before and while they are read, then decoded and validated, strictly."""

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pydantic import BaseModel
from starlette.requests import Request

from parrot.errors import MediaTypeError, RequestError, TooLargeError
from parrot.server.disconnects import DisconnectedError
from parrot.server.parameters import content_length, headers_of
from parrot.wire.json import decode_json
from parrot.wire.validate import validate

OFFLOAD_BYTES = 128 << 10
"""Bodies beyond this are decoded in a thread, so that others' requests go on meanwhile."""

QUEUED_BYTES = 8 << 10
"""Bodies beyond this are taken one after the other: what is done for many that come at the same instant
would keep everybody else waiting for all of it.
"""

M = TypeVar("M", bound=BaseModel)


class Turnstile:
    """Lets one through in a turn of the event loop, in the order in which they came."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def pass_through(self) -> None:
        """Return when it is one's turn."""
        async with self._lock:
            await asyncio.sleep(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """Bounds on a body, and on how many of the large ones are worked on at a time."""

    max_bytes: int
    """Its length as sent."""
    max_depth: int
    """Nesting of its JSON."""
    max_keys: int
    """Keys of one of its objects."""
    timeout_s: float
    """It must have arrived after this."""
    turnstile: Turnstile = field(default_factory=Turnstile)
    """What large bodies pass before they are decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body(Generic[M]):
    """A body that was understood."""

    model: M
    raw: bytes

    def hash(self) -> str:
        """Tells bodies apart under one idempotency key."""
        return hashlib.sha256(self.raw).hexdigest()


async def read_body(request: Request, model: type[M], limits: BodyLimits) -> Body[M]:
    """Read, decode and validate a JSON body.

    Raises:
        MediaTypeError: not `application/json`, or compressed.
        TooLargeError: longer than `limits.max_bytes`, as announced or as sent.
        RequestError: `request_timeout`.
        MalformedError: not JSON as we take it.
        InvalidError: JSON that does not fit `model`.
        DisconnectedError: the client left.
    """
    _check_media_type(headers_of(request.scope))
    raw = await _read(request, limits)
    if len(raw) > QUEUED_BYTES:
        await limits.turnstile.pass_through()
    if len(raw) > OFFLOAD_BYTES:
        parsed = await asyncio.to_thread(_parse, raw, model, limits)
    else:
        parsed = _parse(raw, model, limits)
    return Body(model=parsed, raw=raw)


def too_large(limit_bytes: int) -> TooLargeError:
    """The error for a body beyond its limit."""
    return TooLargeError(f"the body is larger than {limit_bytes:,} bytes", data={"limit_bytes": limit_bytes})


def _parse(raw: bytes, model: type[M], limits: BodyLimits) -> M:
    return validate(model, decode_json(raw, max_depth=limits.max_depth, max_keys=limits.max_keys))


def _check_media_type(headers: dict[bytes, bytes]) -> None:
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding.strip().lower() != b"identity":
        raise MediaTypeError("compressed bodies are not taken", param="Content-Encoding")
    media, *details = headers.get(b"content-type", b"").lower().split(b";")
    charsets = [d.strip()[8:].strip(b'"') for d in details if d.strip().startswith(b"charset=")]
    if media.strip() != b"application/json" or any(c not in (b"utf-8", b"utf8") for c in charsets):
        raise MediaTypeError("send Content-Type: application/json", param="Content-Type")


async def _read(request: Request, limits: BodyLimits) -> bytes:
    announced = content_length(headers_of(request.scope))
    if announced is not None and announced > limits.max_bytes:
        raise too_large(limits.max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.timeout_s):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise DisconnectedError
                body += message.get("body", b"")
                if len(body) > limits.max_bytes:
                    raise too_large(limits.max_bytes)
                more = message.get("more_body", False)
    except TimeoutError:
        raise RequestError(
            f"the body did not arrive within {limits.timeout_s:g} s", code="request_timeout"
        ) from None
    return bytes(body)
