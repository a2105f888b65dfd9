"""One attempt of one call on one engine: fork, fill, generate, hand the values on, free."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from msgspec import Struct
from msgspec.structs import replace

from parrot.core.executor.fleet import Member
from parrot.core.executor.runtime import Runtime
from parrot.core.prefixes import BLOCK_TOKENS, Match, block_keys
from parrot.core.prompts import Model, Prompt, PromptPart, joined
from parrot.core.sessions import ALONE, CallRecord, Held, OutputRecord, Session
from parrot.core.transforms import apply_transforms
from parrot.errors import EngineError
from parrot.ports.engine import ContextRef, Engine, GenerateEnd, GenerateRequest
from parrot.types.events import CallStarted
from parrot.types.ids import ContextId, PrefixKey, RequestId, VariableId

LONG_TEXT_CHARS = 8192
"""Transforms of longer texts run in a thread: a pattern may take its time over them."""
MAX_FORK_TRIES = 4
"""A parent can be evicted between the decision to fork from it and the fork; then the next best prefix is
tried."""
NUL_STANDS_AS = "\ufffd"
"""What U+0000 in an output is replaced by: values are text that any client may send again, and that may not
hold it."""


class Generated(Struct, kw_only=True):
    """One output as it came out of an engine."""

    text: str
    token_ids: tuple[int, ...]
    end: GenerateEnd


class Resolved(Struct, kw_only=True):
    """An output's value, ready to be handed on."""

    variable_id: VariableId
    value: str
    raw: str | None
    """The text as generated, when transforms changed it."""
    token_ids: tuple[int, ...] | None
    """The value's tokens, when they are exactly what was generated."""
    num_tokens: int


class Attempt:
    """Runs a call's parts in order in one context; what was produced by an earlier attempt is not generated
    again.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        session: Session,
        record: CallRecord,
        prompt: Prompt,
        model: Model,
        member: Member,
        engine: Engine,
        resolve: Callable[[Resolved], None],
        on_first_token: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._index = runtime.fleet.index
        self._session = session
        self._record = record
        self._prompt = prompt
        self._model = model
        self._member = member
        self._engine = engine
        self._resolve = resolve
        self._on_first_token = on_first_token
        self._priority = _priority(record)
        self._keys = prompt.keys if runtime.config.has("sharing") else ()
        self._lengths = prompt.lengths if runtime.config.has("sharing") else ()
        self._number = record.attempt
        self._contexts: list[ContextId] = []
        self._num_requests = 0
        self._filled = 0
        """Tokens in the current context, as far as requests have been answered."""
        self._task: asyncio.Task[object] | None = None
        self._stopped: str | None = None
        """Why it was stopped."""

    async def run(self) -> None:
        """Generate every output that has no value yet. Frees its contexts however it ends; complete ones
        become cache.
        """
        complete = False
        try:
            await self._run_until_stopped()
            complete = True
        finally:
            for part in self._prompt.parts:
                self._runtime.ahead.end(part.output.variable_id, exact=False)
            await self._free(retain=complete)

    async def _run_until_stopped(self) -> None:
        self._task, self._record.stop = asyncio.current_task(), self._stop
        try:
            await self._run_parts()
        except asyncio.CancelledError:
            # Who else cancels it means the call.
            if self._stopped is None or self._task is None or self._task.uncancel() > 0:
                raise
            raise EngineError(f"engine {self._member.engine_id} gave {self._stopped}") from None
        finally:
            # The task holds what runs in it, which is not to hold the task.
            self._task = self._record.stop = None

    def _stop(self, reason: str) -> None:
        """End the attempt, whose engine gave what `reason` says."""
        if self._stopped is None and self._task is not None:
            self._stopped = reason
            self._task.cancel()

    async def _run_parts(self) -> None:
        carry: tuple[int, ...] = ()
        parent: ContextRef | None = None
        keyed = True
        for part in self._prompt.parts:
            variable = self._session.graph.variables[part.output.variable_id]
            token_ids = carry + part.token_ids
            if variable.state == "ready":
                carry = token_ids + self._tokens_again(variable.variable_id)
                keyed = keyed and variable.token_ids is not None
                continue
            before = self._filled + len(token_ids)
            generated = await self._generate(part, token_ids, parent)
            if generated.end.num_tokens != before + len(generated.token_ids):
                raise EngineError(
                    f"engine {self._member.engine_id} told of other tokens than it generated",
                    code="engine_bad_output",
                )
            resolved = await self._transform(part, generated)
            self._resolve(resolved)
            keyed = keyed and resolved.token_ids is not None
            context_id = self._contexts[-1]
            if keyed:
                self._note_prefix(part.key, context_id, generated.end.num_tokens)
            carry, parent = (), None
            self._filled = generated.end.num_tokens
            keys = self._keys
            if self._prompt.block_root is not None:
                keys = self._note_blocks(context_id, token_ids + generated.token_ids, generated.end)
            is_part = self._session.part_of is not ALONE or self._prompt.marks
            if is_part and self._record.held is None:
                self._record.held = Held(prompt=self._prompt, keys=keys)
            if not generated.end.exact:
                parent = ContextRef(context_id=context_id, num_tokens=before)
                carry = self._model.tokenizer.encode(generated.text)
                self._filled = before

    async def _generate(
        self, part: PromptPart, token_ids: tuple[int, ...], parent: ContextRef | None
    ) -> Generated:
        """Generate one output, in the current context, in one that rewinds it, or in a new one forked from a
        prefix.
        """
        if self._contexts and parent is None:
            return await self._request(part, self._contexts[-1], token_ids, None)
        if parent is not None:
            return await self._request(part, self._new_context(), token_ids, parent)
        engine_id = self._member.engine_id
        for _ in range(MAX_FORK_TRIES):
            match = self._index.longest(engine_id, self._keys)
            shared = match.ref.num_tokens if match else 0
            context_id = self._new_context()
            # Of many blocks only the new ones: the context that holds the others lives as long as this one.
            first = match.boundary + 1 if match and self._prompt.block_root is not None else 0
            if self._member.engine is self._engine:
                for index in range(first, len(self._keys)):
                    self._index.note(engine_id, self._keys[index], context_id, self._lengths[index])
            self._note_shared(match)
            try:
                return await self._request(part, context_id, token_ids[shared:], match.ref if match else None)
            except EngineError as error:
                if error.code != "context_gone" or match is None:
                    raise
                self._index.drop(engine_id, match.ref.context_id)
                await self._free(retain=False)
        self._note_shared(None)
        return await self._request(part, self._new_context(), token_ids, None)

    async def _request(
        self, part: PromptPart, context_id: ContextId, token_ids: tuple[int, ...], parent: ContextRef | None
    ) -> Generated:
        self._num_requests += 1
        request = GenerateRequest(
            request_id=RequestId(f"{self._record.call_id}.{self._number}.{self._num_requests}"),
            context_id=context_id,
            token_ids=token_ids,
            sampling=part.output.sampling,
            parent=parent,
            grammar=part.output.grammar,
            priority=self._priority,
            target_step_s=None if self._priority else self._runtime.config.latency_target_s,
            call_id=self._record.call_id,
            attempt=self._number,
        )
        variable_id, ahead = part.output.variable_id, self._runtime.ahead
        live = not part.output.transforms
        if live:
            self._runtime.live.begin(variable_id, self._number)
        told = self._record.outputs[variable_id] = OutputRecord()
        texts: list[str] = []
        as_generated = True
        pieces: list[tuple[int, ...]] = []
        num_tokens = 0
        if live:
            ahead.begin(self._session, variable_id, self._member, self._engine)
        async with aclosing(self._engine.generate(request)) as chunks:
            async for chunk in chunks:
                if self._record.first_token_at is None:
                    self._note_first_token()
                self._require_tokens(chunk.token_ids)
                ahead.feed(variable_id, chunk.token_ids)
                text = chunk.text
                if "\x00" in text:
                    text, as_generated = text.replace("\x00", NUL_STANDS_AS), False
                pieces.append(chunk.token_ids)
                num_tokens += len(chunk.token_ids)
                told.num_tokens = num_tokens
                if chunk.logprobs:
                    told.logprobs.extend(chunk.logprobs)
                if text:
                    texts.append(text)
                    if live:
                        self._runtime.live.append(variable_id, text)
                        self._runtime.bells.ring(variable_id)
                if chunk.end is not None:
                    self._record.num_output_tokens += num_tokens
                    end = chunk.end if as_generated else replace(chunk.end, exact=False)
                    told.finish_reason = end.reason
                    ahead.end(variable_id, exact=end.exact)
                    return Generated(text="".join(texts), token_ids=joined(pieces), end=end)
        raise EngineError("the engine ended an output without saying how", code="engine_bad_output")

    def _require_tokens(self, token_ids: tuple[int, ...]) -> None:
        """See that an engine's tokens are tokens: they are handed on to others, which index with them."""
        if token_ids and not (min(token_ids) >= 0 and max(token_ids) < self._model.tokenizer.vocab_size):
            raise EngineError(
                f"engine {self._member.engine_id} gave a token that is not in the vocabulary",
                code="engine_bad_output",
            )

    async def _transform(self, part: PromptPart, generated: Generated) -> Resolved:
        transforms, text, limits = part.output.transforms, generated.text, self._runtime.limits
        if transforms and len(text) > LONG_TEXT_CHARS:
            value = await asyncio.to_thread(apply_transforms, transforms, text, limits)
        else:
            value = apply_transforms(transforms, text, limits)
        same = value == generated.text
        return Resolved(
            variable_id=part.output.variable_id,
            value=value,
            raw=None if same else generated.text,
            token_ids=generated.token_ids if same and generated.end.exact else None,
            num_tokens=len(generated.token_ids),
        )

    def _tokens_again(self, variable_id: VariableId) -> tuple[int, ...]:
        """The tokens of an output that an earlier attempt produced."""
        variable = self._session.graph.variables[variable_id]
        if variable.token_ids is not None and variable.model_hash == self._model.model_hash:
            return variable.token_ids
        return self._model.tokenizer.encode(self._session.raw_texts.get(variable_id, variable.value or ""))

    def _note_first_token(self) -> None:
        self._record.first_token_at = self._runtime.clock.wall_s()
        self._on_first_token()
        if self._session.silent:
            return
        self._runtime.journal.tell(
            CallStarted(
                session_id=self._session.session_id,
                call_id=self._record.call_id,
                attempt=self._number,
                wall_s=self._record.first_token_at,
            )
        )

    def _note_shared(self, match: Match | None) -> None:
        """What of the prompt is there already, and what of that was filled ahead."""
        record, shared = self._record, 0 if match is None else match.ref.num_tokens
        ahead = None
        if match is not None:
            ahead = self._runtime.ahead.filled(self._member.engine_id, match.ref.context_id)
        record.num_shared_tokens = shared
        record.num_ahead_tokens = 0 if ahead is None else max(0, shared - ahead.first)
        record.filled_ahead = ahead

    def _note_prefix(self, key: PrefixKey, context_id: ContextId, num_tokens: int) -> None:
        """Let others fork here, unless the engine is gone: nobody would take the note back."""
        if self._member.engine is self._engine:
            self._index.note(self._member.engine_id, key, context_id, num_tokens)

    def _note_blocks(
        self, context_id: ContextId, token_ids: tuple[int, ...], end: GenerateEnd
    ) -> tuple[PrefixKey, ...]:
        """Let prompts without structure fork from what this one was and was answered, wherever they part
        from it; the keys of all of that.
        """
        root = self._prompt.block_root
        if root is None or not self._keys or len(token_ids) != end.num_tokens:
            return self._keys
        pairs = zip(self._keys, self._lengths, strict=True)
        whole = [key for key, length in pairs if length % BLOCK_TOKENS == 0]
        keys, lengths = block_keys(root, token_ids, known=whole)
        for key, length in zip(keys[len(whole) :], lengths[len(whole) :], strict=True):
            self._note_prefix(key, context_id, length)
        return keys

    def _new_context(self) -> ContextId:
        context_id = self._member.new_context()
        self._contexts.append(context_id)
        return context_id

    async def _free(self, *, retain: bool) -> None:
        contexts, self._contexts = self._contexts, []
        if not retain:
            for context_id in contexts:
                self._index.drop(self._member.engine_id, context_id)
        try:
            await self._engine.free(contexts, retain=retain)
        except EngineError:
            # The engine is gone, and its memory with it.
            return


def _priority(record: CallRecord) -> int:
    """What the engine is told: when the call is due; without fairness, whether somebody waits for it."""
    if record.priority is not None:
        return record.priority
    return 0 if record.objective is None or record.objective.objective == "latency" else 1
