"""Declaring semantic functions: what the template becomes, and what is refused where."""

from typing import Annotated, Any, NamedTuple

import pytest
from pydantic import BaseModel

import parrot
from parrot import Input, Join, Output, Pattern, RegexTransform, Sampling, Schema, semantic_function
from parrot.errors import CallError, SemanticFunctionError
from parrot.sdk.function import SamplingOptions, SemanticFunction
from parrot.wire.requests import CallSpec, OutputParameter, SamplingSpec


class Plan(BaseModel):
    steps: list[str]
    days: int


class Pair(NamedTuple):
    code: parrot.SemanticVariable[Any]
    test: parrot.SemanticVariable[Any]


def spec_of(function: SemanticFunction[Any]) -> CallSpec:
    plan = function.plan
    return plan.call_spec(
        name="call",
        model=None,
        prompt=plan.prompt,
        inputs={name: {"value": name} for name in plan.signature.parameters},
        output_names={name: f"out_{name}" for name in plan.outputs},
    )


def output_of(function: SemanticFunction[Any], name: str) -> Any:
    parameter = spec_of(function).parameters[name]
    assert isinstance(parameter, OutputParameter)
    return parameter.output


def refusal(function: Any, **options: Any) -> SemanticFunctionError:
    decorate: Any = semantic_function(**options) if options else semantic_function
    with pytest.raises(SemanticFunctionError) as caught:
        decorate(function)
    return caught.value


def test_docstring_is_dedented_and_stripped_to_become_the_template() -> None:
    @semantic_function
    def write(task: Input, code: Output) -> None:
        """
        You write Python.
            Task: {{task}}

        Code: {{code}}
        """

    assert spec_of(write).template == "You write Python.\n    Task: {{task}}\n\nCode: {{code}}"


def test_one_line_docstring_is_taken_as_it_is() -> None:
    @semantic_function()
    def write(task: Input, code: Output) -> None:
        """Write {{task}}: {{code}}"""

    assert spec_of(write).template == "Write {{task}}: {{code}}"
    assert write.plan.name == "write"


def test_decorator_options_are_defaults_and_annotated_sampling_replaces_them() -> None:
    @semantic_function(max_tokens=7, temperature=0.5, stop="\n", model="m", name="renamed")
    def write(task: Input, code: Output, note: Annotated[Output, Sampling(max_tokens=3)]) -> None:
        """{{input:task}} {{output:code}} {{ note }}"""

    assert output_of(write, "code").sampling.model_dump(exclude_defaults=True) == {
        "max_tokens": 7,
        "temperature": 0.5,
        "stop": ("\n",),
    }
    assert output_of(write, "note").sampling.model_dump(exclude_defaults=True) == {"max_tokens": 3}
    assert (spec_of(write).name, spec_of(write).model, write.plan.name) == ("call", "m", "renamed")


def test_sampling_options_are_exactly_those_that_travel() -> None:
    assert set(SamplingOptions.__annotations__) == set(SamplingSpec.model_fields)


def test_transforms_travel_in_order() -> None:
    @semantic_function
    def write(
        task: Input, code: Annotated[Output, RegexTransform(pattern="a+"), parrot.StripTransform()]
    ) -> None:
        """{{task}}: {{code}}"""

    kinds = [transform.type for transform in output_of(write, "code").transforms]
    assert kinds == ["regex", "strip"]


def test_typed_outputs_are_reduced_to_json_and_parsed() -> None:
    @semantic_function
    def plan(goal: Input, steps: Output[list[str]], whole: Output[Plan]) -> None:
        """{{goal}} {{steps}} {{whole}}"""

    assert [t.type for t in output_of(plan, "steps").transforms] == ["json"]
    parse = plan.plan.outputs["steps"].parse
    parse_whole = plan.plan.outputs["whole"].parse
    assert parse is not None
    assert parse_whole is not None
    steps: Any = parse('["a", "b"]')
    assert steps == ["a", "b"]
    assert parse_whole('{"steps": [], "days": 2}') == Plan(steps=[], days=2)
    with pytest.raises(CallError, match="declared type") as caught:
        parse('{"a": 1}')
    assert caught.value.code == "bad_value"


def test_schema_and_pattern_constrain_an_output() -> None:
    @semantic_function
    def plan(
        goal: Input,
        whole: Annotated[Output[Plan], Schema()],
        own: Annotated[Output, Schema(schema={"type": "object"})],
        word: Annotated[Output, Pattern("[a-z]+")],
    ) -> None:
        """{{goal}} {{whole}} {{own}} {{word}}"""

    assert output_of(plan, "whole").schema_["properties"]["days"] == {"title": "Days", "type": "integer"}
    assert output_of(plan, "own").schema_ == {"type": "object"}
    assert output_of(plan, "word").regex == "[a-z]+"


def test_chat_messages_are_the_template_and_the_docstring_is_free() -> None:
    @semantic_function(
        messages=[parrot.system("Be {{tone}}."), parrot.user("Hello {{name}}"), parrot.assistant("{{reply}}")]
    )
    def greet(tone: Input, name: Input, reply: Output) -> None:
        """Says hello, in a {manner}."""

    spec = spec_of(greet)
    assert spec.template is None
    assert spec.messages is not None
    assert [(message.role, message.content) for message in spec.messages] == [
        ("system", "Be {{tone}}."),
        ("user", "Hello {{name}}"),
        ("assistant", "{{reply}}"),
    ]


def test_result_class_must_have_the_outputs_as_fields() -> None:
    def write(task: Input, code: Output, test: Output) -> None:
        """{{task}} {{code}} {{test}}"""

    assert semantic_function(result=Pair)(write).plan.result is Pair

    def other(task: Input, code: Output) -> None:
        """{{task}} {{code}}"""

    assert "must be a NamedTuple with the fields code" in refusal(other, result=Pair).message


def test_joined_input_becomes_one_placeholder_a_member() -> None:
    @semantic_function
    def combine(notes: Annotated[Input, Join("{{")], notes_0: Input, whole: Output) -> None:
        """{{notes_0}} of {{notes}}: {{whole}}"""

    prompt, inputs = combine.plan.expand({"notes": ["a", "b"], "notes_0": "c"})
    assert prompt == {"template": "{{notes_0}} of {{input:notes__0}}{{{{{{input:notes__1}}: {{whole}}"}
    assert inputs == {"notes__0": "a", "notes__1": "b", "notes_0": "c"}
    assert combine.plan.expand({"notes": (), "notes_0": "c"})[0] == {"template": "{{notes_0}} of : {{whole}}"}
    with pytest.raises(TypeError, match="notes takes a list, not str"):
        combine.plan.expand({"notes": "abc", "notes_0": "c"})


def test_joined_input_stands_in_messages_too() -> None:
    @semantic_function(messages=[parrot.user("{{notes}}"), parrot.assistant("{{whole}}")])
    def combine(notes: Annotated[Input, Join()], whole: Output) -> None:
        """Combines."""

    prompt, _ = combine.plan.expand({"notes": ["a", "b"]})
    assert prompt["messages"] == [
        {"role": "user", "content": "{{input:notes_0}}\n{{input:notes_1}}"},
        {"role": "assistant", "content": "{{whole}}"},
    ]


def test_literal_braces_and_other_languages_stay_as_they_are() -> None:
    @semantic_function
    def write(task: Input, code: Output) -> None:
        """JSON {"a": {x}} {% if %} {0.__class__} %s $(id) {{{{ {{task}} {{code}}"""

    assert "{0.__class__}" in (spec_of(write).template or "")


def no_output(task: Input) -> None:
    """{{task}}"""


def no_docstring(task: Input, code: Output) -> None: ...


def unused(task: Input, extra: Input, code: Output) -> None:
    """{{task}} {{code}}"""


def unannotated(task: Input, other, code: Output) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """{{task}} {{other}} {{code}}"""


def mutable(task: Input, code: Output, more: Input = []) -> None:  # type: ignore[assignment]  # noqa: B006
    """{{task}} {{more}} {{code}}"""


def many(*tasks: Input, code: Output) -> None:
    """{{tasks}} {{code}}"""


def twice(task: Input, code: Output) -> None:
    """{{task}} {{code}} {{code}}"""


def first(task: Input, code: Output) -> None:
    """{{code}} {{task}}"""


def disagreeing(task: Input, code: Output) -> None:
    """{{output:task}} {{code}}"""


def output_default(task: Input, code: Output = "x") -> None:  # type: ignore[assignment]
    """{{task}} {{code}}"""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (no_output, "no parameter is an `Output`"),
        (no_docstring, "no docstring"),
        (unused, "parameter 'extra' is unused"),
        (unannotated, "must be annotated `Input` or `Output`"),
        (mutable, "a mutable default of type list"),
        (many, "cannot stand for placeholders"),
        (twice, "a second time"),
        (first, "needs a prompt before it"),
        (disagreeing, "is declared as an input"),
        (output_default, "has a default; the model writes it"),
        (lambda task: task, "cannot name calls"),
    ],
)
def test_wrong_declarations_are_refused_when_decorated(function: Any, words: str) -> None:
    error = refusal(function)
    assert words in error.message
    assert error.code == "bad_function"


@pytest.mark.parametrize(
    "options", [{"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 2.0}, {"stop": [""]}]
)
def test_wrong_sampling_is_refused_when_decorated(options: dict[str, Any]) -> None:
    def write(task: Input, code: Output) -> None:
        """{{task}} {{code}}"""

    assert next(iter(options)) in refusal(write, **options).message


def test_inputs_take_no_annotation_but_join_and_a_joined_one_no_default() -> None:
    def sampled(task: Annotated[Input, Sampling()], code: Output) -> None:
        """{{task}} {{code}}"""

    def preset(task: Annotated[Input, Join()] = "x", *, code: Output) -> None:
        """{{task}} {{code}}"""

    assert "inputs take only one Join" in refusal(sampled).message
    assert "can have no default" in refusal(preset).message


def test_unknown_option_is_named() -> None:
    def write(task: Input, code: Output) -> None:
        """{{task}} {{code}}"""

    assert "no option max_token" in refusal(write, max_token=5).message


def test_unknown_placeholder_is_pointed_at_with_a_suggestion() -> None:
    def write(task: Input, code: Output) -> None:
        """You are an engineer.

        Write Python for {{taks}}.
        Code: {{code}}
        """

    error = refusal(write)
    assert error.data == {"position": 39, "line": 3, "column": 18}
    assert "did you mean {{task}}?" in error.message
    _, _, excerpt, caret, _ = error.message.split("\n")
    assert excerpt[caret.index("^") :].startswith("{{taks}}")


@pytest.mark.parametrize(
    "field", ["{task}", "{ task }", "{task!r}", "{task:>10}", "{task.name}", "{task[0]}"]
)
def test_single_braces_around_a_parameter_are_taken_for_a_forgotten_brace(field: str) -> None:
    def write(task: Input, code: Output) -> None: ...

    write.__doc__ = "Do {{task}}\nand " + field + ". {{code}}"
    error = refusal(write)
    assert "placeholders have two braces, {{task}}" in error.message
    assert (error.data["line"], error.data["column"]) == (2, 5)


@pytest.mark.parametrize("broken", ["{{a b}}", "{{}}", "{{1x}}", "{{a.b}}", "{{a|upper}}", "{{task"])
def test_broken_placeholder_is_refused_with_its_position(broken: str) -> None:
    def write(task: Input, code: Output) -> None: ...

    write.__doc__ = f"Do {{{{task}}}} {broken} {{{{code}}}}"
    assert refusal(write).data["position"] == 12


def test_error_in_a_message_says_which_message() -> None:
    def chat(text: Input, reply: Output) -> None:
        """Chats."""

    messages = [parrot.system("Be kind."), parrot.user("{{txet}}"), parrot.assistant("{{reply}}")]
    assert "messages[1] (user), line 1, column 1" in refusal(chat, messages=messages).message


def test_calling_outside_any_session_says_how() -> None:
    @semantic_function
    def write(task: Input, code: Output) -> None:
        """{{task}} {{code}}"""

    with pytest.raises(parrot.UsageError, match=r"async with parrot\.connect"):
        write(task="x")
