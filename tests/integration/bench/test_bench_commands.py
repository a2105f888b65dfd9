"""`parrot bench apps`, `control` and `scale` on a real service with the scripted engine."""

import json
from pathlib import Path
from typing import Any

import pytest

from parrot.cli.root import run

WORKS = ("chain", "agents", "gpts-rate")


def _json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_applications_run_on_both_sides_with_equal_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--engine", "scripted", "--baseline-parrot", "--work", ",".join(WORKS), "--runs", "1"]
    load = ["--scale", "0.05", "--rate", "8", "--duration", "1", "--rtt", "0.02", "--seed", "7"]
    out = tmp_path / "apps.json"
    assert run(["bench", "apps", *arguments, *load, "--json", "--out", str(out)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    runs = {(line["work"], line["side"]): line for line in lines if line["type"] == "run"}
    assert set(runs) == {(work, side) for work in WORKS for side in ("parrot", "parrot-completions")}
    for work in WORKS:
        ours, theirs = runs[work, "parrot"], runs[work, "parrot-completions"]
        assert ours["num_calls"] == theirs["num_calls"] > 0
        assert ours["output_tokens"] == theirs["output_tokens"] > 0
        assert ours["prompt_tokens"] == pytest.approx(theirs["prompt_tokens"], rel=0.1)
    assert runs["chain", "parrot-completions"]["jct_s"] > 6 * 0.02
    assert runs["chain", "parrot-completions"]["num_requests"] == 6
    assert runs["chain", "parrot"]["num_requests"] == runs["agents", "parrot"]["num_requests"] == 1
    assert runs["gpts-rate", "parrot"]["num_requests"] == runs["gpts-rate", "parrot"]["num_calls"]
    assert runs["gpts-rate", "parrot"]["streams"][0]["ttft_s"]["median"] > 0
    assert lines[-1]["type"] == "summary"
    written = json.loads(out.read_text())
    assert [work["work"] for work in written["works"]] == list(WORKS)
    assert len(written["runs"]) == len(runs)


def test_a_base_line_that_does_not_answer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--engine", "scripted", "--baseline", "openai:http://127.0.0.1:9", "--work", "chain"]
    assert run(["bench", "apps", *arguments]) == 3
    assert "no server answers at http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize(
    "odd",
    [
        ["--work", "chains"],
        ["--baseline", "vllm:/nowhere", "--engine", "scripted"],
        ["--baseline", "llamacpp:/nowhere", "--engine", "scripted"],
    ],
)
def test_what_cannot_be_run_is_a_usage_error(odd: list[str]) -> None:
    assert run(["bench", "apps", *odd]) == 2


def test_the_control_plane_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "control.json"
    assert run(["bench", "control", "--quick", "--json", "--out", str(out)]) == 0
    report = _json(capsys)
    assert report == json.loads(out.read_text())
    assert report["batches"]["calls_per_s"]["median"] > 0
    assert report["single"]["num_calls"] == 40
    assert 0 < report["chain"]["added_s"]["p50"] <= report["chain"]["added_s"]["p99"]
    assert report["session"]["num_calls"] == 400
    assert [one["num_live_calls"] for one in report["growth"]] == [20, 200]
    assert report["memory"]["idle_bytes"] > 1 << 20


def test_nothing_is_lost_at_scale(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "scale", "--quick", "--json"]) == 0
    report = _json(capsys)
    assert report["num_lost"] == 0
    assert report["owned_blocks"] == 0
    assert [(part["name"], part["num_calls"]) for part in report["parts"]] == [
        ("book", 63),
        ("chats", 20),
        ("teams", 62),
    ]
    assert all(part["answer_s"]["num_samples"] > 0 for part in report["parts"])
