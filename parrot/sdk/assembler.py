"""From a stream's deltas and resets to pieces that never have to be taken back."""

from parrot.errors import ParrotError


class PieceAssembler:
    """Remembers what was given out; a new attempt that repeats it is skipped until it goes beyond.

    The pieces given out, joined, are always a prefix of the current attempt's text or contain it as a prefix.
    """

    def __init__(self, variable: str) -> None:
        self._variable = variable
        self._given = ""
        self._attempt = ""

    def delta(self, text: str) -> str:
        """The part of `text` that is new to the reader; may be empty."""
        self._attempt += text
        return self._advance(self._attempt)

    def reset(self) -> None:
        """Another attempt begins: its deltas start over."""
        self._attempt = ""

    def finish(self, value: str) -> str:
        """What the reader still lacks of the committed value."""
        piece = self._advance(value)
        if len(value) < len(self._given):
            raise self._taken_back()
        return piece

    def _advance(self, text: str) -> str:
        given = len(self._given)
        if not (text.startswith(self._given) if len(text) >= given else self._given.startswith(text)):
            raise self._taken_back()
        piece = text[given:]
        self._given += piece
        return piece

    def _taken_back(self) -> ParrotError:
        return ParrotError(
            f"{self._variable} was run again and writes other text than was streamed already; "
            "get() gives the value",
            code="stream_reset",
            data={"num_streamed_chars": len(self._given)},
        )
