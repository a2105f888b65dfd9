"""Text that stands for its length: `‹5107:42›` is 5,107 tokens, all of them number 42.

    id 0 … 255        one byte of UTF-8, for text outside marks
    id 256 …          the seed of a mark, shifted by 256

So a prompt of thousands of tokens is a dozen characters for everything that handles text, two texts with
different seeds share no token, and what an engine generates comes back as text of the same kind.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from parrot.errors import TemplateError

_FIRST_SEED_ID = 256
NUM_SEEDS = 1 << 40
"""Seeds are below this."""
_MARK = re.compile("‹([0-9]{1,9}):([0-9]{1,13})›")
_ROLES = ("system", "developer", "user", "assistant", "tool")


def mark(num_tokens: int, seed: int) -> str:
    """A text of `num_tokens` tokens; equal seeds, equal tokens. No tokens, no text."""
    if not 0 <= seed < NUM_SEEDS:
        raise ValueError(f"a seed lies between 0 and {NUM_SEEDS - 1}")
    return f"‹{num_tokens}:{seed}›" if num_tokens else ""


def token_id(seed: int) -> int:
    """The id of every token of the marks with this seed."""
    return _FIRST_SEED_ID + seed


class MarkTokenizer:
    """`ports.Tokenizer` for marks; see the module."""

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        return _FIRST_SEED_ID + NUM_SEEDS

    @property
    def bos_ids(self) -> tuple[int, ...]:
        """None: a prompt begins with its own text."""
        return ()

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:  # noqa: ARG002 - no special tokens
        """The tokens of every mark, and the bytes of what stands between them."""
        whole = _MARK.fullmatch(text)
        if whole is not None:
            return (_FIRST_SEED_ID + int(whole[2]),) * int(whole[1])
        ids: list[int] = []
        done = 0
        for found in _MARK.finditer(text):
            ids.extend(text[done : found.start()].encode())
            ids.extend((_FIRST_SEED_ID + int(found[2]),) * int(found[1]))
            done = found.end()
        ids.extend(text[done:].encode())
        return tuple(ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`; runs of one seed become one mark, broken characters U+FFFD."""
        parts: list[str] = []
        for is_bytes, group in groupby(token_ids, lambda each: each < _FIRST_SEED_ID):
            if is_bytes:
                parts.append(bytes(group).decode("utf-8", "replace"))
            else:
                parts.extend(mark(len(list(run)), each - _FIRST_SEED_ID) for each, run in groupby(group))
        return "".join(parts)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
    ) -> str:
        """One line for each message. Raises `TemplateError` (`bad_messages`)."""
        for message in messages:
            if message.get("role") not in _ROLES:
                raise TemplateError(
                    f"a message's role is one of {', '.join(_ROLES)}", code="bad_messages", param="messages"
                )
        lines = [f"{message['role']}:{message.get('content', '')}\n" for message in messages]
        return "".join(lines) + ("assistant:" if add_generation_prompt else "")
