"""Text of outputs while it is being generated, for those who watch it come. Provisional until it is
committed.
"""

from msgspec import Struct, field

from parrot.types.ids import VariableId


class LiveText(Struct, kw_only=True):
    """What the current attempt has generated so far of one output."""

    attempt: int
    pieces: list[str] = field(default_factory=list)
    num_chars: int = 0

    def text_from(self, start: int) -> str:
        """The text from a character offset on."""
        if start >= self.num_chars:
            return ""
        if self.pieces and start >= self.num_chars - len(self.pieces[-1]):
            return self.pieces[-1][start - (self.num_chars - len(self.pieces[-1])) :]
        self.pieces = ["".join(self.pieces)]
        return self.pieces[0][start:]


class LiveTexts:
    """The live text of every output that is being generated."""

    def __init__(self) -> None:
        self._texts: dict[VariableId, LiveText] = {}

    def begin(self, variable_id: VariableId, attempt: int) -> None:
        """An attempt starts; what an earlier one wrote is void."""
        self._texts[variable_id] = LiveText(attempt=attempt)

    def append(self, variable_id: VariableId, text: str) -> None:
        """More text came."""
        live = self._texts[variable_id]
        live.pieces.append(text)
        live.num_chars += len(text)

    def get(self, variable_id: VariableId) -> LiveText | None:
        """What is there; None before generation starts and after the value is committed."""
        return self._texts.get(variable_id)

    def drop(self, variable_id: VariableId) -> None:
        """The variable is resolved."""
        self._texts.pop(variable_id, None)
