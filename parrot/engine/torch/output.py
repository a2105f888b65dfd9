"""Generated token ids to text, a whole character at a time."""

from collections.abc import Sequence
from typing import Protocol

from parrot.engine.output_text import OutputText

REPLACEMENT = "\ufffd"
_MAX_OPEN = 3
"""An unfinished character in UTF-8 has at most three bytes, each of which may decode to one U+FFFD."""


class Decoder(Protocol):
    """The part of a tokenizer that is needed here."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`; broken characters give U+FFFD."""
        ...


class TokenText:
    """The text of a growing list of token ids.

    A token's text can depend on the tokens before it (a character in several byte tokens, a space that is
    only written between words). So the last tokens are decoded again together with each new one, and the
    text that this adds is new, unless it ends in a character that may not be complete yet.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._window: list[int] = []
        """The last tokens: first those whose text is out, kept as context, then those that are unfinished."""
        self._num_settled = 0
        self._num_out = 0
        """Characters of the window's text that are out."""

    @property
    def is_complete(self) -> bool:
        """No character is unfinished."""
        return self._num_settled == len(self._window)

    def push(self, token_id: int) -> str:
        """Add a token; returns the text that is complete now, often empty when characters span tokens."""
        self._window.append(token_id)
        text = self._decoder.decode(self._window)
        num_open = min(_MAX_OPEN, len(text) - len(text.rstrip(REPLACEMENT)))
        new = text[self._num_out : len(text) - num_open]
        self._num_out += len(new)
        if not num_open:
            self._window = self._window[self._num_settled :]
            self._num_settled = len(self._window)
            self._num_out = len(self._decoder.decode(self._window))
        return new


class Output:
    """One output: its text, its end by a stop string, and whether text and tokens agree."""

    def __init__(self, decoder: Decoder, *, stop: Sequence[str], min_tokens: int) -> None:
        self._tokens = TokenText(decoder)
        self._text = OutputText(stop=stop, min_tokens=min_tokens)
        self.num_tokens = 0

    @property
    def stopped(self) -> bool:
        """A stop string has come."""
        return self._text.stopped

    def push(self, token_id: int) -> str:
        """Add a token; returns text that is certain now: complete, and no beginning of a stop string."""
        self.num_tokens += 1
        return self._text.feed(self._tokens.push(token_id).encode())

    def finish(self) -> tuple[str, bool]:
        """The text that was held back, and whether the whole text is what all the tokens decode to.

        An unfinished last character is left out.
        """
        rest, exact = self._text.finish()
        return rest, exact and self._tokens.is_complete
