"""Waiting for values: long polls and streams."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from pydantic import ValidationError

from parrot.errors import UnreachableError, WaitTimeoutError
from parrot.sdk.assembler import PieceAssembler
from parrot.sdk.client import Client, StreamEvent
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

    def __init__(self, client: Client, session_id: str) -> None:
        self._client = client
        self._session_id = session_id
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
                f"{variable.name} was not ready within {timeout_s or 0:g} s; its call goes on",
                data={"timeout_s": timeout_s},
            ) from None

    async def stream(
        self, variable: SemanticVariable[Any], objective: Objective | None
    ) -> AsyncGenerator[str, None]:
        """A variable's text in pieces; see `SemanticVariable.stream`."""
        if variable.local is not None and (variable.local.done or not variable.settable):
            if text := await variable.local.wait():
                yield text
            return
        if variable.accepted is not None:
            await variable.accepted.wait()
        assembler = PieceAssembler(variable.name)
        reference = variable.id or variable.name
        async with aclosing(self._client.variable_events(self._session_id, reference, objective)) as events:
            async for event in events:
                if piece := self._piece(variable, assembler, event):
                    yield piece

    async def _read(
        self, variable: SemanticVariable[Any], objective: Objective | None, timeout_s: float | None
    ) -> str:
        only_look = timeout_s == 0
        if variable.local is not None and (variable.local.done or not variable.settable):
            if only_look and not variable.local.done:
                raise TimeoutError
            return await variable.local.wait()
        if variable.accepted is not None:
            if only_look and not variable.accepted.done:
                raise TimeoutError
            await variable.accepted.wait()
        async with self._polls:
            return await self._poll(variable, objective, timeout_s)

    async def _poll(
        self, variable: SemanticVariable[Any], objective: Objective | None, timeout_s: float | None
    ) -> str:
        now_s = asyncio.get_running_loop().time
        deadline_s = None if timeout_s is None else now_s() + timeout_s
        while True:
            began_s = now_s()
            wait_s = MAX_POLL_S if deadline_s is None else min(MAX_POLL_S, max(0.0, deadline_s - began_s))
            view = await self._client.get_variable(
                self._session_id, variable.id or variable.name, wait_s=wait_s, objective=objective
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
