"""The demo's documents, prompts and report."""

from pathlib import Path

import pytest

from parrot.cli.demo.applications import APPLICATIONS, FILES, NUM_CHAIN_PIECES, Text
from parrot.cli.demo.documents import pieces, read_document
from parrot.cli.demo.measure import WAYS, Measured, Way
from parrot.cli.demo.report import report_data, report_lines
from parrot.errors import ConfigError
from parrot.sdk.function import SemanticFunction
from parrot.sdk.variable import SemanticVariable


def test_pieces_are_cut_at_white_space_and_hold_the_text_in_order() -> None:
    text = " ".join(f"word{n}" for n in range(1000))
    found = pieces(text, num_pieces=5, max_chars=300)
    assert len(found) == 5
    assert all(len(piece) <= 300 for piece in found)
    assert text.startswith(" ".join(found))


def test_a_text_without_white_space_is_cut_all_the_same() -> None:
    assert pieces("x" * 2000, num_pieces=3, max_chars=500) == ["x" * 500] * 3


def test_a_short_text_gives_one_piece() -> None:
    assert pieces("short", num_pieces=8, max_chars=500) == ["short"]


def test_without_files_the_projects_own_text_is_read() -> None:
    document = read_document([])
    assert document.title.startswith("Parrot's own")
    assert len(document.text) > 5000


def test_files_are_joined(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("one")
    second.write_text("two")
    document = read_document([first, second])
    assert (document.title, document.text) == ("a.txt and 1 more", "one\n\ntwo")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"   \n"])
def test_what_is_no_text_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(content)
    with pytest.raises(ConfigError):
        read_document([file])


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_document([tmp_path / "absent.txt"])


@pytest.mark.parametrize("application", APPLICATIONS, ids=lambda each: each.name)
async def test_an_application_makes_its_calls_and_links_them(application: object) -> None:
    made: list[str] = []

    async def step(function: SemanticFunction[SemanticVariable[str]], /, **inputs: Text) -> Text:
        function.plan.bind((), inputs)
        assert inputs["run"] == "Run 0."
        made.append(function.plan.name)
        return f"<{function.plan.name} {len(made)}>"

    (chosen,) = [each for each in APPLICATIONS if each is application]
    outputs = await chosen.run(step, "Run 0.", [f"part {n}" for n in range(8)])
    expected = {
        "map_reduce": (9, 1),
        "chain": (NUM_CHAIN_PIECES, 1),
        "coding_team": (1 + 3 * len(FILES), len(FILES)),
    }
    assert (len(made), len(outputs)) == expected[chosen.name]


def measured(application: str, way: Way, duration_s: float) -> Measured:
    return Measured(
        application=application,
        way=way,
        num_calls=10,
        duration_s=duration_s,
        num_round_trips=2 if way == "application" else 10,
        num_prompt_tokens=1000,
        num_shared_tokens=0 if way == "alone" else 400,
        num_ahead_tokens=150 if way == "application" else 0,
        num_prefilled_tokens=1000 if way == "alone" else 600,
        num_output_tokens=500,
    )


def _runs() -> list[Measured]:
    durations: dict[Way, tuple[float, ...]] = {
        "application": (1.0, 9.0, 2.0),
        "cached": (3.0,) * 3,
        "alone": (4.0,) * 3,
    }
    return [
        measured(application.name, way, durations[way][repeat])
        for application in APPLICATIONS
        for repeat in range(3)
        for way in WAYS
    ]


def test_the_report_tells_medians_and_what_was_saved_in_80_columns() -> None:
    lines = list(report_lines(_runs(), note=None))
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines[1:3] if "as an application" in line]
    assert row.split() == ["as", "an", "application", "10", "2", "2.00", "600", "400", "150", "500"]
    (saved,) = [line for line in lines if "against single, unshared" in line]
    assert saved.split()[3:] == ["6.00", "s", "2.00x", "1,200", "tokens", "24", "trips"]
    assert any("medians of 3 runs each" in line for line in lines)


def test_the_report_as_data_has_every_run_and_the_totals() -> None:
    data = report_data(_runs())
    runs = data["runs"]
    assert isinstance(runs, list)
    assert len(runs) == 27
    assert data["saved"] == {
        "cached": {
            "duration_s": 3.0,
            "round_trips": 24,
            "prefilled": 0,
            "shared": 0,
            "ahead": -450,
            "generated": 0,
        },
        "alone": {
            "duration_s": 6.0,
            "round_trips": 24,
            "prefilled": 1200,
            "shared": -1200,
            "ahead": -450,
            "generated": 0,
        },
    }
