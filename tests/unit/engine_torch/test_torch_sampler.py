"""Sampling follows its distributions, for each row on its own."""

from collections import Counter
from typing import Any

import pytest
import torch

from parrot.engine.torch.sampler import Choice, Sampler
from parrot.types.sampling import Sampling

CPU = torch.device("cpu")
LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 3.0])
EOS = 4


def sampler(vocab_size: int = 5) -> Sampler:
    return Sampler(vocab_size=vocab_size, eos_ids=(EOS,), device=CPU)


def choice(seed: int = 0, num_generated: int = 0, **sampling: Any) -> Choice:
    return Choice(
        sampling=Sampling(**sampling),
        generator=torch.Generator().manual_seed(seed),
        num_generated=num_generated,
    )


def draw(count: int, **sampling: Any) -> Counter[int | None]:
    choices = [choice(seed, **sampling) for seed in range(count)]
    return Counter(sampler().sample(LOGITS.repeat(count, 1), choices))


def test_without_temperature_the_most_likely_token_is_taken() -> None:
    assert sampler().sample(LOGITS[None].clone(), [choice()]) == [4]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax_at_a_temperature(temperature: float) -> None:
    expected = torch.softmax(LOGITS / temperature, dim=0)
    found = draw(4000, temperature=temperature)
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
def test_truncation_leaves_exactly_the_allowed_tokens(sampling: dict[str, Any], allowed: set[int]) -> None:
    assert set(draw(600, temperature=1.0, **sampling)) == allowed


def test_a_seed_gives_the_same_tokens_in_any_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    steps = [torch.randn(1, 50, generator=generator) for _ in range(20)]
    wide = Sampler(vocab_size=50, eos_ids=(), device=CPU)
    alone, together = choice(7, temperature=1.0, top_p=0.9), choice(7, temperature=1.0, top_p=0.9)
    other = choice(8, temperature=2.0)
    first = [wide.sample(step.clone(), [alone])[0] for step in steps]
    second = [wide.sample(torch.cat([step.flip(1), step]), [other, together])[1] for step in steps]
    assert first == second


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_spoil_their_own_row_only(bad: float) -> None:
    logits = LOGITS.repeat(3, 1)
    logits[1, 2] = bad
    tokens = sampler().sample(logits, [choice(), choice(temperature=1.0), choice()])
    assert tokens == [4, None, 4]


def test_end_of_sequence_is_not_chosen_while_it_is_not_heeded() -> None:
    choices = [
        choice(ignore_eos=True),
        choice(min_tokens=2, num_generated=1),
        choice(min_tokens=2, num_generated=2),
    ]
    assert sampler().sample(LOGITS.repeat(3, 1), choices) == [0, 0, 4]


def test_ids_beyond_the_tokenizer_are_never_chosen() -> None:
    assert sampler(vocab_size=4).sample(LOGITS[None].clone(), [choice()]) == [0]
