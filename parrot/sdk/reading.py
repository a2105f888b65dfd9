"""Waiting for values: long polls and streams."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from pydantic import ValidationError

from parrot.errors import UnreachableError, WaitTimeoutError
from parrot.sdk.assembler import PieceAssembler
from parrot.sdk.client import Client, StreamEvent
from parrot.sdk.following import RESET, Followed, Wanted
from parrot.sdk.submission import Submitter
from parrot.sdk.variable import SemanticVariable, upstream_failure
from parrot.types.objective import Objective
from parrot.wire.answers import Delta, VariableView
from parrot.wire.errors import from_body

MAX_POLL_S = 30.0
_EARLY_POLL_PAUSE_S = 0.25
_MAX_POLLS = 200
"""Long polls of one session at once; more wait for their turn."""


class ValueReader:
    """Reads the variables of one session: those of this program from memory, the others from the service."""

    def __init__(self, client: Client, submitter: Submitter, objective: Objective | None) -> None:
        """`objective` is the session's."""
        self._client = client
        self._submitter = submitter
        self._objective = objective
        self._polls = asyncio.Semaphore(_MAX_POLLS)

    async def read(
        self, variable: SemanticVariable[Any], objective: Objective | None, timeout_s: float | None
    ) -> str:
        """Wait for a variable's text; see `SemanticVariable.get` for what is raised."""
        try:
            async with asyncio.timeout(timeout_s or None):
                return await self._read(variable, objective, timeout_s)
        except TimeoutError:
            raise WaitTimeoutError(
                f"{variable.name} was not ready within {timeout_s or 0:g} s; {self._meanwhile(variable)}",
                data={"timeout_s": timeout_s},
            ) from None

    async def stream(
        self, variable: SemanticVariable[Any], objective: Objective | None
    ) -> AsyncGenerator[str, None]:
        """A variable's text in pieces; see `SemanticVariable.stream`."""
        if variable.local is not None and (variable.local.done or not variable.settable):
            if text := await self._local_text(variable):
                yield text
            return
        await self._submitted(variable, objective, deltas=True)
        assembler = PieceAssembler(variable.name)
        async with aclosing(self._told_pieces(variable, objective, assembler)) as pieces:
            async for piece in pieces:
                yield piece
        view = variable.followed.view if variable.followed is not None else None
        if view is not None and view.done and (told := await view.wait()) is not None:
            if rest := assembler.finish(self._value(variable, told)):
                yield rest
            return
        reference = variable.id or variable.name
        session_id = await self._submitter.opened()
        async with aclosing(self._client.variable_events(session_id, reference, objective)) as events:
            async for event in events:
                if new := self._piece(variable, assembler, event):
                    yield new

    async def _told_pieces(
        self, variable: SemanticVariable[Any], objective: Objective | None, assembler: PieceAssembler
    ) -> AsyncGenerator[str, None]:
        """The text as the service tells it of its own accord, if it does, up to where that ends."""
        followed = self._followed(variable, objective)
        told = followed.take_pieces() if followed is not None else None
        if told is None:
            return
        async with aclosing(told) as pieces:
            async for piece in pieces:
                if piece is RESET:
                    assembler.reset()
                elif new := assembler.delta(piece):
                    yield new
        assembler.reset()

    def _meanwhile(self, variable: SemanticVariable[Any]) -> str:
        """What a wait that was too short is told of the variable's call."""
        if variable.accepted is None or variable.accepted.done:
            return "its call goes on"
        why = self._client.delay
        return "its call has not been taken yet" + (f": {why.message}" if why is not None else "")

    def _followed(self, variable: SemanticVariable[Any], objective: Objective | None) -> Followed | None:
        """What the service tells of a variable by itself, if it knows that it is waited for like this."""
        followed = variable.followed
        if followed is None or objective not in (None, followed.objective or self._objective):
            return None
        return followed

    async def _submitted(
        self, variable: SemanticVariable[Any], objective: Objective | None, *, deltas: bool = False
    ) -> None:
        """Return when the service has taken the call that produces the variable."""
        if variable.accepted is None:
            return
        if not variable.accepted.done:
            variable.wanted = variable.wanted or Wanted()
            variable.wanted.add(objective, deltas=deltas)
            self._submitter.hurry()
        await variable.accepted.wait()

    async def _local_text(self, variable: SemanticVariable[Any]) -> str:
        """The text of a variable of this program."""
        assert variable.local is not None, "it is one of this program"
        if variable.failure is not None:
            raise variable.failure
        return await variable.local.wait()

    async def _read(
        self, variable: SemanticVariable[Any], objective: Objective | None, timeout_s: float | None
    ) -> str:
        only_look = timeout_s == 0
        if variable.local is not None and (variable.local.done or not variable.settable):
            if only_look and not variable.local.done:
                raise TimeoutError
            return await self._local_text(variable)
        if only_look and variable.accepted is not None and not variable.accepted.done:
            raise TimeoutError
        await self._submitted(variable, objective)
        followed = self._followed(variable, objective)
        if followed is not None and (followed.view.done or not only_look):
            view = await followed.view.wait()
            if view is not None:
                return self._value(variable, view)
        async with self._polls:
            return await self._poll(variable, objective, timeout_s)

    async def _poll(
        self, variable: SemanticVariable[Any], objective: Objective | None, timeout_s: float | None
    ) -> str:
        now_s = asyncio.get_running_loop().time
        session_id = await self._submitter.opened()
        deadline_s = None if timeout_s is None else now_s() + timeout_s
        while True:
            began_s = now_s()
            wait_s = MAX_POLL_S if deadline_s is None else min(MAX_POLL_S, max(0.0, deadline_s - began_s))
            view = await self._client.get_variable(
                session_id, variable.id or variable.name, wait_s=wait_s, objective=objective
            )
            if view.state != "pending":
                return self._value(variable, view)
            if deadline_s is not None and now_s() >= deadline_s:
                raise TimeoutError
            if now_s() - began_s < wait_s / 2:
                await asyncio.sleep(_EARLY_POLL_PAUSE_S)

    def _value(self, variable: SemanticVariable[Any], view: VariableView) -> str:
        if view.state == "ready" and view.value is not None:
            return view.value
        if view.state == "failed" and view.error is not None:
            error = from_body(view.error)
            known = upstream_failure(variable) if error.code in ("cancelled", "upstream_failed") else None
            raise known or error
        raise UnreachableError(
            f"{self._client.address} sent variable {variable.name} without value or error", code="bad_answer"
        )

    def _piece(
        self, variable: SemanticVariable[Any], assembler: PieceAssembler, event: StreamEvent
    ) -> str | None:
        try:
            match event.name:
                case "delta":
                    return assembler.delta(Delta.model_validate_json(event.data).text)
                case "reset":
                    assembler.reset()
                case "ready" | "failed":
                    view = VariableView.model_validate_json(event.data)
                    return assembler.finish(self._value(variable, view))
        except ValidationError:
            raise UnreachableError(
                f"{self._client.address} sent a {event.name} event that cannot be read", code="bad_answer"
            ) from None
        return None
