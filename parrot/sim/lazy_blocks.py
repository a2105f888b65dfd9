"""KV blocks of requests that all grow by one token a step, counted without touching them.

A request that has `own` tokens at step `s0` has `own + s - s0` at step `s`, in blocks of `B`:

    ceil((own - s0 + s) / B)  =  whole + steps + ceil((phase + s mod B) / B)

with `own - s0 = whole · B + phase`, `s = steps · B + s mod B`. Requests of one phase are alike, so B
counters and one sum say how many blocks all of them have at any step.
"""


class LazyBlocks:
    """Blocks of a changing set of growing contexts."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._num_in_phase = [0] * block_tokens
        self._num_whole = 0
        self._num_contexts = 0

    def add(self, *, own_tokens: int, step: int) -> None:
        """A context of `own_tokens` tokens begins to grow at `step`."""
        self._change(own_tokens - step, 1)

    def remove(self, *, own_tokens: int, step: int) -> None:
        """A context stops growing; the numbers that it was added with, or any later pair of its own."""
        self._change(own_tokens - step, -1)

    def count(self, step: int) -> int:
        """Blocks of all of them at `step`."""
        size = self._block_tokens
        steps, rest = divmod(step, size)
        total = self._num_whole + self._num_contexts * (steps + 1)
        if rest == 0:
            return total - self._num_in_phase[0]
        return total + sum(self._num_in_phase[size - rest + 1 :])

    def _change(self, offset: int, by: int) -> None:
        whole, phase = divmod(offset, self._block_tokens)
        self._num_in_phase[phase] += by
        self._num_whole += by * whole
        self._num_contexts += by
