"""`ps`, `sessions` and `engines` against a running service, through the command line."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import parrot
from parrot import Input, Output, semantic_function
from parrot.cli.beside import service_beside
from parrot.cli.root import run

Command = Callable[..., str]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with service_beside(model=None, engine="scripted") as address:
        yield address


@pytest.fixture
def command(url: str, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs one command against the service and gives what it printed; it must end well."""

    def call(*arguments: str) -> str:
        capsys.readouterr()
        status = run([*arguments, "--url", url])
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out

    return call


@semantic_function(max_tokens=8)
def draft(topic: Input, text: Output) -> None:
    """Write about {{topic}}: {{text}}"""


@semantic_function(max_tokens=8)
def polish(text: Input, better: Output) -> None:
    """Make this better: {{text}} Better: {{better}}"""


@pytest.fixture(scope="module")
def session_id(url: str) -> str:
    async def work() -> str:
        async with parrot.connect(url, name="two steps", metadata={"team": "red"}, keep=True) as session:
            await polish(text=draft(topic="tea")).get()
            return session.id

    return asyncio.run(work())


@pytest.fixture(scope="module")
def waiting_session_id(url: str) -> str:
    async def work() -> str:
        async with parrot.connect(url, keep=True) as session:
            async with session.batch():
                polish(text=session.variable("never_set"))
            return session.id

    return asyncio.run(work())


def test_engines_are_listed(command: Command) -> None:
    (engine,) = json.loads(command("engines", "ls", "--json"))["engines"]
    assert (engine["model"], engine["state"]) == ("scripted", "up")
    assert "scripted" in command("engines", "ls")


def test_ps_shows_engines_and_no_calls_when_idle(command: Command, session_id: str) -> None:
    shown = json.loads(command("ps", "--json"))
    assert [engine["engine_id"] for engine in shown["engines"]] == ["main"]
    assert session_id not in [call["session_id"] for call in shown["calls"]]
    assert "ENGINE" in command("ps")


def test_sessions_are_listed_with_their_counts(command: Command, session_id: str) -> None:
    listed = json.loads(command("sessions", "ls", "--json"))["sessions"]
    (session,) = [each for each in listed if each["session_id"] == session_id]
    assert session["calls"]["done"] == 2
    assert session_id in command("sessions", "ls")


def test_a_session_is_shown(command: Command, session_id: str) -> None:
    text = command("sessions", "show", session_id)
    assert "two steps" in text
    assert "2 done" in text
    assert "metadata.team" in text


def test_a_sessions_graph_is_drawn_by_stage(command: Command, session_id: str) -> None:
    lines = command("sessions", "graph", session_id).splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("stage")] == ["stage 0", "stage 1"]
    assert any("← draft_1" in line for line in lines)
    assert len(json.loads(command("sessions", "graph", session_id, "--json"))["calls"]) == 2


def test_a_sessions_graph_is_explained(command: Command, session_id: str) -> None:
    text = command("sessions", "graph", session_id, "--explain")
    assert "someone waits for" in text or "final result" in text
    assert "critical path: draft_1 → polish_2" in text
    assert "█" in text
    assert max(map(len, text.splitlines())) <= 80
    graph = json.loads(command("sessions", "graph", session_id, "--explain", "--json"))
    assert [call["critical"] for call in graph["calls"]] == [True, True]


def test_a_session_is_exported_as_a_trace(command: Command, session_id: str, tmp_path: Path) -> None:
    printed = json.loads(command("sessions", "export", session_id))
    file = tmp_path / "trace.json"
    assert command("sessions", "export", session_id, "--out", str(file)) == ""
    assert json.loads(file.read_text(encoding="utf-8")) == printed
    assert {"draft_1", "polish_2"} <= {event["name"] for event in printed["traceEvents"]}


def test_a_trace_that_cannot_be_written_ends_with_status_2(
    url: str, session_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "absent" / "trace.json"
    assert run(["sessions", "export", session_id, "--out", str(file), "--url", url]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_sessions_calls_are_cancelled(command: Command, waiting_session_id: str) -> None:
    cancelled = json.loads(command("sessions", "cancel", waiting_session_id, "--json"))["cancelled"]
    assert len(cancelled) == 1
    assert "1 cancelled" in command("sessions", "show", waiting_session_id)


def test_sessions_are_deleted(command: Command, waiting_session_id: str) -> None:
    assert command("sessions", "delete", waiting_session_id) == f"{waiting_session_id}\n"
    listed = json.loads(command("sessions", "ls", "--json"))["sessions"]
    assert waiting_session_id not in [session["session_id"] for session in listed]


def test_an_unknown_session_ends_with_status_1_and_the_errors_number(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sessions", "show", "ses_none", "--url", url]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error[P1400]")


def test_a_url_that_is_no_url_ends_with_status_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ps", "--url", "nonsense"]) == 3
    told = capsys.readouterr().err
    assert told.startswith("error[P7000]: 'nonsense' is not an address such as http://127.0.0.1:8321")
    assert "parrot serve" not in told


def test_a_url_with_the_interfaces_path_is_told_to_be_without(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["ps", "--url", f"{url}/v1"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told == ["error[P1402]: no such route", told[-1]]
    assert "without /v1" in told[-1]
