"""An application in Parrot: one program with the SDK, whose calls are linked by semantic variables."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any

import httpx2

import parrot
from parrot.bench.apps.applications import Application, Function, Run, Text
from parrot.bench.apps.network import DelayedTransport
from parrot.bench.apps.records import CallTimes, Usage
from parrot.bench.apps.side import Outcome
from parrot.ports.clock import Clock
from parrot.sdk.session import Session
from parrot.sdk.variable import SemanticVariable
from parrot.types.objective import Objective
from parrot.wire.answers import GraphView


class LinkedStep:
    """Calls that return variables at once."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def __call__(self, function: Function, /, **inputs: Text | Sequence[Text]) -> Text:
        """Make one call of the session."""
        return self._session.call(function, **inputs)

    def text(self, name: str, text: str) -> Text:
        """A variable: the text travels once."""
        return self._session.variable(name, text)


class ParrotSide:
    """Runs applications in a Parrot service."""

    def __init__(
        self,
        url: str,
        network: httpx2.AsyncBaseTransport,
        http: httpx2.AsyncClient,
        *,
        clock: Clock,
        name: str = "parrot",
    ) -> None:
        """`network` carries the programs' requests; `http` is for looking at the service beside them."""
        self.name = name
        self._url = url
        self._network = network
        self._http = http
        self._clock = clock

    async def run(self, application: Application, run: Run, *, rtt_s: float) -> Outcome:
        """One run: the whole application is submitted, which opens its session, and its results come."""
        network = DelayedTransport(self._network, rtt_s=rtt_s, clock=self._clock)
        began_s = self._clock.now_s()
        async with parrot.connect(
            self._url, transport=network, name=application.name, objective=application.objective
        ) as session:
            async with AsyncExitStack() as stack:
                if not application.streams:  # who reads along says so with the calls, in the same tick
                    await stack.enter_async_context(session.batch())
                results = await application.run(LinkedStep(session), run)
            variables = [one for one in results if isinstance(one, SemanticVariable)]
            if application.streams:
                await asyncio.gather(*(_read(one, application.objective) for one in variables))
            else:
                await session.gather(*variables, objective=application.objective)
            jct_s, num_requests = self._clock.now_s() - began_s, network.num_requests
            graph = await self._graph(session.id)
        return Outcome(jct_s=jct_s, num_requests=num_requests, usage=usage_of(graph), calls=times_of(graph))

    async def _graph(self, session_id: str) -> GraphView:
        response = await self._http.get(f"/v1/sessions/{session_id}/graph")
        response.raise_for_status()
        return GraphView.model_validate_json(response.content)


async def _read(variable: SemanticVariable[Any], objective: Objective) -> None:
    async with aclosing(variable.stream(objective)) as pieces:
        async for _ in pieces:
            pass


def usage_of(graph: GraphView) -> Usage:
    """The tokens of a graph's calls."""
    return Usage(
        num_calls=len(graph.calls),
        prompt_tokens=sum(call.tokens.prompt for call in graph.calls),
        cached_tokens=sum(call.tokens.shared for call in graph.calls),
        output_tokens=sum(call.tokens.output for call in graph.calls),
    )


def times_of(graph: GraphView) -> list[CallTimes]:
    """When things happened to a graph's calls."""
    return [
        CallTimes(
            ready_s=call.times.ready_s,
            first_token_s=call.times.first_token_s,
            done_s=call.times.done_s,
            output_tokens=call.tokens.output,
        )
        for call in graph.calls
        if call.times.ready_s is not None and call.times.done_s is not None
    ]
