"""`parrot bench engine`: what it measures, counts and leaves out."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from project_files import ROOT

from parrot.bench.engine import floors as floors_module
from parrot.bench.engine.config import SECTIONS, EngineBenchConfig
from parrot.bench.engine.driver import decode_rate
from parrot.bench.engine.floors import ModelWork
from parrot.bench.engine.report import EngineReport, Floors
from parrot.bench.engine.suite import run_engine_bench
from parrot.bench.origin import commit, machine
from parrot.bench.spread import Spread, spread
from parrot.cli import bench_engine as bench_command
from parrot.cli.root import run
from parrot.engine.native.kernels import load_native
from parrot.engine.torch.config import TorchConfig
from parrot.engine.torch.init import init_model
from parrot.errors import ConfigError
from parrot.ports.clock import SystemClock


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    init_model("tiny", directory)
    return directory


@pytest.fixture(autouse=True)
def small_memory_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors_module, "_READ_BYTES", 1 << 22)


def _config(model_dir: Path, **changes: object) -> EngineBenchConfig:
    settings: dict[str, object] = {
        "engine": TorchConfig(model_dir=str(model_dir), kv_bytes=1 << 25),
        "prefill_tokens": (16,),
        "batches": (1, 3),
        "contexts": (40, 72),
        "max_private_tokens": 200,
        "decode_tokens": 6,
        "decode_s": 0.01,
        "num_forks": 3,
    }
    return EngineBenchConfig(**{**settings, **changes})  # type: ignore[arg-type]


async def _run(config: EngineBenchConfig) -> EngineReport:
    return await run_engine_bench(config, clock=SystemClock(), tell=lambda _text: None)


@pytest.fixture(scope="module")
def report(tiny_dir: Path) -> EngineReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(floors_module, "_READ_BYTES", 1 << 22)
        return asyncio.run(_run(_config(tiny_dir)))


def test_decoding_is_measured_with_each_attention_setting_shared_and_private(
    report: EngineReport,
) -> None:
    cases = [(one.attention, one.prefix, one.batch, one.context_tokens) for one in report.decode]
    shared = [(batch, tokens) for tokens in (40, 72) for batch in (1, 3)]
    assert [case[2:] for case in cases if case[:2] == ("shared", "shared")] == shared
    assert [case[2:] for case in cases if case[:2] == ("per-request", "shared")] == shared
    assert [case[2:] for case in cases if case[:2] == ("reference", "shared")] == shared
    assert [case[2:] for case in cases if case[1] == "private"] == [(3, 40)]
    skipped = [one.case for one in report.skipped if one.case.startswith("decode")]
    assert skipped == ["decode 3 × 72 private, shared attention"]


async def test_an_engine_with_weights_in_int8_is_measured_where_there_can_be_one(tiny_dir: Path) -> None:
    engine = TorchConfig(model_dir=str(tiny_dir), kv_bytes=1 << 25, dtype="bfloat16")
    report = await _run(_config(tiny_dir, engine=engine, sections=("int8",)))
    kernels = load_native()
    if kernels is not None and kernels.has_linear:
        assert report.int8 is not None
        assert [one.num_tokens for one in report.int8.prefill] == [16]
        assert {(one.attention, one.prefix) for one in report.int8.decode} == {("shared", "shared")}
        assert report.prefill == []
    else:
        assert report.int8 is None
        assert [one.case for one in report.skipped] == ["weights in int8"]


def test_every_figure_has_as_many_repeats_as_asked_for(report: EngineReport) -> None:
    spreads = [
        *(one.tokens_per_s for one in report.prefill),
        *(one.tokens_per_s for one in report.decode),
        *(one.step_s for one in report.decode),
        *(one.attention_s for one in report.split),
    ]
    assert {one.num_repeats for one in spreads} == {3}
    assert all(0 < one.min <= one.median <= one.max for one in spreads)


def test_the_parts_of_a_step_are_seen_and_are_less_than_the_step(report: EngineReport) -> None:
    assert [(one.phase, one.batch, one.context_tokens) for one in report.split] == [
        ("prefill", 1, 16),
        *(("decode", batch, tokens) for tokens in (40, 72) for batch in (1, 3)),
    ]
    for split in report.split:
        parts = (split.matrix_s, split.attention_s, split.model_rest_s, split.outside_s)
        assert all(0 < part.min <= part.max < split.step_s.max for part in parts)
        assert (split.sampling_s.min > 0) == (split.phase == "decode")


def test_forks_own_one_prefix_and_their_suffixes(report: EngineReport) -> None:
    assert report.memory is not None
    forks = report.memory.forks
    assert forks is not None
    assert forks.num_blocks == forks.expected_blocks == 63 + 3 * 3
    assert forks.unshared_blocks == 3 * 65


def test_every_decode_step_knows_its_distance_from_the_floor(report: EngineReport) -> None:
    distances = [*(one.floor for one in report.prefill), *(one.floor for one in report.decode)]
    assert all(one is not None and one.times_floor > 0 for one in distances)


def test_every_key_is_documented(report: EngineReport) -> None:
    page = (ROOT / "docs" / "reference" / "bench.md").read_text(encoding="utf-8")
    plain = asdict(report)
    open_ended = {"versions", "settings"}
    keys = set(_keys({key: value for key, value in plain.items() if key not in open_ended})) | open_ended
    assert sorted(key for key in keys if f"`{key}`" not in page and f'"{key}"' not in page) == []


def _keys(value: object) -> list[str]:
    if isinstance(value, Mapping):
        return [*value, *(key for child in value.values() for key in _keys(child))]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [key for child in value for key in _keys(child)]
    return []


async def test_what_does_not_fit_is_left_out_with_the_reason(tiny_dir: Path) -> None:
    engine = TorchConfig(model_dir=str(tiny_dir), context_tokens=64, kv_bytes=1 << 20, max_batch=2)
    config = _config(
        tiny_dir, engine=engine, sections=("prefill", "decode", "memory"), attentions=("shared",)
    )
    report = await _run(config)
    reasons = {one.case: one.reason for one in report.skipped}
    assert "window is 64" in reasons["decode 1 × 72 shared, shared attention"]
    assert "batch holds 2" in reasons["decode 3 × 40 shared, shared attention"]
    assert "window is 64" in reasons["KV blocks of forks"]
    assert [(one.batch, one.context_tokens) for one in report.decode] == [(1, 40)]


async def test_only_the_sections_asked_for_are_measured(tiny_dir: Path) -> None:
    report = await _run(_config(tiny_dir, sections=("prefill",)))
    assert [one.num_tokens for one in report.prefill] == [16]
    assert (report.decode, report.split, report.floors, report.memory) == ([], [], None, None)
    assert [one.attention for one in report.engines] == ["shared"]


def test_fewer_than_three_repeats_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 3"):
        EngineBenchConfig(engine=TorchConfig(model_dir="m"), repeats=2)


def test_a_spread_keeps_its_ends_and_its_middle() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0]) == Spread(min=1.0, median=2.5, max=10.0, num_repeats=4)


def test_only_steps_in_which_the_whole_batch_decodes_count() -> None:
    early = [0.0, 1.0, 2.0, 3.0, 4.0]
    late = [2.0, 3.0, 4.0, 5.0, 6.0]
    rate = decode_rate([early, late])
    assert (rate.tokens_per_s, rate.step_s) == (2.0, 1.0)


def test_a_decode_step_reads_a_shared_prefix_once() -> None:
    even = Spread(min=1.0, median=1.0, max=100.0, num_repeats=3)
    floors = Floors(read_bytes_per_s=even, matrix_flops_per_s=even, weight_bytes=1000, kv_bytes_per_token=2)
    work = ModelWork(
        layer_parameters=3, head_parameters=2, weight_bytes=1000, kv_bytes_per_token=2, attention_flops=1
    )
    shared = work.decode_distance(floors, 20.0, batch=4, context_tokens=50, is_shared=True)
    private = work.decode_distance(floors, 20.0, batch=4, context_tokens=50, is_shared=False)
    assert (shared.memory_floor_s, private.memory_floor_s) == (11.0, 14.0)
    assert shared.matrix_floor_s == private.matrix_floor_s == (2 * 4 * 5 + 4 * 50) / 100
    assert shared.times_floor == 20.0 / 11.0
    prefill = work.prefill_distance(floors, 1.0, num_tokens=10)
    assert prefill.matrix_floor_s == (2 * 10 * 3 + 50) / 100


def test_the_command_offers_every_section() -> None:
    assert bench_command.SECTIONS == SECTIONS


def test_the_command_prints_json_and_keeps_it(
    tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", "engine", "--model", str(tiny_dir), "--quick", "--only", "prefill", "--json"]
    assert run([*arguments, "--out", str(tmp_path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    (kept,) = tmp_path.glob("engine-tiny-*.json")
    assert json.loads(kept.read_text()) == printed
    assert printed["settings"]["sections"] == ["prefill"]
    assert "/" not in printed["settings"]["engine"]["model_dir"]
    assert [one["num_tokens"] for one in printed["prefill"]] == [128, 512]


def test_the_command_prints_tables(tiny_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "bench",
        "engine",
        "--model",
        str(tiny_dir),
        "--quick",
        "--only",
        "memory",
        "--only",
        "floors",
    ]
    assert run(arguments) == 0
    out = capsys.readouterr().out
    assert "32 forks of 40 tokens over one prefix of 1000: 159 blocks, 159 expected" in out
    assert "at best: reads" in out


def test_a_file_in_a_directory_that_is_not_there_is_refused_before_measuring(
    tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "nowhere" / "result.json"
    assert run(["bench", "engine", "--model", str(tiny_dir), "--out", str(out)]) == 2
    assert "there is no directory" in capsys.readouterr().err


def test_a_result_names_its_machine_and_commit() -> None:
    assert machine().num_cpus >= 1
    assert machine().memory_bytes > 1 << 20
    found = commit()
    assert found is None or len(found.commit) == 40
