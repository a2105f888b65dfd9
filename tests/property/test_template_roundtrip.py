"""Templates round-trip: what is written reads as what was meant, for any text."""

import gc
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot.errors import TemplateError
from parrot.types.template import (
    Piece,
    PlaceholderKind,
    PlaceholderPiece,
    TextPiece,
    parse_template,
    write_template,
)

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,63}", fullmatch=True)
BRACY_TEXT = st.text(alphabet=st.sampled_from("{}ab é%\n:"), max_size=20)
KINDS: st.SearchStrategy[PlaceholderKind | None] = st.sampled_from((None, "input", "output"))
PIECES = st.lists(
    st.one_of(
        st.builds(TextPiece, text=st.one_of(BRACY_TEXT, st.text(max_size=20)), position=st.just(0)),
        st.builds(PlaceholderPiece, name=NAMES, kind=KINDS, position=st.just(0)),
    ),
    max_size=12,
)


def meaning(pieces: tuple[Piece, ...] | list[Piece]) -> list[str | tuple[str, PlaceholderKind | None]]:
    """Pieces without positions, neighbouring texts joined."""
    meant: list[str | tuple[str, PlaceholderKind | None]] = []
    for piece in pieces:
        if isinstance(piece, PlaceholderPiece):
            meant.append((piece.name, piece.kind))
        elif meant and isinstance(meant[-1], str):
            meant[-1] += piece.text
        elif piece.text:
            meant.append(piece.text)
    return meant


@given(PIECES)
def test_a_written_template_reads_as_its_pieces(pieces: list[Piece]) -> None:
    assert meaning(parse_template(write_template(pieces))) == meaning(pieces)


@given(PIECES)
def test_writing_what_was_read_gives_the_same_template(pieces: list[Piece]) -> None:
    text = write_template(pieces)
    assert write_template(parse_template(text)) == text


@given(PIECES)
def test_positions_point_at_the_pieces(pieces: list[Piece]) -> None:
    text = write_template(pieces)
    ends = [0]
    for piece in parse_template(text):
        assert piece.position >= ends[-1]
        if isinstance(piece, PlaceholderPiece):
            assert text.startswith("{{", piece.position)
            ends.append(text.index("}}", piece.position) + 2)
        else:
            assert piece.position == ends[-1]
    assert len(text) >= ends[-1]


@given(BRACY_TEXT)
def test_any_text_is_read_or_refused_with_its_position(text: str) -> None:
    position: object = None
    pieces: tuple[Piece, ...] = ()
    try:
        pieces = parse_template(text)
    except TemplateError as error:
        position = error.data["position"]
    assert position is None or text.startswith("{{", int(str(position)))
    assert all(piece.text for piece in pieces if isinstance(piece, TextPiece))


@pytest.mark.parametrize(
    "bomb",
    [
        "{{" * 100_000,
        "{{" * 100_001,
        "{{" + " " * 200_000,
        "{{a" * 100_000,
        "{{" + "a" * 200_000,
        "{{a}} " * 50_000,
    ],
)
def test_reading_takes_linear_time(bomb: str) -> None:
    gc.disable()  # what the collector costs depends on everything else that lives in this process
    begun = time.process_time()
    try:
        num_pieces = len(parse_template(bomb))
    except TemplateError:
        num_pieces = 0
    finally:
        gc.enable()
    assert time.process_time() - begun < 0.5
    assert num_pieces <= 100_000
