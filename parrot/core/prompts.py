"""A lowered call made concrete: token ids and prefix keys, once the values of its inputs are there."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from threading import Lock

import msgspec

from parrot.core.prefixes import (
    BLOCK_TOKENS,
    PUBLIC,
    block_keys,
    generated_key,
    owned_key,
    root_key,
    text_key,
)
from parrot.core.variables import Variable
from parrot.errors import CallError, TemplateError
from parrot.ports.engine import Tokenizer
from parrot.types.ids import PrefixKey, TenantId, VariableId
from parrot.types.program import ConstantSegment, InputSegment, OutputSegment, Program, Segment

TEXT_CHARS_PER_TOKEN = 4
"""What a remembered text takes, beside its tokens, is counted as one token for so many characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What the service knows of a served model; engines with the same `model_hash` are interchangeable."""

    name: str
    model_hash: str
    context_tokens: int
    tokenizer: Tokenizer


class PromptPart(msgspec.Struct, frozen=True, kw_only=True):
    """One output, and the tokens between the one before it (or the beginning) and it."""

    token_ids: tuple[int, ...]
    output: OutputSegment
    key: PrefixKey
    """The key of everything up to the output's end, valid when the value is the text as generated."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is asked for: parts in order, each filled and then generated."""

    parts: tuple[PromptPart, ...]
    keys: tuple[PrefixKey, ...]
    """Keys at the boundaries before the first output, shortest first; the last stands for all of the first
    part."""
    lengths: tuple[int, ...]
    """Tokens up to each of these boundaries."""
    num_tokens: int
    """Tokens of all parts, outputs not counted."""
    block_root: PrefixKey | None = None
    """Set when it has no structure: its keys stand at blocks of tokens and begin with this one."""
    marks: tuple[int, ...] = ()
    """Of a prompt without structure: lengths at which a client said that what comes again ends; there are
    keys there too."""

    @property
    def max_tokens(self) -> int:
        """Tokens the context can grow to."""
        most = self.num_tokens
        for part in self.parts:
            most += part.output.sampling.max_tokens
        return most


class TokenCache:
    """Remembers the tokens of texts, the most recently used ones: constants of templates that are called
    again and again, documents that many calls read. Safe to use from several threads.
    """

    def __init__(self, max_texts: int = 4096, max_tokens: int = 1 << 20) -> None:
        """`max_tokens` bounds all texts together, at some 40 MB; a text that is a quarter of that or more is
        not remembered.
        """
        self._max_texts = max_texts
        self._max_tokens = max_tokens
        self.num_tokens = 0
        """What is remembered now, in tokens."""
        self._lock = Lock()
        self._tokens: OrderedDict[tuple[TenantId, str, bool, str], tuple[int, ...]] = OrderedDict()

    def encode(
        self, model: Model, text: str, *, markup: bool, tenant_id: TenantId = PUBLIC
    ) -> tuple[int, ...]:
        """The tokens of `text` alone. They are remembered for its tenant: else the time it takes would tell
        whether another had sent it.
        """
        key = (tenant_id, model.model_hash, markup, text)
        known = self._tokens.get(key)
        if known is not None:
            # Another thread may have forgotten it in between; its tokens are right all the same.
            with suppress(KeyError):
                self._tokens.move_to_end(key)
            return known
        token_ids = model.tokenizer.encode(text, markup=markup)
        with self._lock:
            size = _size(text, token_ids)
            if key not in self._tokens and 4 * size <= self._max_tokens:
                self._tokens[key] = token_ids
                self.num_tokens += size
            while len(self._tokens) > self._max_texts or self.num_tokens > self._max_tokens:
                (*_, oldest), its_tokens = self._tokens.popitem(last=False)
                self.num_tokens -= _size(oldest, its_tokens)
        return token_ids


def _size(text: str, token_ids: tuple[int, ...]) -> int:
    return len(token_ids) + len(text) // TEXT_CHARS_PER_TOKEN


def write_prompt(
    program: Program,
    model: Model,
    values: Callable[[VariableId], Variable],
    *,
    tenant_id: TenantId,
    salt: str,
    cache: TokenCache,
) -> Prompt:
    """Tokenise a program segment by segment, so that boundaries are exact.

    Args:
        program: the lowered call.
        model: the model it runs on.
        values: gives the variable of an input segment; all are ready.
        tenant_id: whose prompt it is; keys of different tenants never meet.
        salt: the service's secret.
        cache: tokens of texts seen before.

    Raises:
        CallError: `context_overflow`, with both numbers in `data`.
        TemplateError: `empty_prompt`, when not a single token comes before the first output.
    """
    chain = _Chain(program, model, tenant_id, salt)
    key = chain.first
    bos_ids = model.tokenizer.bos_ids if program.add_bos else ()
    num_tokens = len(bos_ids)
    pending: list[tuple[int, ...]] = [bos_ids] if bos_ids else []
    keys: list[PrefixKey] = []
    lengths: list[int] = []
    ends_of_inputs: list[int] = []
    parts: list[PromptPart] = []
    for segment in program.segments:
        if chain.in_public:
            key = chain.enter(segment, key)
        if isinstance(segment, OutputSegment):
            key = generated_key(key, segment.variable_id)
            parts.append(PromptPart(token_ids=joined(pending), output=segment, key=key))
            pending = []
            continue
        token_ids, key = _segment_tokens(segment, key, model, values, cache, tenant_id)
        pending.append(token_ids)
        num_tokens += len(token_ids)
        if not parts:
            keys.append(key)
            lengths.append(num_tokens)
            if isinstance(segment, InputSegment):
                ends_of_inputs.append(num_tokens)
    for token_ids in pending:
        num_tokens -= len(token_ids)
    if not (parts and parts[0].token_ids):
        raise TemplateError(
            "nothing stands before the first output: its inputs are empty", code="empty_prompt"
        )
    prompt = Prompt(parts=tuple(parts), keys=tuple(keys), lengths=tuple(lengths), num_tokens=num_tokens)
    if program.opaque:
        num_public = _num_public_tokens(program, model, parts[0].token_ids, cache)
        prompt = _in_blocks(prompt, chain, num_public, ends_of_inputs)
    check_window(prompt, model)
    return prompt


def joined(pieces: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Tokens one after the other; what comes in one piece, or in two, as most do, is copied as little as can
    be.
    """
    if len(pieces) == 1:
        return pieces[0]
    if len(pieces) == 2:
        return pieces[0] + pieces[1]
    token_ids: list[int] = []
    for piece in pieces:
        token_ids.extend(piece)
    return tuple(token_ids)


def _in_blocks(prompt: Prompt, chain: "_Chain", num_public_tokens: int, ends_of_inputs: list[int]) -> Prompt:
    """A prompt without structure: with keys at its blocks, and where its inputs end."""
    token_ids = prompt.parts[0].token_ids
    # Some whole block is always the tenant's own, so that whatever comes after the prompt is, too.
    num_public = min(num_public_tokens // BLOCK_TOKENS, max(0, len(token_ids) // BLOCK_TOKENS - 1))
    in_blocks, ends = block_keys(chain.own, token_ids, public=chain.public, num_public=num_public)
    marks = tuple(end for end in dict.fromkeys(ends_of_inputs) if 0 < end < len(token_ids))
    by_length = dict(zip(ends, in_blocks, strict=True))
    for end in marks:
        whole = in_blocks[: end // BLOCK_TOKENS]
        upto, _ = block_keys(
            chain.own, token_ids[:end], known=whole, public=chain.public, num_public=num_public
        )
        by_length[end] = upto[-1]
    lengths = sorted(by_length)
    return msgspec.structs.replace(
        prompt,
        keys=tuple(by_length[length] for length in lengths),
        lengths=tuple(lengths),
        block_root=chain.own,
        marks=marks,
    )


class Leading(msgspec.Struct, frozen=True, kw_only=True):
    """As much of a prompt as can be written while inputs are missing: what comes before the first of them."""

    token_ids: tuple[int, ...]
    key: PrefixKey
    """The key of all of it, to which what follows is chained."""
    keys: tuple[PrefixKey, ...]
    lengths: tuple[int, ...]
    missing: VariableId | None
    """The input that comes next; None when an output does."""


def write_leading(
    program: Program,
    model: Model,
    values: Callable[[VariableId], Variable],
    *,
    tenant_id: TenantId,
    salt: str,
    cache: TokenCache,
    so_far: Leading | None = None,
) -> Leading:
    """The beginning of a prompt, up to the first input that is pending; arguments as of `write_prompt`.
    `so_far` is what this gave before, when fewer inputs were there: it is gone on from.
    """
    chain = _Chain(program, model, tenant_id, salt)
    key = chain.first
    token_ids: list[int] = []
    keys: list[PrefixKey] = []
    lengths: list[int] = []
    begun_ids = tuple(model.tokenizer.bos_ids) if program.add_bos else ()
    begun_keys: tuple[PrefixKey, ...] = ()
    begun_lengths: tuple[int, ...] = ()
    if so_far is not None and so_far.keys:
        key, begun_ids = so_far.keys[-1], so_far.token_ids
        begun_keys, begun_lengths = so_far.keys, so_far.lengths
        chain.skip(program.segments[: len(begun_keys)])
    missing: VariableId | None = None
    for segment in islice(program.segments, len(begun_keys), None):
        key = chain.enter(segment, key)
        if isinstance(segment, OutputSegment):
            break
        if isinstance(segment, InputSegment) and values(segment.variable_id).state != "ready":
            missing = segment.variable_id
            break
        more, key = _segment_tokens(segment, key, model, values, cache, tenant_id)
        token_ids.extend(more)
        keys.append(key)
        lengths.append(len(begun_ids) + len(token_ids))
    return Leading(
        token_ids=(*begun_ids, *token_ids),
        key=key,
        keys=(*begun_keys, *keys),
        lengths=(*begun_lengths, *lengths),
        missing=missing,
    )


def expected_keys(
    program: Program,
    model: Model,
    values: Callable[[VariableId], Variable],
    will_be_generated: Callable[[VariableId], bool],
    *,
    tenant_id: TenantId,
    salt: str,
    so_far: Leading | None = None,
) -> tuple[PrefixKey, ...]:
    """The keys a prompt will have before its first output, as far as they are certain: an input that is
    pending has one already if its value will be exactly what a call generates. `so_far` is what was written
    of the prompt already.
    """
    if program.opaque:
        return ()
    chain = _Chain(program, model, tenant_id, salt)
    key = chain.first
    keys: list[PrefixKey] = []
    if so_far is not None and so_far.keys:
        key, keys = so_far.keys[-1], list(so_far.keys)
        chain.skip(program.segments[: len(keys)])
    for segment in islice(program.segments, len(keys), None):
        key = chain.enter(segment, key)
        match segment:
            case OutputSegment():
                break
            case ConstantSegment():
                key = text_key(key, segment.text, markup=segment.markup)
            case InputSegment(variable_id=variable_id):
                variable = values(variable_id)
                if variable.state == "ready":
                    key = _value_key(key, variable, model)
                elif variable.state == "pending" and will_be_generated(variable_id):
                    key = generated_key(key, variable_id)
                else:
                    break
        keys.append(key)
    return tuple(keys)


class _Chain:
    """Where a prompt's keys begin: with what everybody may share, if it begins so, and from the end of that
    on with the tenant's own root.
    """

    def __init__(self, program: Program, model: Model, tenant_id: TenantId, salt: str) -> None:
        begins_shared = bool(program.segments) and _is_shared(program.segments[0])
        self.own = self.public = self.first = root_key(salt, tenant_id, model.model_hash, program.add_bos)
        if begins_shared or program.published:
            self.public = root_key(salt, PUBLIC, model.model_hash, program.add_bos)
            self.first = self.public if begins_shared else self.own
        self.in_public = begins_shared
        """What comes now may still be what everybody may share."""

    def enter(self, segment: Segment, key: PrefixKey) -> PrefixKey:
        """The key to which the segment's is chained, when `key` stands for all before it."""
        if not self.in_public or _is_shared(segment):
            return key
        self.in_public = False
        return owned_key(key, self.own)

    def skip(self, segments: Sequence[Segment]) -> None:
        """The prompt is gone on with after these, its first ones."""
        self.in_public = self.in_public and all(map(_is_shared, segments))


def _is_shared(segment: Segment) -> bool:
    return isinstance(segment, ConstantSegment) and segment.shared


def _num_public_tokens(program: Program, model: Model, token_ids: tuple[int, ...], cache: TokenCache) -> int:
    """How many of a prompt's first tokens are those of a published text, and of markup before it."""
    if not program.published:
        return 0
    first = program.segments[0]
    markup = first.text if isinstance(first, ConstantSegment) and first.shared else ""
    before = model.tokenizer.bos_ids if program.add_bos else ()
    before = (*before, *cache.encode(model, markup, markup=True)) if markup else before
    return max(
        _num_common(token_ids, (*before, *cache.encode(model, text, markup=False)))
        for text in program.published
    )


def _num_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens at the beginning that both have."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def _value_key(before: PrefixKey, variable: Variable, model: Model) -> PrefixKey:
    if variable.token_ids is not None and variable.model_hash == model.model_hash:
        return generated_key(before, variable.variable_id)
    return text_key(before, variable.value or "")


def check_window(prompt: Prompt, model: Model) -> None:
    """Refuse a prompt that cannot fit into the model's window together with its outputs; never cut it
    silently.
    """
    if prompt.max_tokens > model.context_tokens:
        outputs = prompt.max_tokens - prompt.num_tokens
        raise CallError(
            f"the prompt has {prompt.num_tokens:,} tokens and its outputs may have {outputs:,}; together that"
            f" is more than the {model.context_tokens:,} tokens of the window of {model.name!r}:"
            " shorten the prompt or lower max_tokens",
            code="context_overflow",
            data={
                "prompt_tokens": prompt.num_tokens,
                "output_tokens": outputs,
                "context_tokens": model.context_tokens,
            },
        )


def _segment_tokens(
    segment: ConstantSegment | InputSegment,
    key: PrefixKey,
    model: Model,
    values: Callable[[VariableId], Variable],
    cache: TokenCache,
    tenant_id: TenantId,
) -> tuple[tuple[int, ...], PrefixKey]:
    if isinstance(segment, ConstantSegment):
        whose = PUBLIC if segment.shared else tenant_id
        token_ids = cache.encode(model, segment.text, markup=segment.markup, tenant_id=whose)
        return token_ids, text_key(key, segment.text, markup=segment.markup)
    variable = values(segment.variable_id)
    after = _value_key(key, variable, model)
    if variable.token_ids is not None and variable.model_hash == model.model_hash:
        return variable.token_ids, after
    return cache.encode(model, variable.value or "", markup=False, tenant_id=tenant_id), after
