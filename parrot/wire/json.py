"""Strict decoding of a request's body.

What Python's own decoder lets through, each a fault later on, is refused here: UTF-16, `NaN`, a key that is
given twice, numbers that become infinite, text that cannot be encoded again, nesting that exhausts the stack.
"""

import json
import math
import re
from collections import Counter
from typing import NoReturn

from parrot.errors import InvalidError, MalformedError
from parrot.wire.quoting import field_path, quoted

MAX_INTEGER = 2**53
"""Beyond this, programs that read numbers as doubles see another number (RFC 8259, section 6)."""
MAX_NUMBER_CHARS = 64
"""A number written with more characters than this is not decoded at all."""

MAX_VALUES = 500_000
"""Values of one body: strings, numbers, arrays, objects. Memory and time go by their number."""

_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SUSPICIOUS_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def decode_json(body: bytes, *, max_depth: int, max_keys: int) -> object:
    """The value that `body` stands for: None, bool, int, float, str, list or dict.

    The time taken is linear in the size of `body`. Text in the value is free of lone surrogates and U+0000,
    numbers are finite, whole numbers lie within ±2^53.

    Raises:
        MalformedError: `not_utf8`, `bad_json`, `too_deep` (more than `max_depth` containers within one
            another), `duplicate_key`, `bad_number` (a constant that JSON does not know, or too many digits).
        InvalidError: `too_many` (an object with more than `max_keys` keys, or a body of too many values),
            `invalid_unicode`, `nul_not_allowed`, `invalid` (a number out of range); these three with `param`.
    """
    text = _decode_text(body)
    if _count_separators(text) > MAX_VALUES and _count_separators(_STRING.sub("", text)) > MAX_VALUES:
        raise InvalidError(f"the body has more than {MAX_VALUES} values", code="too_many")
    decoder = _Decoder(max_keys)
    try:
        value: object = decoder.decode(text)
    except json.JSONDecodeError as error:
        raise MalformedError(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    _check_depth(value, max_depth)
    if decoder.saw_odd_number or _SUSPICIOUS_ESCAPE.search(text):
        _check_scalars(value)
    return value


def _decode_text(body: bytes) -> str:
    if b"\x00" in body[:2]:
        raise MalformedError("the body is UTF-16 or UTF-32; send UTF-8", code="not_utf8")
    if body.startswith(_BYTE_ORDER_MARK):
        raise MalformedError("the body begins with a byte order mark; send plain UTF-8", code="not_utf8")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"the body is not UTF-8 at byte {error.start}", code="not_utf8") from None


def _count_separators(text: str) -> int:
    """At least the number of values that `text` holds outside of its strings, less one."""
    return text.count(",") + text.count("[") + text.count("{")


class _Decoder(json.JSONDecoder):
    """The standard decoder with hooks that refuse what it would let through."""

    def __init__(self, max_keys: int) -> None:
        super().__init__(
            object_pairs_hook=self._object,
            parse_constant=self._constant,
            parse_int=self._integer,
            parse_float=self._real,
        )
        self.saw_odd_number = False
        """A number that is out of range has been decoded; where it stands is for a second look to find."""
        self._max_keys = max_keys

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(pairs) > self._max_keys:
            raise InvalidError(
                f"an object has {len(pairs)} keys; at most {self._max_keys} are allowed", code="too_many"
            )
        result = dict(pairs)
        if len(result) != len(pairs):
            again = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise MalformedError(f"an object names the key {quoted(again)} twice", code="duplicate_key")
        return result

    def _constant(self, name: str) -> NoReturn:
        raise MalformedError(f"{name} is not a JSON number", code="bad_number")

    def _integer(self, digits: str) -> int:
        _check_length(digits)
        number = int(digits)
        if not -MAX_INTEGER <= number <= MAX_INTEGER:
            self.saw_odd_number = True
        return number

    def _real(self, digits: str) -> float:
        _check_length(digits)
        number = float(digits)
        if not math.isfinite(number):
            self.saw_odd_number = True
        return number


def _check_length(digits: str) -> None:
    if len(digits) > MAX_NUMBER_CHARS:
        raise MalformedError(f"a number is written with {len(digits)} characters", code="bad_number")


def _too_deep(max_depth: int) -> MalformedError:
    return MalformedError(f"the body is nested deeper than {max_depth} levels", code="too_deep")


def _check_depth(value: object, max_depth: int) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(max_depth):
        if not level:
            return
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
    if level:
        raise _too_deep(max_depth)


def _check_scalars(value: object, path: tuple[str | int, ...] = ()) -> None:
    """Refuse text and numbers that cannot be used, at the first place where one stands."""
    match value:
        case str():
            _check_string(value, path)
        case int() if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise InvalidError("a whole number is beyond 2^53", param=field_path(path))
        case float() if not math.isfinite(value):
            raise InvalidError("a number is out of range", param=field_path(path))
        case dict():
            for key, child in value.items():
                _check_string(key, (*path, key))
                _check_scalars(child, (*path, key))
        case list():
            for index, child in enumerate(value):
                _check_scalars(child, (*path, index))
        case _:
            pass


def _check_string(text: str, path: tuple[str | int, ...]) -> None:
    if "\x00" in text:
        raise InvalidError("text holds U+0000", code="nul_not_allowed", param=field_path(path))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidError(
            "text holds a lone surrogate", code="invalid_unicode", param=field_path(path)
        ) from None
