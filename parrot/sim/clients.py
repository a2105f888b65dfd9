"""How an application reaches the service: as a whole graph, or request by request from a client.

    graph      client ──── all calls ───▶ service ═ call ═ call ═ call ════▶ final values ───▶ client
    requests   client ── call ──▶ service ──▶ client ── call ──▶ service ──▶ client ── …

Each arrow outside the service costs half a round trip. A request carries the texts of earlier outputs, a
graph carries links.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Literal

from parrot.core.executor.direct import Constant, DirectCall, Generated, Given, Named, PromptPiece
from parrot.core.service import Service
from parrot.core.sessions import Session
from parrot.errors import ParrotError
from parrot.ports.clock import Clock
from parrot.sim.application import AppCall, Application, Ref
from parrot.sim.engine import MODEL
from parrot.sim.tokens import mark
from parrot.types.ids import DEFAULT_TENANT
from parrot.types.objective import Objective
from parrot.types.sampling import Sampling
from parrot.wire.answers import CallNode

ClientKind = Literal["graph", "requests"]
"""Whole applications, or one call at a time."""

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
        direct = self._service.direct
        session = direct.open(DEFAULT_TENANT, objective=application.objective if self._hints else None)
        run_round = self._graph_round if self._kind == "graph" else self._request_round
        error: str | None = None
        values: dict[str, str] = {}
        try:
            for calls in application.rounds:
                await run_round(session, application.objective, calls, values)
        except ParrotError as failed:
            error = failed.code
        except ExceptionGroup as group:
            failures, others = group.split(ParrotError)
            if others is not None or failures is None:
                raise
            error = _first(failures).code
        jct_s = self._clock.now_s() - began_at_s
        records = self._service.graph(DEFAULT_TENANT, session.session_id).calls if self._with_calls else ()
        direct.close(session)
        return Measured(
            kind=application.kind,
            began_at_s=began_at_s,
            jct_s=jct_s,
            num_calls=application.num_calls,
            num_output_tokens=sum([call.num_output_tokens for call in application.calls]),
            calls=records,
            error=error,
        )

    async def _graph_round(
        self, session: Session, objective: Objective | None, calls: Sequence[AppCall], values: dict[str, str]
    ) -> None:
        """Submit a round at once, then wait for what no call of it reads."""
        trip_s = self._round_trip()
        await self._pass(trip_s / 2)
        self._submit(session, calls, {})
        read = {name for call in calls for name in call.needs}
        finals = [call.name for call in calls if call.name not in read]
        found = await self._service.direct.values(session, finals, objective)
        if len(finals) == 1:
            values[finals[0]] = found[0]
        await self._pass(trip_s / 2)

    async def _request_round(
        self, session: Session, objective: Objective | None, calls: Sequence[AppCall], values: dict[str, str]
    ) -> None:
        """Send each call when the client has what it reads; a single request tells nothing of the whole."""
        del objective
        if len(calls) == 1:
            await self._request(session, calls[0], values)
            return
        arrivals: dict[str, asyncio.Future[None]] = {}
        loop = asyncio.get_running_loop()
        for call in calls:
            arrivals[call.name] = loop.create_future()

        async def send(call: AppCall) -> None:
            for name in call.needs:
                if name in arrivals:
                    await arrivals[name]
            await self._request(session, call, values)
            arrivals[call.name].set_result(None)

        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(send(call))

    async def _request(self, session: Session, call: AppCall, values: dict[str, str]) -> None:
        trip_s = self._round_trip()
        await self._pass(trip_s / 2)
        self._submit(session, [call], values)
        (value,) = await self._service.direct.values(session, [call.name])
        await self._pass(trip_s / 2)
        values[call.name] = value

    def _submit(self, session: Session, calls: Sequence[AppCall], values: Mapping[str, str]) -> None:
        self._service.direct.submit(session, MODEL, [_direct_call(call, values) for call in calls])

    async def _pass(self, duration_s: float) -> None:
        if duration_s:
            await self._clock.sleep(duration_s)


def _direct_call(call: AppCall, values: Mapping[str, str]) -> DirectCall:
    """A call as the service takes it. Outputs found in `values` are text of its prompt, others are linked."""
    prompt: list[PromptPiece] = []
    for index, piece in enumerate(call.prompt):
        if isinstance(piece, Ref):
            prompt.append(Given(values[piece.call]) if piece.call in values else Named(piece.call))
        else:
            text = mark(piece.num_tokens, piece.seed)
            prompt.append(Given(text) if index else Constant(text))
    prompt.append(Generated(call.name, _sampling(call.num_output_tokens)))
    return DirectCall(call.name, prompt)


@lru_cache(maxsize=4096)
def _sampling(num_tokens: int) -> Sampling:
    return Sampling(max_tokens=num_tokens, ignore_eos=True)


def _first(group: ExceptionGroup[ParrotError]) -> ParrotError:
    error: ParrotError | ExceptionGroup[ParrotError] = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
