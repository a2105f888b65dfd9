"""What a scripted engine answers, what its work costs, and how it fails; plain types that can be sent."""

from dataclasses import dataclass
from typing import Literal

from parrot.errors import ConfigError

FaultKind = Literal["raise", "bad_output", "slow", "hang", "freeze", "exit"]
"""`raise`: this request fails with `engine_failed`. `bad_output`: it fails with `engine_bad_output`. `slow`:
each of its steps takes longer. `hang`: the engine takes no further step but still answers its parent.
`freeze`: its whole process stops answering. `exit`: its process ends at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedAnswer:
    """An answer for prompts that contain something. The first rule that fits is used."""

    pattern: str
    """Text that the end of the prompt contains."""
    answer: str
    """The whole output."""
    regex: bool = False
    """`pattern` is an RE2 regular expression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedFault:
    """A fault that strikes requests. The first that fits strikes."""

    kind: FaultKind
    """What happens."""
    marker: str = ""
    """Strikes requests whose prompt contains this text; empty fits every prompt."""
    on: Literal["generate", "fill"] = "generate"
    """Which requests it strikes."""
    after_tokens: int = 0
    """A generation is struck when it has so many tokens."""
    skip: int = 0
    """Requests that fit and are spared before the first that is struck."""
    times: int | None = None
    """Strikes so often in the life of one engine; without it, always."""
    delay_s: float = 0.1
    """For `slow`: seconds added to each step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedConfig:
    """A scripted engine: deterministic answers at a stated cost, without a model."""

    served_name: str = "scripted"
    """The name under which calls ask for the model."""
    seed: int = 0
    """Another seed, other texts."""
    answers: tuple[ScriptedAnswer, ...] = ()
    """Rules for prompts whose answer is fixed; every other prompt gets words drawn from its hash."""
    answer_tail_chars: int = 4000
    """How much of the prompt's end the rules look at, in characters."""
    answer_words: int = 40
    """Mean length of a drawn answer, in words; drawn lengths lie between half and one and a half of it."""
    key: Literal["tokens", "text"] = "tokens"
    """What drawn answers follow from: the prompt's tokens, or its text, however that is cut into segments."""
    faults: tuple[ScriptedFault, ...] = ()
    """Faults, for tests of what is built on engines."""
    prefill_tokens_per_s: float = 0.0
    """Prompt tokens computed in a second; 0 makes them free."""
    decode_step_s: float = 0.0
    """Seconds of one step in which the batch decodes; 0 makes it free."""
    tokens_per_step: int | None = None
    """Tokens that a request decodes in one step; without it 1, or 32 where steps are free."""
    context_tokens: int = 32_768
    """The window: prompt and outputs of one context together."""
    block_tokens: int = 16
    """Tokens in one KV block."""
    num_blocks: int = 65_536
    """KV blocks in all."""
    max_batch: int = 256
    """Requests in one step."""
    step_tokens: int = 2048
    """Prompt tokens computed in one step (chunked prefill)."""

    def __post_init__(self) -> None:
        for name in (
            "answer_words",
            "context_tokens",
            "block_tokens",
            "num_blocks",
            "max_batch",
            "step_tokens",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1", param=name)
        for name in ("prefill_tokens_per_s", "decode_step_s", "answer_tail_chars"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must not be negative", param=name)
        if self.tokens_per_step is not None and self.tokens_per_step < 1:
            raise ConfigError("tokens_per_step must be at least 1", param="tokens_per_step")
