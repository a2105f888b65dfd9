"""Greedy tokens equal those of transformers on the same weights and ids, however the engine gets there."""

import asyncio
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_driver import VARIANTS, StartDriver, Variant

from parrot.engine.native.kernels import load_native
from parrot.engine.torch.tokenizer import load_tokenizer

pytestmark = [
    pytest.mark.parametrize("attention", ["reference", "per-request", "shared"]),
    pytest.mark.parametrize(
        "kernels",
        [
            "torch",
            pytest.param(
                "native", marks=pytest.mark.skipif(load_native() is None, reason="no native kernels here")
            ),
        ],
    ),
]

BF16_BOUND = 0.06
"""In bfloat16 a token may be chosen whose log-probability, by the same weights in float32, is lower than the
best one's by no more than this: the two differ by less than the rounding of their logits."""

Dirs = Callable[[Variant], Path]


@cache
def reference(variant: Variant, directory: Path) -> Any:
    return variant.model_class.from_pretrained(directory, dtype=torch.float32).eval()


def prompt(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [int(i) for i in torch.randint(5, 390, (length,), generator=generator)]


def check(variant: Variant, directory: Path, tokens: Sequence[int], output: Sequence[int]) -> None:
    """Every generated token is the reference's choice after the tokens before it."""
    assert len(output) > 0
    model = reference(variant, directory)
    with torch.no_grad():
        logits = model(torch.tensor([[*tokens, *output]])).logits[0, len(tokens) - 1 : -1].float()
    logits[:, 2] = float("-inf")
    logits = logits[:, : load_tokenizer(str(directory)).vocab_size]
    chosen = torch.tensor(output)
    if variant.dtype == torch.float32:
        assert logits.argmax(dim=1).tolist() == list(output)
    log_probabilities = logits.log_softmax(dim=1)
    behind = log_probabilities.amax(dim=1) - log_probabilities.gather(1, chosen[:, None])[:, 0]
    assert float(behind.max()) <= (1e-4 if variant.dtype == torch.float32 else BF16_BOUND)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
async def test_one_request_alone_equals_transformers(
    variant: Variant, attention: str, kernels: str, model_dirs: Dirs, start: StartDriver
) -> None:
    directory = model_dirs(variant)
    driver = await start(directory, attention=attention, kernels=kernels)
    tokens = prompt(37, seed=1)
    result = await driver.generate(1, tokens, max_tokens=24, ignore_eos=True)
    check(variant, directory, tokens, result.token_ids)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
async def test_a_batch_of_forks_in_small_steps_equals_transformers(
    variant: Variant, attention: str, kernels: str, model_dirs: Dirs, start: StartDriver
) -> None:
    """Batched, chunked, forked from a shared prefix inside and at its end, nested, and one unrelated."""
    directory = model_dirs(variant)
    driver = await start(
        directory, attention=attention, kernels=kernels, step_tokens=11, max_batch=8, block_tokens=4
    )
    root, middle = prompt(80, seed=2), prompt(37, seed=3)
    jobs: list[tuple[list[int], asyncio.Task[Any]]] = []
    async with asyncio.TaskGroup() as group:

        def run(
            context_id: int, suffix: list[int], before: list[int], parent: tuple[int, int] | None
        ) -> None:
            work = driver.generate(context_id, suffix, parent, max_tokens=12, ignore_eos=True)
            jobs.append((before + suffix, group.create_task(work)))

        group.create_task(driver.fill(1, root))
        await asyncio.sleep(0)
        group.create_task(driver.fill(2, middle, (1, 50)))
        await asyncio.sleep(0)
        for index, cut in enumerate((80, 50, 50, 8, 1)):
            run(10 + index, prompt(3 + index, seed=10 + index), root[:cut], (1, cut))
        for index, cut in enumerate((87, 87, 60)):
            run(20 + index, prompt(2, seed=20 + index), (root[:50] + middle)[:cut], (2, cut))
        run(30, prompt(17, seed=30), [], None)
        run(31, [], root[:50] + middle, (2, 87))
    for tokens, task in jobs:
        check(variant, directory, tokens, task.result().token_ids)


@pytest.mark.parametrize("variant", VARIANTS[:1] + VARIANTS[4:5], ids=lambda v: v.name)
async def test_preempted_requests_equal_transformers(
    variant: Variant, attention: str, kernels: str, model_dirs: Dirs, start: StartDriver
) -> None:
    directory = model_dirs(variant)
    item = 2 if variant.dtype == torch.bfloat16 else 4
    block_bytes = 2 * 2 * 2 * 16 * item * 4
    driver = await start(
        directory,
        attention=attention,
        kernels=kernels,
        block_tokens=4,
        kv_bytes=30 * block_bytes,
        step_tokens=16,
        max_batch=8,
    )
    assert driver.engine.info.num_blocks == 30
    prompts = [prompt(10 + 3 * i, seed=40 + i) for i in range(6)]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(driver.generate(i, tokens, max_tokens=40, ignore_eos=True))
            for i, tokens in enumerate(prompts)
        ]
    assert driver.engine.load().num_preemptions > 0
    for tokens, task in zip(prompts, tasks, strict=True):
        check(variant, directory, tokens, task.result().token_ids)
    await driver.free(*range(6))
    assert driver.engine.load().num_owned_blocks == 0


async def test_a_second_generation_goes_on_from_the_first(
    attention: str, kernels: str, model_dirs: Dirs, start: StartDriver
) -> None:
    variant = VARIANTS[0]
    directory = model_dirs(variant)
    driver = await start(directory, attention=attention, kernels=kernels)
    tokens = prompt(20, seed=5)
    first = await driver.generate(1, tokens, max_tokens=8, ignore_eos=True)
    more = prompt(6, seed=6)
    second = await driver.generate(1, more, max_tokens=8, ignore_eos=True)
    check(variant, directory, tokens + first.token_ids + more, second.token_ids)
    third = await driver.generate(2, [], (1, second.end.num_tokens), max_tokens=8, ignore_eos=True)
    check(variant, directory, tokens + first.token_ids + more + second.token_ids, third.token_ids)
    assert second.end.num_prefilled == len(more)
