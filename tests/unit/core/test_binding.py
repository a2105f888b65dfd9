"""Names become identifiers."""

import itertools

import pytest

from parrot.core.binding import Bound, bind
from parrot.core.graph import ApplicationGraph, NewCall
from parrot.core.limits import Limits
from parrot.errors import ConflictError, GraphError, InvalidError, NotFoundError, ParrotError, TooLargeError
from parrot.types.ids import VariableId, is_variable_id
from parrot.wire.requests import CallSpec, SubmitCalls

LIMITS = Limits()


class Session:
    """A graph to which submissions are bound and added, as a service does it."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.graph = ApplicationGraph(limits)
        self._numbers = itertools.count(1)

    def fresh(self) -> str:
        return f"{next(self._numbers):032x}"

    def bind(self, *calls: dict[str, object]) -> Bound:
        request = SubmitCalls.model_validate(
            {"calls": [{"template": "{{a}}{{b}}", **call} for call in calls]}
        )
        return bind(self.graph, request, fresh=self.fresh, limits=self.limits)

    def submit(self, *calls: dict[str, object]) -> Bound:
        bound = self.bind(*calls)
        self.graph.add(
            [
                NewCall(call_id=c.call_id, name=c.name, inputs=c.inputs, outputs=c.outputs)
                for c in bound.calls
            ],
            bound.variables,
        )
        return bound

    def refused(self, *calls: dict[str, object]) -> ParrotError:
        with pytest.raises(ParrotError) as caught:
            self.bind(*calls)
        return caught.value


def call(name: str | None = None, **parameters: object) -> dict[str, object]:
    return {"parameters": parameters} | ({"name": name} if name else {})


def output(variable: str | None = None) -> dict[str, object]:
    return {"output": {"variable": variable} if variable else {}}


def ref(variable: str) -> dict[str, object]:
    return {"variable": variable}


def test_an_inline_value_is_stored_once_as_a_ready_variable() -> None:
    bound = Session().bind(call(a={"value": "a long text"}, b=output()))
    value, out = sorted(bound.variables, key=lambda v: v.value is None)
    assert (value.name, value.value, out.value) == (None, "a long text", None)
    assert bound.calls[0].inputs == {"a": value.variable_id}
    assert "a long text" not in bound.calls[0].spec
    assert (
        CallSpec.model_validate_json(bound.calls[0].spec).parameters["a"]
        == CallSpec.model_validate({"parameters": {"a": ref(value.variable_id)}}).parameters["a"]
    )


def test_the_stored_spec_reads_as_the_same_call() -> None:
    spec: dict[str, object] = {
        "name": "x",
        "model": "m",
        "template": "{{a}} {{b}}",
        "parameters": {
            "a": {"variable": "doc"},
            "b": {
                "output": {
                    "variable": "sum",
                    "sampling": {"max_tokens": 7, "stop": ["."]},
                    "schema": {"type": "string"},
                    "transforms": [{"type": "strip"}, {"type": "json", "pointer": "/a"}],
                }
            },
        },
    }
    stored = Session().bind(spec).calls[0].spec
    assert CallSpec.model_validate_json(stored) == CallSpec.model_validate(spec)


def test_calls_of_one_batch_meet_by_name_in_either_order() -> None:
    bound = Session().bind(
        call("late", a=ref("mid"), b=output("end")),
        call("early", a=ref("start"), b=output("mid")),
        call("also", a=ref("start"), b=output()),
    )
    late, early, also = bound.calls
    assert late.inputs["a"] == early.outputs["b"]
    assert early.inputs["a"] == also.inputs["a"]
    assert sorted(v.name or "" for v in bound.variables) == ["", "end", "mid", "start"]


def test_a_name_or_id_of_the_session_is_found_again() -> None:
    session = Session()
    first = session.submit(call(a=ref("doc"), b=output("mid"))).calls[0]
    by_name, by_id = session.bind(
        call(a=ref("mid"), b=output()), call(a=ref(first.outputs["b"]), b=output())
    ).calls
    assert by_name.inputs["a"] == by_id.inputs["a"] == first.outputs["b"]


def test_an_output_takes_over_a_variable_that_is_waited_for() -> None:
    session = Session()
    waiting = session.submit(call(a=ref("mid"), b=output())).calls[0]
    bound = session.bind(call(a=ref("doc"), b=output("mid")))
    assert bound.calls[0].outputs["b"] == waiting.inputs["a"]
    assert [v.name for v in bound.variables] == ["doc"]


def test_a_second_producer_is_refused() -> None:
    session = Session()
    session.submit(call(a=ref("doc"), b=output("mid")))
    session.graph.put(session.graph.variable("doc").variable_id, None, "set")
    errors = [
        session.refused(call(a=ref("x"), b=output("mid"))),
        session.refused(call(a=ref("x"), b=output("doc"))),
        session.refused(call(b=output("new")), call(b=output("new"))),
        session.refused(call(a=output("new"), b=output("new"))),
    ]
    assert all(isinstance(error, ConflictError) and error.code == "already_produced" for error in errors)
    assert [error.param for error in errors] == [
        "calls[0].parameters.b", "calls[0].parameters.b", "calls[1].parameters.b", "calls[0].parameters.b"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "reference", ["var_" + "0" * 31 + "1", "../../x", "x y", "é", "ses_" + "0" * 32, "' OR 1=1--"]
)
def test_an_unknown_id_is_not_found(reference: str) -> None:
    error = Session().refused(call(b=output()), call(a=ref(reference), b=output()))
    assert isinstance(error, NotFoundError)
    assert error.param == "calls[1].parameters.a"


def test_every_call_has_a_readable_name_of_its_own() -> None:
    session = Session()
    first = session.submit(call(b=output()), call("call_2", b=output()), call(b=output()))
    second = session.bind(call(b=output()))
    assert [c.name for c in (*first.calls, *second.calls)] == ["call_0", "call_2", "call_2_", "call_3"]


def test_two_calls_of_one_batch_with_one_name_are_refused() -> None:
    error = Session().refused(call("x", b=output()), call("x", b=output()))
    assert isinstance(error, GraphError)
    assert (error.code, error.param) == ("duplicate_name", "calls[1].name")


def test_sizes_are_bounded() -> None:
    session = Session(Limits(max_value_bytes=10, max_call_bytes=200, max_batch_calls=2))
    value = session.refused(call(a={"value": "é" * 6}, b=output()))
    whole = session.refused(call(b=output()), {"template": "x" * 300, "parameters": {"b": output()}})
    batch = session.refused(*[call(b=output())] * 3)
    assert isinstance(value, TooLargeError)
    assert isinstance(whole, TooLargeError)
    assert (value.param, value.data) == ("calls[0].parameters.a", {"limit_bytes": 10})
    assert (whole.param, whole.data) == ("calls[1]", {"limit_bytes": 200})
    assert isinstance(batch, InvalidError)
    assert batch.code == "too_many"


def test_inline_values_count_for_a_calls_size() -> None:
    session = Session(Limits(max_call_bytes=1000))
    error = session.refused(call(a={"value": "x" * 600}, b={"value": "x" * 600}, c=output()))
    assert isinstance(error, TooLargeError)
    assert error.data == {"limit_bytes": 1000}


def test_binding_changes_nothing() -> None:
    session = Session()
    bound = session.bind(call(a=ref("doc"), b=output("sum")))
    assert len(session.graph.variables) == len(session.graph.calls) == 0
    assert all(is_variable_id(v.variable_id) for v in bound.variables)
    assert session.graph.find_name("doc") is None
    assert VariableId("doc") not in session.graph.variables
