"""Applications of a program in the service's own process: nothing between it and the graph but the graph.

A client's call is text, which is read, checked, bound, stored and answered. A program that makes many
thousand calls, as the simulator does, gives them as they are used: the pieces of their prompts in order, with
what is known of them and the names of what is not.

    submit ([Constant │ Given │ Named │ Generated, …], …) ──▶ graph ──▶ placed and run as any other call

Sessions live in memory only and are silent: nobody but the program learns what happens in them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from parrot.core.executor.dispatcher import Dispatcher
from parrot.core.executor.keeper import Keeper
from parrot.core.executor.outlook import look_ahead
from parrot.core.executor.runtime import Runtime
from parrot.core.graph import NewCall
from parrot.core.prompts import Model, write_prompt
from parrot.core.sessions import LOWERED, CallRecord, Session
from parrot.core.variables import Variable
from parrot.errors import CallError, ConflictError, GoneError, NotFoundError
from parrot.types.events import SessionOpened
from parrot.types.ids import (
    CallId,
    IdSource,
    TenantId,
    VariableId,
    call_id,
    ephemeral_session_id,
    variable_id,
)
from parrot.types.objective import Objective
from parrot.types.program import ConstantSegment, InputSegment, OutputSegment, Program, Segment
from parrot.types.sampling import Sampling

_NOTHING: Mapping[str, str] = {}


class Constant(Struct):
    """Text of the semantic function itself."""

    text: str


class Given(Struct):
    """An input whose value is known."""

    value: str


class Named(Struct):
    """An input by the name of its variable, which a call may still have to produce."""

    variable: str


class Generated(Struct):
    """An output, and the name of the variable that it becomes."""

    variable: str
    sampling: Sampling


PromptPiece = Constant | Given | Named | Generated


class DirectCall(Struct):
    """One call, whose prompt begins with something that is not generated."""

    name: str
    prompt: Sequence[PromptPiece]


class Direct:
    """Opens sessions, submits to them, waits for values, closes them."""

    def __init__(
        self,
        runtime: Runtime,
        dispatcher: Dispatcher,
        keeper: Keeper,
        fresh: IdSource,
        *,
        state: Callable[[Session, Variable, Objective | None], None],
    ) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._keeper = keeper
        self._fresh = fresh
        self._state = state

    def open(self, tenant: TenantId, *, objective: Objective | None = None) -> Session:
        """Open a session; whoever opens it closes it."""
        session = self._keeper.open_ephemeral(
            SessionOpened(
                session_id=ephemeral_session_id(self._fresh),
                tenant_id=tenant,
                name=None,
                objective=objective,
                deadline_s=None,
                metadata=_NOTHING,
                wall_s=self._runtime.clock.wall_s(),
            ),
            silent=True,
        )
        session.num_readers = 1
        return session

    def close(self, session: Session) -> None:
        """Stop what runs, free everything. Idempotent."""
        self._keeper.drop(session)

    def submit(self, session: Session, model_name: str, calls: Sequence[DirectCall]) -> None:
        """Accept all calls or none.

        Raises:
            NotFoundError: `model_not_found`, `not_found`.
            ConflictError, GraphError, InvalidError: as of `ApplicationGraph.add`.
            CallError: `context_overflow`.
        """
        model = self._runtime.fleet.models.get(model_name)
        if model is None:
            raise NotFoundError("no model of that name is served here", code="model_not_found", param="model")
        batch = _Batch(session, model, self._fresh)
        batch.bind(calls)
        stages = session.graph.check(batch.new_calls, batch.new_variables)
        now = self._runtime.clock.wall_s()
        session.touched_at = now
        records = [
            self._record(session, model, call, batch, now, ready=ready)
            for call, ready in zip(batch.new_calls, batch.ready, strict=True)
        ]
        for record in records:
            session.records[record.call_id] = record
        added = session.graph.add(batch.new_calls, batch.new_variables, checked=stages)
        call_ids = [record.call_id for record in records]
        session.analysis.added(call_ids)
        self._runtime.counters["calls_submitted"] += len(records)
        self._dispatcher.spread(session, added.failed)
        self._dispatcher.make_ready(session, added.ready)
        if len(added.ready) < len(records):
            look_ahead(self._runtime, session, call_ids)

    async def values(
        self, session: Session, names: Iterable[str], objective: Objective | None = None
    ) -> list[str]:
        """Wait for the values of variables by their names; `objective` says how.

        Raises:
            CallError: with the code of the first that failed.
            GoneError: the session was closed.
        """
        variables = [session.graph.variable(name) for name in names]
        for variable in variables:
            self._state(session, variable, objective)
        found: list[str] = []
        for variable in variables:
            while variable.state == "pending":
                if session.closing:
                    raise GoneError("the session was closed", code="session_closed")
                await self._runtime.bells.wait(variable.variable_id)
            if variable.value is None:
                code = variable.failure.code if variable.failure is not None else "call_failed"
                raise CallError(f"the value of {variable.name!r} did not come", code=code)
            found.append(variable.value)
        return found

    def _record(
        self, session: Session, model: Model, call: NewCall, batch: "_Batch", now: float, *, ready: bool
    ) -> CallRecord:
        program = call.program
        assert program is not None, "bound calls have programs"
        prompt = None
        if ready:
            prompt = write_prompt(
                program,
                model,
                batch.variable,
                tenant_id=session.tenant_id,
                salt=self._runtime.config.salt,
                cache=self._runtime.tokens,
            )
        return CallRecord(
            call_id=call.call_id,
            name=call.name,
            spec=LOWERED,
            model=model.name,
            submitted_at=now,
            program=program,
            prompt=prompt,
            num_prompt_tokens=0 if prompt is None else prompt.num_tokens,
        )


class _Batch:
    """The calls of one submission: all outputs are bound first, then each call's inputs."""

    def __init__(self, session: Session, model: Model, fresh: IdSource) -> None:
        self._graph = session.graph
        self._opaque = session.opaque
        self._model = model
        self._fresh = fresh
        self._named: dict[str, Variable] = {}
        self._new: dict[VariableId, Variable] = {}
        self.new_calls: list[NewCall] = []
        self.ready: list[bool] = []
        """Whether all inputs of each call are there."""

    @property
    def new_variables(self) -> Sequence[Variable]:
        """Variables that are not in the graph yet."""
        return list(self._new.values())

    def variable(self, variable_id: VariableId) -> Variable:
        """One of the session's variables, or of those that come with the batch."""
        return self._new.get(variable_id) or self._graph.variables[variable_id]

    def bind(self, calls: Sequence[DirectCall]) -> None:
        """Give calls and variables their identifiers."""
        for call in calls:
            for piece in call.prompt:
                if isinstance(piece, Generated):
                    if piece.variable in self._named:
                        raise ConflictError(
                            f"the variable {piece.variable!r} has a producer already", code="already_produced"
                        )
                    known = self._graph.find_name(piece.variable)
                    self._named[piece.variable] = known or self._create(piece.variable, None)
        for call in calls:
            self._bind_call(call)

    def _bind_call(self, call: DirectCall) -> None:
        segments: list[Segment] = []
        inputs: dict[str, VariableId] = {}
        outputs: dict[str, VariableId] = {}
        ready = True
        for index, piece in enumerate(call.prompt):
            if isinstance(piece, Constant):
                segments.append(ConstantSegment(text=piece.text))
                continue
            place = f"p{index}"
            if isinstance(piece, Generated):
                bound = outputs[place] = self._named[piece.variable].variable_id
                segments.append(OutputSegment(placeholder=place, variable_id=bound, sampling=piece.sampling))
                continue
            if isinstance(piece, Given):
                variable = self._create(None, piece.value)
            else:
                variable = self._named.get(piece.variable) or self._graph.variable(piece.variable)
                ready = ready and variable.state == "ready"
            bound = inputs[place] = variable.variable_id
            segments.append(InputSegment(placeholder=place, variable_id=bound))
        self.ready.append(ready)
        self.new_calls.append(
            NewCall(
                call_id=CallId(call_id(self._fresh)),
                name=call.name,
                inputs=inputs,
                outputs=outputs,
                program=Program(model=self._model.name, segments=tuple(segments), opaque=self._opaque),
            )
        )

    def _create(self, name: str | None, value: str | None) -> Variable:
        made = Variable(variable_id=variable_id(self._fresh), name=name)
        if value is not None:
            made.value, made.state = value, "ready"
        self._new[made.variable_id] = made
        return made
