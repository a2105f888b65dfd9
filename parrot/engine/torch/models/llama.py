"""Decoders of the Llama kind: Llama, Mistral, Qwen2, Qwen3, by what their config says.

Projections that read the same input are stored as one matrix (Q, K and V; gate and up), so that each layer
makes four matrix products.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from parrot.engine.native.linear import NativeLinear
from parrot.engine.native.stack import NativeStack, StackLayer
from parrot.engine.torch.linear import Linear, make_linear
from parrot.engine.torch.loader import WeightFiles
from parrot.engine.torch.models.decoder import Attend, AttentionTraits
from parrot.engine.torch.models.llama_shape import LlamaShape
from parrot.engine.torch.models.placement import Placement
from parrot.engine.torch.models.rows import HeadNorms, NativeRows, RowOperations, TorchRows
from parrot.engine.torch.models.weights import WeightReader
from parrot.engine.torch.native_attention import NativeAttention
from parrot.engine.torch.timing import StepTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    attention_norm: torch.Tensor
    qkv: Linear
    head_norms: HeadNorms | None
    out: Linear
    mlp_norm: torch.Tensor
    gated: Linear
    """silu(gate) · up."""
    down: Linear


class LlamaModel:
    """A `models.decoder.Decoder` that computes every layer itself."""

    def __init__(self, files: WeightFiles, shape: LlamaShape, placement: Placement) -> None:
        self.shape = shape
        self.attention = AttentionTraits(windows=shape.windows).clipped(placement.context_tokens)
        self._rows = _choose_rows(shape, placement)
        weights = WeightReader(files, placement)
        self._embeddings = weights.tensor("model.embed_tokens.weight", shape.vocab_size, shape.hidden_size)
        self._layers: list[_Layer] = []
        for index in range(shape.num_layers):
            self._layers.append(_read_layer(weights, shape, self._rows, f"model.layers.{index}."))
            placement.on_progress((index + 1) / shape.num_layers)
        self._norm = weights.tensor("model.norm.weight", shape.hidden_size)
        if shape.tied_embeddings:
            files.skip("lm_head.weight")
            self._head = make_linear(self._embeddings, None, placement.kernels)
        else:
            self._head = weights.linear("", {"lm_head": shape.vocab_size}, shape.hidden_size, bias=False)
        files.check_all_taken()
        self.num_parameters = weights.num_parameters
        self._stack: NativeStack | None = None
        self._times: StepTimes | None = None

    def forward(
        self, token_ids: torch.Tensor, positions: torch.Tensor, logit_rows: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """See `models.decoder.Decoder`."""
        added: torch.Tensor | None = None
        if self._stack is not None:
            hidden = self._run_stack(self._stack, token_ids, positions)
        else:
            hidden, added = self._run_layers(self._embeddings[token_ids], positions, attend)
        if not len(logit_rows):
            return hidden.new_empty(0, self.shape.vocab_size)
        wanted = None if added is None else added[logit_rows]
        return self._head(self._rows.add_norm(hidden[logit_rows], wanted, self._norm)[1])

    def fuse(self, attention: NativeAttention, times: StepTimes | None) -> bool:
        """Have the kernels run all layers in one call, over this attention, where they know all that a layer
        does; `forward` then asks nothing of what it is given for attention but that its step has begun, and
        leaves torch nothing but rows to pick. Whether it is so.
        """
        layers = [
            _as_stack_layer(layer, *cache)
            for layer, cache in zip(self._layers, attention.layers, strict=True)
        ]
        whole = [layer for layer in layers if layer is not None]
        if isinstance(self._rows, NativeRows) and len(whole) == len(layers):
            self._stack = NativeStack(attention.plan, self._rows.rotary, self._embeddings, whole)
            self._times = times
        return self._stack is not None

    def _run_stack(
        self, stack: NativeStack, token_ids: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        if self._times is None:
            return stack.run(token_ids, positions)
        spent = torch.zeros(2, dtype=torch.float64)
        hidden = stack.run(token_ids, positions, spent)
        matrix_s, attention_s = spent.tolist()
        self._times.add("matrix", matrix_s)
        self._times.add("attention", attention_s)
        return hidden

    def _run_layers(
        self, hidden: torch.Tensor, positions: torch.Tensor, attend: Attend
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The hidden state, and what is still to be added to it."""
        rows = self._rows
        rows.begin(positions)
        num_tokens = hidden.shape[0]
        added: torch.Tensor | None = None
        for index, layer in enumerate(self._layers):
            hidden, normed = rows.add_norm(hidden, added, layer.attention_norm)
            mixed = attend(index, *rows.heads(layer.qkv(normed), layer.head_norms))
            hidden, normed = rows.add_norm(hidden, layer.out(mixed.reshape(num_tokens, -1)), layer.mlp_norm)
            added = layer.down(layer.gated(normed))
        return hidden, added

    def wrap_linears(self, wrap: Callable[[Linear], Linear]) -> None:
        """Put something around every matrix product, for measurements."""
        self._layers = [
            replace(
                layer,
                qkv=wrap(layer.qkv),
                out=wrap(layer.out),
                gated=wrap(layer.gated),
                down=wrap(layer.down),
            )
            for layer in self._layers
        ]
        self._head = wrap(self._head)


def _choose_rows(shape: LlamaShape, placement: Placement) -> RowOperations:
    if placement.kernels is not None:
        return NativeRows(placement.kernels, shape, context_tokens=placement.context_tokens)
    return TorchRows(
        shape, dtype=placement.dtype, device=placement.device, context_tokens=placement.context_tokens
    )


def _as_stack_layer(layer: _Layer, keys: torch.Tensor, values: torch.Tensor) -> StackLayer | None:
    """None where some product is not the kernels' own."""
    linears = (layer.qkv, layer.out, layer.gated, layer.down)
    if not all(isinstance(linear, NativeLinear) for linear in linears):
        return None
    qkv, out, gated, down = (linear for linear in linears if isinstance(linear, NativeLinear))
    return StackLayer(
        attention_norm=layer.attention_norm,
        qkv=qkv,
        head_norms=layer.head_norms,
        out=out,
        mlp_norm=layer.mlp_norm,
        gate_up=gated,
        down=down,
        keys=keys,
        values=values,
    )


def _read_layer(weights: WeightReader, shape: LlamaShape, rows: RowOperations, prefix: str) -> _Layer:
    query_size, kv_size = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    attention, mlp = prefix + "self_attn.", prefix + "mlp."
    sizes = {"q_proj": query_size, "k_proj": kv_size, "v_proj": kv_size}
    gates = {"gate_proj": shape.mlp_size, "up_proj": shape.mlp_size}
    head_norms: HeadNorms | None = None
    if shape.qk_norm:
        query_norm = weights.tensor(attention + "q_norm.weight", shape.head_dim)
        head_norms = (query_norm, weights.tensor(attention + "k_norm.weight", shape.head_dim))
    return _Layer(
        attention_norm=weights.tensor(prefix + "input_layernorm.weight", shape.hidden_size),
        qkv=weights.linear(attention, sizes, shape.hidden_size, bias=shape.qkv_bias),
        head_norms=head_norms,
        out=weights.linear(attention, {"o_proj": shape.hidden_size}, query_size, bias=shape.out_bias),
        mlp_norm=weights.tensor(prefix + "post_attention_layernorm.weight", shape.hidden_size),
        gated=weights.gated(mlp, gates, shape.hidden_size, bias=shape.mlp_bias, silu_mul=rows.silu_mul),
        down=weights.linear(mlp, {"down_proj": shape.hidden_size}, shape.mlp_size, bias=shape.mlp_bias),
    )
