"""Decoders of the Llama kind: Llama, Mistral, Qwen2, Qwen3, by what their config says.

Projections that read the same input are stored as one matrix (Q, K and V; gate and up), so that each layer
makes four matrix products.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from parrot.engine.torch.linear import Linear, make_linear
from parrot.engine.torch.loader import WeightFiles
from parrot.engine.torch.models.rope import rope_tables, rotate
from parrot.engine.torch.models.shape import ModelShape

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer, queries [tokens, heads, head_dim], keys, values [tokens, kv_heads, head_dim]) → [tokens, heads,
head_dim]: writes the keys and values to the cache and attends to all that each token may see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    attention_norm: torch.Tensor
    qkv: Linear
    head_norms: torch.Tensor | None
    """Weights of the norms over each query and key head, [heads + kv_heads, head_dim]."""
    out: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear


class LlamaModel:
    """Weights and the forward pass over a flat list of tokens of any number of requests."""

    def __init__(
        self,
        files: WeightFiles,
        shape: ModelShape,
        *,
        dtype: torch.dtype,
        device: torch.device,
        context_tokens: int,
        on_progress: Callable[[float], None],
    ) -> None:
        self.shape = shape
        self.num_parameters = 0
        self._files = files
        self._dtype = dtype
        self._device = device
        self._embeddings = self._tensor("model.embed_tokens.weight", shape.vocab_size, shape.hidden_size)
        self._layers: list[_Layer] = []
        for index in range(shape.num_layers):
            self._layers.append(self._read_layer(f"model.layers.{index}."))
            on_progress((index + 1) / shape.num_layers)
        self._norm = self._tensor("model.norm.weight", shape.hidden_size)
        if shape.tied_embeddings:
            files.skip("lm_head.weight")
            self._head = make_linear(self._embeddings, None)
        else:
            self._head = make_linear(
                self._tensor("lm_head.weight", shape.vocab_size, shape.hidden_size), None
            )
        files.check_all_taken()
        del self._files
        self._cosines, self._sines = rope_tables(
            shape.rope, head_dim=shape.head_dim, num_positions=context_tokens, dtype=dtype, device=device
        )

    def forward(self, token_ids: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Hidden states [tokens, hidden] of `token_ids` ([tokens]) at `positions` ([tokens])."""
        shape = self.shape
        num_tokens = token_ids.shape[0]
        cosines, sines = self._cosines[positions][:, None], self._sines[positions][:, None]
        hidden = self._embeddings[token_ids]
        for index, layer in enumerate(self._layers):
            normed = self._rms_norm(hidden, layer.attention_norm)
            heads = layer.qkv(normed).view(num_tokens, -1, shape.head_dim)
            turned, values = torch.split(
                heads, [shape.num_heads + shape.num_kv_heads, shape.num_kv_heads], dim=1
            )
            if layer.head_norms is not None:
                turned = self._rms_norm(turned, layer.head_norms)
            turned = rotate(turned, cosines, sines)
            queries, keys = turned[:, : shape.num_heads], turned[:, shape.num_heads :]
            mixed = attend(index, queries, keys, values)
            hidden = hidden + layer.out(mixed.reshape(num_tokens, -1))
            gate, up = layer.gate_up(self._rms_norm(hidden, layer.mlp_norm)).chunk(2, dim=1)
            hidden = hidden + layer.down(functional.silu(gate) * up)
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocabulary] of hidden states [rows, hidden]."""
        return self._head(self._rms_norm(hidden, self._norm))

    def wrap_linears(self, wrap: Callable[[Linear], Linear]) -> None:
        """Put something around every matrix product, for measurements."""
        self._layers = [
            replace(
                layer,
                qkv=wrap(layer.qkv),
                out=wrap(layer.out),
                gate_up=wrap(layer.gate_up),
                down=wrap(layer.down),
            )
            for layer in self._layers
        ]
        self._head = wrap(self._head)

    def _rms_norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Root-mean-square norm (Zhang and Sennrich 2019), in float32 whatever the model's type."""
        wide = hidden.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.shape.norm_eps)
        return weight * wide.to(hidden.dtype)

    def _read_layer(self, prefix: str) -> _Layer:
        shape = self.shape
        query_size, kv_size = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        sizes = {"q_proj": query_size, "k_proj": kv_size, "v_proj": kv_size}
        head_norms: torch.Tensor | None = None
        if shape.qk_norm:
            query_norm = self._tensor(attention + "q_norm.weight", shape.head_dim)
            key_norm = self._tensor(attention + "k_norm.weight", shape.head_dim)
            both = (query_norm.expand(shape.num_heads, -1), key_norm.expand(shape.num_kv_heads, -1))
            head_norms = torch.cat(both)
        return _Layer(
            attention_norm=self._tensor(prefix + "input_layernorm.weight", shape.hidden_size),
            qkv=self._linear(attention, sizes, shape.hidden_size, bias=shape.qkv_bias),
            head_norms=head_norms,
            out=self._linear(attention, {"o_proj": shape.hidden_size}, query_size, bias=shape.out_bias),
            mlp_norm=self._tensor(prefix + "post_attention_layernorm.weight", shape.hidden_size),
            gate_up=self._linear(
                mlp,
                {"gate_proj": shape.mlp_size, "up_proj": shape.mlp_size},
                shape.hidden_size,
                bias=shape.mlp_bias,
            ),
            down=self._linear(mlp, {"down_proj": shape.hidden_size}, shape.mlp_size, bias=shape.mlp_bias),
        )

    def _tensor(self, name: str, *size: int) -> torch.Tensor:
        tensor = torch.empty(size, dtype=self._dtype, device=self._device)
        self._files.copy_into(tensor, name)
        self.num_parameters += tensor.numel()
        return tensor

    def _linear(self, prefix: str, sizes: dict[str, int], num_inputs: int, *, bias: bool) -> Linear:
        """Projections of one input as one matrix; each part is read into its place."""
        num_outputs = sum(sizes.values())
        weight = torch.empty(num_outputs, num_inputs, dtype=self._dtype, device=self._device)
        offset = torch.empty(num_outputs, dtype=self._dtype, device=self._device) if bias else None
        first = 0
        for name, size in sizes.items():
            self._files.copy_into(weight[first : first + size], f"{prefix}{name}.weight")
            if offset is not None:
                self._files.copy_into(offset[first : first + size], f"{prefix}{name}.bias")
            first += size
        self.num_parameters += weight.numel() + (0 if offset is None else offset.numel())
        return make_linear(weight, offset)
