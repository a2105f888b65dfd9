"""From a config to the parts of an engine: weights, KV memory, step loop."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from parrot.engine.native.kernels import NativeKernels
from parrot.engine.torch.batcher import Batcher
from parrot.engine.torch.config import TorchConfig
from parrot.engine.torch.contexts import ContextTree
from parrot.engine.torch.grammar import GrammarCompiler, TokenMasks
from parrot.engine.torch.kv_cache import KvShape
from parrot.engine.torch.loader import bad_model, hash_model
from parrot.engine.torch.models.decoder import Decoder
from parrot.engine.torch.models.llama import LlamaModel
from parrot.engine.torch.models.placement import Placement
from parrot.engine.torch.models.registry import ModelSource, choose_model
from parrot.engine.torch.models.shape import ModelShape
from parrot.engine.torch.native_attention import NativeAttention
from parrot.engine.torch.paths import DEFAULT_THREADS, AttentionPath, choose_attention, choose_kernels
from parrot.engine.torch.residency import Residency
from parrot.engine.torch.runner import Runner
from parrot.engine.torch.sampler import Sampler
from parrot.engine.torch.step_loop import Report, StepLoop
from parrot.engine.torch.timing import StepTimes
from parrot.engine.torch.tokenizer import TorchTokenizer, load_tokenizer
from parrot.errors import ConfigError, EngineError
from parrot.ports.clock import Clock
from parrot.ports.engine import Capabilities, EngineInfo, Progress
from parrot.types.ids import EngineId

if TYPE_CHECKING:
    from parrot.engine.torch.cuda.graphs import DecodeGraphs

_CPU_SHARE = 0.25
"""Share of the free memory that KV takes on a CPU, unless it is told; the service needs some as well."""
_CUDA_SHARE = 0.9
_CUDA_RESERVE_BYTES = 1 << 30
"""Left for the activations of a step."""
_WARM_UP_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A loaded model and what runs it."""

    config: TorchConfig
    shape: ModelShape
    tokenizer: TorchTokenizer
    model: Decoder
    kernels: NativeKernels | None
    path_words: str
    """What computes, and why it is not what is usual; for people."""
    runner: Runner
    tree: ContextTree
    kv_shape: KvShape
    device: torch.device
    context_tokens: int
    model_hash: str
    torch_threads: int
    """Threads for what torch computes of a step."""
    residency: Residency | None = None
    """What lays out KV memory ahead of its use; None where it does not lie in the machine's memory."""
    times: StepTimes | None = None
    """Where steps note their times, when they are measured."""

    def info(self, engine_id: EngineId) -> EngineInfo:
        """What is fixed about the engine."""
        config = self.config
        dtype = str(self.kv_shape.dtype).removeprefix("torch.")
        return EngineInfo(
            engine_id=engine_id,
            kind="torch",
            model=config.served_name or Path(config.model_dir).resolve().name,
            model_hash=self.model_hash,
            device=str(self.device),
            dtype=dtype,
            num_parameters=self.model.num_parameters,
            context_tokens=self.context_tokens,
            block_tokens=config.block_tokens,
            num_blocks=self.tree.pool.num_blocks,
            block_bytes=self.kv_shape.block_bytes,
            max_batch=config.max_batch,
            capabilities=Capabilities(structured_output=True),
            description=(
                f"{self.shape.family} on torch {torch.__version__}, {self.path_words}, "
                f"{config.num_threads or DEFAULT_THREADS} threads"
            ),
        )

    def grammar_compiler(self) -> GrammarCompiler:
        """What makes bounds for this model's outputs."""
        return GrammarCompiler(self.tokenizer, self.shape.eos_ids)

    def step_loop(self, report: Callable[[Report], None], clock: Clock) -> StepLoop:
        """The loop over these parts; made once."""
        config = self.config
        batcher = Batcher(
            tree=self.tree,
            max_batch=config.max_batch,
            step_tokens=config.step_tokens,
            context_tokens=self.context_tokens,
        )
        vocab_size = min(self.shape.vocab_size, self.tokenizer.vocab_size)
        return StepLoop(
            batcher=batcher,
            runner=self.runner,
            sampler=Sampler(
                vocab_size=vocab_size,
                eos_ids=self.shape.eos_ids,
                masks=TokenMasks(self.tokenizer, eos_ids=self.shape.eos_ids, vocab_size=vocab_size),
                kernels=self.kernels,
                device=self.device,
            ),
            decoder=self.tokenizer,
            eos_ids=self.shape.eos_ids,
            vocab_size=self.shape.vocab_size,
            context_tokens=self.context_tokens,
            seed=config.seed,
            torch_threads=self.torch_threads,
            residency=self.residency,
            report=report,
            clock=clock,
            times=self.times,
        )


async def load_parts(config: TorchConfig, progress: Progress, times: StepTimes | None = None) -> Parts:
    """`build_parts` in a thread of its own, which ends with it; `progress` is called in that thread.

    OpenMP keeps a team of threads for every thread that ever computed. Once there are more of them than
    processors, idle teams sleep rather than wait at hand, and every parallel piece of a step, of which there
    are hundreds, begins by waking one: steps take up to twice as long. So nothing of loading stays behind.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="parrot-torch-load")
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, build_parts, config, progress, times)
    finally:
        pool.shutdown(wait=False)


def build_parts(config: TorchConfig, progress: Progress, times: StepTimes | None = None) -> Parts:
    """Load everything; blocks for seconds. With `times`, the engine's steps note theirs.

    Raises:
        ConfigError: `bad_model` or `bad_config`.
        EngineError: `engine_start_failed`; not enough memory.
    """
    try:
        return _build(config, progress, times)
    except (RuntimeError, MemoryError) as error:
        raise EngineError(f"the model could not be loaded: {error}", code="engine_start_failed") from error


@torch.inference_mode()
def _build(config: TorchConfig, progress: Progress, times: StepTimes | None) -> Parts:
    progress("reading the model's config", None)
    model_dir = Path(config.model_dir)
    if not model_dir.is_dir():
        raise bad_model(model_dir, "is not a directory")
    source = choose_model(model_dir)
    tokenizer = load_tokenizer(config.model_dir)
    device = _choose_device(config)
    dtype = _choose_dtype(config, source.shape, device)
    kernels, kernel_words = choose_kernels(config, dtype=dtype, device=device)
    if config.weights == "int8" and source.why_not_fast is not None:
        raise ConfigError(
            f"weights in int8 need layers of the engine's own: {source.why_not_fast}", param="engine.weights"
        )
    model = source.load(
        Placement(
            dtype=dtype,
            device=device,
            kernels=kernels,
            context_tokens=_choose_window(config, source.shape),
            on_progress=lambda fraction: progress("loading weights", fraction),
        )
    )
    shape = model.shape
    context_tokens = _choose_window(config, shape)
    progress("allocating KV memory", None)
    kv_shape = KvShape(
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        block_tokens=config.block_tokens,
        dtype=dtype,
    )
    num_blocks = _choose_num_blocks(config, kv_shape, context_tokens, device)
    tree = ContextTree(num_blocks, config.block_tokens)
    path = choose_attention(
        config.attention,
        model.attention,
        kernels,
        kv_shape=kv_shape,
        num_blocks=num_blocks,
        num_heads=shape.num_heads,
        device=device,
    )
    is_fused = False
    if isinstance(model, LlamaModel) and isinstance(path.attention, NativeAttention):
        is_fused = model.fuse(path.attention, times)
    graphs, graph_words = _choose_graphs(config, source, model, path, context_tokens, device)
    runner = Runner(
        model=model,
        cache=path.cache,
        tree=tree,
        attention=path.attention,
        device=device,
        times=times,
        # A recording says nothing of where its time goes.
        replay=graphs.run if graphs is not None and times is None else None,
    )
    progress("warming up", None)
    runner.warm_up(min(_WARM_UP_TOKENS, context_tokens, num_blocks * config.block_tokens))
    return Parts(
        config=config,
        shape=shape,
        tokenizer=tokenizer,
        model=model,
        kernels=kernels,
        path_words=", ".join(
            filter(None, (_layer_words(source.why_not_fast), kernel_words, path.words, graph_words))
        ),
        runner=runner,
        tree=tree,
        kv_shape=kv_shape,
        device=device,
        context_tokens=context_tokens,
        model_hash=hash_model(
            model_dir, f"{dtype}" if config.weights == "model" else f"{dtype} {config.weights}"
        ),
        # A team of threads that torch keeps would wait at hand on the processors that the kernels compute on.
        torch_threads=1 if is_fused else config.num_threads or DEFAULT_THREADS,
        residency=Residency(tree.pool, path.cache.tensors) if device.type == "cpu" else None,
        times=times,
    )


def _choose_graphs(
    config: TorchConfig,
    source: ModelSource,
    model: Decoder,
    path: AttentionPath,
    context_tokens: int,
    device: torch.device,
) -> tuple["DecodeGraphs | None", str | None]:
    """CUDA graphs, if they are wanted and to be had, and a few words."""
    if not config.cuda_graphs:
        return None, None
    if device.type != "cuda":
        return None, f"no CUDA graphs (on {device.type})"
    if source.why_not_fast is not None:
        return None, "no CUDA graphs (the layers are not the engine's own)"
    if not path.is_triton:
        return None, "no CUDA graphs (attention is not by Triton)"
    # Triton is there, and without it the import fails.
    from parrot.engine.torch.cuda.attention import TritonAttention
    from parrot.engine.torch.cuda.graphs import DecodeGraphs, record_on_device

    assert isinstance(path.attention, TritonAttention)
    graphs = DecodeGraphs(
        model,
        path.attention,
        max_batch=config.max_batch,
        context_tokens=context_tokens,
        scratch_slot=path.cache.scratch_slot,
        device=device,
        record=record_on_device,
    )
    return graphs, "CUDA graphs"


def _layer_words(why_not_fast: str | None) -> str | None:
    return None if why_not_fast is None else f"transformers' own layers ({why_not_fast})"


def _choose_device(config: TorchConfig) -> torch.device:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda and torch finds no CUDA device", param="engine.device")
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)


def _choose_dtype(config: TorchConfig, shape: ModelShape, device: torch.device) -> torch.dtype:
    name = shape.dtype if config.dtype == "auto" else config.dtype
    if name == "float16":
        name = "bfloat16" if device.type == "cuda" else "float32"
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]


def _choose_window(config: TorchConfig, shape: ModelShape) -> int:
    wanted = config.context_tokens or shape.context_tokens
    if wanted > shape.context_tokens:
        raise ConfigError(
            f"context_tokens {wanted} is more than the model's window of {shape.context_tokens}",
            param="engine.context_tokens",
        )
    return wanted


def _choose_num_blocks(
    config: TorchConfig, kv_shape: KvShape, context_tokens: int, device: torch.device
) -> int:
    """Blocks for `kv_bytes`; when that is not told, for a share of what is free, and never more than a full
    batch of full windows could use.
    """
    if config.kv_bytes is not None:
        num_blocks = config.kv_bytes // kv_shape.block_bytes
    else:
        useful = config.max_batch * -(-context_tokens // config.block_tokens)
        num_blocks = min(useful, _free_bytes(device) // kv_shape.block_bytes)
    if num_blocks < 1:
        raise ConfigError(
            f"KV memory does not suffice for one block of {kv_shape.block_bytes} bytes",
            param="engine.kv_bytes",
        )
    return num_blocks


def _free_bytes(device: torch.device) -> int:
    """Memory that KV may take by default."""
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        return max(0, int(free * _CUDA_SHARE) - _CUDA_RESERVE_BYTES)
    page = os.sysconf("SC_PAGE_SIZE")
    known = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return int(os.sysconf(known) * page * _CPU_SHARE)
