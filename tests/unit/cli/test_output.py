"""Tables, durations, start-up phases, and errors as a user sees them."""

import io

import pytest

from parrot.cli.failures import Invocation, exit_status, first_cause, report
from parrot.cli.output import seconds, table_lines
from parrot.cli.phases import Phases
from parrot.errors import CallError, ConfigError, ParrotError, UnreachableError


class SteppingClock:
    def __init__(self) -> None:
        self.now = 0.0

    def now_s(self) -> float:
        self.now += 0.5
        return self.now

    def wall_s(self) -> float:
        return self.now

    async def sleep(self, duration_s: float) -> None:
        self.now += duration_s


def test_tables_are_aligned_with_numbers_to_the_right() -> None:
    assert table_lines(["NAME", "N"], [("a", 1), ("longer", 1234)]) == [
        "NAME        N",
        "a           1",
        "longer  1,234",
    ]


def test_a_table_without_rows_has_its_headers() -> None:
    assert table_lines(["NAME", "N"], []) == ["NAME  N"]


@pytest.mark.parametrize(("value", "text"), [(0.042, "0.04 s"), (1.26, "1.3 s"), (75.2, "75 s")])
def test_durations_are_short(value: float, text: str) -> None:
    assert seconds(value) == text


def test_each_phase_is_told_with_its_seconds_when_it_ends() -> None:
    stream = io.StringIO()
    with Phases(clock=SteppingClock(), stream=stream) as phases:
        show = phases.of("main")
        show("loading weights", 0.0)
        show("loading weights", 1.0)
        assert stream.getvalue() == ""
        show("warming up", None)
        assert stream.getvalue() == "main: loading weights … 0.50 s\n"
    assert stream.getvalue().endswith("main: warming up … 0.50 s\n")


@pytest.mark.parametrize(
    ("error", "status"),
    [(ConfigError("x"), 2), (UnreachableError("x"), 3), (CallError("x"), 1), (ParrotError("x"), 1)],
)
def test_each_kind_of_error_has_its_exit_status(error: ParrotError, status: int) -> None:
    assert exit_status(error) == status


def test_an_error_is_told_with_number_reason_and_fix(capsys: pytest.CaptureFixture[str]) -> None:
    error = CallError(
        "prompt needs 5,120 tokens, the window is 4,096", code="context_overflow", data={"fix": "cut\nit"}
    )
    assert report(error, Invocation()) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "error[P1203]: prompt needs 5,120 tokens, the window is 4,096",
        "  why: the prompt and its outputs do not fit into the model's window",
        "  fix: cut",
        "       it",
    ]


def test_the_first_of_our_errors_is_found_in_a_group() -> None:
    ours = ConfigError("x")
    assert first_cause(BaseExceptionGroup("g", [ExceptionGroup("h", [ours]), CallError("y")])) is ours


def test_a_group_with_a_fault_of_another_kind_is_not_taken_for_an_error_of_ours() -> None:
    assert first_cause(BaseExceptionGroup("g", [ConfigError("x"), ValueError("y")])) is None
