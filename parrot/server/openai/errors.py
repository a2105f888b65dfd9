"""Errors as OpenAI clients understand them: their envelope, their codes, their statuses where these differ.

    {"error": {"message", "type", "param", "code", "number", "request_id"}}

`number` and `request_id` are ours; clients pass them over.
"""

import json
import re

from starlette.responses import Response

from parrot.errors import OverLimitError, ParrotError
from parrot.server.errors import MAX_ENVELOPE_BYTES, error_headers, status_of

PATHS = ("/v1/completions", "/v1/chat/", "/v1/responses")
"""Routes whose errors are written this way."""

_CODES = {
    "context_overflow": "context_length_exceeded",
    "unauthenticated": "invalid_api_key",
    "over_limit": "rate_limit_exceeded",
    "unknown_field": "unknown_parameter",
    "missing_field": "missing_required_parameter",
    "unsupported": "unsupported_parameter",
    "invalid": "invalid_value",
    "grammar_unsupported": "invalid_json_schema",
    "internal": "server_error",
}
"""Ours → OpenAI's, where it has a word for it."""

_PLACES = (
    (re.compile(r"parameters\._answer\.output\.(?:schema|regex)\b.*"), "response_format"),
    (re.compile(r"parameters\._answer\.output\.sampling\."), ""),
    (re.compile(r"parameters\.prompt\b.*|parameters\Z|template\b.*"), "prompt"),
)
"""Where in a call something is wrong → the field of the body that it came from."""


def is_openai_path(path: str) -> bool:
    """Whether a route is one of OpenAI's."""
    return path.startswith(PATHS)


def error_body(error: ParrotError, request_id: str) -> dict[str, object]:
    """`{"error": {…}}`."""
    return {"error": error_fields(error, request_id)}


def error_fields(error: ParrotError, request_id: str) -> dict[str, object]:
    """The inside of the envelope."""
    return {
        "message": _encodable(error.message),
        "type": _type(error),
        "param": field_of(error.param),
        "code": _CODES.get(error.code, error.code),
        "number": error.number,
        "request_id": request_id,
    }


def openai_error_response(error: ParrotError, request_id: str) -> Response:
    """The whole answer to a request that failed with `error`."""
    content = json.dumps(error_body(error, request_id), separators=(",", ":")).encode()
    assert len(content) <= MAX_ENVELOPE_BYTES, "messages and fields are bounded"
    return Response(
        content,
        status_code=openai_status_of(error),
        headers=error_headers(error),
        media_type="application/json",
    )


def openai_status_of(error: ParrotError) -> int:
    """As everywhere; only a prompt that is too long is what OpenAI makes of it."""
    return 400 if error.code == "context_overflow" else status_of(error)


def field_of(param: str | None) -> str | None:
    """The field of an OpenAI body that a place in a submission stands for."""
    if param is None:
        return None
    place = re.sub(r"\Acalls\[\d+\]\.?", "", param)
    for pattern, field in _PLACES:
        place = pattern.sub(field, place)
    return _encodable(place[:200]) or None


def _type(error: ParrotError) -> str:
    status = openai_status_of(error)
    if isinstance(error, OverLimitError):
        return "rate_limit_error"
    if status == 401:
        return "authentication_error"
    return "invalid_request_error" if status < 500 else "server_error"


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()
