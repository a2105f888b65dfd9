"""Errors as Semantic Kernel has them; each has the service's own error as its cause."""

from semantic_kernel.exceptions import (
    ServiceException,
    ServiceInvalidAuthError,
    ServiceInvalidRequestError,
    ServiceResourceNotFoundError,
    ServiceResponseException,
)

from parrot.errors import AuthenticationError, CallError, NotFoundError, ParrotError, RequestError


def framework_error(error: ParrotError) -> ServiceException:
    """What a connector raises for an error of the service."""
    match error:
        case AuthenticationError():
            made: ServiceException = ServiceInvalidAuthError(str(error))
        case NotFoundError():
            made = ServiceResourceNotFoundError(str(error))
        case RequestError() | CallError(code="context_overflow"):
            made = ServiceInvalidRequestError(str(error))
        case _:
            made = ServiceResponseException(str(error))
    made.__cause__ = error
    return made
