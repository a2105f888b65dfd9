"""Settings of the torch engine; importable without torch."""

from dataclasses import dataclass
from typing import Literal

from parrot.errors import ConfigError

AttentionKind = Literal["reference", "per-request", "shared"]
KernelsKind = Literal["auto", "native", "torch"]
WeightsKind = Literal["model", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchConfig:
    """One model replica in PyTorch."""

    model_dir: str
    """A directory in Hugging Face format: config.json, *.safetensors, tokenizer.json."""
    served_name: str | None = None
    """The name under which calls ask for the model; without it, the directory's name."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; `auto` takes CUDA when there is a device."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """The type of weights and KV; `auto` takes the model's own (float16 becomes float32 on a CPU and
    bfloat16 on CUDA)."""
    kv_bytes: int | None = None
    """Memory for KV blocks; without it, a share of what is free, and no more than the batch can use."""
    block_tokens: int = 16
    """Tokens in one KV block."""
    max_batch: int = 64
    """Requests in one step."""
    step_tokens: int = 512
    """Tokens computed in one step, prefill chunks and decoded tokens together."""
    context_tokens: int | None = None
    """The longest context that is served; without it, the model's window."""
    num_threads: int | None = None
    """CPU threads for the model; without it, torch decides."""
    attention: AttentionKind = "shared"
    """`reference` is the plain definition, for checks; `per-request` reads a shared prefix once for every
    request; `shared` reads it once for all requests of a step."""
    kernels: KernelsKind = "auto"
    """What computes on a CPU: `native`, the package's own kernels; `torch` alone; `auto`, the native ones
    where they were built, else torch. What they do not know of a model is left to torch in any case."""
    weights: WeightsKind = "model"
    """`int8` keeps the weights of matrix products in a byte each, with a scale for each output, where the
    native kernels multiply matrices (a CPU with AVX512-BF16 or AMX, bfloat16, a fast family). They take half
    the memory, tokens are generated sooner and prompts computed later; outputs are not quite the model's
    own."""
    cuda_graphs: bool = False
    """Replay decode steps on CUDA from recordings, one for each size of batch. Not measured yet."""
    seed: int = 0
    """Seeds the sampling of requests that give no seed of their own."""

    def __post_init__(self) -> None:
        lows = {
            "block_tokens": 1,
            "max_batch": 1,
            "step_tokens": 1,
            "context_tokens": 1,
            "num_threads": 1,
            "kv_bytes": 1,
        }
        for name, low in lows.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"{name} must be at least {low}, not {value}", param=f"engine.{name}")
        if self.step_tokens < self.max_batch:
            raise ConfigError(
                f"step_tokens ({self.step_tokens}) must be at least max_batch ({self.max_batch}): "
                "each request of a batch decodes one token in a step",
                param="engine.step_tokens",
            )
