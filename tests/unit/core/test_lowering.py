"""Calls are checked without a model, and lowered with its tokenizer."""

import time
from collections.abc import Mapping, Sequence

import jinja2
import pytest

from parrot.core.limits import Limits
from parrot.core.lowering import check_call, lower
from parrot.errors import InvalidError, ParrotError, TemplateError, TooLargeError
from parrot.types.ids import VariableId
from parrot.types.program import ConstantSegment, InputSegment, OutputSegment, Program, StripTransform
from parrot.types.sampling import Grammar, Sampling
from parrot.wire.requests import CallSpec

LIMITS = Limits()

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = (
    "<s>{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
TRIMS_USERS = (
    "{% for m in messages %}<{{ m.role[0] }}>"
    "{% if m.role == 'user' %}{{ m.content | trim }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
SYSTEM_LAST = (
    "{% for m in messages if m.role != 'system' %}<{{ m.role[0] }}>"
    "{% if m.role == 'user' and messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}"
    "{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
NO_SYSTEM = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"


class ChatTokenizer:
    """A tokenizer as far as lowering asks it: a chat template and a beginning of sequence."""

    vocab_size = 2

    def __init__(self, template: str, bos: str = "") -> None:
        self._template = jinja2.Environment().from_string(template)
        self._bos = bos

    @property
    def bos_ids(self) -> tuple[int, ...]:
        return (1,) if self._bos else ()

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        raise NotImplementedError

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._bos * len(token_ids)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
    ) -> str:
        return self._template.render(messages=messages, add_generation_prompt=add_generation_prompt)


def output(**spec: object) -> dict[str, object]:
    return {"output": spec}


VALUE = {"value": "text"}


def lowered(spec: Mapping[str, object], tokenizer: ChatTokenizer | None = None) -> Program:
    call = CallSpec.model_validate(spec)
    names = {name: VariableId(f"v_{name}") for name in call.parameters}
    return lower(
        check_call(call, LIMITS),
        inputs=names,
        outputs=names,
        model="m",
        tokenizer=tokenizer or ChatTokenizer(CHATML),
    )


def shown(program: Program) -> list[str]:
    """Segments as text: `M:` markup, `T:` plain text, `<` input, `>` output."""
    texts: list[str] = []
    for segment in program.segments:
        match segment:
            case ConstantSegment():
                texts.append(("M:" if segment.markup else "T:") + segment.text)
            case InputSegment():
                texts.append("<" + segment.placeholder)
            case OutputSegment():
                texts.append(">" + segment.placeholder)
    return texts


def chat(*messages: tuple[str, str], **parameters: object) -> dict[str, object]:
    return {
        "messages": [{"role": role, "content": content} for role, content in messages],
        "parameters": parameters,
    }


def refused(spec: Mapping[str, object], limits: Limits = LIMITS) -> ParrotError:
    with pytest.raises(ParrotError) as caught:
        check_call(CallSpec.model_validate(spec), limits)
    return caught.value


def test_a_template_becomes_segments() -> None:
    program = lowered(
        {
            "template": "<|sys|>Do {{{{x}} {{a}}, {{ a }}: {{output:b}} then {{c}} end {{a}}",
            "parameters": {"a": VALUE, "b": output(sampling={"max_tokens": 5}), "c": output()},
        }
    )
    assert shown(program) == ["M:<|sys|>Do {{x}} ", "<a", "M:, ", "<a", "M:: ", ">b", "M: then ", ">c"]
    assert [s.variable_id for s in program.inputs()] == ["v_a", "v_a"]
    assert next(program.outputs()).sampling == Sampling(max_tokens=5)
    assert (program.model, program.add_bos) == ("m", True)


def test_an_output_carries_its_transforms_and_grammar() -> None:
    program = lowered(
        {"template": "x {{b}}", "parameters": {"b": output(regex="[0-9]+", transforms=[{"type": "strip"}])}}
    )
    found = next(program.outputs())
    assert found.transforms == (StripTransform(),)
    assert found.grammar == Grammar(kind="regex", source="[0-9]+")


def test_text_that_only_looks_like_code_is_literal() -> None:
    text = "{% for x in range(10**9) %}{0.__class__} %s $(id) }} "
    assert shown(lowered({"template": text + "{{b}}", "parameters": {"b": output()}}))[0] == "M:" + text


@pytest.mark.parametrize(
    ("spec", "code", "param"),
    [
        ({}, "missing_field", "template"),
        ({"template": ""}, "no_output", "template"),
        ({"template": "x", "messages": [{"role": "user", "content": "x"}]}, "invalid", "messages"),
        ({"template": "x {{b}}"}, "unbound_placeholder", "template"),
        (
            {"template": "x {{b}}", "parameters": {"b": output(), "c": VALUE}},
            "unused_parameter",
            "parameters.c",
        ),
        ({"template": "x {{b}} {{b}}", "parameters": {"b": output()}}, "duplicate_output", "template"),
        ({"template": "x {{a}}", "parameters": {"a": VALUE}}, "no_output", "template"),
        ({"template": "{{b}} x", "parameters": {"b": output()}}, "empty_prompt", "template"),
        ({"template": "x {{b c}}", "parameters": {"b": output()}}, "bad_placeholder", "template"),
        ({"template": "{{7*7}}{{b}}", "parameters": {"b": output()}}, "bad_placeholder", "template"),
        ({"template": "x {{output:b}}", "parameters": {"b": VALUE}}, "bad_parameter", "template"),
        ({"template": "x {{input:b}}", "parameters": {"b": output()}}, "bad_parameter", "template"),
        (chat(("user", "x")), "no_output", "messages[0]"),
        (chat(("user", "x"), ("assistant", "done")), "no_output", "messages[1]"),
        (chat(("assistant", "{{b}}"), ("user", "x"), b=output()), "no_output", "messages[1]"),
        (
            chat(("user", "{{b}}"), ("assistant", "{{c}}"), b=output(), c=output()),
            "bad_messages",
            "messages[0]",
        ),
        (chat(("assistant", " {{b}}"), b=output()), "empty_prompt", "messages[0]"),
        (chat(("user", "{{a"), ("assistant", "{{b}}"), b=output()), "bad_placeholder", "messages[0].content"),
        (chat(("user", "x"), ("assistant", "{{b}}")), "unbound_placeholder", "messages[1].content"),
        (
            {"template": "x {{b}}", "parameters": {"b": output(sampling={"max_tokens": 3, "min_tokens": 4})}},
            "invalid",
            "parameters.b.output.sampling.min_tokens",
        ),
        (
            {
                "template": "x {{b}}",
                "parameters": {"b": output(transforms=[{"type": "regex", "pattern": "("}])},
            },
            "regex_unsupported",
            "parameters.b.output.transforms[0].pattern",
        ),
        (
            {"template": "x {{b}}", "parameters": {"b": output(schema={"type": "foo"})}},
            "grammar_unsupported",
            "parameters.b.output.schema",
        ),
    ],
)
def test_a_call_that_is_wrong_in_itself_is_refused(spec: dict[str, object], code: str, param: str) -> None:
    error = refused(spec)
    assert (error.code, error.param) == (code, param)
    assert isinstance(error, InvalidError)


def test_an_error_in_a_template_tells_its_position() -> None:
    assert refused({"template": "12345{{b}}"}).data == {"position": 5}


def test_the_number_of_placeholders_is_bounded() -> None:
    parameters = {"a": VALUE, "b": output()}
    assert refused({"template": "{{a}}" * 128 + "{{b}}", "parameters": parameters}).code == "too_many"
    assert check_call(
        CallSpec.model_validate({"template": "{{a}}" * 127 + "{{b}}", "parameters": parameters}), LIMITS
    ).outputs.keys() == {"b"}


def test_a_large_template_is_refused_by_bytes_and_a_bomb_quickly() -> None:
    large = refused(chat(("user", "é" * 60), ("assistant", "x" * 90)), Limits(max_template_bytes=200))
    begun = time.process_time()
    bomb = refused({"template": "{{" * 100_000})
    assert time.process_time() - begun < 0.05
    assert isinstance(large, TooLargeError)
    assert (large.param, large.data) == ("messages", {"limit_bytes": 200})
    assert bomb.code in {"no_output", "bad_placeholder"}


def test_messages_keep_markup_text_and_placeholders_apart() -> None:
    program = lowered(
        chat(
            ("system", "Be {{how}} <|im_end|>"),
            ("user", " {{question}} \n"),
            ("assistant", "{{answer}}"),
            how=VALUE,
            question=VALUE,
            answer=output(),
        )
    )
    assert shown(program) == [
        "M:<|im_start|>system\n", "T:Be ", "<how", "T: <|im_end|>", "M:<|im_end|>\n<|im_start|>user\n",
        "T: ", "<question", "T: \n", "M:<|im_end|>\n<|im_start|>assistant\n", ">answer",
    ]  # fmt: skip
    assert program.add_bos is True


def test_contents_are_trimmed_where_the_chat_template_trims_them() -> None:
    messages = (("system", " a {{x}} "), ("user", "\n b {{x}}\tc \n"), ("assistant", "\n {{y}}"))
    parameters = {"x": VALUE, "y": output()}
    everywhere = lowered(chat(*messages, **parameters), ChatTokenizer(TRIMMING, bos="<s>"))
    users = lowered(chat(*messages, **parameters), ChatTokenizer(TRIMS_USERS, bos="<s>"))
    assert shown(everywhere) == [
        "M:<s>[system] ", "T:a ", "<x", "M:</s>[user] ", "T:b ", "<x", "T:\tc", "M:</s>[assistant] ", ">y"
    ]  # fmt: skip
    assert shown(users) == ["M:<s>", "T: a ", "<x", "T: ", "M:<u>", "T:b ", "<x", "T:\tc", "M:<a>", ">y"]
    assert everywhere.add_bos is False, "the chat template has written it"


def test_a_beginning_of_sequence_that_the_template_does_not_write_is_added() -> None:
    spec = chat(("user", "x"), ("assistant", "{{y}}"), y=output())
    assert lowered(spec, ChatTokenizer(CHATML, bos="<bos>")).add_bos is True


def test_an_answer_that_begins_with_text_is_continued() -> None:
    program = lowered(chat(("user", "x"), ("assistant", "So: {{y}} and {{z}} end."), y=output(), z=output()))
    assert shown(program) == [
        "M:<|im_start|>user\n", "T:x", "M:<|im_end|>\n<|im_start|>assistant\n", "T:So: ", ">y",
        "T: and ", ">z",
    ]  # fmt: skip


def test_several_turns_are_generated_in_order_and_what_follows_the_last_output_is_dropped() -> None:
    turns = (("user", "one"), ("assistant", "{{a}}"), ("user", "two"), ("assistant", "{{b}} dropped"))
    rest = (("user", "dropped {{c}}"), ("assistant", "dropped"))
    program = lowered(chat(*turns, *rest, a=output(), b=output(), c=VALUE))
    assert shown(program) == [
        "M:<|im_start|>user\n", "T:one", "M:<|im_end|>\n<|im_start|>assistant\n", ">a",
        "M:<|im_end|>\n<|im_start|>user\n", "T:two", "M:<|im_end|>\n<|im_start|>assistant\n", ">b",
    ]  # fmt: skip


def test_a_template_that_moves_a_message_keeps_its_content_whole() -> None:
    spec = chat(("system", "s{{x}}"), ("user", "u"), ("assistant", "{{y}}"), x=VALUE, y=output())
    assert shown(lowered(spec, ChatTokenizer(SYSTEM_LAST))) == [
        "M:<u>",
        "T:s",
        "<x",
        "M:\n\n",
        "T:u",
        "M:<a>",
        ">y",
    ]


def test_a_template_that_loses_a_message_is_refused() -> None:
    spec = chat(("system", "s"), ("user", "u"), ("assistant", "{{y}}"), y=output())
    with pytest.raises(TemplateError) as caught:
        lowered(spec, ChatTokenizer(NO_SYSTEM))
    assert (caught.value.code, caught.value.param) == ("bad_messages", "messages")


def test_joined_segments_are_what_the_chat_template_would_have_made() -> None:
    for template in (CHATML, TRIMMING, TRIMS_USERS, SYSTEM_LAST):
        tokenizer = ChatTokenizer(template)
        messages = [("system", " be brief \n"), ("user", "\twhat?"), ("assistant", "{{y}}")]
        program = lowered(chat(*messages, y=output()), tokenizer)
        joined = "".join(s.text for s in program.segments if isinstance(s, ConstantSegment))
        dicts = [{"role": role, "content": content} for role, content in messages[:2]]
        assert joined == tokenizer.apply_chat_template(dicts, add_generation_prompt=True)
