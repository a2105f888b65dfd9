"""What a request says outside its body: headers and query. Strict: what is not known is an error."""

import re
from collections.abc import Mapping
from typing import cast
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.types import Scope

from parrot.errors import AuthenticationError, InvalidError, MalformedError, RequestError
from parrot.server.auth import Caller
from parrot.types.ids import TenantId
from parrot.types.objective import OBJECTIVES, Objective

MAX_QUERY_FIELDS = 16
MAX_IDEMPOTENCY_KEY_CHARS = 255
MAX_EVENT_ID_CHARS = 256
MAX_PAGE = 1000

CALLER = "parrot.caller"
HEADERS = "parrot.headers"
REQUEST_ID = "parrot.request_id"

_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")
_SECONDS = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE]\+?[0-9]{1,2})?\Z")
_COUNT = re.compile(r"[0-9]{1,6}\Z")
_VISIBLE_ASCII = re.compile(rb"[\x21-\x7e]{1,255}\Z")
_SINGLE = frozenset(
    {
        b"host",
        b"authorization",
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"idempotency-key",
        b"last-event-id",
    }
)


def single_headers(raw: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers that steer the service, each of which may be there once.

    Raises:
        MalformedError: `bad_header`, when one is there twice, or the request's length is said in two ways,
            or `Host` is not a host.
    """
    single: dict[bytes, bytes] = {}
    chunked = False
    for name, value in raw:
        if name in _SINGLE:
            if name in single:
                raise MalformedError(f"the header {name.decode()} is there twice", code="bad_header")
            single[name] = value
        elif name == b"transfer-encoding":
            chunked = True
    if chunked and b"content-length" in single:
        raise MalformedError("both Content-Length and Transfer-Encoding", code="bad_header")
    host = single.get(b"host")
    if host is not None and not _HOST.match(host):
        raise MalformedError("the header Host is not a host and port", code="bad_header")
    return single


def content_length(headers: Mapping[bytes, bytes]) -> int | None:
    """The body's length as announced, if it is.

    Raises:
        MalformedError: `bad_header`, when it is not a number.
    """
    value = headers.get(b"content-length")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 20:
        raise MalformedError("Content-Length is not a number", code="bad_header")
    return int(value)


def caller_of(scope: Scope) -> Caller:
    """Who sent the request.

    Raises:
        AuthenticationError: nobody who may come in.
    """
    caller = scope.get(CALLER)
    if not isinstance(caller, Caller):
        raise AuthenticationError("send the header Authorization: Bearer KEY")
    return caller


def tenant_of(request: Request) -> TenantId:
    """The tenant that the request's key belongs to; raises as `caller_of` does."""
    return caller_of(request.scope).tenant_id


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """What `single_headers` found."""
    return cast("dict[bytes, bytes]", scope[HEADERS])


def query_of(request: Request, *allowed: str) -> dict[str, str]:
    """The query's fields.

    Raises:
        MalformedError: not UTF-8.
        InvalidError: `unknown_field`, or a field that is there twice.
    """
    raw: bytes = request.scope["query_string"]
    if not raw:
        return {}
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS
        )
    except UnicodeError:
        raise MalformedError("the query is not UTF-8", code="not_utf8") from None
    except ValueError:
        raise InvalidError("the query has too many fields", code="too_many") from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            raise InvalidError("this route has no such query field", code="unknown_field", param=name)
        if name in fields:
            raise InvalidError("a query field is there twice", param=name)
        fields[name] = value
    return fields


def wait_s(query: Mapping[str, str], max_wait_s: float) -> float:
    """`wait`, in seconds, at most `max_wait_s`; 0 when it is absent.

    Raises:
        InvalidError: not a number, or negative.
    """
    text = query.get("wait")
    if text is None:
        return 0.0
    if not _SECONDS.match(text):
        raise InvalidError("wait is a number of seconds, 0 or more", param="wait")
    return min(float(text), max_wait_s)


def objective(query: Mapping[str, str]) -> Objective | None:
    """`objective`, if it is there.

    Raises:
        InvalidError: not one of the objectives.
    """
    text = query.get("objective")
    if text is None:
        return None
    for known in OBJECTIVES:
        if text == known:
            return known
    raise InvalidError(f"objective is one of {', '.join(OBJECTIVES)}", param="objective")


def page(query: Mapping[str, str]) -> tuple[int, str | None]:
    """`limit` (1 to 1000, 100 when absent) and `after` of a list.

    Raises:
        InvalidError: `limit` is something else.
    """
    text = query.get("limit", "100")
    limit = int(text) if _COUNT.match(text) else 0
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidError(f"limit is a whole number from 1 to {MAX_PAGE}", param="limit")
    return limit, query.get("after")


def idempotency_key(request: Request) -> str | None:
    """The `Idempotency-Key`, if there is one.

    Raises:
        MalformedError: `bad_header`, unless it is 1 to 255 visible ASCII characters.
    """
    value = headers_of(request.scope).get(b"idempotency-key")
    if value is None:
        return None
    if not _VISIBLE_ASCII.match(value):
        raise MalformedError(
            f"Idempotency-Key is 1 to {MAX_IDEMPOTENCY_KEY_CHARS} visible ASCII characters",
            code="bad_header",
            param="Idempotency-Key",
        )
    return value.decode("ascii")


def last_event_id(request: Request) -> str | None:
    """The `Last-Event-ID` of a client that resumes, if it sent one.

    Raises:
        MalformedError: `bad_event_id`, when it cannot be one of ours.
    """
    value = headers_of(request.scope).get(b"last-event-id")
    if value is None:
        return None
    if len(value) > MAX_EVENT_ID_CHARS or not value.isascii():
        raise MalformedError("Last-Event-ID is not one of ours", code="bad_event_id", param="Last-Event-ID")
    return value.decode("ascii")


def require_event_stream_accepted(request: Request) -> None:
    """Check that the client takes `text/event-stream`.

    Raises:
        RequestError: `not_acceptable`.
    """
    values = request.headers.getlist("accept")
    if not values:
        return
    for part in ",".join(values).split(","):
        media, *details = (piece.strip().lower() for piece in part.split(";"))
        refused = any(re.match(r"q\s*=\s*0(?:\.0*)?\Z", detail) for detail in details)
        if media in ("text/event-stream", "text/*", "*/*") and not refused:
            return
    raise RequestError("this route sends text/event-stream", code="not_acceptable", param="Accept")
