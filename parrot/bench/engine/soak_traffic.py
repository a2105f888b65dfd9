"""Random traffic for an engine: what applications do, in no order, with more of it than the memory holds."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from random import Random

from parrot.engine.torch.engine import TorchEngine
from parrot.errors import ParrotError
from parrot.ports.clock import Clock
from parrot.ports.engine import ContextRef, FillRequest, GenerateRequest
from parrot.types.ids import ContextId, RequestId
from parrot.types.sampling import Grammar, Sampling

WORDS = Grammar(kind="regex", source="[a-z]{2,12}( [a-z]{2,12}){0,3}")

SAMPLINGS = (
    Sampling(ignore_eos=True),
    Sampling(),
    Sampling(temperature=1.0, ignore_eos=True),
    Sampling(temperature=0.8, top_k=40, top_p=0.9, min_p=0.01),
)
MAX_ROOT_TOKENS = 240
MAX_PIECE_TOKENS = 40
MAX_OUTPUT_TOKENS = 60
MAX_CHILDREN = 6

EXPECTED_FAULTS = frozenset({"context_gone", "kv_exhausted", "context_overflow", "grammar_unsupported"})
"""Codes with which requests may end here: contexts are freed under them, and some ask for too much."""


class Traffic:
    """Applications over one engine. Every context that an application makes it frees."""

    def __init__(
        self,
        engine: TorchEngine,
        fresh_tokens: Callable[[int], tuple[int, ...]],
        *,
        clock: Clock,
        chance: Random,
    ) -> None:
        self._engine = engine
        self._fresh_tokens = fresh_tokens
        self._clock = clock
        self._chance = chance
        self._numbers = count(1)
        self._common: list[ContextRef] = []
        self.outcomes: Counter[str] = Counter()
        """How many operations ended in each way, as `generate done`."""
        self.unexpected: list[str] = []
        self.num_under_way = 0
        self.last_progress_s = clock.now_s()
        """When an operation last began, went on, or ended."""

    async def run(self, *, num_applications: int, until_s: float) -> None:
        """Keep so many applications going until then; returns when all of them have freed everything."""
        self._common = []
        roots = [self._name() for _ in range(3)]
        for root in roots:
            length = self._chance.randint(MAX_PIECE_TOKENS, MAX_ROOT_TOKENS)
            await self._fill(root, length, None)
            self._common.append(ContextRef(context_id=root, num_tokens=length))
        async with asyncio.TaskGroup() as group:
            for _ in range(num_applications):
                group.create_task(self._applications(until_s))
        await self._free(roots, retain=True)

    async def take_everything(self) -> bool:
        """Fill one context with as many tokens as the engine's memory has room for, and free it: that works
        only when every block is free or can be evicted.
        """
        info = self._engine.info
        context_id = self._name()
        done = await self._fill(context_id, info.num_blocks * info.block_tokens, None)
        await self._free([context_id], retain=False)
        return done

    async def _applications(self, until_s: float) -> None:
        while self._clock.now_s() < until_s:
            await self._application()

    async def _application(self) -> None:
        """A tree of contexts: a prompt, then pieces and outputs that fork from anything there is."""
        chance = self._chance
        root = self._name()
        names = [root]
        above = self._fork(chance.choice(self._common)) if chance.random() < 0.5 else None
        num_tokens = chance.randint(1, MAX_ROOT_TOKENS)
        if chance.random() < 0.02:
            num_tokens = self._engine.info.num_blocks * self._engine.info.block_tokens + 1
        is_filled = await self._fill(root, num_tokens, above)
        # Only what is known to be long enough is forked from: a fork waits until its parent has that length.
        grown = [_below(root, above, num_tokens)] if is_filled else []
        for _ in range(chance.randint(1, 3) if grown else 0):
            parent = self._fork(chance.choice(grown))
            children = [self._name() for _ in range(chance.randint(1, MAX_CHILDREN))]
            names += children
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._child(child, parent)) for child in children]
                if chance.random() < 0.1:
                    group.create_task(self._free([chance.choice(children)], retain=chance.random() < 0.5))
            grown += [child for task in tasks if (child := task.result()) is not None]
        chance.shuffle(names)
        for context_id in names:
            await self._free([context_id], retain=chance.random() < 0.5)

    async def _child(self, context_id: ContextId, parent: ContextRef) -> ContextRef | None:
        """What can be forked from, when it was done."""
        num_tokens = self._chance.randint(1, MAX_PIECE_TOKENS)
        fills = self._chance.random() < 0.2
        done = await (self._fill if fills else self._generate)(context_id, num_tokens, parent)
        return _below(context_id, parent, num_tokens) if done else None

    async def _fill(self, context_id: ContextId, num_tokens: int, parent: ContextRef | None) -> bool:
        """Whether it was done."""
        request = FillRequest(
            request_id=RequestId(f"soak-{context_id}"),
            context_id=context_id,
            token_ids=self._fresh_tokens(num_tokens),
            parent=parent,
            priority=self._chance.randint(0, 2),
        )
        return await self._noted("fill", self._engine.fill(request))

    async def _generate(self, context_id: ContextId, num_tokens: int, parent: ContextRef | None) -> bool:
        """Whether it was done."""
        chance = self._chance
        grammar = WORDS if chance.random() < 0.15 else None
        request = GenerateRequest(
            request_id=RequestId(f"soak-{context_id}"),
            context_id=context_id,
            token_ids=self._fresh_tokens(num_tokens),
            parent=parent,
            sampling=replace(chance.choice(SAMPLINGS), max_tokens=chance.randint(1, MAX_OUTPUT_TOKENS)),
            grammar=grammar,
            priority=chance.randint(0, 2),
        )
        patience_s = chance.uniform(0.0, 0.5) if chance.random() < 0.2 else None
        kind = "generate" if grammar is None else "generate bounded"
        return await self._noted(kind, self._read(request, patience_s))

    async def _read(self, request: GenerateRequest, patience_s: float | None) -> None:
        async with asyncio.timeout(patience_s), aclosing(self._engine.generate(request)) as chunks:
            async for _ in chunks:
                self.last_progress_s = self._clock.now_s()

    async def _noted(self, kind: str, work: Awaitable[object]) -> bool:
        """Wait for an operation's end and count it; whether it was done."""
        self.num_under_way += 1
        how = "done"
        try:
            await work
        except TimeoutError:
            how = "cancelled"
        except ParrotError as error:
            how = error.code
            if how not in EXPECTED_FAULTS:
                self.unexpected.append(f"{kind}: {how}: {error}")
        finally:
            self.num_under_way -= 1
            self.last_progress_s = self._clock.now_s()
        self.outcomes[f"{kind} {how}"] += 1
        return how == "done"

    async def _free(self, context_ids: Sequence[ContextId], *, retain: bool) -> None:
        await self._engine.free(context_ids, retain=retain)
        self.outcomes["free retained" if retain else "free"] += 1

    def _fork(self, ref: ContextRef) -> ContextRef:
        length = self._chance.randint(0, ref.num_tokens)
        return ContextRef(context_id=ref.context_id, num_tokens=length)

    def _name(self) -> ContextId:
        return ContextId(next(self._numbers))


def _below(context_id: ContextId, parent: ContextRef | None, num_tokens: int) -> ContextRef:
    """A context of so many tokens after those of its parent."""
    above = 0 if parent is None else parent.num_tokens
    return ContextRef(context_id=context_id, num_tokens=above + num_tokens)
