"""Running the applications in each way, and counting what it took."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import httpx2

import parrot
from parrot.cli.client import ServiceClient
from parrot.cli.demo.applications import Application, Text, note_piece
from parrot.ports.clock import Clock
from parrot.sdk.function import SemanticFunction
from parrot.sdk.variable import SemanticVariable
from parrot.wire.answers import GraphView

Way = Literal["application", "cached", "alone"]
"""`application`: the whole graph is given to the service. `cached`: a client makes call after call, and the
service finds prefixes it has seen. `alone`: the same, and no two prompts begin alike, so that nothing can
be found."""

WAYS: tuple[Way, ...] = ("application", "cached", "alone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One application run in one way."""

    application: str
    way: Way
    num_calls: int
    duration_s: float
    """From the first call to the last value."""
    num_round_trips: int
    """Times the client had to ask: submissions and values fetched. A client that makes single calls asks once
    for each, as of a completions API."""
    num_prompt_tokens: int
    num_shared_tokens: int
    """Prompt tokens that were not computed, for a context held them already."""
    num_ahead_tokens: int
    """Of these, tokens that had been computed while other inputs of the call were being made."""
    num_prefilled_tokens: int
    """Prompt tokens that were computed."""
    num_output_tokens: int
    graph: GraphView | None = None
    """For the way `application`, what the service knew."""


class CountingTransport(httpx2.AsyncBaseTransport):
    """The network, with a count of the requests that carry calls or values."""

    def __init__(self) -> None:
        self._network = httpx2.AsyncHTTPTransport()
        self.num_submissions = 0
        self.num_reads = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Count a request and send it."""
        path = request.url.path
        self.num_submissions += request.method == "POST" and path.endswith("/run")
        self.num_reads += request.method == "GET" and "/variables/" in path
        return await self._network.handle_async_request(request)

    async def aclose(self) -> None:
        """A session that ends leaves the connections to the others; `close` closes them."""

    async def close(self) -> None:
        """Close the connections."""
        await self._network.aclose()


class Watcher(Protocol):
    """Shown how a run goes on."""

    def graph(self, graph: GraphView) -> None:
        """The application's graph as it is now."""
        ...

    def calls(self, num_done: int, num_calls: int) -> None:
        """So many of a client's single calls have been answered."""
        ...


class Runner:
    """Runs applications against one service."""

    def __init__(
        self,
        service: ServiceClient,
        *,
        clock: Clock,
        parts: Sequence[str],
        watcher: Watcher,
        refresh_s: float | None,
    ) -> None:
        """With `refresh_s`, a running application's graph is shown so often; else only when it has ended."""
        self._service = service
        self._clock = clock
        self._parts = parts
        self._watcher = watcher
        self._refresh_s = refresh_s

    async def warm_up(self) -> None:
        """Make one call that is not counted, of the demo's usual sizes."""
        async with parrot.connect(self._service.url, name="warm_up") as session:
            await session.call(note_piece, run=opening(), piece=self._parts[0]).text()

    async def run(self, application: Application, way: Way, *, num_calls: int) -> Measured:
        """Run one application in one way; `num_calls` is how many calls it makes."""
        if way == "application":
            return await self._whole(application)
        return await self._one_by_one(application, way, num_calls)

    async def _whole(self, application: Application) -> Measured:
        transport = CountingTransport()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(transport.close)
            session = await stack.enter_async_context(
                parrot.connect(self._service.url, name=application.name, transport=transport)
            )

            async def step(function: SemanticFunction[SemanticVariable[Any]], /, **inputs: Text) -> Text:
                return session.call(function, **inputs)

            began_s = self._clock.now_s()
            async with session.batch():
                outputs = await application.run(step, opening(), self._parts)
            async with self._shown(session.id):
                await asyncio.gather(*(_text(output) for output in outputs))
            duration_s = self._clock.now_s() - began_s
            graph = await self._graph(session.id)
        self._watcher.graph(graph)
        asked = transport.num_submissions + transport.num_reads
        return _measured(application, "application", [graph], duration_s, asked)

    async def _one_by_one(self, application: Application, way: Way, num_calls: int) -> Measured:
        """Each call in a session of its own, opened before the clock runs; values travel as text."""
        transport = CountingTransport()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(transport.close)
            sessions = [
                await stack.enter_async_context(parrot.connect(self._service.url, transport=transport))
                for _ in range(num_calls)
            ]
            for session in sessions:
                await session.open()
            transport.num_submissions = 0
            free = iter(sessions)
            num_done = 0

            async def step(function: SemanticFunction[SemanticVariable[Any]], /, **inputs: Text) -> Text:
                nonlocal num_done
                begin = {"run": opening()} if way == "alone" else {}
                value: str = await next(free).call(function, **{**inputs, **begin}).text()
                num_done += 1
                self._watcher.calls(num_done, num_calls)
                # A random model may write what no client may send.
                return value.replace("\x00", "\N{REPLACEMENT CHARACTER}")

            began_s = self._clock.now_s()
            await application.run(step, opening(), self._parts)
            duration_s = self._clock.now_s() - began_s
            graphs = [await self._graph(session.id) for session in sessions]
        return _measured(application, way, graphs, duration_s, transport.num_submissions)

    @asynccontextmanager
    async def _shown(self, session_id: str) -> AsyncIterator[None]:
        """Within it, the session's graph is shown again and again."""
        if self._refresh_s is None:
            yield
            return
        async with asyncio.TaskGroup() as group:
            showing = group.create_task(self._show(session_id, self._refresh_s))
            yield
            showing.cancel()

    async def _show(self, session_id: str, refresh_s: float) -> None:
        while True:
            self._watcher.graph(await self._graph(session_id))
            await self._clock.sleep(refresh_s)

    async def _graph(self, session_id: str) -> GraphView:
        path = f"/v1/sessions/{session_id}/graph"
        return await asyncio.to_thread(self._service.get, GraphView, path)


def opening() -> str:
    """A prompt's first line, which no other has: what stands behind it is not in any cache."""
    return f"Run {secrets.token_hex(6)}."


async def _text(output: Text) -> str:
    return output if isinstance(output, str) else await output.text("latency")


def _measured(
    application: Application, way: Way, graphs: Sequence[GraphView], duration_s: float, num_round_trips: int
) -> Measured:
    calls = [call for graph in graphs for call in graph.calls]
    prompt = sum(call.tokens.prompt for call in calls)
    shared = sum(call.tokens.shared for call in calls)
    return Measured(
        application=application.name,
        way=way,
        num_calls=len(calls),
        duration_s=duration_s,
        num_round_trips=num_round_trips,
        num_prompt_tokens=prompt,
        num_shared_tokens=shared,
        num_ahead_tokens=sum(call.tokens.ahead for call in calls),
        num_prefilled_tokens=prompt - shared,
        num_output_tokens=sum(call.tokens.output for call in calls),
        graph=graphs[0] if way == "application" else None,
    )
