"""Errors as HTTP answers: one table from the error tree to status codes, one envelope for everything."""

import math

from pydantic_core import PydanticSerializationError
from starlette.responses import Response

from parrot.errors import (
    AuthenticationError,
    CallError,
    ConflictError,
    EngineError,
    GoneError,
    InvalidError,
    MediaTypeError,
    NotFoundError,
    OverLimitError,
    ParrotError,
    RequestError,
    StoreError,
    TooLargeError,
    UnavailableError,
)
from parrot.wire.answers import ErrorBody, ErrorEnvelope
from parrot.wire.errors import to_body

MAX_ENVELOPE_BYTES = 4096
MAX_PARAM_CHARS = 200

STATUS_OF_CODE: dict[str, int] = {
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "request_timeout": 408,
}
"""Codes whose status is not their class's."""

STATUS_OF_CLASS: dict[type[ParrotError], int] = {
    RequestError: 400,
    InvalidError: 422,
    AuthenticationError: 401,
    NotFoundError: 404,
    ConflictError: 409,
    GoneError: 410,
    TooLargeError: 413,
    MediaTypeError: 415,
    CallError: 422,
    OverLimitError: 429,
    UnavailableError: 503,
    EngineError: 503,
    StoreError: 503,
    ParrotError: 500,
}
"""The status of a class and of its subclasses that are not listed."""

CLOSING_CODES = frozenset({"too_large", "request_timeout", "bad_header"})
"""After these the rest of the request is not read, so the connection cannot go on."""


def status_of(error: ParrotError) -> int:
    """The HTTP status of an error."""
    by_code = STATUS_OF_CODE.get(error.code)
    if by_code is not None:
        return by_code
    return next(STATUS_OF_CLASS[cls] for cls in type(error).__mro__ if cls in STATUS_OF_CLASS)


def envelope(error: ParrotError, request_id: str) -> bytes:
    """`{"error": {…}}` as JSON, at most `MAX_ENVELOPE_BYTES`; `data` is left out when it does not fit."""
    body = to_body(error, request_id=request_id)
    body = body.model_copy(update={"message": _encodable(body.message), "param": _short(body.param)})
    try:
        text = _dump(body)
    except PydanticSerializationError:
        text = b""
    if not text or len(text) > MAX_ENVELOPE_BYTES:
        text = _dump(body.model_copy(update={"data": None}))
    return text


def error_response(error: ParrotError, request_id: str) -> Response:
    """The whole answer to a request that failed with `error`."""
    return Response(
        envelope(error, request_id),
        status_code=status_of(error),
        headers=error_headers(error),
        media_type="application/json",
    )


def error_headers(error: ParrotError) -> dict[str, str]:
    """The headers that go with an error."""
    status = status_of(error)
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="parrot"'
    elif status in (429, 503):
        headers["Retry-After"] = str(_retry_after_s(error))
    elif status == 405:
        headers["Allow"] = str(error.data.get("allow", ""))
    if error.code in CLOSING_CODES:
        headers["Connection"] = "close"
    return headers


def internal_error() -> ParrotError:
    """What a client is told of a fault of ours."""
    return ParrotError("the service hit a fault of its own; its log has the request id")


def _dump(body: ErrorBody) -> bytes:
    exclude = {"error": {"data"}} if body.data is None else None
    return ErrorEnvelope(error=body).model_dump_json(exclude=exclude).encode()


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _short(param: str | None) -> str | None:
    return None if param is None else _encodable(param[:MAX_PARAM_CHARS])


def _retry_after_s(error: ParrotError) -> int:
    value = error.data.get("retry_after_s")
    return max(1, math.ceil(value)) if isinstance(value, int | float) and math.isfinite(value) else 1
