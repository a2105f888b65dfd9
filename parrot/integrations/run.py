"""One run of a framework's application: a session of the service, and calls that nobody waits for."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import Any, TypeAlias

from parrot.errors import UsageError
from parrot.integrations.background import background
from parrot.sdk.connect import connect
from parrot.sdk.function import SemanticFunction
from parrot.sdk.graph import Graph
from parrot.sdk.markers import Input
from parrot.sdk.plan import FunctionPlan, OutputPlan
from parrot.sdk.session import Session
from parrot.sdk.variable import SemanticVariable
from parrot.types.objective import Objective
from parrot.types.template import PlaceholderPiece, TextPiece, write_template

MAX_PLACEHOLDERS = 120
"""The service takes 128 in one call, the output counted."""

LINGER_S = 0.01
"""A framework takes so long from one call to the next: they go together, unless somebody waits for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Where calls go."""

    url: str
    api_key: str | None


@dataclass(frozen=True, slots=True)
class Given:
    """A text that came from the program into a prompt template: its own segment of the prompt."""

    text: str


Answer: TypeAlias = Future[SemanticVariable[Any]]
"""The variable of a call that is on its way to the service."""

Piece: TypeAlias = str | Given | Answer
"""What a message consists of: the template's own text, texts of the program, answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Messages as templates, and what their placeholders stand for."""

    messages: Sequence[Mapping[str, str]]
    arguments: Mapping[str, str | Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """One call of a chat model."""

    name: str
    model: str
    prompt: Prompt
    sampling: Mapping[str, object]

    def function(self) -> SemanticFunction[SemanticVariable[Any]]:
        """The same as a semantic function with the output `answer`."""
        inputs = [Parameter(name, Parameter.KEYWORD_ONLY, annotation=Input) for name in self.prompt.arguments]
        plan = FunctionPlan(
            name=self.name,
            model=self.model,
            prompt={"messages": [*self.prompt.messages, {"role": "assistant", "content": "{{answer}}"}]},
            signature=Signature(inputs),
            joins={},
            outputs={"answer": OutputPlan(spec={"sampling": dict(self.sampling)}, parse=None)},
            result=None,
        )
        return SemanticFunction(_declared, plan)


def prompt_of(messages: Sequence[tuple[str, Sequence[Piece]]]) -> Prompt | None:
    """Messages in pieces as templates; None when they consist of too many answers."""
    pieces = [piece for _, content in messages for piece in content if not isinstance(piece, str)]
    # With too many pieces, texts that the program gave are written into the template.
    inline = len(set(map(id, pieces))) > MAX_PLACEHOLDERS
    names: dict[int, str] = {}
    arguments: dict[str, str | Answer] = {}
    templates: list[dict[str, str]] = []
    for role, content in messages:
        written: list[TextPiece | PlaceholderPiece] = []
        for piece in content:
            if isinstance(piece, str) or (inline and isinstance(piece, Given)):
                text = piece if isinstance(piece, str) else piece.text
                written.append(TextPiece(text=text, position=0))
                continue
            name = names.setdefault(id(piece), f"text_{len(names)}")
            arguments[name] = piece.text if isinstance(piece, Given) else piece
            written.append(PlaceholderPiece(name=name, kind=None, position=0))
        templates.append({"role": role, "content": write_template(written)})
    return Prompt(messages=templates, arguments=arguments) if len(arguments) <= MAX_PLACEHOLDERS else None


class Run:
    """Submits calls, and waits for the texts that are asked for. Threads may share it."""

    def __init__(
        self, *, name: str | None, metadata: Mapping[str, str], objective: Objective = "latency"
    ) -> None:
        self._name = name
        self._metadata = dict(metadata)
        self._objective = objective
        self._background = background()
        self._stack = AsyncExitStack()
        self._sessions: dict[Service, Session] = {}
        self._opening = asyncio.Lock()
        self._used = False
        self._ended = False

    def call(self, service: Service, call: ChatCall) -> Answer:
        """Submit one call."""
        self._used = True
        return self._background.start(self._call(service, call))

    def call_together(self, service: Service, calls: Sequence[tuple[ChatCall, Answer]]) -> None:
        """Submit calls in one request, each after those whose answers it takes; the answers become known."""
        self._used = True
        self._background.start(self._call_together(service, calls))

    async def _call(self, service: Service, call: ChatCall) -> SemanticVariable[Any]:
        session = await self._session(service)
        return await _submit(session, call)

    async def _call_together(self, service: Service, calls: Sequence[tuple[ChatCall, Answer]]) -> None:
        try:
            session = await self._session(service)
            async with session.batch():
                for call, answer in calls:
                    answer.set_result(await _submit(session, call))
        except Exception as error:  # noqa: BLE001 - it is raised where an answer is waited for
            for _, answer in calls:
                if not answer.done():
                    answer.set_exception(error)

    async def _session(self, service: Service) -> Session:
        async with self._opening:
            if self._ended:
                raise UsageError("the run has ended")
            if service not in self._sessions:
                opened = connect(
                    service.url,
                    api_key=service.api_key,
                    name=self._name,
                    metadata=self._metadata or None,
                    transport=self._background.connections,
                )
                session = await self._stack.enter_async_context(opened)
                session.linger(LINGER_S)
                self._sessions[service] = session
            return self._sessions[service]

    # ── texts ───────────────────────────────────────────────────────────────────────────────────────────────

    def texts(self, answers: Sequence[Answer]) -> dict[Answer, str]:
        """The texts of answers, once all are there.

        Raises:
            ParrotError: why one of them never comes.
        """
        return self._background.start(self._texts(answers)).result()

    async def atexts(self, answers: Sequence[Answer]) -> dict[Answer, str]:
        """As `texts`, without blocking the event loop."""
        return await asyncio.wrap_future(self._background.start(self._texts(answers)))

    async def _texts(self, answers: Sequence[Answer]) -> dict[Answer, str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_text(answer, self._objective)) for answer in answers]
        results = [task.result() for task in tasks]
        for result in results:
            if isinstance(result, Exception):
                raise result
        return dict(zip(answers, map(str, results), strict=True))

    def pieces(self, answer: Answer) -> Iterator[str]:
        """An answer piece by piece, as its parts are generated."""
        pieces = _stream(answer, self._objective)
        while (more := self._background.start(_next(pieces)).result()) is not None:
            yield more

    async def apieces(self, answer: Answer) -> AsyncIterator[str]:
        """As `pieces`."""
        pieces = _stream(answer, self._objective)
        while (more := await asyncio.wrap_future(self._background.start(_next(pieces)))) is not None:
            yield more

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────

    def graphs(self) -> list[Graph]:
        """The application graph of each service that the run uses."""
        return [self._background.start(session.graph()).result() for session in self._sessions.values()]

    async def agraphs(self) -> list[Graph]:
        """As `graphs`."""
        return [
            await asyncio.wrap_future(self._background.start(session.graph()))
            for session in self._sessions.values()
        ]

    def close(self) -> None:
        """End the sessions, without waiting for it; also one that a call is about to open."""
        if self._used:
            self._background.leave(self._close())

    async def _close(self) -> None:
        async with self._opening:
            self._ended = True
            self._sessions.clear()
            await self._stack.aclose()


async def _submit(session: Session, call: ChatCall) -> SemanticVariable[Any]:
    given: dict[str, str | SemanticVariable[Any]] = {}
    for name, value in call.prompt.arguments.items():
        if isinstance(value, str):
            given[name] = value
        else:
            known: asyncio.Future[SemanticVariable[Any]] = asyncio.wrap_future(value)
            given[name] = await known
    variable: SemanticVariable[Any] = session.call(call.function(), **given)
    return variable


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
