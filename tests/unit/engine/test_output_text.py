"""Text of an output: characters are whole, stop strings do not show."""

from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from parrot.engine.output_text import OutputText


@given(st.text(max_size=20), st.data())
def test_no_piece_splits_a_character_however_bytes_are_cut(text: str, data: st.DataObject) -> None:
    encoded = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=6)))
    edges = [0, *cuts, len(encoded)]
    output = OutputText()
    pieces = [output.feed(encoded[a:b]) for a, b in pairwise(edges)]
    rest, exact = output.finish()
    assert "".join(pieces) + rest == text
    assert all(text.startswith(prefix) for prefix in accumulate(pieces))
    assert exact


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(1, 4), max_size=30),
)
def test_the_output_ends_before_the_first_stop_string(text: str, stop: list[str], sizes: list[int]) -> None:
    output = OutputText(stop=stop)
    shown, at = "", 0
    for size in [*sizes, len(text)]:
        if output.stopped or at >= len(text):
            break
        shown += output.feed(text[at : at + size].encode())
        at += size
        assert not any(string in shown for string in stop)
    rest, exact = output.finish()
    seen = text[:at]
    first = min((i for i in map(seen.find, stop) if i >= 0), default=len(seen))
    assert shown + rest == seen[:first]
    assert exact == (first == len(seen))


def test_a_stop_string_in_the_first_min_tokens_is_text() -> None:
    output = OutputText(stop=["no"], min_tokens=2)
    assert [output.feed(b"no"), output.feed(b"no"), output.feed(b"x"), output.feed(b"no")] == [
        "no",
        "no",
        "x",
        "",
    ]
    assert output.stopped


def test_an_unfinished_last_character_is_left_out() -> None:
    output = OutputText()
    assert output.feed("né".encode()[:2]) == "n"
    assert output.finish() == ("", False)
