"""Published beginnings of prompts: shared by all tenants; nothing else is."""

from collections.abc import Mapping, Sequence

import jinja2
import pytest

from parrot.core.limits import Limits
from parrot.core.lowering import check_call, lower
from parrot.core.prefixes import BLOCK_TOKENS
from parrot.core.prompts import Model, Prompt, TokenCache, expected_keys, write_leading, write_prompt
from parrot.core.variables import Variable
from parrot.types.ids import TenantId, VariableId
from parrot.types.program import ConstantSegment, Program
from parrot.wire.requests import CallSpec

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PUBLISHED = "You are the assistant of Example Ltd. " * 3
A, B = TenantId("a"), TenantId("b")


class CharTokenizer:
    """One token for each character."""

    vocab_size = 0x110000
    bos_ids = (1,)

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        return tuple(map(ord, text))

    def decode(self, token_ids: Sequence[int]) -> str:
        return ""

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
    ) -> str:
        template = jinja2.Environment().from_string(CHATML)
        return template.render(messages=messages, add_generation_prompt=add_generation_prompt)


MODEL = Model(name="m", model_hash="h", context_tokens=10_000, tokenizer=CharTokenizer())


def program_of(
    *, template: str | None = None, system: str | None = None, opaque: bool = False, value: str = "v"
) -> Program:
    parameters: dict[str, object] = {"out": {"output": {}}}
    spec: dict[str, object] = {"parameters": parameters}
    if template is not None:
        spec["template"] = template
    else:
        user = {"role": "user", "content": "Hi"}
        answer = {"role": "assistant", "content": "{{out}}"}
        spec["messages"] = [{"role": "system", "content": system}, user, answer]
    if "{{x}}" in str(spec):
        parameters["x"] = {"value": value}
    names = {name: VariableId(name) for name in parameters}
    checked = check_call(CallSpec.model_validate(spec), Limits())
    return lower(
        checked,
        inputs=names,
        outputs=names,
        model="m",
        tokenizer=MODEL.tokenizer,
        opaque=opaque,
        published=("Nobody says this", PUBLISHED, PUBLISHED[:20]),
    )


def prompt_of(program: Program, tenant: TenantId, *, x: str = "v") -> Prompt:
    def value(variable_id: VariableId) -> Variable:
        return Variable(variable_id=variable_id, name=None, state="ready", value=x)

    return write_prompt(program, MODEL, value, tenant_id=tenant, salt="s", cache=TokenCache())


def common_tokens(one: Prompt, other: Prompt) -> int:
    """How many tokens two prompts share by their keys."""
    shared = [length for key, length in zip(one.keys, one.lengths, strict=True) if key in other.keys]
    return max(shared, default=0)


def test_tenants_share_a_published_beginning_up_to_its_end() -> None:
    program = program_of(template=f"{PUBLISHED}Say {{{{out}}}}")
    mine, yours = prompt_of(program, A), prompt_of(program, B)
    assert common_tokens(mine, yours) == 1 + len(PUBLISHED)
    assert common_tokens(mine, mine) == mine.num_tokens
    assert mine.parts[0].token_ids == yours.parts[0].token_ids


def test_tenants_share_nothing_that_is_not_published() -> None:
    program = program_of(template="Not published. Say {{out}}")
    mine, yours = prompt_of(program, A), prompt_of(program, B)
    assert common_tokens(mine, mine) == mine.num_tokens
    assert common_tokens(mine, yours) == 0
    assert mine.parts[0].key != yours.parts[0].key


def test_the_text_of_a_published_prompt_stays_the_same() -> None:
    program = program_of(template=f"{PUBLISHED}Say {{{{out}}}}")
    texts = [segment.text for segment in program.segments if isinstance(segment, ConstantSegment)]
    assert texts == [PUBLISHED, "Say "]


def test_what_a_published_prompt_is_answered_is_nobody_elses() -> None:
    program = program_of(template=f"{PUBLISHED}{{{{out}}}}")
    assert prompt_of(program, A).parts[0].key != prompt_of(program, B).parts[0].key


def test_a_value_with_the_words_of_a_published_text_is_still_a_value() -> None:
    program = program_of(template="{{x}}{{out}}")
    assert common_tokens(prompt_of(program, A, x=PUBLISHED), prompt_of(program, B, x=PUBLISHED)) == 0


@pytest.mark.parametrize("rest", ["", " Be brief."])
def test_a_first_message_that_is_published_is_shared_with_the_markup_before_it(rest: str) -> None:
    program = program_of(system=PUBLISHED + rest)
    markup = "<|im_start|>system\n"
    expected = 1 + len(markup) + len(PUBLISHED)
    assert common_tokens(prompt_of(program, A), prompt_of(program, B)) == expected


def test_a_first_message_that_is_not_published_shares_not_even_markup() -> None:
    program = program_of(system="Private")
    assert common_tokens(prompt_of(program, A), prompt_of(program, B)) == 0


def test_what_is_known_of_a_prompt_ahead_has_the_same_keys_as_the_prompt() -> None:
    program = program_of(template=f"{PUBLISHED}Say {{{{x}}}} {{{{out}}}}")
    whole = prompt_of(program, A)

    def pending(variable_id: VariableId) -> Variable:
        return Variable(variable_id=variable_id, name=None, state="pending")

    leading = write_leading(program, MODEL, pending, tenant_id=A, salt="s", cache=TokenCache())
    expected = expected_keys(program, MODEL, pending, lambda _: False, tenant_id=A, salt="s")
    assert leading.keys == whole.keys[: len(leading.keys)]
    assert expected == leading.keys
    assert leading.key == whole.keys[len(leading.keys) - 1]


@pytest.mark.parametrize("start", [PUBLISHED, "Not published. "])
def test_a_beginning_that_is_gone_on_with_is_as_if_written_at_once(start: str) -> None:
    names = [f"x{number}" for number in range(4)]
    template = start + " and ".join(f"{{{{{name}}}}}" for name in names) + " Say {{out}}"
    parameters: dict[str, object] = {name: {"value": name} for name in names}
    spec = CallSpec.model_validate(
        {"template": template, "parameters": {**parameters, "out": {"output": {}}}}
    )
    variables = {name: VariableId(name) for name in (*names, "out")}
    program = lower(
        check_call(spec, Limits()),
        inputs=variables,
        outputs=variables,
        model="m",
        tokenizer=MODEL.tokenizer,
        published=(PUBLISHED,),
    )
    ready: set[str] = set()

    def value(variable_id: VariableId) -> Variable:
        if variable_id in ready:
            return Variable(variable_id=variable_id, state="ready", value=f"the value of {variable_id}")
        return Variable(variable_id=variable_id, state="pending")

    leading = None
    for count in range(len(names) + 1):
        ready.update(names[:count])
        at_once = write_leading(program, MODEL, value, tenant_id=A, salt="s", cache=TokenCache())
        leading = write_leading(
            program, MODEL, value, tenant_id=A, salt="s", cache=TokenCache(), so_far=leading
        )
        assert leading == at_once
    assert leading is not None
    assert leading.missing is None


def test_without_structure_whole_blocks_of_a_published_text_are_shared() -> None:
    program = program_of(template="{{x}}{{out}}", opaque=True)
    mine, yours = (
        prompt_of(program, t, x=PUBLISHED + "And mine is long, too, you see. " * 3) for t in (A, B)
    )
    blocks = (1 + len(PUBLISHED)) // BLOCK_TOKENS
    assert common_tokens(mine, yours) == blocks * BLOCK_TOKENS


@pytest.mark.parametrize("length", [31, 32, 33, 63, 64, 65, len(PUBLISHED)])
def test_without_structure_the_last_whole_block_is_never_shared(length: int) -> None:
    program = program_of(template="{{x}}{{out}}", opaque=True)
    mine, yours = (prompt_of(program, tenant, x=PUBLISHED[:length]) for tenant in (A, B))
    assert common_tokens(mine, yours) <= max(0, (length + 1) // BLOCK_TOKENS - 1) * BLOCK_TOKENS
    assert mine.keys[-1] != yours.keys[-1]


def test_without_structure_a_private_first_message_is_not_shared() -> None:
    program = program_of(
        system="Private words, many of them, so that they are several blocks. " * 3, opaque=True
    )
    assert common_tokens(prompt_of(program, A), prompt_of(program, B)) == 0
