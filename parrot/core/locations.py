"""Where in a request an error is: paths like `calls[3].parameters.text`, put together on its way up."""

from collections.abc import Iterator
from contextlib import contextmanager

from parrot.errors import ParrotError


@contextmanager
def at(place: str) -> Iterator[None]:
    """Put `place` in front of the `param` of any `ParrotError` that passes."""
    try:
        yield
    except ParrotError as error:
        inner = error.param
        if not inner:
            error.param = place
        else:
            error.param = f"{place}{inner}" if inner.startswith("[") else f"{place}.{inner}"
        raise
