"""Outputs bounded by a JSON schema or a regular expression: which tokens may come next.

A grammar is compiled to a matcher (llguidance: an Earley parser over a lexer of regular-expression
derivatives) that says, for each state of an output, which tokens of the vocabulary lead on to a text of the
language. Compiling takes about a millisecond and runs in a thread of its own; a mask takes microseconds, and
those of a batch are computed in parallel. Both have budgets of steps, so that a hostile grammar ends in an
error after milliseconds.

JSON is written on one line, with at most one space after a comma or colon: were any white space allowed, a
model could write nothing else for ever.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from parrot.engine.torch.tokenizer import TorchTokenizer
from parrot.errors import EngineError, InvalidError
from parrot.types.sampling import Grammar

P = ParamSpec("P")
T = TypeVar("T")

COMPILE_TIMEOUT_S = 2.0
"""A grammar that takes longer, once its turn has come, is refused."""
CACHED_GRAMMARS = 128
"""So many grammars stay compiled, those used last."""
_COMPILING_THREADS = 2
_JSON_FORM = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
_TEXT_OR_JSON = "start: text | json\ntext: /([^{\\[](.|\\n)*)?/\njson: %json "
_ASCII = "dws"
r"""\d, \w and \s mean what they mean in RE2, by which patterns are checked: ASCII only."""
_STEP_LEXER_FUEL = 50_000
"""A mask costs a few milliseconds at most, then its request fails."""
_MAX_LEXER_STATES = 50_000
_MAX_REASON_CHARS = 200


class OutputBound:
    """What one output may still be. Used by one thread at a time."""

    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher

    @property
    def may_end(self) -> bool:
        """The text is whole as it is; more may follow all the same."""
        return bool(self.matcher.is_accepting())

    @property
    def is_complete(self) -> bool:
        """The text is whole, and nothing can follow."""
        return bool(self.matcher.is_stopped()) and not self.matcher.is_error()

    def check(self, *, ends: bool) -> InvalidError | None:
        """What is wrong: the grammar became too costly, or no token is allowed (`ends`) before the end."""
        if self.matcher.is_error():
            return _unsupported(self.matcher.get_error())
        if ends and not self.may_end:
            return _unsupported("the model has no token for what must come next")
        return None

    def push(self, token_id: int) -> None:
        """The output goes on with this token."""
        self.matcher.consume_token(token_id)


class TokenMasks:
    """Which tokens the outputs of a batch may go on with. Belongs to the step loop's thread.

    Masks are packed, one bit a token, the lowest first: a vocabulary is long.
    """

    def __init__(self, tokenizer: TorchTokenizer, *, eos_ids: Sequence[int], vocab_size: int) -> None:
        self._num_words = -(-tokenizer.vocab_size // 32)
        beyond = range(vocab_size, self._num_words * 32)
        self._ever = ~self._pack([*tokenizer.special_ids, *eos_ids, *beyond])
        self._eos = self._pack([i for i in eos_ids if i < vocab_size])
        self._executor: LLExecutor | None = None

    def allowed(
        self, bounds: Sequence[OutputBound], may_end: Sequence[bool]
    ) -> tuple[torch.Tensor, list[bool]]:
        """Packed [bounds, words], int32, on the CPU, and whether each bound allows no token at all.

        Special tokens are never allowed; ends of sequence are, where the output may end.
        """
        words = np.zeros((len(bounds), self._num_words), dtype=np.int32)
        self._compute(bounds, words)
        words &= self._ever
        words[np.array(may_end, dtype=bool)] |= self._eos
        return torch.from_numpy(words), (words == 0).all(axis=1).tolist()

    def _compute(self, bounds: Sequence[OutputBound], words: np.ndarray[tuple[int, int], Any]) -> None:
        """The packed tokens that lead on to a whole text."""
        num_bytes = self._num_words * 4
        if len(bounds) == 1:
            bounds[0].matcher.unsafe_compute_mask_ptr(words.ctypes.data, num_bytes)
            return
        if self._executor is None:
            self._executor = LLExecutor()
        matchers = [(bound.matcher, row) for row, bound in enumerate(bounds)]
        self._executor.unsafe_compute_mask_ptr(matchers, words.ctypes.data, num_bytes, len(bounds))

    def _pack(self, token_ids: Sequence[int]) -> np.ndarray[tuple[int], Any]:
        bits = np.zeros(self._num_words * 32, dtype=np.uint8)
        bits[[i for i in token_ids if i < len(bits)]] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)


def unpack_mask(words: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Packed masks [masks, words] as booleans [masks, num_tokens]."""
    packed = words.numpy().view(np.uint8)
    bits = np.unpackbits(packed, axis=1, bitorder="little", count=num_tokens)
    return torch.from_numpy(bits.view(np.bool_))


class GrammarCompiler:
    """Makes bounds from grammars. Belongs to the event loop."""

    def __init__(self, tokenizer: TorchTokenizer, eos_ids: Sequence[int]) -> None:
        self._source = tokenizer
        self._eos_ids = [i for i in eos_ids if i < tokenizer.vocab_size]
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._compiling: dict[Grammar, tuple[asyncio.Event, asyncio.Future[LLMatcher]]] = {}
        """What is being compiled, and whether its turn has come."""
        self._reading: asyncio.Future[LLTokenizer] | None = None
        self._threads = ThreadPoolExecutor(_COMPILING_THREADS, thread_name_prefix="parrot-grammars")
        self._is_closed = False

    async def bind(self, grammar: Grammar) -> OutputBound:
        """The bound of an output that has not begun.

        Raises:
            InvalidError: `grammar_unsupported`; the grammar is wrong, uses what is not supported, allows no
                text at all, or takes too long.
            EngineError: `engine_lost`, once closed.
        """
        matcher = self._compiled.get(grammar) or await self._compile(grammar)
        self._compiled[grammar] = matcher
        self._compiled.move_to_end(grammar)
        if len(self._compiled) > CACHED_GRAMMARS:
            self._compiled.popitem(last=False)
        return OutputBound(matcher.deep_copy())

    def close(self) -> None:
        """Take no more grammars. Idempotent."""
        self._is_closed = True
        self._threads.shutdown(wait=False)

    async def _compile(self, grammar: Grammar) -> LLMatcher:
        """Requests that ask for one grammar at the same time wait for one compilation."""
        if self._reading is None:
            self._reading = self._in_thread(self._read_tokenizer)
        # However long that takes: it is the vocabulary's size, and not the grammar's fault.
        tokenizer = await asyncio.shield(self._reading)
        if grammar not in self._compiling:
            self._compiling[grammar] = self._begin(grammar, tokenizer)
            self._compiling[grammar][1].add_done_callback(lambda _: self._compiling.pop(grammar))
        turn, matcher = self._compiling[grammar]
        await turn.wait()
        try:
            return await asyncio.wait_for(asyncio.shield(matcher), COMPILE_TIMEOUT_S)
        except TimeoutError:
            raise _unsupported(f"it takes more than {COMPILE_TIMEOUT_S:g} s to compile") from None

    def _begin(
        self, grammar: Grammar, tokenizer: LLTokenizer
    ) -> tuple[asyncio.Event, asyncio.Future[LLMatcher]]:
        turn, loop = asyncio.Event(), asyncio.get_running_loop()

        def compile_in_turn() -> LLMatcher:
            loop.call_soon_threadsafe(turn.set)
            return _compile(grammar, tokenizer)

        return turn, self._in_thread(compile_in_turn)

    def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run a function that may go on, and fail, when nobody waits for it any more."""
        if self._is_closed:
            raise EngineError("the engine is being closed", code="engine_lost")
        future = asyncio.wrap_future(self._threads.submit(function, *args, **kwargs))
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future

    def _read_tokenizer(self) -> LLTokenizer:
        """The vocabulary as llguidance wants it: some token ends a text, though the model may have none."""
        vocab_size = self._source.vocab_size
        last_resort = max(self._source.special_ids, default=vocab_size - 1)
        try:
            return LLTokenizer(
                self._source.to_json(), n_vocab=vocab_size, eos_token=self._eos_ids or [last_resort]
            )
        except ValueError as error:
            raise _unsupported(f"the model's tokenizer cannot be bounded: {error}") from error


def _compile(grammar: Grammar, tokenizer: LLTokenizer) -> LLMatcher:
    try:
        if grammar.kind == "schema":
            source = LLMatcher.grammar_from_json_schema(grammar.source, overrides=_JSON_FORM)
        elif grammar.kind == "text_or_schema":
            source = LLMatcher.grammar_from_lark(_TEXT_OR_JSON + _with_form(grammar.source))
        elif grammar.kind == "regex":
            source = LLMatcher.grammar_from_lark(f"start: /{regex_to_lark(grammar.source, _ASCII)}/")
        else:
            raise _unsupported(f"there are no grammars of the kind {grammar.kind!r}")
    except ValueError as error:
        raise _unsupported(str(error)) from error
    limits = LLParserLimits(
        step_lexer_fuel=_STEP_LEXER_FUEL, max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False
    )
    matcher = LLMatcher(tokenizer, source, log_level=0, limits=limits)
    if not matcher.is_error():
        # Finds a language without any text, and leaves the lexer's first states to all copies.
        matcher.compute_bitmask()
    if matcher.is_error():
        raise _unsupported(matcher.get_error())
    return matcher


def _with_form(schema: str) -> str:
    """The schema, on one line, with how its JSON is to be written."""
    return json.dumps({**json.loads(schema), "x-guidance": _JSON_FORM})


def _unsupported(reason: str) -> InvalidError:
    first = reason.partition("\n")[0][:_MAX_REASON_CHARS]
    return InvalidError(f"the grammar cannot be followed: {first}", code="grammar_unsupported")
