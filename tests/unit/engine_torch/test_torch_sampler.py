"""Sampling follows its distributions, for each row on its own."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from parrot.engine.native.kernels import load_native
from parrot.engine.torch.grammar import OutputBound
from parrot.engine.torch.sampler import COMPLETE, Choice, Sampler
from parrot.types.sampling import Sampling

CPU = torch.device("cpu")
NATIVE = load_native(num_threads=2)
LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 3.0])
EOS = 4


MakeSampler = Callable[..., Sampler]


@pytest.fixture(params=["torch", "native"])
def sampler(request: pytest.FixtureRequest) -> MakeSampler:
    """Makes samplers that compute in either way."""
    kernels = NATIVE if request.param == "native" else None
    if request.param == "native" and kernels is None:
        pytest.skip("no native kernels here")

    def make(vocab_size: int = 5, eos_ids: tuple[int, ...] = (EOS,), **settings: Any) -> Sampler:
        return Sampler(vocab_size=vocab_size, eos_ids=eos_ids, device=CPU, kernels=kernels, **settings)

    return make


def choice(seed: int = 0, num_generated: int = 0, **sampling: Any) -> Choice:
    return Choice(
        sampling=Sampling(**sampling),
        generator=torch.Generator().manual_seed(seed),
        num_generated=num_generated,
    )


def draw(sampler: Sampler, count: int, logits: torch.Tensor = LOGITS, **sampling: Any) -> Counter[int | None]:
    choices = [choice(seed, **sampling) for seed in range(count)]
    return Counter(sampler.sample(logits.repeat(count, 1), choices))


def exact_distribution(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """What is drawn, in float64: temperature, then top-k, top-p and min-p."""
    probabilities = torch.softmax(logits.double() / sampling.temperature, dim=0)
    values, order = probabilities.sort(descending=True, stable=True)
    largest = values[0]
    values[sampling.top_k or len(values) :] = 0
    is_beyond = values.cumsum(0) - values >= sampling.top_p * values.sum()
    is_beyond[0] = False  # one is always kept, the first of equally likely ones
    values[is_beyond] = 0
    values[values < sampling.min_p * largest] = 0
    return torch.zeros_like(values).scatter(0, order, values / values.sum())


def test_without_temperature_the_most_likely_token_is_taken(sampler: MakeSampler) -> None:
    assert sampler().sample(LOGITS[None].clone(), [choice()]) == [4]


def test_biases_and_penalties_change_logits_before_a_token_is_taken(sampler: MakeSampler) -> None:
    likeliest, second = LOGITS.topk(2).indices.tolist()
    biased = choice(logit_bias=((second, 100.0), (10**6, 5.0)))
    assert sampler().sample(LOGITS[None].clone(), [biased]) == [second]
    gap = float(LOGITS[likeliest] - LOGITS[second])
    settings: list[dict[str, Any]] = [{name: gap + 0.1} for name in ("frequency_penalty", "presence_penalty")]
    for setting in settings:
        penalised = choice(**setting)
        assert sampler().sample(LOGITS[None].clone(), [penalised]) == [likeliest]
        penalised.note(likeliest)
        assert sampler().sample(LOGITS[None].clone(), [penalised]) == [second]
    often = choice(frequency_penalty=2.0)
    for _ in range(10):
        often.note(likeliest)
    rows = [often, choice()]
    assert sampler().sample(LOGITS.repeat(2, 1), rows) == [second, likeliest]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax_at_a_temperature(sampler: MakeSampler, temperature: float) -> None:
    expected = torch.softmax(LOGITS / temperature, dim=0)
    found = draw(sampler(), 4000, temperature=temperature)
    for token_id, probability in enumerate(expected.tolist()):
        assert abs(found[token_id] / 4000 - probability) < 4 * (probability / 4000) ** 0.5 + 1e-3


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        ({"top_k": 1}, {4}),
        ({"top_k": 2}, {4, 0}),
        ({"top_p": 0.5}, {4}),
        ({"top_p": 0.7}, {4, 0}),
        ({"top_p": 0.0}, {4}),
        ({"min_p": 0.3}, {4, 0}),
        ({"min_p": 1.0}, {4}),
        ({"top_k": 3, "top_p": 0.99, "min_p": 0.1}, {4, 0, 1}),
    ],
)
def test_truncation_leaves_exactly_the_allowed_tokens(
    sampler: MakeSampler, sampling: dict[str, Any], allowed: set[int]
) -> None:
    assert set(draw(sampler(), 600, temperature=1.0, **sampling)) == allowed


def test_a_seed_gives_the_same_tokens_in_any_batch(sampler: MakeSampler) -> None:
    generator = torch.Generator().manual_seed(1)
    steps = [torch.randn(1, 50, generator=generator) for _ in range(20)]
    wide = sampler(50, ())
    alone, together = choice(7, temperature=1.0, top_p=0.9), choice(7, temperature=1.0, top_p=0.9)
    other = choice(8, temperature=2.0)
    first = [wide.sample(step.clone(), [alone])[0] for step in steps]
    second = [wide.sample(torch.cat([step.flip(1), step]), [other, together])[1] for step in steps]
    assert first == second


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_spoil_their_own_row_only(sampler: MakeSampler, bad: float) -> None:
    logits = LOGITS.repeat(3, 1)
    logits[1, 2] = bad
    tokens = sampler().sample(logits, [choice(), choice(temperature=1.0), choice()])
    assert tokens == [4, None, 4]


def test_end_of_sequence_is_not_chosen_while_it_is_not_heeded(sampler: MakeSampler) -> None:
    choices = [
        choice(ignore_eos=True),
        choice(min_tokens=2, num_generated=1),
        choice(min_tokens=2, num_generated=2),
    ]
    assert sampler().sample(LOGITS.repeat(3, 1), choices) == [0, 0, 4]


def test_ids_beyond_the_tokenizer_are_never_chosen(sampler: MakeSampler) -> None:
    assert sampler(vocab_size=4).sample(LOGITS[None].clone(), [choice()]) == [0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.3},
        {"top_k": 40},
        {"top_k": 900},
        {"top_p": 0.9},
        {"top_p": 0.999},
        {"min_p": 0.05},
        {"top_k": 700, "top_p": 0.8, "min_p": 0.01},
    ],
)
@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_a_long_vocabulary_is_drawn_from_by_its_distribution(
    sampler: MakeSampler, settings: dict[str, Any], spread: float
) -> None:
    num_tokens, count = 5000, 3000
    logits = torch.randn(num_tokens, generator=torch.Generator().manual_seed(3)) * spread
    sampling = Sampling(**{"temperature": 1.0, **settings})
    expected = exact_distribution(logits, sampling)
    wide = sampler(num_tokens, ())
    choices = [choice(seed, **{"temperature": 1.0, **settings}) for seed in range(count)]
    found = [token for token in wide.sample(logits.repeat(count, 1), choices) if token is not None]
    assert len(found) == count
    assert expected[found].min() > 0
    # Kolmogorov and Smirnov's statistic is above 1.95 / √n once in a thousand times.
    observed = torch.bincount(torch.tensor(found), minlength=num_tokens).double() / count
    assert (observed.cumsum(0) - expected.cumsum(0)).abs().max() < 1.95 / count**0.5


@pytest.mark.skipif(NATIVE is None, reason="no native kernels here")
@example(  # The two likeliest tokens are equally likely, and top-p is reached by one of them.
    num_tokens=1164, seed=1980, temperature=1.0, top_k=0, top_p=0.0625, min_p=0.0, is_bfloat16=True
)
@given(
    num_tokens=st.integers(1, 3000),
    seed=st.integers(0, 1 << 32),
    temperature=st.floats(0.05, 5.0),
    top_k=st.sampled_from([0, 1, 2, 50, 4000]),
    top_p=st.floats(0.0, 1.0),
    min_p=st.floats(0.0, 1.0),
    is_bfloat16=st.booleans(),
)
def test_what_is_drawn_natively_is_where_the_cumulated_distribution_has_the_number(
    num_tokens: int,
    seed: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    is_bfloat16: bool,
) -> None:
    assert NATIVE is not None
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, num_tokens, generator=generator) * 3
    logits = logits.bfloat16() if is_bfloat16 else logits
    uniform = float(torch.rand((), generator=generator))
    token = NATIVE.sample(logits, [(temperature, top_p, min_p, uniform, top_k, -1)])[0]
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    exact = exact_distribution(logits[0], sampling)
    above = float(exact[: token + 1].sum())
    tolerance = 2e-5 + nearest_cut(logits[0], sampling)
    assert above - float(exact[token]) - tolerance <= uniform <= above + tolerance


def nearest_cut(logits: torch.Tensor, sampling: Sampling) -> float:
    """How much of the distribution goes when a cut falls on the other side of a token, by rounding: that of
    the tokens which lie within rounding of where top-p and min-p cut; 0 mostly.
    """
    exact = torch.softmax(logits.double() / sampling.temperature, dim=0).sort(descending=True).values
    held = exact[: sampling.top_k or len(exact)]
    before = (held.cumsum(0) - held) / held.sum()
    near = (before - sampling.top_p).abs() < 1e-5
    near |= (held / held[0] - sampling.min_p).abs() < 1e-5
    drawn = exact_distribution(logits, sampling)
    return float(held[near].sum() / held.sum()) / max(float(drawn.max()), 1e-9) if near.any() else 0.0


class OneOf:
    """Stands for masks: each bound allows its own tokens."""

    def allowed(
        self, bounds: Sequence[OutputBound], may_end: Sequence[bool]
    ) -> tuple[torch.Tensor, list[bool]]:
        words = torch.zeros(len(bounds), 2, dtype=torch.int32)
        sets: list[Any] = list(bounds)
        for row, (tokens, ends) in enumerate(zip(sets, may_end, strict=True)):
            for token in [*tokens.tokens, *([EOS] if ends else [])]:
                words[row, token // 32] |= (1 << token % 32) if token % 32 < 31 else -(1 << 31)
        return words, (words == 0).all(dim=1).tolist()


class Tokens:
    """Stands for a bound."""

    may_end = False

    def __init__(self, *tokens: int) -> None:
        self.tokens = tokens


def test_a_bounded_row_draws_what_it_is_allowed_and_leaves_the_others_alone(sampler: MakeSampler) -> None:
    wide = sampler(40, (), masks=OneOf())
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(5)) * 2
    settings: list[dict[str, Any]] = [
        {},
        {},
        {"temperature": 1.0},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_k": 3},
        {},
    ]
    free = wide.sample(logits.clone(), [choice(row, **one) for row, one in enumerate(settings)])
    bounds: list[Any] = [None, Tokens(7, 31, 33), None, Tokens(9, 39), Tokens(31), Tokens()]
    choices = [choice(row, **one) for row, one in enumerate(settings)]
    for one, bound in zip(choices, bounds, strict=True):
        one.bound = bound
    bounded = wide.sample(logits.clone(), choices)
    assert [bounded[0], bounded[2]] == [free[0], free[2]]
    assert bounded[1] == max((7, 31, 33), key=lambda token: float(logits[1, token]))
    assert bounded[3] in {9, 39}
    assert bounded[4:] == [31, COMPLETE]
