"""Errors to JSON and back: the client gets the same class, code and data that the service raised."""

from parrot.errors import CODES, ParrotError, error_from_code
from parrot.types.events import Failure
from parrot.wire.answers import ErrorBody


def to_body(error: ParrotError, *, request_id: str | None = None) -> ErrorBody:
    """The envelope's inside for an error."""
    return ErrorBody(
        code=error.code,
        message=error.message,
        param=error.param,
        request_id=request_id,
        number=error.number,
        retryable=error.retryable,
        data=error.data or None,
    )


def from_body(body: ErrorBody) -> ParrotError:
    """The error an envelope stands for; a code from a newer service becomes a plain `ParrotError`."""
    return error_from_code(body.code, body.message, param=body.param, data=body.data)


def to_failure(error: ParrotError) -> Failure:
    """An error as it is stored with a variable."""
    return Failure(code=error.code, message=error.message, data=error.data)


def from_failure(failure: Failure) -> ParrotError:
    """The error a stored failure stands for."""
    return error_from_code(failure.code, failure.message, data=failure.data)


def failure_body(failure: Failure) -> ErrorBody:
    """The envelope's inside for a stored failure."""
    known = CODES.get(failure.code)
    return ErrorBody(
        code=failure.code,
        message=failure.message,
        number=known.number if known else None,
        retryable=known.error.retryable if known else False,
        data=dict(failure.data) or None,
    )
