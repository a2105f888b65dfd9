"""The compiled kernels as functions on tensors.

A call costs about two microseconds on top of its work. What it is given is checked by `assert`: a mistake
here is a bug of the engine's, never of a request's.
"""

import struct
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from parrot.engine.native.library import ISAS, Isa, NativeLibrary, open_library
from parrot.engine.native.linear import NativeLinear

TYPE_NUMBERS = {torch.float32: 0, torch.bfloat16: 1}
"""The types that kernels are compiled for, by the library's numbers."""


RowSampling = tuple[float, float, float, float, int, int]
"""How a row's token is chosen: temperature (0: the likeliest), top-p, min-p, the number in [0, 1) that
decides a draw, top-k (0: no bound), and the row's mask (below 0: every token is allowed)."""

_ROW_SAMPLING = struct.Struct("=4f2q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary position embedding (Su et al. 2021) of a model's queries and keys."""

    num_query_heads: int
    num_key_heads: int
    cosines: torch.Tensor
    """[positions, head_dim / 2], float32."""
    sines: torch.Tensor
    norm_eps: float
    """Of the norms before it, where the model has them."""

    def __post_init__(self) -> None:
        assert _is_dense(self.cosines, torch.float32)
        assert _is_dense(self.sines, torch.float32)
        assert self.cosines.shape == self.sines.shape


class NativeKernels:
    """The kernels of one instruction set on some threads. Made by `load_native`.

    They may be used from any thread; when two use them at once, one of them computes alone.
    """

    def __init__(
        self, library: NativeLibrary, isa: Isa, num_threads: int, *, int8_weights: bool = False
    ) -> None:
        self.library = library
        self._int8_weights = int8_weights
        self.isa = isa
        self.num_threads = num_threads
        self.handle = library.parrot_kernels_new(ISAS.index(isa), num_threads)
        if not self.handle:
            raise MemoryError("no memory for native kernels")
        freed = weakref.finalize(self, library.parrot_kernels_free, self.handle)
        # At the interpreter's end a thread may still be computing, and the memory goes anyway.
        freed.atexit = False

    def describe(self) -> str:
        """A few words for people."""
        return f"native {self.isa} kernels" + (", weights in int8" if self._int8_weights else "")

    @property
    def has_linear(self) -> bool:
        """Whether they multiply matrices."""
        return bool(self.library.parrot_has_linear(self.handle))

    @staticmethod
    def fits(dtype: torch.dtype, head_dim: int, device: torch.device) -> bool:
        """There are kernels for models of this kind."""
        return device.type == "cpu" and dtype in TYPE_NUMBERS and head_dim % 16 == 0

    def add_norm(
        self, hidden: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """`hidden` ([rows, size]) becomes `hidden + added`; returns its root-mean-square norm (Zhang and
        Sennrich 2019) times `weight`.
        """
        assert _is_dense(hidden, hidden.dtype)
        assert added is None or (_is_dense(added, hidden.dtype) and added.shape == hidden.shape)
        assert _is_dense(weight, hidden.dtype)
        assert weight.shape == hidden.shape[1:]
        out = torch.empty_like(hidden)
        rows, size = hidden.shape
        self.library.parrot_add_norm(
            self.handle,
            TYPE_NUMBERS[hidden.dtype],
            rows,
            size,
            hidden.data_ptr(),
            None if added is None else added.data_ptr(),
            weight.data_ptr(),
            eps,
            out.data_ptr(),
        )
        return out

    def rotate(
        self,
        heads: torch.Tensor,
        rotary: Rotary,
        positions: torch.Tensor,
        norms: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        """Rotate the query and key heads at the front of each row, in place.

        `heads` is [rows, at least (query and key heads) · head_dim], `positions` [rows], int64. `norms` are
        the weights ([head_dim] each) of root-mean-square norms over each query and key head before that.
        """
        head_dim = 2 * rotary.cosines.shape[1]
        assert heads.stride(1) == 1
        assert heads.shape[1] >= (rotary.num_query_heads + rotary.num_key_heads) * head_dim
        assert positions.shape == heads.shape[:1]
        assert positions.dtype == torch.int64
        assert norms is None or all(
            _is_dense(norm, heads.dtype) and norm.shape == (head_dim,) for norm in norms
        )
        self.library.parrot_rotate(
            self.handle,
            TYPE_NUMBERS[heads.dtype],
            heads.shape[0],
            rotary.num_query_heads,
            rotary.num_key_heads,
            head_dim,
            heads.stride(0),
            heads.data_ptr(),
            rotary.cosines.data_ptr(),
            rotary.sines.data_ptr(),
            positions.data_ptr(),
            None if norms is None else norms[0].data_ptr(),
            None if norms is None else norms[1].data_ptr(),
            rotary.norm_eps,
        )

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(gate) · up of [rows, gate and up side by side]."""
        assert _is_dense(gate_up, gate_up.dtype)
        rows, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty((rows, size), dtype=gate_up.dtype)
        self.library.parrot_silu_mul(
            self.handle, TYPE_NUMBERS[gate_up.dtype], rows, size, gate_up.data_ptr(), out.data_ptr()
        )
        return out

    def make_linear(
        self, weight: torch.Tensor, bias: torch.Tensor | None, *, is_gated: bool = False
    ) -> NativeLinear | None:
        """A product with `weight` ([outputs, inputs]) plus `bias`, [rows, inputs] → [rows, outputs]; of a
        gated one, the first half of the outputs are gates.

        The weights are copied into a layout of their own. None where torch's product is as good: without
        AVX512-BF16, and in float32.
        """
        num_outputs, num_inputs = weight.shape
        fits = not num_inputs % 32 and not (is_gated and num_outputs % 32)
        if weight.dtype != torch.bfloat16 or not fits or not self.has_linear:
            return None
        return NativeLinear(self, weight, bias, is_gated=is_gated, as_int8=self._int8_weights)

    def sample(
        self, logits: torch.Tensor, rows: Sequence[RowSampling], masks: torch.Tensor | None = None
    ) -> list[int]:
        """A token for each row of `logits` ([rows, tokens]); -1 where one of the row's logits is not finite,
        or none of its tokens is allowed.

        `masks` ([masks, words], int32) have a bit for each token that is allowed, the lowest first.
        """
        num_rows, num_tokens = logits.shape
        assert logits.stride(1) == 1
        assert len(rows) == num_rows
        assert masks is None or (_is_dense(masks, torch.int32) and masks.shape[1] * 32 >= num_tokens)
        settings = b"".join(_ROW_SAMPLING.pack(*row) for row in rows)
        spare = torch.empty((self.num_threads, num_tokens), dtype=torch.float64)
        out = torch.empty(num_rows, dtype=torch.int64)
        self.library.parrot_sample(
            self.handle,
            TYPE_NUMBERS[logits.dtype],
            num_rows,
            num_tokens,
            logits.stride(0),
            logits.data_ptr(),
            settings,
            None if masks is None else masks.data_ptr(),
            0 if masks is None else masks.shape[1],
            spare.data_ptr(),
            out.data_ptr(),
        )
        return out.tolist()


def load_native(
    isa: Isa | None = None, *, num_threads: int | None = None, int8_weights: bool = False
) -> NativeKernels | None:
    """The kernels for `isa`, or for the best that this processor has; None where they are not to be had.

    Without `num_threads` they use as many threads as torch does. With `int8_weights` the products that they
    make keep their weights in bytes.
    """
    library = open_library()
    if library is None:
        return None
    supported = library.supported()
    chosen = isa or supported[-1]
    if chosen not in supported:
        return None
    return NativeKernels(library, chosen, num_threads or torch.get_num_threads(), int8_weights=int8_weights)


def _is_dense(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    return tensor.dtype == dtype and tensor.is_contiguous() and tensor.device.type == "cpu"
