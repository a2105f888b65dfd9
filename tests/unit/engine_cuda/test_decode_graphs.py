"""Decode steps from padded buffers give what they give as they are; without a GPU, nothing is recorded."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from parrot.engine.torch.attention import ReferenceAttention
from parrot.engine.torch.contexts import Context
from parrot.engine.torch.cuda.pieces import build_tables, empty_tables
from parrot.engine.torch.init import init_model
from parrot.engine.torch.kv_cache import KvCache, KvShape
from parrot.engine.torch.models.decoder import Decoder
from parrot.engine.torch.models.placement import Placement
from parrot.engine.torch.models.registry import choose_model
from parrot.engine.torch.native_attention import divide
from parrot.engine.torch.step_input import QueryRows, Span, StepInput
from parrot.types.ids import ContextId

if TYPE_CHECKING:
    from parrot.engine.torch.cuda.graphs import DecodeGraphs, Replay

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NUM_SLOTS, PREFIX, CONTEXT_TOKENS = 200, 50, 64

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def decode_step(count: int, seed: int) -> StepInput:
    """One token each of some requests that share a prefix, after a few tokens of their own."""
    prefix = Context(ContextId(0), None, 0)
    shared = Span(prefix, PREFIX, ((0, PREFIX),))
    rows = [QueryRows(first=at, num_rows=1, spans=(shared,), own=((PREFIX + at, 1),)) for at in range(count)]
    generator = torch.Generator().manual_seed(seed)
    return StepInput(
        token_ids=torch.randint(2000, (count,), generator=generator).to(DEVICE),
        positions=torch.full((count,), PREFIX, device=DEVICE),
        slots=torch.arange(PREFIX, PREFIX + count, device=DEVICE),
        rows=tuple(rows),
        logit_rows=torch.arange(count, device=DEVICE),
    )


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Decoder, KvCache]:
    directory: Path = tmp_path_factory.mktemp("graphs") / "tiny"
    init_model("tiny", directory)
    model = choose_model(directory).load(
        Placement(
            dtype=torch.float32, device=DEVICE, context_tokens=CONTEXT_TOKENS, on_progress=lambda _: None
        )
    )
    shape = model.shape
    kv_shape = KvShape(
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        block_tokens=1,
        dtype=torch.float32,
    )
    cache = KvCache(kv_shape, NUM_SLOTS, DEVICE)
    generator = torch.Generator().manual_seed(1)
    for tensor in (cache.keys, cache.values):
        tensor[:, :, :PREFIX] = torch.randn(tensor[:, :, :PREFIX].shape, generator=generator).to(DEVICE)
    return model, cache


def rerun(work: Callable[[], torch.Tensor]) -> "tuple[Replay, torch.Tensor]":
    """Stands for a recording: the function is run again, over the same buffers."""
    logits = work().clone()

    def replay() -> None:
        logits.copy_(work())

    return replay, logits


def make_graphs(loaded: tuple[Decoder, KvCache], max_batch: int) -> "DecodeGraphs":
    if DEVICE.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    from parrot.engine.torch.cuda.attention import TritonAttention
    from parrot.engine.torch.cuda.graphs import DecodeGraphs, record_on_device

    model, cache = loaded
    return DecodeGraphs(
        model,
        TritonAttention(cache, num_heads=model.shape.num_heads),
        max_batch=max_batch,
        context_tokens=CONTEXT_TOKENS,
        scratch_slot=cache.scratch_slot,
        device=DEVICE,
        record=rerun if DEVICE.type == "cpu" else record_on_device,
    )


def as_it_is(loaded: tuple[Decoder, KvCache], step: StepInput) -> torch.Tensor:
    model, cache = loaded
    attention = ReferenceAttention(cache, model.attention)
    attention.begin(step)
    return model.forward(step.token_ids, step.positions, step.logit_rows, attention.attend)


@needs_triton
@torch.inference_mode()
def test_replayed_steps_give_the_logits_of_steps_as_they_are(loaded: tuple[Decoder, KvCache]) -> None:
    graphs = make_graphs(loaded, max_batch=4)
    for seed, count in enumerate((3, 1, 4, 3)):
        step = decode_step(count, seed)
        found = graphs.run(step)
        assert found is not None
        torch.testing.assert_close(found, as_it_is(loaded, step), rtol=1e-3, atol=1e-3)


@needs_triton
@torch.inference_mode()
def test_a_recording_is_made_once_for_each_size_of_batch(loaded: tuple[Decoder, KvCache]) -> None:
    graphs = make_graphs(loaded, max_batch=6)
    sizes: list[int] = []

    def counted(work: Callable[[], torch.Tensor]) -> "tuple[Replay, torch.Tensor]":
        replay, logits = rerun(work)
        sizes.append(len(logits))
        return replay, logits

    graphs._record = counted
    for count in (3, 4, 1, 3):
        graphs.run(decode_step(count, 0))
    assert sizes == [4, 1]


@needs_triton
@torch.inference_mode()
def test_a_step_that_cannot_be_replayed_is_left_to_be_run(loaded: tuple[Decoder, KvCache]) -> None:
    graphs = make_graphs(loaded, max_batch=4)
    assert graphs.run(decode_step(5, 0)) is None
    chunk = QueryRows(first=0, num_rows=3, spans=(), own=((PREFIX, 3),))
    places = torch.arange(3, device=DEVICE)
    mixed = StepInput(
        token_ids=places, positions=places, slots=places + PREFIX, rows=(chunk,), logit_rows=places[2:]
    )
    assert graphs.run(mixed) is None


@needs_triton
@torch.inference_mode()
def test_after_a_recording_that_failed_steps_run_as_they_are(loaded: tuple[Decoder, KvCache]) -> None:
    graphs = make_graphs(loaded, max_batch=4)
    calls = 0

    def fail(_work: Callable[[], torch.Tensor]) -> "tuple[Replay, torch.Tensor]":
        nonlocal calls
        calls += 1
        raise RuntimeError("an operation is not permitted while a stream is recorded")

    graphs._record = fail
    assert graphs.run(decode_step(2, 0)) is None
    assert graphs.run(decode_step(2, 0)) is None
    assert calls == 1


def test_a_bucket_is_the_next_power_of_two_or_the_largest_batch() -> None:
    pytest.importorskip("triton")
    from parrot.engine.torch.cuda.graphs import bucket_of

    found = [bucket_of(decode_step(count, 0), 6) for count in (1, 2, 3, 4, 5, 6, 7)]
    assert found == [1, 2, 4, 4, 6, 6, None]


def test_tables_that_stay_take_over_those_that_fit_and_no_others() -> None:
    def tables(count: int) -> object:
        pieces = divide(decode_step(count, 0).rows, shares=True)
        return build_tables(pieces, num_rows=4, readers_per_item=8, device=torch.device("cpu"))

    room = empty_tables(4, num_slots=NUM_SLOTS, context_tokens=CONTEXT_TOKENS, device=torch.device("cpu"))
    small, large = tables(1), tables(4)
    assert room.take(large)  # type: ignore[arg-type]
    places = room.items.data_ptr()
    assert room.take(small)  # type: ignore[arg-type]
    assert room.items.data_ptr() == places
    assert int(room.items[:, 3].sum()) == 1 * 1
    tiny = empty_tables(4, num_slots=10, context_tokens=CONTEXT_TOKENS, device=torch.device("cpu"))
    assert not tiny.take(large)  # type: ignore[arg-type]
    assert int(tiny.items.sum()) == 0
