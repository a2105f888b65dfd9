"""Errors as Semantic Kernel has them; each has the service's own error as its cause."""

from openai import APIConnectionError, APIStatusError
from semantic_kernel.exceptions import (
    ServiceException,
    ServiceInvalidAuthError,
    ServiceInvalidRequestError,
    ServiceResourceNotFoundError,
    ServiceResponseException,
)

from parrot.errors import (
    CODES,
    AuthenticationError,
    NotFoundError,
    ParrotError,
    RequestError,
    UnavailableError,
    UnreachableError,
    error_from_code,
)


def framework_error(error: ParrotError) -> ServiceException:
    """What a connector raises for an error of the service."""
    match error:
        case AuthenticationError():
            made: ServiceException = ServiceInvalidAuthError(str(error))
        case NotFoundError():
            made = ServiceResourceNotFoundError(str(error))
        case RequestError():
            made = ServiceInvalidRequestError(str(error))
        case _:
            made = ServiceResponseException(str(error))
    made.__cause__ = error
    return made


def service_error(error: BaseException | None) -> ParrotError | None:
    """The service's error in what the OpenAI client raised; None when it is of another kind."""
    match error:
        case APIStatusError():
            found = error.body if isinstance(error.body, dict) else {}
            message, param = str(found.get("message") or error.message), found.get("param")
            # The code may be OpenAI's; the number is always the service's.
            for code, info in CODES.items():
                if info.number == found.get("number"):
                    return error_from_code(code, message, param=param)
            kind = RequestError if error.status_code < 429 else UnavailableError
            return kind(message, param=param)
        case APIConnectionError():
            return UnreachableError(f"no service answers at {error.request.url}: {error.__cause__ or error}")
        case _:
            return None
