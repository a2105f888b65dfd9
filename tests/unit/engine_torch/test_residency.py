"""Memory behind KV blocks is there before tokens are written to it, and no more of it than is used soon."""

import asyncio
import resource
import sys
from pathlib import Path

import pytest
import torch
from torch_driver import StartDriver

from parrot.engine.torch.block_pool import BlockPool
from parrot.engine.torch.residency import Residency

NUM_BLOCKS = 4096
BLOCK_BYTES = 4096
PAGE_BYTES = resource.getpagesize()

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lays out memory ahead")


def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    size = (2, 3, NUM_BLOCKS * BLOCK_BYTES // 4)
    return torch.empty(size, dtype=torch.float32), torch.empty(size, dtype=torch.float32)


def num_faults_to_write(tensor: torch.Tensor, first: int, end: int) -> int:
    """Page faults while blocks from `first` to before `end` are written."""
    before = num_faults()
    tensor[:, :, first * BLOCK_BYTES // 4 : end * BLOCK_BYTES // 4] = 1.0
    return num_faults() - before


def num_faults() -> int:
    """Pages that this process was given because it wrote to them, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def num_pages(num_blocks: int) -> int:
    """Pages of a tensor that so many blocks take."""
    return 2 * 3 * num_blocks * BLOCK_BYTES // PAGE_BYTES


def extend(residency: Residency) -> int:
    """Lay out all that should be; how many pieces that were."""
    num_pieces = 0
    while residency.extend():
        num_pieces += 1
    return num_pieces


def test_blocks_that_are_open_and_the_next_parts_have_pages_before_they_are_written() -> None:
    pool, (keys, values) = BlockPool(NUM_BLOCKS), tensors()
    part = pool.part_blocks
    assert extend(Residency(pool, (keys, values))) > 0
    for tensor in (keys, values):
        assert num_faults_to_write(tensor, 0, 3 * part) < num_pages(part) // 10
        assert num_faults_to_write(tensor, 8 * part, 9 * part) > num_pages(part) // 2


def test_what_is_opened_later_gets_pages_and_contents_stay() -> None:
    pool, (keys, values) = BlockPool(NUM_BLOCKS), tensors()
    part = pool.part_blocks
    residency = Residency(pool, (keys, values))
    extend(residency)
    assert extend(residency) == 0
    keys[:, :, : 3 * part * BLOCK_BYTES // 4] = 7.0
    pool.take(3 * part)
    extend(residency)
    assert pool.num_open >= 4 * part
    assert num_faults_to_write(values, 3 * part, pool.num_open + 2 * part) < num_pages(part) // 10
    assert bool((keys[:, :, : 3 * part * BLOCK_BYTES // 4] == 7.0).all())


def test_a_system_that_cannot_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parrot.engine.torch.residency._MADV_POPULATE_WRITE", 9999)
    residency = Residency(BlockPool(NUM_BLOCKS), tensors())
    assert residency.extend()
    assert not residency.extend()


@pytest.mark.parametrize("num_blocks", [1, 40, 4096])
def test_a_pool_opens_its_parts_as_room_is_needed(num_blocks: int) -> None:
    pool = BlockPool(num_blocks)
    assert pool.num_open == min(num_blocks, pool.part_blocks)
    opened, ends = [pool.num_open], []
    while pool.num_free:
        ends += [first + count for first, count in pool.take(1)]
        opened.append(pool.num_open)
    assert opened == sorted(opened)
    assert opened[-1] == num_blocks
    assert sorted(ends) == list(range(1, num_blocks + 1))


def test_a_context_grows_across_the_end_of_what_is_open_without_a_gap() -> None:
    pool = BlockPool(NUM_BLOCKS)
    [(first, count)] = pool.take(4)
    while first + count < 4 * pool.part_blocks:
        [(at, more)] = pool.take(1, after=first + count)
        assert at == first + count
        count += more
    assert pool.num_open >= 4 * pool.part_blocks


async def settled_bytes() -> int:
    """Memory of this process that has pages, once it grows no more."""
    before, now = -1, resident_bytes()
    async with asyncio.timeout(10):
        while before != now:
            await asyncio.sleep(0.1)
            before, now = now, resident_bytes()
    return now


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES


async def test_an_idle_engine_has_memory_for_what_comes_next_and_no_more(
    start: StartDriver, plain_dir: Path
) -> None:
    before = resident_bytes()
    await start(plain_dir, kv_bytes=1 << 30)
    taken = await settled_bytes() - before
    assert 2 * (1 << 30) // 32 < taken < (1 << 30) // 4
