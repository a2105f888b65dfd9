"""Where prompts can share: chained hashes at semantic-variable boundaries, and which contexts hold them
(section 5.3).

A key stands for all of a prompt's text up to one boundary. Keys are chained over

    (salt, tenant, model) → segment → segment → …

where the beginning is a message authentication code (HMAC, RFC 2104) under the service's secret. Nobody who
lacks that can compute a key, and tenants have no key in common; but what the operator has published begins
for all alike, and each tenant's own beginning comes in where the published text ends:

    (salt, "", model) → published ┬→ tenant a → segment → …
                                  └→ tenant b → segment → …

So equal keys mean equal tokens, and two prompts share exactly the boundaries whose keys they have in common.
A value that a call generated has a key from the moment the call is submitted: its variable. Text that a
client sent is keyed by itself.

A prompt that comes without structure has keys at every block of tokens instead, so that whatever it has in
common with another is found to the block (as prefix caching in vLLM, Kwon et al. 2023, does).
"""

import hmac
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b

import msgspec

from parrot.ports.engine import ContextRef
from parrot.types.ids import ContextId, EngineId, PrefixKey, TenantId, VariableId

KEY_BYTES = 16
_NOBODY: Mapping[EngineId, dict[ContextId, int]] = {}
SHORT_BYTES = 256
"""Extensions of keys by so much or less are remembered for a while."""
BLOCK_TOKENS = 32
"""Tokens between two keys of a prompt without structure."""


PUBLIC = TenantId("")
"""Stands in keys for everybody; no tenant is called so."""


@lru_cache(maxsize=1024)
def root_key(salt: str, tenant_id: TenantId, model_hash: str, add_bos: bool) -> PrefixKey:
    """The key of an empty prompt of one tenant, or of `PUBLIC`, on one model; `salt` is the secret."""
    framed = bytearray()
    for part in (tenant_id, model_hash, "bos" if add_bos else ""):
        data = part.encode()
        framed += len(data).to_bytes(4, "big") + data
    return PrefixKey(hmac.digest(salt.encode(), framed, "sha256")[:KEY_BYTES])


def owned_key(public: PrefixKey, root: PrefixKey) -> PrefixKey:
    """The key from which a tenant's own text goes on after what everybody may share."""
    return _extend(public, b"o", root)


def text_key(before: PrefixKey, text: str, *, markup: bool = False) -> PrefixKey:
    """The key after a piece of text that was tokenised on its own."""
    return _extend(before, b"m" if markup else b"t", text.encode())


def generated_key(before: PrefixKey, variable_id: VariableId) -> PrefixKey:
    """The key after an output, known before its text is."""
    return _extend(before, b"g", variable_id.encode())


def block_keys(
    root: PrefixKey,
    token_ids: Sequence[int],
    *,
    known: Sequence[PrefixKey] = (),
    public: PrefixKey | None = None,
    num_public: int = 0,
) -> tuple[tuple[PrefixKey, ...], tuple[int, ...]]:
    """The keys of a prompt after each of its blocks, the last of which may be short, and the tokens up to
    each. `known` are those of its first blocks, all whole. The first `num_public` blocks begin with the key
    `public` in place of `root`.
    """
    data = memoryview(array("I", token_ids)).cast("B")
    width = data.nbytes // max(1, len(token_ids))
    keys = list(known)
    key = keys[-1] if keys else root if public is None or not num_public else public
    for start in range(len(keys) * BLOCK_TOKENS, len(token_ids), BLOCK_TOKENS):
        if num_public and start == num_public * BLOCK_TOKENS:
            key = owned_key(key, root)
        key = _extend(key, b"b", bytes(data[start * width : (start + BLOCK_TOKENS) * width]))
        keys.append(key)
    lengths = [min(end * BLOCK_TOKENS, len(token_ids)) for end in range(1, len(keys) + 1)]
    return tuple(keys), tuple(lengths)


def _extend(before: PrefixKey, kind: bytes, data: bytes) -> PrefixKey:
    # The beginnings of a prompt are asked for when it is submitted, looked ahead to, and written.
    return _short_extension(before, kind, data) if len(data) <= SHORT_BYTES else _hash(before + kind + data)


def _hash(data: bytes) -> PrefixKey:
    return PrefixKey(blake2b(data, digest_size=KEY_BYTES).digest())


@lru_cache(maxsize=16_384)
def _short_extension(before: PrefixKey, kind: bytes, data: bytes) -> PrefixKey:
    return _hash(before + kind + data)


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """The longest boundary of a prompt that an engine holds or is about to hold."""

    boundary: int
    """Index into the prompt's keys."""
    ref: ContextRef


class PrefixIndex:
    """Which contexts hold which prefixes, live and retained alike. Every operation costs what it changes."""

    def __init__(self) -> None:
        self._holders: dict[PrefixKey, dict[EngineId, dict[ContextId, int]]] = {}
        self._keys: dict[EngineId, dict[ContextId, list[PrefixKey]]] = {}
        self.held_anywhere: Container[PrefixKey] = self._holders.keys()
        """The prefixes that some engine holds, as they are at any time."""
        self.on_first: Callable[[PrefixKey], None] | None = None
        """Told when another context of an engine is the one that a fork of a prefix would take."""

    def add(self, engine_id: EngineId, key: PrefixKey, ref: ContextRef) -> None:
        """Note that a context holds, or will hold, the prefix `key` in its first tokens."""
        self.note(engine_id, key, ref.context_id, ref.num_tokens)

    def note(self, engine_id: EngineId, key: PrefixKey, context_id: ContextId, num_tokens: int) -> None:
        """As `add`, of a context's first `num_tokens`."""
        holders = self._holders.get(key)
        if holders is None:
            holders = self._holders[key] = {}
        contexts = holders.get(engine_id)
        is_first = not contexts
        if contexts is None:
            contexts = holders[engine_id] = {}
        if context_id not in contexts:
            self._keys.setdefault(engine_id, {}).setdefault(context_id, []).append(key)
        contexts[context_id] = num_tokens
        if is_first and self.on_first is not None:
            self.on_first(key)

    def drop(self, engine_id: EngineId, context_id: ContextId) -> None:
        """Forget a context."""
        for key in self._keys.get(engine_id, {}).pop(context_id, ()):
            self._remove(key, engine_id, context_id)

    def drop_engine(self, engine_id: EngineId) -> None:
        """Forget everything an engine held."""
        for context_id, keys in self._keys.pop(engine_id, {}).items():
            for key in keys:
                self._remove(key, engine_id, context_id)

    def longest(self, engine_id: EngineId, keys: Sequence[PrefixKey]) -> Match | None:
        """The longest of `keys` (shortest first) that an engine holds; of several contexts the oldest."""
        holders, boundary = self._holders, len(keys)
        for key in reversed(keys):
            boundary -= 1
            if key in holders and (contexts := holders[key].get(engine_id)):
                context_id, num_tokens = next(iter(contexts.items()))
                return Match(boundary=boundary, ref=ContextRef(context_id=context_id, num_tokens=num_tokens))
        return None

    def is_held_beyond(self, keys: Sequence[PrefixKey], lengths: Sequence[int], num_tokens: int) -> bool:
        """Whether any engine holds one of `keys` (shortest first) whose length is `num_tokens` or more."""
        return not self._holders.keys().isdisjoint(keys[bisect_left(lengths, num_tokens) :])

    def engines_with(self, key: PrefixKey) -> Collection[EngineId]:
        """The engines that hold a prefix, from the one that has held it longest on; a view."""
        return self._holders.get(key, _NOBODY).keys()

    def holds(self, key: PrefixKey) -> bool:
        """Whether any engine holds a prefix."""
        return key in self._holders

    def first_holders(self, key: PrefixKey) -> Iterator[tuple[EngineId, ContextId]]:
        """On each engine the context that a fork of the prefix would take: the oldest that holds it."""
        for engine_id, contexts in self._holders.get(key, {}).items():
            yield engine_id, next(iter(contexts))

    def held(self, engine_id: EngineId, context_id: ContextId) -> Iterator[tuple[PrefixKey, int]]:
        """The prefixes that a context holds, and how many tokens each has."""
        for key in self._keys.get(engine_id, {}).get(context_id, ()):
            yield key, self._holders[key][engine_id][context_id]

    @property
    def num_keys(self) -> int:
        """Prefixes known."""
        return len(self._holders)

    def _remove(self, key: PrefixKey, engine_id: EngineId, context_id: ContextId) -> None:
        engines = self._holders[key]
        contexts = engines[engine_id]
        was_first = next(iter(contexts)) == context_id
        del contexts[context_id]
        if not contexts:
            del engines[engine_id]
            if not engines:
                del self._holders[key]
        elif was_first and self.on_first is not None:
            self.on_first(key)
