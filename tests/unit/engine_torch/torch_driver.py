"""Small random models in Hugging Face format, and engines over them."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from parrot.engine.torch.config import TorchConfig
from parrot.engine.torch.engine import TorchEngine
from parrot.ports.engine import (
    ContextRef,
    FillRequest,
    FillResult,
    GenerateEnd,
    GenerateRequest,
)
from parrot.types.ids import ContextId, EngineId, RequestId
from parrot.types.sampling import Grammar, Sampling

TEXT = (
    "The quick brown fox jumps over the lazy dog. A context is the state of a token prefix; contexts form a "
    "tree. 日本語のテキスト и немного русского, emoji 🦜🎉👩‍👩‍👧 and accents: é ü ñ. def f(x): return x + 1\n"
) * 3

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

VOCAB_SIZE = 400
BASE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 2,
}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Variant:
    """One kind of model."""

    name: str
    config_class: Any = LlamaConfig
    model_class: Any = LlamaForCausalLM
    dtype: torch.dtype = torch.float32
    changes: Mapping[str, Any] = field(default_factory=dict)


VARIANTS = (
    Variant(name="llama-gqa-untied"),
    Variant(name="llama-mha-tied", changes={"num_key_value_heads": 4, "tie_word_embeddings": True}),
    Variant(name="llama-mqa-llama3-rope", changes={"num_key_value_heads": 1, "rope_parameters": LLAMA3_ROPE}),
    Variant(
        name="llama-biases-linear-rope-head32",
        changes={
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 32,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
        },
    ),
    Variant(
        name="llama-gqa-tied-bf16",
        dtype=torch.bfloat16,
        changes={"tie_word_embeddings": True, "initializer_range": 0.1},
    ),
    Variant(
        name="llama-mha-untied-bf16",
        dtype=torch.bfloat16,
        changes={"num_key_value_heads": 4, "initializer_range": 0.1},
    ),
    Variant(
        name="mistral-gqa",
        config_class=MistralConfig,
        model_class=MistralForCausalLM,
        changes={"sliding_window": None},
    ),
    Variant(name="qwen2-bias", config_class=Qwen2Config, model_class=Qwen2ForCausalLM),
    Variant(
        name="qwen3-norms", config_class=Qwen3Config, model_class=Qwen3ForCausalLM, changes={"head_dim": 16}
    ),
)
PLAIN = VARIANTS[0]


def write_tokenizer(directory: Path) -> None:
    """A byte-level BPE with control tokens, trained on a little text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 1,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def write_model(directory: Path, variant: Variant) -> None:
    """Random weights and all the files that belong to them."""
    torch.manual_seed(sum(map(ord, variant.name)))
    model = variant.model_class(variant.config_class(**{**BASE, **variant.changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
    model.to(variant.dtype).save_pretrained(directory)
    write_tokenizer(directory)


@pytest.fixture(scope="session")
def model_dirs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Variant], Path]:
    """Each variant's directory, written when it is first asked for."""
    written: dict[str, Path] = {}

    def get(variant: Variant) -> Path:
        if variant.name not in written:
            directory = tmp_path_factory.mktemp(variant.name)
            write_model(directory, variant)
            written[variant.name] = directory
        return written[variant.name]

    return get


@pytest.fixture(scope="session")
def plain_dir(model_dirs: Callable[[Variant], Path]) -> Path:
    """A small Llama model in float32."""
    return model_dirs(PLAIN)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """One output, put together."""

    text: str
    token_ids: list[int]
    end: GenerateEnd
    num_chunks: int


class Driver:
    """Short forms of an engine's requests."""

    def __init__(self, engine: TorchEngine) -> None:
        self.engine = engine
        self._ids = count(1)

    def fill_request(
        self,
        context_id: int,
        token_ids: Sequence[int],
        parent: tuple[int, int] | None = None,
        priority: int = 0,
    ) -> FillRequest:
        return FillRequest(
            request_id=RequestId(f"r{next(self._ids)}"),
            context_id=ContextId(context_id),
            token_ids=tuple(token_ids),
            parent=None if parent is None else ref(*parent),
            priority=priority,
        )

    def generate_request(
        self,
        context_id: int,
        token_ids: Sequence[int],
        parent: tuple[int, int] | None = None,
        priority: int = 0,
        grammar: Grammar | None = None,
        **sampling: Any,
    ) -> GenerateRequest:
        return GenerateRequest(
            request_id=RequestId(f"r{next(self._ids)}"),
            context_id=ContextId(context_id),
            token_ids=tuple(token_ids),
            parent=None if parent is None else ref(*parent),
            priority=priority,
            sampling=Sampling(**sampling),
            grammar=grammar,
        )

    async def fill(
        self,
        context_id: int,
        token_ids: Sequence[int],
        parent: tuple[int, int] | None = None,
        priority: int = 0,
    ) -> FillResult:
        return await self.engine.fill(self.fill_request(context_id, token_ids, parent, priority))

    async def generate(
        self,
        context_id: int,
        token_ids: Sequence[int],
        parent: tuple[int, int] | None = None,
        priority: int = 0,
        grammar: Grammar | None = None,
        **sampling: Any,
    ) -> Generated:
        request = self.generate_request(context_id, token_ids, parent, priority, grammar, **sampling)
        chunks = [chunk async for chunk in self.engine.generate(request)]
        end = chunks[-1].end
        assert end is not None
        return Generated(
            text="".join(chunk.text for chunk in chunks),
            token_ids=[token_id for chunk in chunks for token_id in chunk.token_ids],
            end=end,
            num_chunks=len(chunks),
        )

    async def free(self, *context_ids: int, retain: bool = False) -> None:
        await self.engine.free([ContextId(i) for i in context_ids], retain=retain)


def ref(context_id: int, num_tokens: int) -> ContextRef:
    return ContextRef(context_id=ContextId(context_id), num_tokens=num_tokens)


StartDriver = Callable[..., Awaitable[Driver]]


@pytest.fixture
async def start() -> AsyncIterator[StartDriver]:
    """Starts engines; at the end each must own nothing, and is closed."""
    async with AsyncExitStack() as stack:

        async def start_driver(model_dir: Path, **settings: Any) -> Driver:
            config = TorchConfig(**{"model_dir": str(model_dir), "kv_bytes": 1 << 24, **settings})
            engine = await TorchEngine.start(
                config, engine_id=EngineId("e"), progress=lambda _phase, _fraction: None
            )
            stack.push_async_callback(engine.close)
            return Driver(engine)

        yield start_driver


@pytest.fixture
async def driver(start: StartDriver, plain_dir: Path) -> Driver:
    """An engine over the plain model with its default settings."""
    return await start(plain_dir)
