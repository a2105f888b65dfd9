import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, NewType, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot.types.events import CallPlaced, Event, Failure, VariableFailed, VariableReady
from parrot.types.ids import CallId, EngineId, SessionId, VariableId
from parrot.wire.events import EVENT_NAMES, decode_event, encode_event, event_name, event_to_json

EVENT_CLASSES: tuple[type[Any], ...] = get_args(Event)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON_VALUES: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
SCALARS: dict[object, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(0, 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    types.NoneType: st.none(),
    object: JSON_VALUES,
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, as far as events use types."""
    if isinstance(hint, NewType):
        return values(hint.__supertype__)
    if is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        return st.builds(hint, **{field.name: values(hints[field.name]) for field in fields(hint)})
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(values, arguments))
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    return SCALARS[hint]


READY = VariableReady(
    session_id=SessionId("ses_1"),
    variable_id=VariableId("var_1"),
    call_id=CallId("call_1"),
    attempt=1,
    value="ok",
    num_tokens=2,
)


@given(st.one_of(*map(values, EVENT_CLASSES)))
def test_every_event_comes_back_as_it_was(event: Event) -> None:
    assert decode_event(event_name(event), encode_event(event)) == event


@pytest.mark.parametrize("event_class", EVENT_CLASSES, ids=lambda cls: str(cls.__name__))
@given(st.data())
def test_the_json_object_says_the_kind_and_every_field(event_class: type[Any], data: st.DataObject) -> None:
    event = data.draw(values(event_class))
    content = json.loads(json.dumps(event_to_json(event)))
    assert content.keys() == {"event", *(field.name for field in fields(event_class))}
    assert content["event"] in EVENT_NAMES


def test_names_are_the_classes_in_snake_case() -> None:
    assert len(EVENT_NAMES) == len(EVENT_CLASSES)
    assert {"session_opened", "calls_submitted", "call_placed", "variable_ready"} <= EVENT_NAMES


def test_a_field_that_is_not_known_any_more_is_skipped() -> None:
    content = json.loads(encode_event(READY)) | {"colour": "green"}
    assert decode_event("variable_ready", json.dumps(content)) == READY


def test_a_field_that_was_added_later_takes_its_default() -> None:
    failed = VariableFailed(
        session_id=SessionId("s"),
        variable_id=VariableId("v"),
        call_id=None,
        attempt=0,
        failure=Failure(code="x", message="y"),
    )
    content = json.loads(encode_event(failed))
    del content["failure"]["data"]
    assert decode_event("variable_failed", json.dumps(content)) == failed


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"session_id": 1}'])
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode_event("variable_ready", text)


def test_a_kind_of_a_newer_version_is_told_from_damage() -> None:
    with pytest.raises(LookupError, match="call_teleported"):
        decode_event("call_teleported", "{}")


def test_numbers_keep_their_type() -> None:
    placed = CallPlaced(
        session_id=SessionId("s"),
        call_id=CallId("c"),
        attempt=1,
        engine_id=EngineId("e"),
        why="w",
        num_shared_tokens=0,
        wall_s=5.0,
    )
    back = decode_event("call_placed", encode_event(placed))
    assert isinstance(back, CallPlaced)
    assert (type(back.wall_s), type(back.attempt)) == (float, int)
