"""An engine under test: prompts of fresh tokens, fills, and batches that decode in step."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

import torch

from parrot.engine.torch.config import TorchConfig
from parrot.engine.torch.engine import TorchEngine
from parrot.engine.torch.startup import Parts, load_parts
from parrot.engine.torch.timing import StepTimes
from parrot.ports.clock import Clock
from parrot.ports.engine import ContextRef, FillRequest, GenerateRequest
from parrot.types.ids import ContextId, EngineId, RequestId
from parrot.types.sampling import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRate:
    """How fast a batch decoded while all its requests did."""

    tokens_per_s: float
    step_s: float


def decode_rate(token_times: Sequence[Sequence[float]]) -> DecodeRate:
    """The rate of a batch from the seconds at which each request's tokens came, at least two each.

    Counted is from when every request had its first token to when one of them had its last, so that neither
    the prefill nor a batch that is not full counts.
    """
    began_s = max(times[0] for times in token_times)
    ended_s = min(times[-1] for times in token_times)
    counts = [sum(began_s < s <= ended_s for s in times) for times in token_times]
    spent_s = ended_s - began_s
    return DecodeRate(tokens_per_s=sum(counts) / spent_s, step_s=spent_s / max(counts))


class EngineDriver:
    """Gives an engine work and measures it. One caller at a time."""

    def __init__(self, engine: TorchEngine, parts: Parts, *, clock: Clock, seed: int) -> None:
        self.engine = engine
        self.parts = parts
        self._clock = clock
        self._numbers = count(1)
        self._chance = torch.Generator().manual_seed(seed)
        ordinary = [i for i in range(parts.shape.vocab_size) if i not in parts.tokenizer.special_ids]
        self._ordinary = torch.tensor(ordinary)

    def fresh_tokens(self, num_tokens: int) -> tuple[int, ...]:
        """Random ordinary tokens, others at each call."""
        drawn = torch.randint(len(self._ordinary), (num_tokens,), generator=self._chance)
        return tuple(self._ordinary[drawn].tolist())

    async def fill(self, num_tokens: int, parent: ContextRef | None = None) -> ContextRef:
        """A new context of that many fresh tokens after those of `parent`."""
        context_id, request_id = self._name()
        result = await self.engine.fill(
            FillRequest(
                request_id=request_id,
                context_id=context_id,
                token_ids=self.fresh_tokens(num_tokens),
                parent=parent,
            )
        )
        return ContextRef(context_id=context_id, num_tokens=result.num_tokens)

    async def prefill_s(self, num_tokens: int) -> float:
        """Seconds to fill an empty context with that many fresh tokens."""
        began_s = self._clock.now_s()
        filled = await self.fill(num_tokens)
        spent_s = self._clock.now_s() - began_s
        await self.free([filled])
        return spent_s

    async def decode(
        self, prefixes: Sequence[ContextRef], *, suffix_tokens: int, num_tokens: int
    ) -> DecodeRate:
        """Fork once from each of `prefixes` (which may repeat), and generate `num_tokens` (at least 2) after
        some fresh tokens in each fork, all together.
        """
        while True:
            times = await self._generate(prefixes, suffix_tokens=suffix_tokens, num_tokens=num_tokens)
            if max(one[0] for one in times) < min(one[-1] for one in times):
                return decode_rate(times)
            # Some had ended before others began.
            num_tokens *= 2

    async def free(self, contexts: Sequence[ContextRef]) -> None:
        """Give contexts up."""
        await self.engine.free([context.context_id for context in contexts])

    async def _generate(
        self, prefixes: Sequence[ContextRef], *, suffix_tokens: int, num_tokens: int
    ) -> list[list[float]]:
        """When the tokens of each fork came."""
        forks: list[ContextId] = []
        tasks = []
        async with asyncio.TaskGroup() as group:
            for prefix in prefixes:
                context_id, request_id = self._name()
                forks.append(context_id)
                request = GenerateRequest(
                    request_id=request_id,
                    context_id=context_id,
                    token_ids=self.fresh_tokens(suffix_tokens),
                    parent=prefix,
                    sampling=Sampling(max_tokens=num_tokens, ignore_eos=True),
                )
                tasks.append(group.create_task(self._token_times(request)))
        await self.engine.free(forks)
        return [task.result() for task in tasks]

    async def _token_times(self, request: GenerateRequest) -> list[float]:
        return [self._clock.now_s() async for _chunk in self.engine.generate(request)]

    def _name(self) -> tuple[ContextId, RequestId]:
        number = next(self._numbers)
        return ContextId(number), RequestId(f"bench-{number}")


@asynccontextmanager
async def started(
    config: TorchConfig, *, clock: Clock, seed: int, times: StepTimes | None = None
) -> AsyncIterator[EngineDriver]:
    """An engine that is closed at the end, with its memory given back."""
    parts = await load_parts(config, _ignore, times)
    engine = TorchEngine(parts, engine_id=EngineId("bench"), clock=clock)
    try:
        yield EngineDriver(engine, parts, clock=clock, seed=seed)
    finally:
        await engine.close()


def _ignore(_phase: str, _fraction: float | None) -> None:
    """Start-up is not what is shown."""
