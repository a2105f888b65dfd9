"""Routes of `/v1/responses`: answers that can be gone back to.

    foreground     runs as a chat completion does, and is remembered in memory for the next turn
    background     a durable call in a session of its own: resp_X is session ses_X, also after a restart

What is remembered is bounded: the last responses of each tenant, the oldest forgotten first.
"""

import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from parrot.core.executor.requests import RequestRun
from parrot.core.service import Service
from parrot.errors import ConflictError, GoneError, NotFoundError, ParrotError, UnavailableError
from parrot.ports.clock import Clock
from parrot.server.bodies import read_body
from parrot.server.disconnects import while_connected
from parrot.server.openai.answers import Json
from parrot.server.openai.bodies import refuse
from parrot.server.openai.chat_bodies import ChatMessage
from parrot.server.openai.hints import in_chain
from parrot.server.openai.lowering import Wanted, chat_calls, unwritten
from parrot.server.openai.registered import model_of, registered_call
from parrot.server.openai.response_bodies import ResponseBody
from parrot.server.openai.response_objects import NamedJson, ResponseEvents, ResponseHead
from parrot.server.openai.running import running
from parrot.server.openapi import DirectRoute, describe
from parrot.server.parameters import query_of, tenant_of
from parrot.server.routes import RouteConfig
from parrot.server.streaming import EventStream
from parrot.types.ids import TenantId
from parrot.types.objective import Objective
from parrot.wire.requests import CancelRequest, SessionCreate

MAX_REMEMBERED = 1000
"""Responses, and conversations, of one tenant."""
TOOLS_LABEL = "openai_tools"
"""In the metadata of a background response's session: whether its answer may be calls of tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One response, as it is remembered."""

    head: ResponseHead
    messages: tuple[ChatMessage, ...]
    """The conversation before the answer, instructions left out."""
    chain: str | None = None
    """What all turns of its conversation are known by together, if it is known to have others."""
    answer: ChatMessage | None = None
    """None while there is none."""
    response: Json | None = None
    """The whole object, when it has ended."""


class Memory:
    """What is remembered of each tenant's responses."""

    def __init__(self, most: int = MAX_REMEMBERED) -> None:
        self._most = most
        self._turns: dict[TenantId, OrderedDict[str, Turn]] = {}
        self._last: dict[TenantId, OrderedDict[str, str]] = {}

    def keep(self, tenant: TenantId, turn: Turn) -> None:
        """Remember a response, or what has become of it."""
        self._put(self._turns.setdefault(tenant, OrderedDict()), turn.head.id, turn)
        conversation = turn.head.body.conversation_id
        if conversation is not None:
            self._put(self._last.setdefault(tenant, OrderedDict()), conversation, turn.head.id)

    def find(self, tenant: TenantId, response_id: str) -> Turn | None:
        """A response, if it is remembered."""
        return self._turns.get(tenant, OrderedDict()).get(response_id)

    def last_of(self, tenant: TenantId, conversation: str) -> str | None:
        """The id of a conversation's last response."""
        return self._last.get(tenant, OrderedDict()).get(conversation)

    def forget(self, tenant: TenantId, response_id: str) -> None:
        """Remember a response no more."""
        self._turns.get(tenant, OrderedDict()).pop(response_id, None)

    def _put(self, where: "OrderedDict[str, Turn] | OrderedDict[str, str]", key: str, value: object) -> None:
        where[key] = value  # type: ignore[assignment]
        where.move_to_end(key)
        if len(where) > self._most:
            where.popitem(last=False)


class ResponseRoutes:
    """Handlers of `/v1/responses…`."""

    def __init__(self, service: Service, config: RouteConfig, *, max_stream_s: float, clock: Clock) -> None:
        self._service = service
        self._config = config
        self._streams = replace(config.streams, max_stream_s=max_stream_s)
        self._clock = clock
        self._memory = Memory()

    def routes(self) -> list[DirectRoute]:
        """All routes, described."""
        responses, one = "/v1/responses", "/v1/responses/{response_id}"
        return [
            describe(responses, self.create, "POST", None, body=ResponseBody),
            describe(f"{responses}/input_tokens", self.count, "POST", None, body=ResponseBody),
            describe(one, self.read, "GET", None),
            describe(one, self.delete, "DELETE", None),
            describe(f"{one}/cancel", self.cancel, "POST", None),
        ]

    async def create(self, request: Request) -> Response:
        """Answer, in the foreground or in the background."""
        query_of(request)
        tenant = tenant_of(request)
        body = (await read_body(request, ResponseBody, self._config.submission)).model
        body.check()
        turn, wanted = await self._turn(tenant, body)
        wanted = wanted.with_headers(request.headers)
        if body.background:
            return await self._begin(tenant, turn, wanted)
        if body.stream:
            return EventStream(self._stream(tenant, turn, wanted), self._streams, NamedJson())
        answer = await while_connected(
            self._whole(tenant, turn, wanted), receive=request.receive, closing=self._config.closing
        )
        if answer is None:
            raise UnavailableError("the service is shutting down", code="draining", data={"retry_after_s": 2})
        return _json(answer)

    async def count(self, request: Request) -> Response:
        """How many tokens a body's prompt has."""
        query_of(request)
        tenant = tenant_of(request)
        body = (await read_body(request, ResponseBody, self._config.submission)).model
        body.check()
        refuse("prompt", body.prompt, None)
        refuse("parrot", body.member, None)
        _, wanted = await self._turn(tenant, body)
        num_tokens = self._service.requests.num_prompt_tokens(tenant, wanted.calls[0])
        return _json({"object": "response.input_tokens", "input_tokens": num_tokens})

    async def _turn(self, tenant: TenantId, body: ResponseBody) -> tuple[Turn, Wanted]:
        """A response that is to be, and what it takes."""
        earlier, chain = await self._earlier(tenant, body)
        chat = body.chat(earlier)
        chat.check()
        requests = self._service.requests
        if body.prompt is not None:
            wanted = registered_call(body, body.prompt, chat, earlier, service=self._service, tenant=tenant)
            model = requests.model(model_of(body, wanted, self._service, tenant))
        else:
            wanted, model = chat_calls(chat, requests, tenant), requests.model(body.model)
        head = ResponseHead(
            id=f"resp_{uuid.uuid4().hex}",
            created_at=int(self._clock.wall_s()),
            model=model.name,
            body=body,
            has_tools=chat.toolbox() is not None,
            tokenizer=model.tokenizer if body.num_logprobs is not None else None,
        )
        wanted = replace(wanted, part_of=in_chain(wanted.part_of, chain))
        return Turn(head=head, messages=(*earlier, *body.messages()), chain=chain), wanted

    async def read(self, request: Request) -> Response:
        """A response, as it is now."""
        query_of(request)
        turn = await self._find(tenant_of(request), request.path_params["response_id"])
        return _json(turn.response or turn.head.object("in_progress"))

    async def cancel(self, request: Request) -> Response:
        """Stop a response that runs in the background."""
        query_of(request)
        tenant, response_id = tenant_of(request), request.path_params["response_id"]
        turn = await self._find(tenant, response_id)
        if not turn.head.body.background:
            raise ConflictError("only a response in the background can be cancelled", param="response_id")
        if turn.response is None:
            await self._service.cancel(tenant, _session_of(response_id), CancelRequest())
            turn = await self._find(tenant, response_id)
        return _json(turn.response or turn.head.object("in_progress"))

    async def delete(self, request: Request) -> Response:
        """Forget a response, and stop it when it runs."""
        query_of(request)
        tenant, response_id = tenant_of(request), request.path_params["response_id"]
        turn = await self._find(tenant, response_id)
        if turn.head.body.background:
            await self._service.delete_session(tenant, _session_of(response_id))
        self._memory.forget(tenant, response_id)
        return _json({"id": response_id, "object": "response", "deleted": True})

    # ── running ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _whole(self, tenant: TenantId, turn: Turn, wanted: Wanted) -> Json:
        async with running(self._service, tenant, wanted, name="response") as run:
            return self._ended(tenant, await self._with_outcome(turn, run))

    async def _stream(self, tenant: TenantId, turn: Turn, wanted: Wanted) -> AsyncGenerator[Json, None]:
        async with (
            running(self._service, tenant, wanted, name="response") as run,
            aclosing(self._events(tenant, turn, run)) as events,
        ):
            async for event in events:
                yield event

    async def _events(self, tenant: TenantId, turn: Turn, run: RequestRun) -> AsyncGenerator[Json, None]:
        events = ResponseEvents(head=turn.head)
        for event in events.begin():
            yield event
        async with aclosing(run.follow(0)) as pieces:
            async for piece in pieces:
                for event in events.piece(piece):
                    yield event
        self._ended(tenant, await self._with_outcome(turn, run))
        for event in events.end(await run.outcome(0), at_s=int(self._clock.wall_s())):
            yield event

    async def _begin(self, tenant: TenantId, turn: Turn, wanted: Wanted) -> Response:
        body = turn.head.body
        objective: Objective = "latency" if body.stream or wanted.part_of.urgency_s > 0 else "throughput"
        labels = {**wanted.labels, TOOLS_LABEL: "yes" if turn.head.has_tools else "no"}
        opening = SessionCreate.model_construct(
            name="response", objective=objective, deadline_s=None, metadata=labels
        )
        view = await self._service.open_session(tenant, opening, opaque=wanted.opaque)
        turn = replace(turn, head=replace(turn.head, id=f"resp_{view.session_id.removeprefix('ses_')}"))
        try:
            run = await self._service.requests.run_in(tenant, view.session_id, wanted.submission())
        except ParrotError:
            await self._service.delete_session(tenant, view.session_id)
            raise
        self._memory.keep(tenant, turn)
        if body.stream:
            # It goes on when its client leaves the stream.
            return EventStream(self._events(tenant, turn, run), self._streams, NamedJson())
        return _json(turn.head.object("queued"))

    def _ended(self, tenant: TenantId, turn: Turn) -> Json:
        body = turn.head.body
        if body.member is None and (body.store is not False or body.conversation_id is not None):
            self._memory.keep(tenant, turn)
        return turn.response or turn.head.object("in_progress")

    # ── remembering ─────────────────────────────────────────────────────────────────────────────────────────

    async def _earlier(
        self, tenant: TenantId, body: ResponseBody
    ) -> tuple[tuple[ChatMessage, ...], str | None]:
        """The conversation that a body goes on from, and what all its turns are known by together.

        Raises:
            NotFoundError: the response it names is not remembered.
            ConflictError: that response has no answer, or none yet.
        """
        previous = body.previous_response_id
        if body.conversation_id is not None:
            previous = self._memory.last_of(tenant, body.conversation_id)
        if previous is None:
            return (), body.conversation_id
        try:
            turn = await self._find(tenant, previous)
        except NotFoundError as error:
            error.param = "previous_response_id"
            raise
        if turn.answer is None:
            raise ConflictError("that response has no answer to go on from", param="previous_response_id")
        return (*turn.messages, turn.answer), body.conversation_id or turn.chain or previous

    async def _find(self, tenant: TenantId, response_id: str) -> Turn:
        turn = self._memory.find(tenant, response_id)
        if turn is not None and turn.response is not None:
            return turn
        try:
            run = self._service.requests.find(tenant, _session_of(response_id))
        except (GoneError, NotFoundError):
            raise _not_found() from None
        if TOOLS_LABEL not in run.metadata:
            raise _not_found()
        turn = turn or _remembered(response_id, run)
        if run.is_ended(0):
            turn = await self._with_outcome(turn, run)
            self._memory.keep(tenant, turn)
        return turn

    async def _with_outcome(self, turn: Turn, run: RequestRun) -> Turn:
        """A response with its end. In the foreground a failure is the request's."""
        try:
            outcome = await run.outcome(0)
        except ParrotError as error:
            if not turn.head.body.background:
                raise
            return replace(turn, response=turn.head.failed(error))
        at_s = int(run.ended_at or self._clock.wall_s())
        return replace(turn, answer=turn.head.answer(outcome), response=turn.head.ended(outcome, at_s=at_s))


def _remembered(response_id: str, run: RequestRun) -> Turn:
    """A background response from before a restart: what its session knows of it."""
    messages = tuple(
        ChatMessage(role=message.role, content=unwritten(message.content)) for message in run.messages[:-1]
    )
    head = ResponseHead(
        id=response_id,
        created_at=int(run.created_at),
        model=run.model,
        body=ResponseBody(background=True),
        has_tools=run.metadata.get(TOOLS_LABEL) == "yes",
    )
    return Turn(head=head, messages=messages)


def _session_of(response_id: str) -> str:
    return f"ses_{response_id.removeprefix('resp_')}"


def _not_found() -> NotFoundError:
    return NotFoundError("no such response", param="response_id")


def _json(value: Json) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
