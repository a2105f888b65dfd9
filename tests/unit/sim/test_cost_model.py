import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot.errors import ConfigError
from parrot.sim.cost import PRESETS, CostModel
from parrot.sim.cost_file import read_cost_file

COST = PRESETS["a100-80g-13b"].cost()
counts = st.integers(0, 100_000)


@given(
    preset=st.sampled_from(list(PRESETS)), tokens=counts, pairs=counts, kv=counts, more=st.integers(1, 1000)
)
def test_a_step_that_does_more_takes_no_less(
    preset: str, tokens: int, pairs: int, kv: int, more: int
) -> None:
    cost = PRESETS[preset].cost()
    step = cost.step_s(num_tokens=tokens, num_pairs=pairs, kv_tokens=kv)
    assert cost.step_s(num_tokens=tokens + more, num_pairs=pairs, kv_tokens=kv) >= step
    assert cost.step_s(num_tokens=tokens, num_pairs=pairs + more, kv_tokens=kv) >= step
    assert cost.step_s(num_tokens=tokens, num_pairs=pairs, kv_tokens=kv + more) >= step
    assert step >= cost.overhead_s


@given(context=counts, distinct=counts, share=st.floats(0, 1))
def test_reading_shared_kv_once_is_never_slower(context: int, distinct: int, share: float) -> None:
    context, distinct = max(context, distinct), min(context, distinct)
    once = replace(COST, kv_reads="once")
    each = replace(COST, kv_reads="each", cached_share=share)
    tokens = {"num_context_tokens": context, "num_distinct_tokens": distinct}
    assert once.kv_tokens_read(**tokens) <= each.kv_tokens_read(**tokens) <= context


@given(batch=st.integers(1, 64), length=st.integers(1, 8000), steps=st.integers(1, 300))
def test_many_decode_steps_cost_what_they_cost_one_by_one(batch: int, length: int, steps: int) -> None:
    context = batch * length
    together = COST.decode(batch=batch, num_context_tokens=context, num_distinct_tokens=context).total_s(
        steps
    )
    alone = sum(
        COST.step_s(
            num_tokens=batch,
            num_pairs=context + i * batch,
            kv_tokens=context + i * batch,
            num_decoding=batch,
        )
        for i in range(steps)
    )
    assert together == pytest.approx(alone)


def test_the_presets_decode_at_the_speed_of_their_memory() -> None:
    steps = {
        name: preset.cost().step_s(num_tokens=1, num_pairs=1000, kv_tokens=1000)
        for name, preset in PRESETS.items()
    }
    assert steps["a100-80g-13b"] == pytest.approx(0.0264, rel=0.02)
    assert steps["a6000-48g-7b"] == pytest.approx(0.0328, rel=0.02)
    assert steps["h100-80g-8b"] == pytest.approx(0.0080, rel=0.03)


def test_the_presets_hold_as_much_kv_as_the_papers_engines_did() -> None:
    assert PRESETS["a100-80g-13b"].kv_tokens() // 16 == pytest.approx(3500, rel=0.01)
    assert PRESETS["a100-80g-7b"].kv_tokens() // 16 == pytest.approx(6800, rel=0.04)


@pytest.mark.parametrize(
    "wrong", [{"bytes_per_s": 0.0}, {"flops_per_s": -1.0}, {"overhead_s": -0.1}, {"cached_share": 1.5}]
)
def test_costs_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        replace(COST, **wrong)  # type: ignore[arg-type]


def measured(cost: CostModel) -> dict[str, object]:
    """What `parrot bench engine` would have found on an engine that costs exactly this."""
    decode = []
    for batch, context in ((1, 500), (8, 800), (32, 800), (32, 4000)):
        distinct = context + batch * (8 + 32)
        step_s = cost.overhead_s + (cost.weight_bytes + cost.kv_bytes * distinct) / cost.bytes_per_s
        decode.append(
            {
                "attention": "shared",
                "batch": batch,
                "context_tokens": context,
                "prefix": "shared",
                "num_tokens": 64,
                "step_s": {"median": step_s},
            }
        )
    return {
        "schema": "parrot.bench.engine/1",
        "model": "tiny",
        "engines": [
            {"attention": "shared", "num_parameters": 1e8, "num_blocks": 100, "block_tokens": 16},
        ],
        "floors": {"weight_bytes": cost.weight_bytes, "kv_bytes_per_token": cost.kv_bytes},
        "prefill": [
            {"num_tokens": 64, "tokens_per_s": {"median": 100.0}},
            {"num_tokens": 2048, "tokens_per_s": {"median": 1500.0}},
        ],
        "decode": decode,
    }


def test_costs_are_fitted_to_measurements(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    path.write_text(json.dumps(measured(COST)), encoding="utf-8")
    found = read_cost_file(path)
    assert found.cost.bytes_per_s == pytest.approx(COST.bytes_per_s)
    assert found.cost.overhead_s == pytest.approx(COST.overhead_s)
    assert found.cost.flops_per_s == pytest.approx(2e8 * 1500)
    assert (found.name, found.kv_tokens) == ("tiny", 1600)


@pytest.mark.parametrize(
    "text", ["{}", "[]", "not JSON", '{"schema": "other"}', '{"schema": "parrot.bench.engine/1"}']
)
def test_a_file_that_is_no_measurement_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "engine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        read_cost_file(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read_cost_file(tmp_path / "nowhere.json")
