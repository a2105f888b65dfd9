"""Calls of tools, read as they are generated: a call's name as soon as it is there, then its arguments.

[{"name": "find", "arguments": {"city": "Rom", …}}, …]
└ begins the call   └ every character of it, as the model wrote it
"""

import json
from dataclasses import dataclass, field
from typing import Literal

_Place = Literal["between", "in call", "key", "colon", "value"]


@dataclass(slots=True, kw_only=True)
class CallRead:
    """One call, as far as it came."""

    name: str
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPiece:
    """What came new of one call."""

    number: int
    """Which of the answer's calls."""
    name: str | None
    """Set in a call's first piece."""
    arguments: str


@dataclass(slots=True)
class CallReader:
    """Reads the JSON of calls piece by piece. What is not a call is passed over."""

    calls: list[CallRead] = field(default_factory=list)
    """Those whose names came."""
    _place: _Place = "between"
    _key: str = ""
    _word: list[str] = field(default_factory=list)
    """The key or value that is being read."""
    _held: str = ""
    """Arguments that came before their call's name."""
    _named: bool = False
    _depth: int = 0
    _quoted: bool = False
    _escaped: bool = False

    def feed(self, text: str) -> list[CallPiece]:
        """What of `text` belongs to calls."""
        known = [len(call.arguments) for call in self.calls]
        for char in text:
            self._take(char)
        pieces = []
        for number, call in enumerate(self.calls):
            is_new = number >= len(known)
            more = call.arguments[0 if is_new else known[number] :]
            if is_new or more:
                pieces.append(CallPiece(number=number, name=call.name if is_new else None, arguments=more))
        return pieces

    def _take(self, char: str) -> None:
        match self._place:
            case "between":
                if char == "{":
                    self._place, self._named, self._held = "in call", False, ""
            case "in call":
                if char == '"':
                    self._place, self._word, self._quoted = "key", [char], True
                elif char == "}":
                    self._place = "between"
            case "key":
                self._word.append(char)
                self._note_quotes(char)
                if not self._quoted:
                    self._key, self._place = _string("".join(self._word)), "colon"
            case "colon":
                if char == ":":
                    self._place, self._word, self._depth = "value", [], 0
            case "value":
                self._take_of_value(char)

    def _take_of_value(self, char: str) -> None:
        if not self._word and char.isspace():
            return
        ends_before = not self._quoted and self._depth == 0 and bool(self._word) and char in ",}"
        if ends_before:
            self._end_value()
            self._take(char)
            return
        self._word.append(char)
        if self._key == "arguments":
            self._note_argument(char)
        was_quoted = self._quoted
        self._note_quotes(char)
        if not (self._quoted or was_quoted):
            self._depth += (char in "{[") - (char in "}]")
        closes = (char == '"' and was_quoted and not self._quoted) or (char in "}]" and not was_quoted)
        if closes and self._depth == 0:
            self._end_value()

    def _note_argument(self, char: str) -> None:
        if self._named:
            self.calls[-1].arguments += char
        else:
            self._held += char

    def _note_quotes(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._quoted and char == "\\":
            self._escaped = True
        elif char == '"' and len(self._word) > 1:
            self._quoted = not self._quoted
        elif char == '"':
            self._quoted = True

    def _end_value(self) -> None:
        self._place = "in call"
        if self._key == "name" and not self._named:
            self.calls.append(CallRead(name=_string("".join(self._word)), arguments=self._held))
            self._named = True


def _string(text: str) -> str:
    """A JSON string's value; a broken one as it is."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else text
