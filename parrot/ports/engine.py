"""The universal engine abstraction (paper, section 7): fill, generate and free over a tree of contexts.

A **context** is the KV state of a token prefix on one engine. The service names contexts and builds the tree:

    context 1  ████████████████████            parent None, filled with a system prompt
    context 2  ░░░░░░░░░░░░████████            forks from context 1 at token 12
    context 3  ░░░░░░░░░░░░░░░░░░░░█████       forks from context 1 at its end

A child sees its parent's first `num_tokens` tokens without copying them; what the parent appends later is not
the child's. A fork at a length that the parent has not reached yet waits, inside the engine, until the parent
gets there: so a prefix that several calls share is filled once, by whichever came first. Appending to a
context that has children is allowed. A context lives until it is freed; freed with `retain`, it becomes
cache, which the engine evicts when it needs the memory and tells so by `Evicted`.

Requests on one context run in the order in which they were issued. Everything an engine raises is an
`EngineError`, `CallError` or `InvalidError` of `parrot.errors`; a request's failure never harms another
request.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from msgspec import Struct

from parrot.types.ids import CallId, ContextId, EngineId, RequestId
from parrot.types.sampling import Grammar, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do; the core asks this value, never the engine's class."""

    fork: bool = True
    """Children share their parent's KV. Without it, `parent` must be None and prompts are filled whole."""
    token_ids: bool = True
    """Tokens go in and come out as ids. Without it the engine is spoken to in text."""
    structured_output: bool = False
    """Understands `GenerateRequest.grammar`."""
    streaming_fill: bool = True
    """A context can be filled piece by piece."""
    salt: bool = True
    """Contexts of different tenants are never shared behind the service's back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What is fixed about an engine while it lives."""

    engine_id: EngineId
    kind: str
    """`scripted`, `torch`, …; for people."""
    model: str
    """The name under which calls ask for the model."""
    model_hash: str
    """Equal for engines whose token ids and weights are interchangeable."""
    device: str
    dtype: str
    num_parameters: int
    context_tokens: int
    """The model's window: prompt and outputs of one context together."""
    block_tokens: int
    """Tokens in one KV block."""
    num_blocks: int
    """KV blocks in all."""
    block_bytes: int
    max_batch: int
    """Requests that can decode in one step."""
    capabilities: Capabilities
    description: str = ""
    """One line for people: kernels in use, threads, and the like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """How busy an engine was when it last told; counters grow from the engine's start."""

    num_running: int = 0
    """Requests in the current batch."""
    num_waiting: int = 0
    """Requests that wait for memory, for a place in the batch, or for their parent."""
    num_owned_blocks: int = 0
    """KV blocks that contexts in use hold. 0 when idle, or there is a leak."""
    num_cached_blocks: int = 0
    """KV blocks that retained contexts hold; evictable."""
    num_free_blocks: int = 0
    num_prefilled_tokens: int = 0
    """Counter: tokens computed by fills."""
    num_decoded_tokens: int = 0
    """Counter: tokens generated."""
    num_preemptions: int = 0
    num_evictions: int = 0
    num_steps: int = 0


class ContextRef(Struct, frozen=True, kw_only=True):
    """The first `num_tokens` tokens of a context, ancestors' tokens included."""

    context_id: ContextId
    num_tokens: int


class FillRequest(Struct, frozen=True, kw_only=True):
    """Append `token_ids` to a context, creating it (from `parent`, or empty) when it does not exist.

    `parent` is heeded only when the context is created.
    """

    request_id: RequestId
    context_id: ContextId
    token_ids: tuple[int, ...]
    parent: ContextRef | None = None
    priority: int = 0
    """Lower runs first; equal priorities run in order of arrival."""
    call_id: CallId | None = None
    """For faults, counters and logs only."""
    attempt: int = 1


class GenerateRequest(Struct, frozen=True, kw_only=True):
    """Append `token_ids` (may be empty) as a fill does, then generate one output after them, in the same
    context.

    The context's tokens then end with the generated ones; an end-of-sequence token is not among them.
    """

    request_id: RequestId
    context_id: ContextId
    token_ids: tuple[int, ...]
    sampling: Sampling
    parent: ContextRef | None = None
    grammar: Grammar | None = None
    priority: int = 0
    target_step_s: float | None = None
    """While it generates, steps of the engine should take no longer; None: however long they take."""
    call_id: CallId | None = None
    attempt: int = 1


class FillResult(Struct, frozen=True, kw_only=True):
    """A fill's end."""

    num_tokens: int
    """The context's length now, ancestors included."""
    num_prefilled: int
    """Tokens that were computed for this request."""


FinishReason = Literal["stop", "length"]


class GenerateEnd(Struct, frozen=True, kw_only=True):
    """How a generation ended; comes with its last chunk."""

    reason: FinishReason
    """`stop`: end of sequence, a stop string or a complete grammar. `length`: `max_tokens` or the window."""
    exact: bool
    """The output's text is exactly what its token ids decode to, and the context holds exactly these. False
    when a stop string was cut off or the last character stayed incomplete: then only the text is the output.
    """
    num_tokens: int
    """The context's length now, ancestors included."""
    num_prefilled: int
    """Prompt tokens that were computed for this request."""


class TokenLogprob(Struct, frozen=True, kw_only=True):
    """How likely a token was, by the model alone: before temperature, grammar and the like."""

    token_id: int
    logprob: float
    """Natural logarithm."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens there and their logarithms, `Sampling.logprobs` of them, likeliest first."""


class GenerateChunk(Struct, frozen=True, kw_only=True):
    """Some more of an output. Texts of all chunks joined are the output; no chunk splits a character."""

    text: str
    token_ids: tuple[int, ...]
    end: GenerateEnd | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One for each token, when the request asked for them and the engine can tell."""


class Evicted(Struct, frozen=True, kw_only=True):
    """Retained contexts that are gone now."""

    context_ids: tuple[ContextId, ...]


class LoadChanged(Struct, frozen=True, kw_only=True):
    """The engine's load, told after steps and at most a few times a second."""

    load: EngineLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The engine is gone, and every context with it; the last notice of all.

    Every request under way raises `engine_lost`.
    """

    reason: str
    outside: bool = False
    """Somebody stopped or killed it; it did not end by itself."""


Notice = Evicted | LoadChanged | Lost


class Tokenizer(Protocol):
    """Text to token ids and back, as the engine's model understands them. Safe to call from any thread."""

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        ...

    @property
    def bos_ids(self) -> tuple[int, ...]:
        """What a prompt begins with, unless a chat template has written it; may be empty."""
        ...

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        """The ids of `text` alone, nothing added. With `markup`, special tokens written in it become
        themselves; without, they are plain text and no special id comes out.
        """
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`; special tokens give their written form, broken characters U+FFFD."""
        ...

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
    ) -> str:
        """`messages` (`role`, `content`) as one text in the model's chat format, special tokens written out.

        Raises `TemplateError` (`bad_messages`) when the template refuses the messages.
        """
        ...


class Engine(Protocol):
    """One model replica."""

    @property
    def info(self) -> EngineInfo:
        """What is fixed about it."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Its model's tokenizer, in this process."""
        ...

    def load(self) -> EngineLoad:
        """Its load as last told; never waits."""
        ...

    async def fill(self, request: FillRequest) -> FillResult:
        """Compute the KV of more tokens; returns when they are in the context.

        Cancelling stops the work; the context keeps what was computed, and is still to be freed.

        Raises:
            EngineError: `context_gone` (a parent or the context itself does not exist; nothing was created),
                `kv_exhausted` (cannot fit even alone), `engine_lost` (its data say `delivered: False` when
                the engine never had the request, `outside: True` when somebody stopped or killed it).
            CallError: `context_overflow` (longer than the model's window).
        """
        ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateChunk, None]:
        """Generate one output; the last chunk carries `end`. Closing the generator stops the work.

        Raises as `fill` does, and `engine_bad_output` when the model's numbers are not finite.
        """
        ...

    async def free(self, context_ids: Sequence[ContextId], *, retain: bool = False) -> None:
        """Give up contexts: with `retain` they become cache. Unknown ids are ignored, work on them is
        stopped.

        A context's memory is kept for as long as a child that lives needs it.
        """
        ...

    async def appraise(self, values: Mapping[ContextId, int]) -> None:
        """Say what contexts are worth as cache: what is worth least is evicted first, of equals what was used
        least recently. A context is worth 0 until something is said. Nothing is pinned by this; unknown ids
        are ignored.
        """
        ...

    def notices(self) -> AsyncIterator[Notice]:
        """What the engine has to tell, for one reader, until it is closed or lost."""
        ...

    async def close(self) -> None:
        """Stop all work and give back everything. Idempotent."""
        ...


Progress = Callable[[str, float | None], None]
"""Told while an engine starts: its phase, in words, and how much of the phase is done (0 to 1) when known."""

StartEngine = Callable[[Progress], Awaitable[Engine]]
"""Starts one engine, or starts it again after it was lost; raises `EngineError` (`engine_start_failed`) or
`ConfigError`.
"""
