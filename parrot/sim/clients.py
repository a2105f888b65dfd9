"""How an application reaches the service: as a whole graph, or request by request from a client.

    graph      client ──── all calls ───▶ service ═ call ═ call ═ call ════▶ final values ───▶ client
    requests   client ── call ──▶ service ──▶ client ── call ──▶ service ──▶ client ── …

Each arrow outside the service costs half a round trip. A request carries the texts of earlier outputs, a
graph carries links.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from parrot.core.service import Service
from parrot.errors import CallError, ParrotError
from parrot.ports.clock import Clock
from parrot.sim.application import AppCall, Application, call_json
from parrot.types.ids import DEFAULT_TENANT
from parrot.types.objective import Objective
from parrot.wire.answers import CallNode
from parrot.wire.requests import SessionCreate, SubmitCalls

ClientKind = Literal["graph", "requests"]
"""Whole applications, or one call at a time."""

WAIT_S = 1e7
"""How long a client waits for a value, in virtual seconds."""

RoundTrip = Callable[[], float]
"""Gives the seconds of the next round trip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One application that has ended."""

    kind: str
    began_at_s: float
    """Virtual seconds since the simulation began."""
    jct_s: float
    """Job completion time: from the first send to the arrival of the last value."""
    num_calls: int
    num_output_tokens: int
    calls: tuple[CallNode, ...] = ()
    """Every call as the service saw it, where that was asked for."""
    error: str | None = None
    """The code of the first error, when not all values came."""


def no_round_trip() -> float:
    """A client beside the service."""
    return 0.0


def measured_round_trip(rng: Random) -> RoundTrip:
    """Round trips like those of the paper's client: from 218 to 345 ms, median about 238, mean about 244."""

    def sample() -> float:
        return 0.218 + min(rng.expovariate(1 / 0.0265), 0.127)

    return sample


class Client:
    """Runs applications against a service; `with_calls` asks for every call's record at the end, with `hints`
    each single request says how its application is waited for.
    """

    def __init__(
        self,
        service: Service,
        clock: Clock,
        *,
        kind: ClientKind = "graph",
        round_trip: RoundTrip = no_round_trip,
        with_calls: bool = False,
        hints: bool = False,
    ) -> None:
        self._hints = hints
        self._service = service
        self._clock = clock
        self._kind = kind
        self._round_trip = round_trip
        self._with_calls = with_calls

    async def run(self, application: Application) -> Measured:
        """Run one application to its end, in a session of its own."""
        began_at_s = self._clock.now_s()
        service = self._service
        opening = SessionCreate(objective=application.objective if self._hints else None)
        sid = (await service.open_session(DEFAULT_TENANT, opening)).session_id
        run_round = self._graph_round if self._kind == "graph" else self._request_round
        error: str | None = None
        values: dict[str, str] = {}
        try:
            for calls in application.rounds:
                await run_round(sid, application.objective, calls, values)
        except ParrotError as failed:
            error = failed.code
        except ExceptionGroup as group:
            failures, others = group.split(ParrotError)
            if others is not None or failures is None:
                raise
            error = _first(failures).code
        jct_s = self._clock.now_s() - began_at_s
        records = service.graph(DEFAULT_TENANT, sid).calls if self._with_calls else ()
        await service.delete_session(DEFAULT_TENANT, sid)
        return Measured(
            kind=application.kind,
            began_at_s=began_at_s,
            jct_s=jct_s,
            num_calls=application.num_calls,
            num_output_tokens=sum(call.num_output_tokens for call in application.calls),
            calls=records,
            error=error,
        )

    async def _graph_round(
        self, sid: str, objective: Objective | None, calls: Sequence[AppCall], values: dict[str, str]
    ) -> None:
        """Submit a round at once, then wait for what no call of it reads."""
        trip_s = self._round_trip()
        await self._pass(trip_s / 2)
        await self._submit(sid, calls, {})
        read = {name for call in calls for name in call.needs}
        finals = [call.name for call in calls if call.name not in read]
        if len(finals) == 1:
            values[finals[0]] = await self._get(sid, finals[0], objective)
        else:
            async with asyncio.TaskGroup() as group:
                for name in finals:
                    group.create_task(self._get(sid, name, objective))
        await self._pass(trip_s / 2)

    async def _request_round(
        self, sid: str, objective: Objective | None, calls: Sequence[AppCall], values: dict[str, str]
    ) -> None:
        """Send each call when the client has what it reads; a single request tells nothing of the whole."""
        del objective
        if len(calls) == 1:
            await self._request(sid, calls[0], values)
            return
        arrivals: dict[str, asyncio.Future[None]] = {}
        loop = asyncio.get_running_loop()
        for call in calls:
            arrivals[call.name] = loop.create_future()

        async def send(call: AppCall) -> None:
            for name in call.needs:
                if name in arrivals:
                    await arrivals[name]
            await self._request(sid, call, values)
            arrivals[call.name].set_result(None)

        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(send(call))

    async def _request(self, sid: str, call: AppCall, values: dict[str, str]) -> None:
        trip_s = self._round_trip()
        await self._pass(trip_s / 2)
        await self._submit(sid, [call], values)
        value = await self._get(sid, call.name, None)
        await self._pass(trip_s / 2)
        values[call.name] = value

    async def _submit(self, sid: str, calls: Sequence[AppCall], values: Mapping[str, str]) -> None:
        request = SubmitCalls.model_validate({"calls": [call_json(call, values) for call in calls]})
        await self._service.submit(DEFAULT_TENANT, sid, request)

    async def _get(self, sid: str, name: str, objective: Objective | None) -> str:
        found = await self._service.get_variable(
            DEFAULT_TENANT, sid, name, wait_s=WAIT_S, objective=objective
        )
        if found.value is None:
            code = found.error.code if found.error else "deadline"
            raise CallError(f"the value of {name!r} did not come", code=code)
        return found.value

    async def _pass(self, duration_s: float) -> None:
        if duration_s:
            await self._clock.sleep(duration_s)


def _first(group: ExceptionGroup[ParrotError]) -> ParrotError:
    error: ParrotError | ExceptionGroup[ParrotError] = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
