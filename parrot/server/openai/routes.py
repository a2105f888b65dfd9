"""Routes of the OpenAI-compatible face: completions and chat completions."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from parrot.core.executor.requests import Outcome, RequestRun
from parrot.core.service import Service
from parrot.errors import UnavailableError
from parrot.ports.clock import Clock
from parrot.ports.engine import Tokenizer
from parrot.server.bodies import read_body
from parrot.server.disconnects import while_connected
from parrot.server.openai.answers import ChatWriter, CompletionWriter, Head, Json, usage_of
from parrot.server.openai.bodies import CompletionBody, SamplingBody
from parrot.server.openai.chat_bodies import ChatBody
from parrot.server.openai.lowering import Wanted, chat_calls, completion_calls
from parrot.server.openai.running import running
from parrot.server.openai.streaming import DataLines, Writer, chunks
from parrot.server.openapi import DirectRoute, describe
from parrot.server.parameters import query_of, tenant_of
from parrot.server.routes import RouteConfig
from parrot.server.streaming import EventStream
from parrot.types.ids import TenantId


class AnswerWriter(Writer, Protocol):
    """Writes one kind of answer, in pieces or whole."""

    def whole(self, outcomes: Sequence[Outcome], usage: Json) -> Json:
        """The answer in one piece."""
        ...


WriterOf = Callable[[Head, Tokenizer], AnswerWriter]


class OpenAIRoutes:
    """Handlers of `/v1/completions` and `/v1/chat/completions`. Each request runs for as long as its client
    is there, and nothing of it is left afterwards but cache.
    """

    def __init__(self, service: Service, config: RouteConfig, *, max_stream_s: float, clock: Clock) -> None:
        """`max_stream_s`: no call runs longer, so no stream has to be cut before."""
        self._service = service
        self._config = config
        self._streams = replace(config.streams, max_stream_s=max_stream_s)
        self._clock = clock

    def routes(self) -> list[DirectRoute]:
        """All routes, described."""
        return [
            describe("/v1/completions", self.completions, "POST", None, body=CompletionBody),
            describe("/v1/chat/completions", self.chat_completions, "POST", None, body=ChatBody),
        ]

    async def completions(self, request: Request) -> Response:
        """Go on with a prompt."""
        query_of(request)
        body = (await read_body(request, CompletionBody, self._config.submission)).model
        body.check()
        wanted = completion_calls(body, self._service.requests)
        echoes = [prompt if body.echo else "" for prompt in wanted.prompts for _ in range(wanted.num_choices)]
        write = partial(CompletionWriter, tells=body.logprobs is not None, echoes=echoes)
        return await self._answer(request, body, wanted, "cmpl", write)

    async def chat_completions(self, request: Request) -> Response:
        """Answer a conversation."""
        query_of(request)
        body = (await read_body(request, ChatBody, self._config.submission)).model
        body.check()
        wanted = chat_calls(body, self._service.requests, tenant_of(request))
        write = partial(ChatWriter, tells=body.num_logprobs is not None, tools=body.toolbox() is not None)
        return await self._answer(request, body, wanted, "chatcmpl", write)

    async def _answer(
        self, request: Request, body: SamplingBody, wanted: Wanted, kind: str, write: WriterOf
    ) -> Response:
        tenant = tenant_of(request)
        wanted = wanted.with_headers(request.headers)
        if body.stream:
            items = self._stream(tenant, body, wanted, kind, write)
            return EventStream(items, self._streams, DataLines())
        answer = await while_connected(
            self._whole(tenant, wanted, kind, write), receive=request.receive, closing=self._config.closing
        )
        if answer is None:
            raise UnavailableError("the service is shutting down", code="draining", data={"retry_after_s": 2})
        return Response(msgspec.json.encode(answer), media_type="application/json")

    async def _whole(self, tenant: TenantId, wanted: Wanted, kind: str, write: WriterOf) -> Json:
        async with running(self._service, tenant, wanted, name=kind) as run:
            outcomes: list[Outcome] = []
            if wanted.parrot is None or wanted.parrot.wait:
                outcomes = [await run.outcome(index) for index in range(run.num_outputs)]
            usage = usage_of(outcomes, wanted.num_choices)
            return {**self._writer(run, kind, write).whole(outcomes, usage), **_place(run, wanted)}

    async def _stream(
        self, tenant: TenantId, body: SamplingBody, wanted: Wanted, kind: str, write: WriterOf
    ) -> AsyncGenerator[Json | str, None]:
        async with running(self._service, tenant, wanted, name=kind) as run:
            items = chunks(
                run,
                self._writer(run, kind, write),
                num_choices=wanted.num_choices,
                includes_usage=body.includes_usage,
            )
            async with aclosing(items):
                async for item in items:
                    yield item

    def _writer(self, run: RequestRun, kind: str, write: WriterOf) -> AnswerWriter:
        head = Head(
            id=f"{kind}-{run.calls[0][0].removeprefix('call_')}",
            created=int(self._clock.wall_s()),
            model=run.model,
        )
        return write(head, self._service.requests.model(run.model).tokenizer)


def _place(run: RequestRun, wanted: Wanted) -> Json:
    """Where in its application a request stands; nothing for one that stands alone."""
    if wanted.parrot is None:
        return {}
    names = (*wanted.parrot.outputs, *([None] * run.num_outputs))
    outputs = [
        {"call_id": call_id, "variable_id": variable_id, "name": name}
        for (call_id, variable_id), name in zip(run.calls, names, strict=False)
    ]
    return {"parrot": {"session_id": run.session_id, "outputs": outputs}}
