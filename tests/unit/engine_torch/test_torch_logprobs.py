"""The log-probabilities that are told are the model's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_driver import VARIANTS, StartDriver, Variant

from parrot.engine.torch.logprobs import step_logprobs
from parrot.types.sampling import Grammar, Sampling

FLOAT32 = next(variant for variant in VARIANTS if variant.dtype == torch.float32)


def test_only_rows_that_ask_are_told_and_logits_stay_as_they_are() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 9.0], [3.0, 2.0, 1.0, 9.0]])
    before = logits.clone()
    told = step_logprobs(logits, [Sampling(), Sampling(logprobs=2)], vocab_size=3)
    assert told is not None
    assert told.of(0, 1) is None
    assert told.of(1, -1) is None
    found = told.of(1, 1)
    expected = torch.log_softmax(torch.tensor([3.0, 2.0, 1.0]), dim=0).tolist()
    assert found is not None
    assert found.logprob == pytest.approx(expected[1])
    assert [token_id for token_id, _ in found.top] == [0, 1]
    assert [logprob for _, logprob in found.top] == pytest.approx(expected[:2])
    assert torch.equal(logits, before)
    assert step_logprobs(logits, [Sampling(), Sampling()], vocab_size=3) is None


@pytest.mark.parametrize(
    ("sampling", "grammar"),
    [
        ({}, None),
        ({"temperature": 1.5, "top_k": 5, "seed": 3}, None),
        ({}, Grammar(kind="regex", source="[a-z ]{30}")),
    ],
    ids=["greedy", "drawn", "bounded"],
)
async def test_likelihoods_equal_those_of_transformers(
    model_dirs: Callable[[Variant], Path],
    start: StartDriver,
    sampling: dict[str, Any],
    grammar: Grammar | None,
) -> None:
    directory = model_dirs(FLOAT32)
    driver = await start(directory)
    prompt = [(7 * i) % 350 + 5 for i in range(40)]
    request = driver.generate_request(
        1, prompt, grammar=grammar, max_tokens=10, ignore_eos=True, logprobs=4, **sampling
    )
    told = [each async for chunk in driver.engine.generate(request) for each in chunk.logprobs or ()]
    output = [each.token_id for each in told]
    assert len(output) == 10
    model = FLOAT32.model_class.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *output]])).logits[0, len(prompt) - 1 : -1]
    vocab_size = driver.engine.tokenizer.vocab_size
    logprobs = torch.log_softmax(logits[:, :vocab_size].float(), dim=1)
    for row, each in zip(logprobs, told, strict=True):
        assert each.logprob == pytest.approx(float(row[each.token_id]), abs=1e-3)
        assert [v for _, v in each.top] == pytest.approx(row.topk(4).values.tolist(), abs=1e-3)
