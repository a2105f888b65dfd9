"""What `parrot bench engine` measures."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from parrot.engine.torch.config import AttentionKind, TorchConfig
from parrot.errors import ConfigError

Section = Literal["prefill", "decode", "split", "memory", "floors", "int8"]
SECTIONS: tuple[Section, ...] = get_args(Section)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBenchConfig:
    """Which cases are measured, and how often."""

    engine: TorchConfig
    """The engine under test; its `attention` is the one that every section uses."""
    sections: tuple[Section, ...] = SECTIONS
    """What is measured."""
    repeats: int = 3
    """Measurements of each case; at least 3, so that a spread means something."""
    prefill_tokens: tuple[int, ...] = (128, 512, 2048)
    """Prompt lengths of the section `prefill`."""
    batches: tuple[int, ...] = (1, 8, 32)
    """Requests that decode together."""
    contexts: tuple[int, ...] = (800, 4000)
    """Tokens that each request has before it when it decodes."""
    max_private_tokens: int = 128_000
    """A case in which nothing is shared is left out when its requests hold more tokens than this together."""
    attentions: tuple[AttentionKind, ...] = ("reference", "per-request", "shared")
    """Attention settings that decode side by side on a shared prefix."""
    decode_tokens: int = 65
    """At most so many tokens of each request are decoded in one measurement."""
    decode_s: float = 3.0
    """About so long does one measurement of decoding take, when that needs fewer tokens."""
    suffix_tokens: int = 8
    """Fresh tokens that each request brings after its prefix."""
    num_forks: int = 32
    """Forks of one prefix whose KV blocks are counted."""
    seed: int = 0
    """Seeds the token ids of all prompts."""

    def __post_init__(self) -> None:
        if self.repeats < 3:
            raise ConfigError(f"repeats must be at least 3, not {self.repeats}", param="repeats")

    def quick(self) -> "EngineBenchConfig":
        """The same with fewer and shorter cases: a look, not a result."""
        return replace(
            self,
            prefill_tokens=(128, 512),
            contexts=(800,),
            max_private_tokens=6_400,
            decode_tokens=17,
            decode_s=1.0,
        )
