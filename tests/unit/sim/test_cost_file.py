"""Costs of a real engine, from what `parrot bench engine` wrote."""

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from click.testing import CliRunner

from parrot.cli.failures import Invocation
from parrot.cli.sim import sim
from parrot.errors import ConfigError
from parrot.sim.cost_file import read_cost_file

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
WEIGHTS, KV = 2e8, 2e4
OVERHEAD_S, BYTES_PER_S = 0.004, 1e10


def row(batch: int, context_tokens: int, *, prefix: str = "private") -> dict[str, Any]:
    """A measured decode step of an engine whose costs are exactly linear in what it reads."""
    prefixes = 1 if prefix == "shared" else batch
    read = WEIGHTS + KV * (prefixes * context_tokens + batch * (8 + 64 / 2))
    return {
        "attention": "shared",
        "batch": batch,
        "context_tokens": context_tokens,
        "prefix": prefix,
        "num_tokens": 64,
        "step_s": {"median": OVERHEAD_S + read / BYTES_PER_S},
    }


def result(**changed: Any) -> dict[str, Any]:
    return {
        "schema": "parrot.bench.engine/1",
        "model": "tiny",
        "engines": [
            {"attention": "shared", "num_parameters": 1e8, "num_blocks": 1000, "block_tokens": 16},
        ],
        "floors": {"weight_bytes": WEIGHTS, "kv_bytes_per_token": KV},
        "prefill": [
            {"num_tokens": 128, "tokens_per_s": {"median": 1000.0}},
            {"num_tokens": 2048, "tokens_per_s": {"median": 3000.0}},
        ],
        "decode": [row(1, 800), row(8, 800), row(8, 3000), row(32, 1000, prefix="shared")],
        **changed,
    }


def written(path: Path, value: Any) -> Path:
    file = path / "engine.json"
    file.write_text(json.dumps(value), encoding="utf-8")
    return file


def test_costs_are_found_again(tmp_path: Path) -> None:
    found = read_cost_file(written(tmp_path, result()))
    assert found.name == "tiny"
    assert found.kv_tokens == 16_000
    assert found.cost.overhead_s == pytest.approx(OVERHEAD_S)
    assert found.cost.bytes_per_s == pytest.approx(BYTES_PER_S)
    prefill_s = found.cost.step_s(num_tokens=2048, num_pairs=0, kv_tokens=0) - found.cost.overhead_s
    assert prefill_s == pytest.approx(2048 / 3000.0)


def test_a_measured_engine_can_be_simulated(tmp_path: Path) -> None:
    file = written(tmp_path, result())
    arguments = ["--cost", str(file), "--app", "chat", "--count", "3", "--json"]
    done = CliRunner().invoke(sim, arguments, obj=Invocation(), catch_exceptions=False)
    (simulated,) = json.loads(done.stdout)["results"]
    assert simulated["num_calls"] == 3
    assert simulated["errors"] == {}
    assert simulated["calls_per_cpu_s"] == pytest.approx(3 / simulated["cpu_s"])
    assert simulated["peak_rss_bytes"] > 0


@pytest.mark.parametrize("file", sorted(RESULTS.glob("engine-*.json")), ids=lambda file: str(file.stem))
def test_costs_of_published_results_are_about_what_was_measured(file: Path) -> None:
    found, measured = read_cost_file(file), json.loads(file.read_text(encoding="utf-8"))
    ratios = []
    for each in measured["decode"]:
        if each["attention"] != "shared":
            continue
        own = each["batch"] * (8 + each["num_tokens"] / 2)
        context_tokens = each["batch"] * each["context_tokens"] + own
        shared = each["context_tokens"] if each["prefix"] == "shared" else context_tokens - own
        steps = found.cost.decode(
            batch=each["batch"],
            num_context_tokens=round(context_tokens),
            num_distinct_tokens=round(shared + own),
        )
        ratios.append(steps.total_s(1) / each["step_s"]["median"])
    assert 0.6 < median(ratios) < 1.6


@pytest.mark.parametrize(
    "changed",
    [{"schema": "another/1"}, {"engines": []}, {"decode": []}, {"floors": {}}],
    ids=["schema", "engines", "decode", "floors"],
)
def test_a_file_that_lacks_something_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        read_cost_file(written(tmp_path, result(**changed)))
