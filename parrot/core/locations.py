"""Where in a request an error is: paths like `calls[3].parameters.text`, put together on its way up."""

from types import TracebackType

from parrot.errors import ParrotError


class at:  # noqa: N801 - read as a word: `with at("calls[3]"):`
    """Put `place` in front of the `param` of any `ParrotError` that passes."""

    __slots__ = ("_place",)

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell an error that passes where it was."""
        if not isinstance(error, ParrotError):
            return
        inner = error.param
        if not inner:
            error.param = self._place
        else:
            error.param = f"{self._place}{inner}" if inner.startswith("[") else f"{self._place}.{inner}"
