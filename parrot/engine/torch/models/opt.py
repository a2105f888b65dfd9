"""OPT (Zhang et al. 2022), which the paper's measurements serve."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from parrot.engine.torch.linear import Linear, make_linear
from parrot.engine.torch.loader import WeightFiles
from parrot.engine.torch.models.decoder import Attend, AttentionTraits
from parrot.engine.torch.models.opt_shape import OptShape
from parrot.engine.torch.models.placement import Placement
from parrot.engine.torch.models.weights import WeightReader

_FIRST_POSITION = 2
"""Rows of the position table that stand before position 0."""
_NORM_EPS = 1e-5
_ROOTS = ("model.decoder.", "decoder.")
"""What the names of a decoder's tensors begin with: in newer files, in older ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Norm:
    """A layer norm over the last dimension (Ba et al. 2016)."""

    weight: torch.Tensor | None
    bias: torch.Tensor | None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(hidden, hidden.shape[-1:], self.weight, self.bias, _NORM_EPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    attention_norm: _Norm
    qkv: Linear
    out: Linear
    mlp_norm: _Norm
    up: Linear
    down: Linear


class OptModel:
    """A `models.decoder.Decoder` that computes every layer itself."""

    def __init__(self, files: WeightFiles, shape: OptShape, placement: Placement) -> None:
        self.shape = shape
        self.attention = AttentionTraits()
        root = next((root for root in _ROOTS if root + "embed_tokens.weight" in files), _ROOTS[0])
        weights = WeightReader(files, placement, root=root)
        hidden_size, embedding_size = shape.hidden_size, shape.embedding_size
        num_positions = shape.context_tokens + _FIRST_POSITION
        self._embeddings = weights.tensor("embed_tokens.weight", shape.vocab_size, embedding_size)
        self._positions = weights.tensor("embed_positions.weight", num_positions, hidden_size)
        self._project_in: Linear | None = None
        self._project_out: Linear | None = None
        if embedding_size != hidden_size:
            self._project_in = weights.linear("", {"project_in": hidden_size}, embedding_size, bias=False)
            self._project_out = weights.linear("", {"project_out": embedding_size}, hidden_size, bias=False)
        self._layers: list[_Layer] = []
        for index in range(shape.num_layers):
            self._layers.append(_read_layer(weights, shape, f"layers.{index}."))
            placement.on_progress((index + 1) / shape.num_layers)
        self._norm = _read_norm(weights, shape, "final_layer_norm") if shape.final_norm else None
        above = WeightReader(files, placement)
        if shape.tied_embeddings:
            files.skip("lm_head.weight")
            self._head = make_linear(self._embeddings, None, placement.kernels)
        else:
            self._head = above.linear("", {"lm_head": shape.vocab_size}, embedding_size, bias=False)
        files.check_all_taken()
        self.num_parameters = weights.num_parameters + above.num_parameters

    def forward(
        self, token_ids: torch.Tensor, positions: torch.Tensor, logit_rows: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """See `models.decoder.Decoder`."""
        shape = self.shape
        num_tokens = token_ids.shape[0]
        hidden = self._embeddings[token_ids]
        if self._project_in is not None:
            hidden = self._project_in(hidden)
        hidden = hidden + self._positions[positions + _FIRST_POSITION]
        for index, layer in enumerate(self._layers):
            heads = layer.qkv(layer.attention_norm(hidden) if shape.norm_first else hidden)
            queries, keys, values = heads.view(num_tokens, 3, shape.num_heads, shape.head_dim).unbind(1)
            hidden = hidden + layer.out(attend(index, queries, keys, values).reshape(num_tokens, -1))
            if not shape.norm_first:
                hidden = layer.attention_norm(hidden)
            up = layer.up(layer.mlp_norm(hidden) if shape.norm_first else hidden)
            hidden = hidden + layer.down(functional.relu(up))
            if not shape.norm_first:
                hidden = layer.mlp_norm(hidden)
        if not len(logit_rows):
            return hidden.new_empty(0, shape.vocab_size)
        hidden = hidden[logit_rows]
        if self._norm is not None:
            hidden = self._norm(hidden)
        if self._project_out is not None:
            hidden = self._project_out(hidden)
        return self._head(hidden)

    def wrap_linears(self, wrap: Callable[[Linear], Linear]) -> None:
        """See `models.decoder.Decoder`."""
        self._layers = [
            replace(layer, qkv=wrap(layer.qkv), out=wrap(layer.out), up=wrap(layer.up), down=wrap(layer.down))
            for layer in self._layers
        ]
        self._head = wrap(self._head)


def _read_layer(weights: WeightReader, shape: OptShape, prefix: str) -> _Layer:
    size, attention = shape.hidden_size, prefix + "self_attn."
    return _Layer(
        attention_norm=_read_norm(weights, shape, prefix + "self_attn_layer_norm"),
        qkv=weights.linear(
            attention, dict.fromkeys(("q_proj", "k_proj", "v_proj"), size), size, bias=shape.bias
        ),
        out=weights.linear(attention, {"out_proj": size}, size, bias=shape.bias),
        mlp_norm=_read_norm(weights, shape, prefix + "final_layer_norm"),
        up=weights.linear(prefix, {"fc1": shape.mlp_size}, size, bias=shape.bias),
        down=weights.linear(prefix, {"fc2": size}, shape.mlp_size, bias=shape.bias),
    )


def _read_norm(weights: WeightReader, shape: OptShape, name: str) -> _Norm:
    if not shape.norm_weights:
        return _Norm(weight=None, bias=None)
    size = shape.hidden_size
    return _Norm(weight=weights.tensor(f"{name}.weight", size), bias=weights.tensor(f"{name}.bias", size))
