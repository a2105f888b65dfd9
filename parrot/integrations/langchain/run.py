"""One lazy run: a session of the service, and the calls that are submitted to it without waiting."""

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import Any, TypeVar

import httpx2

from parrot.integrations.langchain.marks import Answer, Given, Marks
from parrot.integrations.langchain.pending import pending
from parrot.sdk.connect import connect
from parrot.sdk.function import SemanticFunction
from parrot.sdk.graph import Graph
from parrot.sdk.markers import Input
from parrot.sdk.plan import FunctionPlan, OutputPlan
from parrot.sdk.session import Session
from parrot.sdk.variable import SemanticVariable
from parrot.types.objective import Objective
from parrot.types.template import PlaceholderPiece, TextPiece, write_template

T = TypeVar("T")

MAX_PLACEHOLDERS = 120
"""The service takes 128 in one call, the output counted."""
LEAVE_TIMEOUT_S = 5.0
"""A program that ends waits so long for its last sessions to be deleted."""

ACTIVE: "ContextVar[LazyRun | None]" = ContextVar("parrot_lazy_run", default=None)
"""The run that calls of the model are submitted to; None: they are made at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Where calls go."""

    url: str
    api_key: str | None


class _Connections(httpx2.AsyncBaseTransport):
    """Connections that outlive the runs that use them: to open one is a round trip, too."""

    def __init__(self) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
        self._transport = httpx2.AsyncHTTPTransport(limits=limits)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        """A run has ended; others go on."""


class _Loop:
    """An event loop in a thread of its own, for the sessions of this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.connections = _Connections()
        self._leaving: set[Future[None]] = set()
        threading.Thread(target=self.loop.run_forever, name="parrot-langchain", daemon=True).start()
        atexit.register(self._wait)

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def leave(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it without anybody waiting, but before the program ends."""
        future = self.start(work)
        self._leaving.add(future)
        future.add_done_callback(self._leaving.discard)

    def _wait(self) -> None:
        if self.pid == os.getpid():
            wait(list(self._leaving), timeout=LEAVE_TIMEOUT_S)


_loops: list[_Loop] = []
_loops_lock = threading.Lock()


def _loop() -> _Loop:
    with _loops_lock:
        if not _loops or _loops[-1].pid != os.getpid():
            _loops.append(_Loop())
        return _loops[-1]


class LazyRun:
    """Submits calls and remembers what stands for their answers. Threads may share it."""

    def __init__(self, *, name: str | None, metadata: Mapping[str, str], objective: Objective) -> None:
        self.marks = Marks()
        self._name = name
        self._metadata = dict(metadata)
        self._objective = objective
        self._loop = _loop()
        self._stack = AsyncExitStack()
        self._sessions: dict[Service, Session] = {}
        self._opening = asyncio.Lock()
        self.num_submitted = 0
        """Calls that went to the service without anybody waiting for them."""
        self.num_barriers = 0
        """Times that something waited for a text before the end."""

    # ── calls ───────────────────────────────────────────────────────────────────────────────────────────────

    def submit(
        self,
        service: Service,
        name: str,
        model: str,
        messages: Sequence[tuple[str, str]],
        sampling: Mapping[str, object],
    ) -> str | None:
        """Submit one call; the mark of its answer. None when its messages have too many pieces."""
        prompt = self._prompt(messages)
        if prompt is None:
            return None
        roles, arguments = prompt
        inputs = [Parameter(name, Parameter.KEYWORD_ONLY, annotation=Input) for name in arguments]
        plan = FunctionPlan(
            name=name,
            model=model,
            prompt={"messages": [*roles, {"role": "assistant", "content": "{{answer}}"}]},
            signature=Signature(inputs),
            joins={},
            outputs={"answer": OutputPlan(spec={"sampling": dict(sampling)}, parse=None)},
            result=None,
        )
        function: SemanticFunction[SemanticVariable[Any]] = SemanticFunction(_declared, plan)
        self.num_submitted += 1
        return self.marks.add(self._loop.start(self._call(service, function, arguments)))

    def _prompt(
        self, messages: Sequence[tuple[str, str]]
    ) -> tuple[list[dict[str, str]], dict[str, str | Answer]] | None:
        """The messages as templates, and what their placeholders stand for."""
        contents = [self.marks.split(content) for _, content in messages]
        pieces = [piece for content in contents for piece in content if not isinstance(piece, str)]
        # With too many pieces, texts that the program gave are written into the template.
        inline = len(set(map(id, pieces))) > MAX_PLACEHOLDERS
        names: dict[int, str] = {}
        arguments: dict[str, str | Answer] = {}
        roles: list[dict[str, str]] = []
        for (role, _), content in zip(messages, contents, strict=True):
            written: list[TextPiece | PlaceholderPiece] = []
            for piece in content:
                if isinstance(piece, str) or (inline and isinstance(piece, Given)):
                    text = piece if isinstance(piece, str) else piece.text
                    written.append(TextPiece(text=text, position=0))
                    continue
                name = names.setdefault(id(piece), f"text_{len(names)}")
                arguments[name] = piece.text if isinstance(piece, Given) else piece
                written.append(PlaceholderPiece(name=name, kind=None, position=0))
            roles.append({"role": role, "content": write_template(written)})
        return (roles, arguments) if len(arguments) <= MAX_PLACEHOLDERS else None

    async def _call(
        self, service: Service, function: SemanticFunction[Any], arguments: Mapping[str, Any]
    ) -> SemanticVariable[Any]:
        session = await self._session(service)
        given = {
            name: await asyncio.wrap_future(value) if isinstance(value, Future) else value
            for name, value in arguments.items()
        }
        variable: SemanticVariable[Any] = session.call(function, **given)
        return variable

    async def _session(self, service: Service) -> Session:
        async with self._opening:
            if service not in self._sessions:
                opened = connect(
                    service.url,
                    api_key=service.api_key,
                    name=self._name,
                    metadata=self._metadata or None,
                    transport=self._loop.connections,
                )
                self._sessions[service] = await self._stack.enter_async_context(opened)
            return self._sessions[service]

    # ── texts ───────────────────────────────────────────────────────────────────────────────────────────────

    def resolve(self, value: Any, *, barrier: bool = True) -> Any:
        """`value` with its texts in place of marks; waits for them.

        Raises:
            ParrotError: why one of them never comes.
        """
        answers = self.marks.answers(value)
        if not answers:
            return self.marks.fill(value, str)
        self.num_barriers += barrier
        texts = self._loop.start(self._texts(answers)).result()
        return self.marks.fill(value, texts.__getitem__)

    async def aresolve(self, value: Any, *, barrier: bool = True) -> Any:
        """As `resolve`, without blocking the event loop."""
        answers = self.marks.answers(value)
        if not answers:
            return self.marks.fill(value, str)
        self.num_barriers += barrier
        texts = await asyncio.wrap_future(self._loop.start(self._texts(answers)))
        return self.marks.fill(value, texts.__getitem__)

    async def _texts(self, answers: Sequence[Answer]) -> dict[Answer, str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_text(answer, self._objective)) for answer in answers]
        results = [task.result() for task in tasks]
        for result in results:
            if isinstance(result, Exception):
                raise result
        return dict(zip(answers, map(str, results), strict=True))

    def pending(self, value: Any) -> Any:
        """`value` for a function that passes texts on: its marks may be carried, and reading one waits."""
        return pending(value, self.resolve, self.marks.is_in)

    def given(self, value: Any) -> Any:
        """The values of a prompt template, each as a piece of its own."""
        if isinstance(value, str):
            return value if self.marks.is_in(value) or not value else self.marks.add(Given(value))
        if isinstance(value, dict):
            return {
                key: self.given(inner) if isinstance(inner, str) else inner for key, inner in value.items()
            }
        return value

    def stream(self, text: str) -> Iterator[str]:
        """A text piece by piece, as its parts are generated."""
        for piece in self.marks.split(text):
            if isinstance(piece, Future):
                pieces = _stream(piece, self._objective)
                while (more := self._loop.start(_next(pieces)).result()) is not None:
                    yield more
            else:
                yield piece if isinstance(piece, str) else piece.text

    async def astream(self, text: str) -> AsyncIterator[str]:
        """As `stream`."""
        for piece in self.marks.split(text):
            if isinstance(piece, Future):
                pieces = _stream(piece, self._objective)
                while (more := await asyncio.wrap_future(self._loop.start(_next(pieces)))) is not None:
                    yield more
            else:
                yield piece if isinstance(piece, str) else piece.text

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────

    def graphs(self) -> list[Graph]:
        """The application graph of each service that the run uses."""
        return [self._loop.start(session.graph()).result() for session in self._sessions.values()]

    def close(self) -> None:
        """End the sessions, without waiting for it."""
        if self._sessions:
            self._loop.leave(self._stack.aclose())


async def _text(answer: Answer, objective: Objective) -> str | Exception:
    """Its text, or why there is none: an exception would cancel the wait for the others."""
    try:
        return await (await asyncio.wrap_future(answer)).text(objective)
    except Exception as error:  # noqa: BLE001 - it is raised again by who waits for all
        return error


async def _stream(answer: Answer, objective: Objective) -> AsyncGenerator[str, None]:
    async for piece in (await asyncio.wrap_future(answer)).stream(objective):
        yield piece


async def _next(pieces: AsyncGenerator[str, None]) -> str | None:
    return await anext(pieces, None)


def _declared() -> None:
    """Stands for the declaration of a function that is made of messages."""
