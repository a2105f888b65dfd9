"""A step's rows as pieces for the native kernels: who reads what, and what is read once."""

from parrot.engine.native.plan import Piece
from parrot.engine.torch.block_pool import Run
from parrot.engine.torch.contexts import Context
from parrot.engine.torch.native_attention import MIN_SHARED_TOKENS, divide
from parrot.engine.torch.step_input import QueryRows, Span
from parrot.types.ids import ContextId

LONG = 4 * MIN_SHARED_TOKENS


def context(number: int) -> Context:
    return Context(ContextId(number), None, 0)


def rows(first: int, spans: list[Span], own: list[Run], *, goes_on: bool = False) -> QueryRows:
    num_rows = sum(count for _, count in own) or 1
    return QueryRows(
        first=first,
        num_rows=num_rows,
        spans=tuple(spans),
        num_own_before=spans[-1].num_tokens if goes_on else 0,
        own=tuple(own),
    )


def seen(pieces: list[Piece], row: int) -> list[int]:
    """All slots that a row reads, in order of their numbers."""
    found: list[int] = []
    for piece in pieces:
        slots = [slot for first, count in piece.runs for slot in range(first, first + count)]
        for first, count, limit, more in piece.readers:
            if first <= row < first + count:
                found += slots[: limit + more * (row - first)]
    return sorted(found)


ROOT, MIDDLE = context(1), context(2)
ROOT_SLOTS = (0, LONG)
STEP = [
    rows(0, [Span(ROOT, LONG, (ROOT_SLOTS,))], [(1000, 1)]),
    rows(1, [Span(ROOT, LONG, (ROOT_SLOTS,)), Span(MIDDLE, 7, ((500, 7),))], [(2000, 2), (2100, 1)]),
    rows(4, [Span(ROOT, LONG - 50, ((0, LONG - 50),))], [(LONG - 50, 3)], goes_on=True),
    rows(7, [Span(ROOT, 20, ((0, 20),))], []),
]
EXPECTED = [
    [*range(LONG), 1000],
    [*range(LONG), *range(500, 507), 2000],
    [*range(LONG), *range(500, 507), 2000, 2001],
    [*range(LONG), *range(500, 507), 2000, 2001, 2100],
    [*range(LONG - 49)],
    [*range(LONG - 48)],
    [*range(LONG - 47)],
    [*range(20)],
]


def test_every_row_sees_the_same_whether_reading_is_shared_or_not() -> None:
    for shares in (True, False):
        pieces = divide(STEP, shares=shares)
        assert [seen(pieces, row) for row in range(len(EXPECTED))] == EXPECTED


def test_a_context_is_one_piece_for_all_its_readers_however_much_each_sees() -> None:
    pieces = divide(STEP, shares=True)
    readers = {piece.runs: list(piece.readers) for piece in pieces}
    assert readers[(ROOT_SLOTS,)] == [
        (0, 1, LONG, 0),
        (1, 3, LONG, 0),
        (4, 3, LONG - 49, 1),
        (7, 1, 20, 0),
    ]
    assert len(pieces) == 3


def test_without_sharing_each_request_is_one_piece() -> None:
    pieces = divide(STEP, shares=False)
    assert len(pieces) == len(STEP)
    assert all(len(piece.readers) == 1 for piece in pieces)


def test_a_context_with_few_tokens_is_read_with_what_is_private() -> None:
    few = Span(context(3), MIN_SHARED_TOKENS - 1, ((64, MIN_SHARED_TOKENS - 1),))
    pieces = divide([rows(0, [few], [(128, 1)]), rows(1, [few], [(144, 1)])], shares=True)
    assert [piece.runs for piece in pieces] == [
        ((64, MIN_SHARED_TOKENS - 1), (128, 1)),
        ((64, MIN_SHARED_TOKENS - 1), (144, 1)),
    ]


def test_slots_that_follow_one_another_are_one_run() -> None:
    own = context(4)
    pieces = divide([rows(0, [Span(own, 40, ((0, 32), (32, 8)))], [(40, 1)], goes_on=True)], shares=True)
    assert pieces == [Piece(runs=((0, 41),), readers=[(0, 1, 41, 1)])]
