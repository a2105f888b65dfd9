"""A tokenizer without a vocabulary file: ids are computed, not looked up.

    id 0 … 255      one byte
    256 … 511       special tokens (three are in use)
    512 …           a piece: up to five letters a–z, the first perhaps a capital, perhaps a space before it;
                    512 + 4 · (letters as a number to the base 27, a = 1) + 2 · space + capital

Letters outside that pattern, digits, signs and everything beyond ASCII are bytes of UTF-8. English comes to
about four characters a token, and every text comes back as it was.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from parrot.errors import TemplateError

_SPECIAL = ("<|im_start|>", "<|im_end|>", "</s>")
_FIRST_SPECIAL = 256
_FIRST_PIECE = 512
_VOCAB_SIZE = _FIRST_PIECE + 4 * 27**5
_PIECES = re.compile(r" ?[A-Z][a-z]{0,4}| ?[a-z]{1,5}|.", re.DOTALL)
_MARKUP = re.compile("(" + "|".join(map(re.escape, _SPECIAL)) + ")")
_ROLES = ("system", "developer", "user", "assistant", "tool")
_MAX_REMEMBERED = 1 << 16

SPECIAL_IDS: Mapping[str, int] = {text: _FIRST_SPECIAL + i for i, text in enumerate(_SPECIAL)}
"""Special tokens and their ids."""
EOS_IDS = frozenset({SPECIAL_IDS["</s>"], SPECIAL_IDS["<|im_end|>"]})
"""Tokens that end an output."""
EOS_ID = SPECIAL_IDS["</s>"]


def _piece_ids(piece: str) -> tuple[int, ...]:
    letters = piece.lstrip(" ")
    if not (letters.isascii() and letters.isalpha()):
        return tuple(piece.encode("utf-8", "surrogatepass"))
    number = 0
    for letter in letters.lower():
        number = number * 27 + ord(letter) - 96
    return (_FIRST_PIECE + 4 * number + 2 * (piece[0] == " ") + letters[0].isupper(),)


@lru_cache(maxsize=_MAX_REMEMBERED)
def _piece_bytes(token_id: int) -> bytes:
    number, flags = divmod(token_id - _FIRST_PIECE, 4)
    letters = ""
    while number:
        number, letter = divmod(number, 27)
        letters = (chr(96 + letter) if letter else "") + letters
    text = " " * (flags >> 1) + (letters[:1].upper() + letters[1:] if flags & 1 else letters)
    return text.encode()


class _Remembered(dict[str, tuple[int, ...]]):
    """Ids of pieces that were met before."""

    def __missing__(self, piece: str) -> tuple[int, ...]:
        if len(self) >= _MAX_REMEMBERED:
            self.clear()
        ids = self[piece] = _piece_ids(piece)
        return ids


class ScriptedTokenizer:
    """The scripted engine's tokenizer; see the module."""

    def __init__(self) -> None:
        self._ids = _Remembered()

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        return _VOCAB_SIZE

    @property
    def bos_ids(self) -> tuple[int, ...]:
        """None: a prompt begins with its own text."""
        return ()

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        """The ids of `text`; special tokens written in it count only with `markup`."""
        if not markup:
            return self._plain(text)
        ids: list[int] = []
        for part in _MARKUP.split(text):
            ids.extend((SPECIAL_IDS[part],) if part in SPECIAL_IDS else self._plain(part))
        return tuple(ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`; broken characters and unknown ids give U+FFFD."""
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """What one token adds to a text; part of a character, perhaps."""
        if 0 <= token_id < _FIRST_SPECIAL:
            return bytes((token_id,))
        if _FIRST_PIECE <= token_id < _VOCAB_SIZE:
            return _piece_bytes(token_id)
        special = token_id - _FIRST_SPECIAL
        return _SPECIAL[special].encode() if 0 <= special < len(_SPECIAL) else "\ufffd".encode()

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
    ) -> str:
        """`messages` in the ChatML form; nothing is trimmed. Raises `TemplateError` (`bad_messages`)."""
        parts: list[str] = []
        for message in messages:
            role = message.get("role", "")
            if role not in _ROLES:
                raise TemplateError(
                    f"the role {role[:40]!r} is none of {', '.join(_ROLES)}",
                    code="bad_messages",
                    param="messages",
                )
            parts.append(f"<|im_start|>{role}\n{message.get('content', '')}<|im_end|>\n")
        if add_generation_prompt:
            parts.append("<|im_start|>assistant\n")
        return "".join(parts)

    def _plain(self, text: str) -> tuple[int, ...]:
        remembered = self._ids
        return tuple([i for piece in _PIECES.findall(text) for i in remembered[piece]])
