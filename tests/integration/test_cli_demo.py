"""The demo on the scripted engine: three applications in three ways, told in full and counted right."""

import json
from pathlib import Path

import pytest

from parrot.cli import logs
from parrot.cli.root import run
from parrot.cli.timeline import LEGEND


@pytest.fixture(autouse=True)
def _leave_logging_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "configure_logs", lambda _level: None)


@pytest.fixture
def article(tmp_path: Path) -> Path:
    file = tmp_path / "article.txt"
    file.write_text(" ".join(f"Sentence number {n} says something about tea." for n in range(400)))
    return file


def test_the_demo_as_data_compares_equal_work(article: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--engine", "scripted", "--json", str(article)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["document"] == {"title": "article.txt", "characters": len(article.read_text())}
    assert data["engine"]["kind"] == "scripted"
    runs = {(run["application"], run["way"]): run for run in data["runs"]}
    assert len(runs) == 9
    for application in ("map_reduce", "chain", "coding_team"):
        whole, cached, alone = (runs[application, way] for way in ("application", "cached", "alone"))
        assert whole["num_calls"] == cached["num_calls"] == alone["num_calls"]
        assert whole["num_output_tokens"] == cached["num_output_tokens"] == alone["num_output_tokens"]
        assert (
            abs(whole["num_prompt_tokens"] - alone["num_prompt_tokens"]) < 0.05 * alone["num_prompt_tokens"]
        )
        assert alone["num_shared_tokens"] < 0.02 * alone["num_prompt_tokens"]
        assert whole["num_shared_tokens"] > alone["num_shared_tokens"]
        assert whole["num_round_trips"] < cached["num_round_trips"] == cached["num_calls"]
    assert sum(runs[name, "application"]["num_ahead_tokens"] for name in ("map_reduce", "chain")) > 0
    assert len(data["graphs"]["coding_team"]["edges"]) > 20


def test_the_demo_for_people_fits_into_80_columns(article: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--engine", "scripted", str(article)]) == 0
    told = capsys.readouterr()
    assert "saved in all" in told.out
    assert "coding team, as an application (▸ critical path)" in told.out
    assert LEGEND in told.out
    assert told.out.count("revise_file_") == 3
    assert "times are the service's own" in told.out
    assert max(map(len, told.out.splitlines())) <= 80
    assert told.err.count("as an application") == 3


def test_a_document_that_cannot_be_read_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--engine", "scripted", "absent.txt"]) == 2
    told = capsys.readouterr().err
    assert "absent.txt cannot be read" in told
    assert "config show" not in told
