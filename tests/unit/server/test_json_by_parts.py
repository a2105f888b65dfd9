"""Long answers are written a part at a time, to the same text."""

import asyncio

from parrot.server.routes import PART_ITEMS, json_by_parts
from parrot.wire.answers import Edge, GraphView


def view(num_edges: int) -> GraphView:
    edges = tuple(Edge(source=f"c{i}", target="é\n", variable_id="v") for i in range(num_edges))
    return GraphView(session_id="ses_1", calls=(), variables=(), edges=edges, critical_path=("a", "b"))


async def test_the_text_is_what_the_model_writes() -> None:
    for num_edges in (0, 1, PART_ITEMS, 3 * PART_ITEMS + 1):
        parts = [part async for part in json_by_parts(view(num_edges))]
        assert b"".join(parts) == view(num_edges).model_dump_json().encode()


async def test_others_have_a_turn_for_each_part() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    longest = max([len(part) async for part in json_by_parts(view(20 * PART_ITEMS))])
    task.cancel()
    assert turns >= 20
    assert longest < len(view(2 * PART_ITEMS).model_dump_json())
