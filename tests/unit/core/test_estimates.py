"""Work before it is done: lengths that are learnt, keys of semantic functions, units."""

import pytest

from parrot.core.estimates import (
    TRUSTED_SAMPLES,
    WINDOW,
    FunctionKey,
    OutputLengths,
    OutputShape,
    Pace,
    Work,
    shape_of,
    text_tokens,
)
from parrot.types.ids import TenantId, VariableId
from parrot.types.program import ConstantSegment, InputSegment, OutputSegment, Program, Segment
from parrot.types.sampling import Grammar, Sampling

ANNA, BERT = TenantId("anna"), TenantId("bert")


def output(name: str = "f", *, max_tokens: int, min_tokens: int = 0, ignore_eos: bool = False) -> OutputShape:
    sampling = Sampling(max_tokens=max_tokens, min_tokens=min_tokens, ignore_eos=ignore_eos)
    return OutputShape(variable_id=VariableId("v"), function=FunctionKey(name.encode()), sampling=sampling)


def constant(text: str) -> Segment:
    return ConstantSegment(text=text)


def an_input(placeholder: str, variable: str) -> Segment:
    return InputSegment(placeholder=placeholder, variable_id=VariableId(variable))


def an_output(placeholder: str, variable: str, max_tokens: int = 100, grammar: str = "") -> Segment:
    return OutputSegment(
        placeholder=placeholder,
        variable_id=VariableId(variable),
        sampling=Sampling(max_tokens=max_tokens),
        grammar=Grammar(kind="regex", source=grammar) if grammar else None,
    )


def functions(*segments: Segment, tenant: TenantId = ANNA, model: str = "m") -> list[FunctionKey]:
    program = Program(model=model, segments=segments)
    return [out.function for out in shape_of(program, tenant_id=tenant).outputs]


def test_an_output_of_which_nothing_is_known_is_expected_to_reach_its_bound() -> None:
    lengths = OutputLengths()
    assert lengths.expected(output(max_tokens=300)) == 300
    assert lengths.at_most(output(max_tokens=300)) == 300


def test_the_bound_counts_less_with_every_output_seen() -> None:
    lengths = OutputLengths()
    seen = []
    for _ in range(TRUSTED_SAMPLES):
        lengths.observe(FunctionKey(b"f"), 20)
        seen.append(lengths.expected(output(max_tokens=500)))
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > 400
    assert seen[-1] == 20


def test_functions_are_learnt_apart() -> None:
    lengths = OutputLengths()
    for _ in range(TRUSTED_SAMPLES):
        lengths.observe(FunctionKey(b"f"), 20)
    assert lengths.expected(output("g", max_tokens=500)) == 500


def test_one_odd_output_moves_the_expectation_by_its_share_of_the_window() -> None:
    lengths = OutputLengths()
    for _ in range(WINDOW):
        lengths.observe(FunctionKey(b"f"), 50)
    lengths.observe(FunctionKey(b"f"), 4000)
    assert lengths.expected(output(max_tokens=4096)) == pytest.approx(50 + 3950 / WINDOW, abs=1)
    assert lengths.at_most(output(max_tokens=4096)) == 50


def test_a_function_that_changes_is_followed_within_a_window() -> None:
    lengths = OutputLengths()
    for length in [10] * 500 + [80] * WINDOW:
        lengths.observe(FunctionKey(b"f"), length)
    assert lengths.expected(output(max_tokens=500)) == 80


def test_the_safe_length_covers_its_share_of_outputs() -> None:
    lengths = OutputLengths()
    for length in range(1, 51):
        lengths.observe(FunctionKey(b"f"), length)
    assert lengths.at_most(output(max_tokens=500), 0.9) == 45
    assert lengths.at_most(output(max_tokens=500), 1.0) == 50


def test_an_expectation_keeps_to_what_sampling_allows() -> None:
    lengths = OutputLengths()
    for _ in range(TRUSTED_SAMPLES):
        lengths.observe(FunctionKey(b"f"), 20)
    assert lengths.expected(output(max_tokens=10)) == 10
    assert lengths.expected(output(max_tokens=100, min_tokens=40)) == 40
    assert lengths.expected(output(max_tokens=100, ignore_eos=True)) == 100


def test_the_least_recently_used_function_is_forgotten() -> None:
    lengths = OutputLengths(max_functions=2)
    for name in (b"a", b"b", b"a", b"c"):
        lengths.observe(FunctionKey(name), 5)
    assert lengths.num_functions == 2
    assert lengths.expected(output("b", max_tokens=70)) == 70
    assert lengths.expected(output("a", max_tokens=70)) < 70


def test_calls_of_one_template_share_a_key_whatever_their_values() -> None:
    one = functions(constant("Say "), an_input("x", "v1"), an_output("y", "v2"))
    other = functions(constant("Say "), an_input("x", "v7"), an_output("y", "v8"))
    assert one == other


def test_what_makes_another_output_makes_another_key() -> None:
    base = (constant("Say "), an_input("x", "v1"))
    keys = [
        functions(*base, an_output("y", "v2"))[0],
        functions(*base, an_output("z", "v2"))[0],
        functions(*base, an_output("y", "v2", max_tokens=7))[0],
        functions(*base, an_output("y", "v2", grammar="a+"))[0],
        functions(constant("Tell "), an_input("x", "v1"), an_output("y", "v2"))[0],
        functions(*base, an_output("y", "v2"), model="n")[0],
        functions(*base, an_output("y", "v2"), tenant=BERT)[0],
        *functions(*base, an_output("a", "v2"), constant("; "), an_output("y", "v3")),
    ]
    assert len(set(keys)) == len(keys)


def test_a_shape_counts_constants_and_inputs_where_they_stand() -> None:
    program = Program(
        model="m",
        segments=(
            constant("12345678"),
            an_input("x", "v1"),
            constant("1234"),
            an_input("x", "v1"),
            an_output("y", "v2"),
        ),
    )
    shape = shape_of(program, tenant_id=ANNA)
    assert shape.constant_tokens == 3
    assert shape.inputs == {"v1": 2}
    assert [out.variable_id for out in shape.outputs] == ["v2"]
    assert shape_of(program, tenant_id=ANNA, count_tokens=len).constant_tokens == 12


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("é" * 4, 2)])
def test_text_is_taken_for_a_token_every_four_bytes(text: str, tokens: int) -> None:
    assert text_tokens(text) == tokens


def test_work_adds_up_and_takes_time() -> None:
    work = Work(prompt_tokens=1000, output_tokens=10) + Work(prompt_tokens=500, output_tokens=5)
    assert work - Work(output_tokens=5) == Work(prompt_tokens=1500, output_tokens=10)
    assert Pace(prefill_s=0.001, decode_s=0.02).seconds(work) == pytest.approx(1.8)
