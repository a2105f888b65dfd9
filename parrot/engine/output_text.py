"""From generated tokens to text that may be shown: whole characters, and no part of a stop string."""

import codecs
from collections.abc import Sequence


class OutputText:
    """The text of one output as it grows.

    Text is held back while it may yet be the beginning of a stop string, and bytes while they are an
    unfinished character. Stop strings are looked for in text that begins after the first `min_tokens` tokens.
    """

    def __init__(self, *, stop: Sequence[str] = (), min_tokens: int = 0) -> None:
        self._stop = tuple(stop)
        self._min_tokens = min_tokens
        self._num_tokens = 0
        self._held = ""
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self.stopped = False
        """A stop string has come; nothing further is output."""

    def feed(self, token: bytes) -> str:
        """Take one token's bytes; returns the text that is certain now, often empty."""
        text = self._characters.decode(token)
        self._num_tokens += 1
        if not self._stop or self._num_tokens <= self._min_tokens:
            return text
        text = self._held + text
        found = min((at for at in map(text.find, self._stop) if at >= 0), default=-1)
        if found >= 0:
            self.stopped, self._held = True, ""
            return text[:found]
        cut = len(text) - self._overlap(text)
        self._held = text[cut:]
        return text[:cut]

    def finish(self) -> tuple[str, bool]:
        """The rest, and whether the whole output is exactly what its tokens decode to.

        An unfinished last character is left out.
        """
        if self.stopped:
            return "", False
        unfinished, _ = self._characters.getstate()
        rest, self._held = self._held, ""
        return rest, not unfinished

    def _overlap(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        longest = min(len(text), max(map(len, self._stop)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
