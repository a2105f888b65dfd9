"""Any decoder that `transformers` can load, on this engine's own attention and KV cache.

    transformers' layers ── queries, keys, values ──▶ attention function registered here ──▶ paged KV

The model's own forward pass runs over one packed sequence [1, tokens] with the tokens of all requests and
their positions; it keeps no cache of its own. That is right for every model that is a function of tokens,
positions and causal attention. Whether a model is one is found out when it is loaded: two sequences, packed
together and in two steps, must give what the model's own attention gives for each alone.

Slower than an implementation of ours, since nothing is fused and nothing is packed.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from parrot.engine.torch.linear import Linear
from parrot.engine.torch.loader import bad_model, weight_paths
from parrot.engine.torch.models.config_reader import ConfigReader
from parrot.engine.torch.models.decoder import Attend, AttentionTraits
from parrot.engine.torch.models.generic_check import check_decoder
from parrot.engine.torch.models.placement import Placement
from parrot.engine.torch.models.shape import ModelShape, read_dtype, read_eos

_NAME = "parrot_paged"
"""Our attention's name among those of `transformers`."""
_OWN = "eager"
"""The name under which every model computes its attention itself."""

_LOAD_FAULTS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    ImportError,
    NotImplementedError,
    RuntimeError,
    SafetensorError,
)
"""What a directory that is damaged, or a family that is not known, raises in `transformers`."""

_LOADING_PROBLEMS = {
    "missing_keys": "are missing",
    "unexpected_keys": "do not belong to this kind of model",
    "mismatched_keys": "have other shapes than the config asks for",
}

_KNOWN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Layers that keep nothing but keys and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What one layer asks of the attention function."""

    num_heads: int
    num_kv_heads: int
    key_dim: int
    value_dim: int
    scale: float
    window: int | None
    softcap: float | None
    sinks: torch.Tensor | None


@dataclass(slots=True)
class _Pass:
    """One forward pass under way. Layers are numbered in the order in which they attend."""

    attend: Callable[[int, Layer, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    num_layers: int = 0


_pass: ContextVar[_Pass] = ContextVar("parrot_pass")


def _attention_function(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What layers call instead of their own attention: of [1, heads, tokens, head_dim] each,
    [1, tokens, heads, head_dim].
    """
    if attention_mask is not None or kwargs.get("is_causal", getattr(module, "is_causal", True)) is False:
        raise NotImplementedError("attention that is not causal")
    layer = Layer(
        num_heads=query.shape[1],
        num_kv_heads=key.shape[1],
        key_dim=key.shape[3],
        value_dim=value.shape[3],
        scale=key.shape[3] ** -0.5 if scaling is None else float(scaling),
        window=kwargs.get("sliding_window"),
        softcap=kwargs.get("softcap"),
        sinks=kwargs.get("s_aux"),
    )
    current = _pass.get()
    index = current.num_layers
    current.num_layers += 1
    queries, keys, values = (part[0].transpose(0, 1) for part in (query, key, value))
    return current.attend(index, layer, queries, keys, values)[None], None


transformers.AttentionInterface.register(_NAME, _attention_function)


class GenericModel:
    """A `models.decoder.Decoder` around a model of `transformers`. Made by `load_generic`."""

    def __init__(self, model: Any, shape: ModelShape, attention: AttentionTraits) -> None:
        self.shape = shape
        self.attention = attention
        self.num_parameters = int(model.num_parameters())
        self._model = model

    def forward(
        self, token_ids: torch.Tensor, positions: torch.Tensor, logit_rows: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """See `models.decoder.Decoder`."""

        def attend_as_told(
            index: int, layer: Layer, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
        ) -> torch.Tensor:
            head_dim = self.shape.head_dim
            scale = layer.scale * head_dim**0.5
            if abs(scale - 1) > 1e-6:
                queries = queries * scale
            padded = (_pad(part, head_dim) for part in (queries, keys, values))
            return attend(index, *padded)[..., : layer.value_dim]

        logits = _run(self._model, token_ids, positions, logit_rows, attend_as_told)
        return logits[: len(logit_rows)]

    def own_logits(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Logits [tokens, vocabulary] of one sequence by the model's own attention."""
        self._model.set_attn_implementation(_OWN)
        try:
            logits: torch.Tensor = self._model(input_ids=token_ids[None], use_cache=False).logits[0]
        finally:
            self._model.set_attn_implementation(_NAME)
        return logits

    def wrap_linears(self, wrap: Callable[[Linear], Linear]) -> None:
        """See `models.decoder.Decoder`."""
        for module in self._model.modules():
            if isinstance(module, torch.nn.Linear | transformers.Conv1D):
                setattr(module, "forward", wrap(module.forward))  # noqa: B010 — a method is replaced on purpose


def read_generic_shape(reader: ConfigReader, model_dir: Path) -> ModelShape:
    """What can be known before the weights are loaded; layers and heads are found out then.

    Raises:
        ConfigError: `bad_model`; the config is damaged, or describes no decoder that can be served.
    """
    family = reader.values.get("model_type")
    if "auto_map" in reader.values and family not in transformers.CONFIG_MAPPING:
        raise reader.fail(f"{family} needs code that comes with the weights (`auto_map`), which is never run")
    try:
        config: Any = transformers.AutoConfig.from_pretrained(
            str(model_dir), local_files_only=True, trust_remote_code=False
        )
    except _LOAD_FAULTS as error:
        raise reader.fail(f"transformers cannot read it: {error}") from error
    if config.is_encoder_decoder:
        raise reader.fail(f"{family} is an encoder with a decoder; only decoders are served")
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise reader.fail(f"{family} is no model that continues text")
    text: Any = config.get_text_config(decoder=True)
    strange = sorted(set(getattr(text, "layer_types", None) or ()) - _KNOWN_LAYERS)
    if strange:
        raise reader.fail(f"{family} has layers that keep more than keys and values ({', '.join(strange)})")
    text_reader = reader.inner("text_config") if "text_config" in reader.values else reader
    return ModelShape(
        family=str(family),
        vocab_size=int(text.vocab_size),
        hidden_size=int(text.hidden_size),
        num_layers=int(text.num_hidden_layers),
        num_heads=int(text.num_attention_heads),
        num_kv_heads=int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
        head_dim=int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads),
        context_tokens=_window(text),
        dtype=read_dtype(text_reader if "dtype" in text_reader.values else reader),
        eos_ids=read_eos(text_reader if reader.values.get("eos_token_id") is None else reader, model_dir),
        tied_embeddings=bool(config.tie_word_embeddings),
    )


def load_generic(model_dir: Path, shape: ModelShape, placement: Placement) -> GenericModel:
    """Load the weights and find out what the model's attention is.

    Raises:
        ConfigError: `bad_model`; the weights do not fit, or the model's attention cannot be computed here.
    """
    placement.on_progress(0.0)
    model = _load(model_dir, placement)
    text = model.config.get_text_config(decoder=True)
    try:
        layers = _observe(model, placement.device)
    except (NotImplementedError, ValueError, TypeError, KeyError) as error:
        raise bad_model(model_dir, f"{shape.family} cannot be served: {error}") from error
    try:
        shape, attention = _describe(text, shape, layers)
    except ValueError as error:
        raise bad_model(model_dir, f"{shape.family} cannot be served: {error}") from error
    context_tokens = min(placement.context_tokens, shape.context_tokens)
    generic = GenericModel(model, shape, attention.clipped(context_tokens))
    why_not = check_decoder(generic, own_logits=generic.own_logits, placement=placement)
    if why_not is not None:
        raise bad_model(model_dir, f"{shape.family} cannot be served: {why_not}")
    placement.on_progress(1.0)
    return generic


def _load(model_dir: Path, placement: Placement) -> Any:
    weight_paths(model_dir)
    had_bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            str(model_dir),
            dtype=placement.dtype,
            attn_implementation=_OWN,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        problems = {kind: sorted(map(str, info.get(kind) or ())) for kind in _LOADING_PROBLEMS}
        model = model.to(placement.device).eval()
        model.set_attn_implementation(_NAME)
    except _LOAD_FAULTS as error:
        raise bad_model(model_dir, f"transformers cannot load it: {error}") from error
    finally:
        if had_bars:
            transformers.logging.enable_progress_bar()
    for kind, names in problems.items():
        if names:
            raise bad_model(
                model_dir, f"{len(names)} tensors {_LOADING_PROBLEMS[kind]}, such as {names[0]!r}"
            )
    return model


def _observe(model: Any, device: torch.device) -> list[Layer]:
    """What each layer asks of the attention function, in the order in which they ask."""
    layers: list[Layer] = []

    def note(
        _index: int, layer: Layer, queries: torch.Tensor, _keys: torch.Tensor, _values: torch.Tensor
    ) -> torch.Tensor:
        layers.append(layer)
        return queries.new_zeros(*queries.shape[:2], layer.value_dim)

    positions = torch.arange(2, device=device)
    _run(model, torch.zeros_like(positions), positions, positions, note)
    return layers


def _describe(text: Any, shape: ModelShape, layers: list[Layer]) -> tuple[ModelShape, AttentionTraits]:
    """The model's shape and attention, by what its layers ask.

    Raises:
        ValueError: they ask for what the cache cannot hold; the message says what.
    """
    if not layers:
        raise ValueError("it computes its attention by itself, not through transformers' attention interface")
    if len({(layer.num_heads, layer.num_kv_heads) for layer in layers}) > 1:
        raise ValueError("its layers have different numbers of heads")
    softcaps = {layer.softcap for layer in layers}
    sinks = tuple(layer.sinks for layer in layers if layer.sinks is not None)
    if len(softcaps) > 1 or len(sinks) not in {0, len(layers)}:
        raise ValueError("its layers cap their scores, or have sinks, in different ways")
    context_tokens = shape.context_tokens
    kinds = getattr(text, "layer_types", None)
    if kinds is not None and len(kinds) != len(layers):
        raise ValueError(f"of its {len(kinds)} layers {len(layers)} attend through transformers' interface")
    for kind, layer in zip(kinds or [None] * len(layers), layers, strict=True):
        if layer.window is None:
            context_tokens = min(context_tokens, _unsaid_window(text, kind) or context_tokens)
    first = layers[0]
    described = replace(
        shape,
        num_layers=len(layers),
        num_heads=first.num_heads,
        num_kv_heads=first.num_kv_heads,
        head_dim=max(max(layer.key_dim, layer.value_dim) for layer in layers),
        context_tokens=context_tokens,
    )
    windows = tuple(layer.window for layer in layers)
    return described, AttentionTraits(windows=windows, softcap=first.softcap, sinks=sinks)


def _unsaid_window(text: Any, kind: str | None) -> int | None:
    """How far a layer that asks for no window may still look by its config: contexts are kept that short."""
    if kind == "chunked_attention":
        return int(text.attention_chunk_size)
    window = getattr(text, "sliding_window", None)
    is_on = kind == "sliding_attention" or (kind is None and getattr(text, "use_sliding_window", True))
    return int(window) if window is not None and is_on else None


def _window(text: Any) -> int:
    """The longest context. Rotary embeddings that change at some length ("longrope") are kept below it: keys
    in the cache would have been turned by other angles.
    """
    window = int(getattr(text, "max_position_embeddings", None) or 2048)
    ropes = getattr(text, "rope_parameters", None) or {}
    for rope in (ropes, *ropes.values()):
        if isinstance(rope, dict) and rope.get("rope_type") == "longrope":
            window = min(window, int(rope.get("original_max_position_embeddings") or window))
    return window


def _run(
    model: Any,
    token_ids: torch.Tensor,
    positions: torch.Tensor,
    logit_rows: torch.Tensor,
    attend: Callable[[int, Layer, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """One forward pass over a packed sequence; logits [rows, vocabulary]. When none are wanted, the first
    token's: a model cannot give none.
    """
    rows = logit_rows if len(logit_rows) else torch.zeros_like(positions[:1])
    token = _pass.set(_Pass(attend))
    try:
        output = model(
            input_ids=token_ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=rows
        )
    finally:
        _pass.reset(token)
    logits: torch.Tensor = output.logits[0]
    return logits


def _pad(part: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Zeros after a head's own dimensions change no score, and of a result they are cut off."""
    missing = head_dim - part.shape[-1]
    return part if not missing else torch.nn.functional.pad(part, (0, missing))
