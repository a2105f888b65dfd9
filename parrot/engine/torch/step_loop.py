"""The thread that plans steps, runs them and turns tokens into text.

The event loop posts commands; the thread answers once a step, with everything the last step brought for all
requests together. Torch lets go of the interpreter while it computes, so the event loop goes on meanwhile.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from msgspec.structs import replace

from parrot.engine.torch.batcher import Batcher, Chunk, Request, Step
from parrot.engine.torch.grammar import OutputBound
from parrot.engine.torch.logprobs import step_logprobs
from parrot.engine.torch.output import Decoder, Output
from parrot.engine.torch.residency import Residency
from parrot.engine.torch.runner import Runner
from parrot.engine.torch.sampler import COMPLETE, Choice, Sampler
from parrot.engine.torch.timing import StepTimes
from parrot.errors import EngineError, InvalidError, ParrotError
from parrot.ports.clock import Clock
from parrot.ports.engine import (
    EngineLoad,
    FillRequest,
    FillResult,
    FinishReason,
    GenerateChunk,
    GenerateEnd,
    GenerateRequest,
    TokenLogprob,
)
from parrot.types.ids import ContextId

logger = logging.getLogger(__name__)

STEP_FAULTS = (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError, MemoryError)
"""What computing a request can raise; anything else is a fault of the loop and ends the engine."""

Answer = FillResult | GenerateChunk | ParrotError | None
"""What a request or a command gets; None: done."""

Reply = Callable[[Answer], None]
"""Takes the answers of one request; called on the event loop."""


@dataclass(slots=True, kw_only=True)
class Report:
    """All that one step has to tell."""

    answers: list[tuple[Reply, Answer]] = field(default_factory=list)
    evicted: tuple[ContextId, ...] = ()
    load: EngineLoad = field(default_factory=EngineLoad)
    idle: bool = False
    """Nothing is left to do until something is posted."""
    lost: str | None = None
    """The thread has ended, and why; requests that have not been answered never are."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    """A request under way, with what the batcher need not know."""

    request: Request
    reply: Reply
    choice: Choice | None = None
    """None for a fill."""
    output: Output | None = None
    num_prefilled: int = 0


class StepLoop:
    """Owns the batcher, the tree and the runner: after `start`, only its thread touches them."""

    def __init__(
        self,
        *,
        batcher: Batcher,
        runner: Runner,
        sampler: Sampler,
        decoder: Decoder,
        eos_ids: Sequence[int],
        vocab_size: int,
        context_tokens: int,
        seed: int,
        torch_threads: int,
        residency: Residency | None,
        report: Callable[[Report], None],
        clock: Clock,
        times: StepTimes | None = None,
    ) -> None:
        self._batcher = batcher
        self._step_tokens = batcher.step_tokens
        self._tree = batcher.tree
        self._runner = runner
        self._sample = sampler.sample if times is None else times.timed("sampling", sampler.sample)
        self._decoder = decoder
        self._eos_ids = frozenset(eos_ids)
        self._vocab_size = vocab_size
        self._context_tokens = context_tokens
        self._seeds = torch.Generator().manual_seed(seed)
        self._torch_threads = torch_threads
        self._residency = residency
        self._report = report
        self._clock = clock
        self._jobs: dict[Request, _Job] = {}
        self._by_reply: dict[Reply, Request] = {}
        self._answers: list[tuple[Reply, Answer]] = []
        self._num_arrivals = 0
        self._num_running = 0
        self._num_prefilled = 0
        self._num_decoded = 0
        self._num_steps = 0
        self.num_leaks = 0
        """Times an idle engine was found to own blocks; more than 0 is a bug."""
        self._inbox: list[Callable[[], None]] = []
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="parrot-torch-steps", daemon=True)

    @property
    def num_contexts(self) -> int:
        """Contexts that have not been given up; exact while nothing is under way."""
        return self._tree.num_live

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, request: FillRequest | GenerateRequest, reply: Reply) -> None:
        """Have a request worked on; `reply` gets its answers and is its name for the other commands.

        One that has a grammar generates nothing until it is told its bound.
        """
        self._post(lambda: self._submit(request, reply))

    def bind(self, reply: Reply, bound: OutputBound) -> None:
        """Bound a request's output, and let it go on. One that has ended is ignored."""
        self._post(lambda: self._bind(reply, bound))

    def cancel(self, reply: Reply) -> None:
        """Stop a request; it gets no further answer. One that has ended is ignored."""
        self._post(lambda: self._cancel(reply))

    def free(self, context_ids: Sequence[ContextId], *, retain: bool, reply: Reply) -> None:
        """Free contexts, stop the work on them, and answer None."""
        self._post(lambda: self._free(context_ids, retain=retain, reply=reply))

    def appraise(self, values: Mapping[ContextId, int]) -> None:
        """Say what contexts are worth as cache, before the next step."""
        self._post(lambda: self._appraise(values))

    def stop(self) -> None:
        """Have the thread end after the step it is in; the last report says `lost`."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def join(self) -> None:
        """Wait for the thread's end."""
        self._thread.join()

    def _post(self, command: Callable[[], None]) -> None:
        with self._wake:
            self._inbox.append(command)
            self._wake.notify()

    def _run(self) -> None:
        torch.set_num_threads(self._torch_threads)
        reason = "the engine's step loop failed; the log has the cause"
        idle = True
        try:
            while self._take_commands(wait=idle):
                idle = self._step()
                if idle:
                    self._tell(idle=True)
            reason = "the engine was closed"
        except BaseException:
            logger.critical("the step loop failed", exc_info=True)
            raise
        finally:
            self._tell(idle=True, lost=reason)

    def _take_commands(self, *, wait: bool) -> bool:
        """Carry out what was posted; False when the thread is to end."""
        if wait and self._residency is not None:
            while not (self._inbox or self._stopping) and self._residency.extend():
                pass
        with self._wake:
            while wait and not self._inbox and not self._stopping:
                self._wake.wait()
            commands, self._inbox = self._inbox, []
            stopping = self._stopping
        for command in commands:
            command()
        return not stopping

    def _tell(self, *, idle: bool = False, lost: str | None = None) -> None:
        """Tell what the steps brought so far. A step's answers are told when the next one is about to be
        computed: who gets them needs the interpreter, and so does the way from one step to the next.
        """
        answers, self._answers = self._answers, []
        self._report(
            Report(
                answers=answers,
                evicted=self._tree.take_evicted(),
                load=self._load(),
                idle=idle,
                lost=lost,
            )
        )

    def _load(self) -> EngineLoad:
        tree, batcher = self._tree, self._batcher
        return EngineLoad(
            num_running=self._num_running,
            num_waiting=batcher.num_requests - self._num_running,
            num_owned_blocks=tree.num_owned,
            num_cached_blocks=tree.num_cached,
            num_free_blocks=tree.num_free,
            num_prefilled_tokens=self._num_prefilled,
            num_decoded_tokens=self._num_decoded,
            num_preemptions=batcher.num_preemptions,
            num_evictions=tree.num_evictions,
            num_steps=self._num_steps,
        )

    def _submit(self, wanted: FillRequest | GenerateRequest, reply: Reply) -> None:
        sampling = wanted.sampling if isinstance(wanted, GenerateRequest) else None
        try:
            self._check(wanted)
            context = self._tree.open(wanted.context_id, wanted.parent)
        except ParrotError as error:
            self._answers.append((reply, error))
            return
        self._num_arrivals += 1
        request = Request(
            request_id=wanted.request_id,
            context=context,
            token_ids=wanted.token_ids,
            rank=(wanted.priority, self._num_arrivals),
            generates=sampling is not None,
            target_step_s=wanted.target_step_s if isinstance(wanted, GenerateRequest) else None,
            held=isinstance(wanted, GenerateRequest) and wanted.grammar is not None,
        )
        job = _Job(request=request, reply=reply)
        if sampling is not None:
            seed = sampling.seed
            if seed is None:
                seed = int(torch.randint(1 << 62, (), generator=self._seeds))
            generator = torch.Generator().manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)
            job.choice = Choice(sampling=sampling, generator=generator)
            job.output = Output(self._decoder, stop=sampling.stop, min_tokens=sampling.min_tokens)
        self._jobs[request] = job
        self._by_reply[reply] = request
        self._batcher.submit(request)

    def _check(self, wanted: FillRequest | GenerateRequest) -> None:
        for token_id in wanted.token_ids:
            if not 0 <= token_id < self._vocab_size:
                raise InvalidError(
                    f"token id {token_id} is not below the vocabulary's {self._vocab_size}", param="token_ids"
                )
        if isinstance(wanted, GenerateRequest) and wanted.sampling.max_tokens < 1:
            raise InvalidError("max_tokens must be at least 1", param="sampling.max_tokens")

    def _bind(self, reply: Reply, bound: OutputBound) -> None:
        request = self._by_reply.get(reply)
        if request is not None:
            request.held = False
            choice = self._jobs[request].choice
            assert choice is not None
            choice.bound = bound

    def _cancel(self, reply: Reply) -> None:
        request = self._by_reply.get(reply)
        if request is not None:
            self._batcher.stop(request)
            self._forget(request)

    def _free(self, context_ids: Sequence[ContextId], *, retain: bool, reply: Reply) -> None:
        for context_id in context_ids:
            context = self._tree.find(context_id)
            if context is None:
                continue
            for request in self._batcher.requests_of(context)[::-1]:
                self._batcher.stop(request)
                self._answer(request, EngineError(f"context {context_id} was freed", code="context_gone"))
            self._tree.release(context, retain=retain)
        self._answers.append((reply, None))

    def _appraise(self, values: Mapping[ContextId, int]) -> None:
        for context_id, value in values.items():
            self._tree.set_value(context_id, value)

    def _step(self) -> bool:
        """Plan and run one step; True when there is nothing to do."""
        step = self._batcher.plan()
        self._settle(step)
        self._num_running = len(step.chunks)
        if step.chunks:
            self._num_steps += 1
            self._compute_timed(step.chunks)
        elif step.is_empty:
            self._check_idle()
        return step.is_empty

    def _settle(self, step: Step) -> None:
        for request, error in step.failed:
            self._answer(request, error)
        for request in step.finished:
            self._finish_fill(self._jobs[request])

    def _compute_timed(self, chunks: Sequence[Chunk]) -> None:
        """Compute a step, and learn what it cost where it sampled a token, for then it was waited for."""
        num_rows = sum(chunk.decodes for chunk in chunks)
        num_prompt_tokens = sum(chunk.num_tokens for chunk in chunks) - num_rows
        samples = any(chunk.wants_logits for chunk in chunks)
        began_s = self._clock.now_s()
        self._compute(chunks)
        if samples:
            self._batcher.cost.observe(num_rows, num_prompt_tokens, self._clock.now_s() - began_s)

    def _compute(self, chunks: Sequence[Chunk]) -> None:
        """Run chunks together; when that fails, find out whose fault it is by running fewer at a time."""
        try:
            logits = self._runner.run(chunks, self._tell)
        except STEP_FAULTS as error:
            self._isolate(chunks, error)
            return
        self._accept(chunks, logits)

    def _isolate(self, chunks: Sequence[Chunk], error: Exception) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
        if len(chunks) > 1:
            middle = len(chunks) // 2
            self._compute(chunks[:middle])
            self._compute(chunks[middle:])
            return
        chunk = chunks[0]
        if _is_out_of_memory(error) and chunk.num_tokens > 1:
            chunk.num_tokens //= 2
            self._batcher.step_tokens = max(self._batcher.max_batch, chunk.num_tokens)
            logger.warning("out of memory; steps have at most %d tokens now", self._batcher.step_tokens)
            self._compute(chunks)
            return
        if _is_out_of_memory(error):
            # Its steps' size was not to blame, so nobody else's is to stay small for it.
            self._batcher.step_tokens = self._step_tokens
        logger.error("request %s failed in a step", chunk.request.request_id, exc_info=error)
        self._fail(chunk.request, EngineError(f"the model failed on this request: {error}"))

    def _accept(self, chunks: Sequence[Chunk], logits: torch.Tensor) -> None:
        """The chunks' KV is computed: count, sample, and finish fills."""
        wanting = [chunk for chunk in chunks if chunk.wants_logits]
        for chunk in chunks:
            job = self._jobs[chunk.request]
            if not (chunk.decodes or chunk.probe):
                num_prefilled = chunk.num_tokens - self._batcher.commit(chunk)
                job.num_prefilled += num_prefilled
                self._num_prefilled += num_prefilled
            else:
                self._batcher.commit(chunk)
            context = chunk.request.context
            own = chunk.context is context
            if own and not chunk.request.generates and context.num_computed == len(context.tokens):
                self._batcher.end(chunk.request)
                self._finish_fill(job)
        if not wanting:
            return
        jobs = [self._jobs[chunk.request] for chunk in wanting]
        choices = [job.choice for job in jobs if job.choice is not None]
        told = step_logprobs(logits, [choice.sampling for choice in choices], self._vocab_size)
        for row, (job, token_id) in enumerate(zip(jobs, self._sample(logits, choices), strict=True)):
            logprob = told.of(row, token_id) if told is not None and token_id is not None else None
            self._take_token(job, token_id, logprob)

    def _take_token(self, job: _Job, token_id: int | None, logprob: TokenLogprob | None) -> None:
        request, choice, output = job.request, job.choice, job.output
        assert choice is not None
        assert output is not None
        context, sampling, bound = request.context, choice.sampling, choice.bound
        if token_id is None:
            self._fail(request, EngineError("the model's output is not finite", code="engine_bad_output"))
            return
        if bound is not None and (error := bound.check(ends=token_id == COMPLETE)) is not None:
            self._fail(request, error)
            return
        if token_id in self._eos_ids or token_id == COMPLETE:
            self._finish_output(job, "stop", GenerateChunk(text="", token_ids=()))
            return
        context.tokens.append(token_id)
        choice.note(token_id)
        self._num_decoded += 1
        chunk = GenerateChunk(
            text=output.push(token_id),
            token_ids=(token_id,),
            logprobs=None if logprob is None else (logprob,),
        )
        if bound is not None:
            bound.push(token_id)
        if output.stopped or (bound is not None and bound.is_complete):
            self._finish_output(job, "stop", chunk)
        elif choice.num_generated >= sampling.max_tokens or context.num_tokens >= self._context_tokens:
            self._finish_output(job, "length", chunk)
        else:
            self._answers.append((job.reply, chunk))

    def _finish_output(self, job: _Job, reason: FinishReason, chunk: GenerateChunk) -> None:
        assert job.output is not None
        rest, exact = job.output.finish()
        num_tokens = job.request.context.num_tokens
        self._batcher.end(job.request)
        end = GenerateEnd(reason=reason, exact=exact, num_tokens=num_tokens, num_prefilled=job.num_prefilled)
        self._answer(job.request, replace(chunk, text=chunk.text + rest, end=end))

    def _finish_fill(self, job: _Job) -> None:
        """The batcher has taken the request out already; the next one on the context may have begun."""
        request = job.request
        num_tokens = request.context.start + request.prompt_end
        self._answer(request, FillResult(num_tokens=num_tokens, num_prefilled=job.num_prefilled))

    def _fail(self, request: Request, error: ParrotError) -> None:
        self._batcher.stop(request)
        self._answer(request, error)

    def _answer(self, request: Request, answer: Answer) -> None:
        """The request's last answer."""
        self._answers.append((self._jobs[request].reply, answer))
        self._forget(request)

    def _forget(self, request: Request) -> None:
        job = self._jobs.pop(request)
        del self._by_reply[job.reply]

    def _check_idle(self) -> None:
        """An engine in which no context is in use owns nothing but cache."""
        if self._tree.num_live == 0 and self._tree.num_owned:
            self.num_leaks += 1
            logger.error("no context is in use, yet %d KV blocks are owned", self._tree.num_owned)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
