"""Runs the cases of `parrot bench engine`, one engine after the other."""

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from math import ceil
from pathlib import Path

import torch

from parrot.bench.engine.config import EngineBenchConfig
from parrot.bench.engine.driver import DecodeRate, EngineDriver, started
from parrot.bench.engine.floors import ModelWork, measure_floors
from parrot.bench.engine.report import (
    SCHEMA,
    DecodeResult,
    EngineReport,
    Floors,
    ForkBlocks,
    Int8Result,
    MemoryResult,
    PrefillResult,
    Prefix,
    Skipped,
    SplitResult,
    StartedEngine,
)
from parrot.bench.engine.split import split_decode, split_prefill
from parrot.bench.origin import commit, machine, peak_rss_bytes, versions
from parrot.bench.spread import spread
from parrot.engine.torch.config import AttentionKind
from parrot.engine.torch.paths import DEFAULT_THREADS
from parrot.engine.torch.timing import StepTimes
from parrot.errors import ConfigError
from parrot.ports.clock import Clock
from parrot.ports.engine import ContextRef

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "llguidance", "triton")
"""Packages whose versions are noted."""
MIN_DECODE_TOKENS = 3
"""Of each request in one measurement, however long they take: two steps that count."""
_FORK_PREFIX_TOKENS = 1000
_FORK_SUFFIX_TOKENS = 40

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One way to decode."""

    attention: AttentionKind
    batch: int
    context_tokens: int
    prefix: Prefix

    def __str__(self) -> str:
        return f"decode {self.batch} × {self.context_tokens} {self.prefix}, {self.attention} attention"


@dataclass(slots=True, kw_only=True)
class _Found:
    """What was measured so far; how far from the floors that is, is known at the end."""

    engines: list[StartedEngine] = field(default_factory=list)
    prefill_s: dict[int, list[float]] = field(default_factory=dict)
    decode: dict[_Case, list[DecodeRate]] = field(default_factory=dict)
    split: list[SplitResult] = field(default_factory=list)
    forks: ForkBlocks | None = None
    skipped: list[Skipped] = field(default_factory=list)


async def run_engine_bench(config: EngineBenchConfig, *, clock: Clock, tell: Tell) -> EngineReport:
    """Measure; takes minutes. `tell` is told what is being measured.

    Raises:
        ConfigError: `bad_model` or `bad_config`.
        EngineError: an engine failed.
    """
    return await _Suite(config, clock, tell).run()


class _Suite:
    """One run."""

    def __init__(self, config: EngineBenchConfig, clock: Clock, tell: Tell) -> None:
        self._config = config
        self._clock = clock
        self._tell = tell
        self._found = _Found()
        self._num_tokens: dict[_Case, int] = {}
        self._model = ("", "")
        self._work: ModelWork | None = None

    async def run(self) -> EngineReport:
        """Measure everything that is asked for."""
        config, found = self._config, self._found
        started_at = datetime.fromtimestamp(self._clock.wall_s(), UTC)
        began_s = self._clock.now_s()
        load_average = os.getloadavg()[0]
        main = config.engine.attention
        others = [kind for kind in config.attentions if kind != main] if "decode" in config.sections else []
        for kind in (main, *others):
            await self._measure_engine(kind)
        if "split" in config.sections:
            await self._measure_split()
        int8 = await self._measure_int8() if "int8" in config.sections else None
        peak_device = torch.cuda.max_memory_allocated() if found.engines[0].device != "cpu" else None
        peak_rss = peak_rss_bytes()
        floors = self._measure_floors() if "floors" in config.sections else None
        return EngineReport(
            schema=SCHEMA,
            started_at=started_at.isoformat(timespec="seconds"),
            duration_s=self._clock.now_s() - began_s,
            model=self._model[0],
            model_hash=self._model[1],
            machine=machine(),
            load_average=load_average,
            versions=versions(PACKAGES),
            source=commit(),
            settings=_told(config) | {"torch_threads": DEFAULT_THREADS},
            engines=found.engines,
            floors=floors,
            prefill=self._prefill_results(floors),
            decode=self._decode_results(floors),
            split=found.split,
            memory=MemoryResult(peak_rss_bytes=peak_rss, peak_device_bytes=peak_device, forks=found.forks)
            if "memory" in config.sections
            else None,
            int8=int8,
            skipped=found.skipped,
        )

    async def _measure_engine(self, attention: AttentionKind) -> None:
        """One engine, from its start to its end."""
        config = self._config
        began_s = self._clock.now_s()
        self._tell(f"starting the engine with {attention} attention")
        engine_config = replace(config.engine, attention=attention)
        async with started(engine_config, clock=self._clock, seed=config.seed) as driver:
            start_s = self._clock.now_s() - began_s
            if attention == config.engine.attention:
                self._model = (driver.engine.info.model, driver.engine.info.model_hash)
                self._work = ModelWork.of(driver.parts)
                await self._measure_main(driver)
            if "decode" in config.sections and attention in config.attentions:
                await self._measure_shared(driver, attention)
            self._note_engine(driver, attention, start_s)
        gc.collect()

    async def _measure_main(self, driver: EngineDriver) -> None:
        """What is measured with one attention setting only."""
        if "prefill" in self._config.sections:
            await self._measure_prefill(driver)
        if "memory" in self._config.sections:
            await self._count_fork_blocks(driver)
        if "decode" in self._config.sections:
            await self._measure_private(driver)

    async def _measure_int8(self) -> Int8Result | None:
        """The main engine once more, with weights in bytes."""
        config, main = self._config, self._found
        self._tell("starting the engine with weights in int8")
        self._found = _Found(skipped=main.skipped)
        try:
            engine_config = replace(config.engine, weights="int8")
            async with started(engine_config, clock=self._clock, seed=config.seed) as driver:
                await self._measure_prefill(driver)
                await self._measure_shared(driver, config.engine.attention)
            return Int8Result(prefill=self._prefill_results(None), decode=self._decode_results(None))
        except ConfigError as error:
            self._skip("weights in int8", error.message)
            return None
        finally:
            self._found = main
            gc.collect()

    def _note_engine(self, driver: EngineDriver, attention: AttentionKind, start_s: float) -> None:
        info = driver.engine.info
        self._found.engines.append(
            StartedEngine(
                attention=attention,
                description=info.description,
                start_s=start_s,
                device=info.device,
                dtype=info.dtype,
                num_parameters=info.num_parameters,
                num_blocks=info.num_blocks,
                block_tokens=info.block_tokens,
                block_bytes=info.block_bytes,
                peak_rss_bytes=peak_rss_bytes(),
            )
        )

    async def _measure_prefill(self, driver: EngineDriver) -> None:
        lengths = [n for n in self._config.prefill_tokens if self._fits(driver, f"prefill {n}", [n])]
        for num_tokens in lengths:
            self._tell(f"prefill {num_tokens}")
            await driver.prefill_s(num_tokens)
            times = [await driver.prefill_s(num_tokens) for _ in range(self._config.repeats)]
            self._found.prefill_s[num_tokens] = times

    async def _measure_shared(self, driver: EngineDriver, attention: AttentionKind) -> None:
        """Forks of one prefix, which is fresh in each repeat."""
        config = self._config
        cases = [
            _Case(attention=attention, batch=batch, context_tokens=context_tokens, prefix="shared")
            for context_tokens in config.contexts
            for batch in config.batches
        ]
        cases = [case for case in cases if self._fits_case(driver, case, [case.context_tokens])]
        for repeat in range(config.repeats if cases else 0):
            prefix = await driver.fill(max(case.context_tokens for case in cases))
            for case in cases:
                self._tell(f"{case}, {repeat + 1} of {config.repeats}")
                await self._decode(driver, case, [_first(prefix, case.context_tokens)] * case.batch)
            await driver.free([prefix])

    async def _measure_private(self, driver: EngineDriver) -> None:
        """Requests that share nothing. Their prefixes are filled once: that takes longest of all."""
        config = self._config
        cases = [
            _Case(
                attention=config.engine.attention,
                batch=batch,
                context_tokens=context_tokens,
                prefix="private",
            )
            for context_tokens in config.contexts
            for batch in config.batches
            if batch > 1
        ]
        cases = [case for case in cases if self._allows(case)]
        cases = [case for case in cases if self._fits_case(driver, case, [case.context_tokens] * case.batch)]
        prefixes = []
        for index in range(max((case.batch for case in cases), default=0)):
            length = max(case.context_tokens for case in cases if case.batch > index)
            self._tell(f"filling private prefix {index + 1} of {length} tokens")
            prefixes.append(await driver.fill(length))
        for repeat in range(config.repeats):
            for case in cases:
                self._tell(f"{case}, {repeat + 1} of {config.repeats}")
                await self._decode(
                    driver, case, [_first(prefix, case.context_tokens) for prefix in prefixes[: case.batch]]
                )
        await driver.free(prefixes)

    async def _decode(self, driver: EngineDriver, case: _Case, prefixes: Sequence[ContextRef]) -> None:
        """Measure once; before the first time, find out how many tokens that should take."""
        config = self._config
        if case not in self._num_tokens:
            trial = await driver.decode(prefixes, suffix_tokens=config.suffix_tokens, num_tokens=2)
            wanted = 1 + ceil(config.decode_s / trial.step_s)
            self._num_tokens[case] = max(MIN_DECODE_TOKENS, min(config.decode_tokens, wanted))
        rate = await driver.decode(
            prefixes, suffix_tokens=config.suffix_tokens, num_tokens=self._num_tokens[case]
        )
        self._found.decode.setdefault(case, []).append(rate)

    async def _count_fork_blocks(self, driver: EngineDriver) -> None:
        self._tell("KV blocks of forks")
        num_forks, block_tokens = self._config.num_forks, driver.engine.info.block_tokens
        lengths = [_FORK_PREFIX_TOKENS] + [_FORK_SUFFIX_TOKENS] * num_forks
        if not self._fits(driver, "KV blocks of forks", lengths):
            return
        prefix = await driver.fill(_FORK_PREFIX_TOKENS)
        forks = [await driver.fill(_FORK_SUFFIX_TOKENS, prefix) for _ in range(num_forks)]
        self._found.forks = ForkBlocks(
            num_forks=num_forks,
            prefix_tokens=_FORK_PREFIX_TOKENS,
            suffix_tokens=_FORK_SUFFIX_TOKENS,
            num_blocks=driver.engine.load().num_owned_blocks,
            expected_blocks=sum(ceil(length / block_tokens) for length in lengths),
            unshared_blocks=num_forks * ceil((_FORK_PREFIX_TOKENS + _FORK_SUFFIX_TOKENS) / block_tokens),
        )
        await driver.free([prefix, *forks])

    async def _measure_split(self) -> None:
        """An engine of its own, whose steps note their parts."""
        config = self._config
        times = StepTimes(self._clock)
        self._tell("starting an engine that notes where its time goes")
        async with started(config.engine, clock=self._clock, seed=config.seed, times=times) as driver:
            for num_tokens in config.prefill_tokens:
                if self._fits(driver, f"split of prefill {num_tokens}", [num_tokens]):
                    self._tell(f"split of prefill {num_tokens}")
                    self._found.split.append(
                        await split_prefill(driver, times, num_tokens=num_tokens, repeats=config.repeats)
                    )
            for context_tokens in config.contexts:
                for batch in config.batches:
                    await self._split_decode(driver, times, batch, context_tokens)
        gc.collect()

    async def _split_decode(
        self, driver: EngineDriver, times: StepTimes, batch: int, context_tokens: int
    ) -> None:
        case = _Case(
            attention=self._config.engine.attention,
            batch=batch,
            context_tokens=context_tokens,
            prefix="shared",
        )
        if not self._fits_case(driver, case, [context_tokens]):
            return
        self._tell(f"split of {case}")
        self._found.split.append(
            await split_decode(
                driver,
                times,
                batch=batch,
                context_tokens=context_tokens,
                suffix_tokens=self._config.suffix_tokens,
                num_tokens=self._num_tokens.get(case, self._config.decode_tokens),
                repeats=self._config.repeats,
            )
        )

    def _allows(self, case: _Case) -> bool:
        """Whether a private case is not too long to fill."""
        allowed = self._config.max_private_tokens
        num_tokens = case.batch * case.context_tokens
        if num_tokens > allowed:
            self._skip(str(case), f"{num_tokens} private tokens take long; at most {allowed} are filled")
        return num_tokens <= allowed

    def _fits_case(self, driver: EngineDriver, case: _Case, prefix_lengths: Sequence[int]) -> bool:
        own = self._config.suffix_tokens + self._config.decode_tokens
        if case.batch > driver.engine.info.max_batch:
            self._skip(str(case), f"the engine's batch holds {driver.engine.info.max_batch} requests")
            return False
        lengths = [*prefix_lengths, *[own] * case.batch]
        return self._fits(driver, str(case), lengths, longest=case.context_tokens + own)

    def _fits(
        self, driver: EngineDriver, case: str, lengths: Sequence[int], *, longest: int | None = None
    ) -> bool:
        """Whether contexts of these lengths, each on top of what it forks from, fit into window and KV."""
        info = driver.engine.info
        needed = sum(ceil(length / info.block_tokens) for length in lengths)
        longest = longest or max(lengths)
        if longest > info.context_tokens:
            self._skip(case, f"needs {longest} tokens, the model's window is {info.context_tokens}")
            return False
        if needed > info.num_blocks:
            self._skip(case, f"needs {needed} KV blocks, the engine has {info.num_blocks}")
            return False
        return True

    def _skip(self, case: str, reason: str) -> None:
        skipped = Skipped(case=case, reason=reason)
        if skipped not in self._found.skipped:
            self._found.skipped.append(skipped)
            self._tell(f"left out: {case}: {reason}")

    def _measure_floors(self) -> Floors:
        self._tell("what this machine gives at best")
        assert self._work is not None
        engine = self._found.engines[0]
        return measure_floors(
            self._work,
            self._config.engine,
            clock=self._clock,
            device=engine.device,
            dtype=engine.dtype,
            repeats=self._config.repeats,
        )

    def _prefill_results(self, floors: Floors | None) -> list[PrefillResult]:
        assert self._work is not None
        results = []
        for num_tokens, times in self._found.prefill_s.items():
            middle_s = spread(times).median
            results.append(
                PrefillResult(
                    num_tokens=num_tokens,
                    tokens_per_s=spread(num_tokens / s for s in times),
                    floor=None
                    if floors is None
                    else self._work.prefill_distance(floors, middle_s, num_tokens=num_tokens),
                )
            )
        return results

    def _decode_results(self, floors: Floors | None) -> list[DecodeResult]:
        assert self._work is not None
        results = []
        for case, rates in self._found.decode.items():
            step_s = spread(rate.step_s for rate in rates)
            results.append(
                DecodeResult(
                    attention=case.attention,
                    batch=case.batch,
                    context_tokens=case.context_tokens,
                    prefix=case.prefix,
                    num_tokens=self._num_tokens[case],
                    tokens_per_s=spread(rate.tokens_per_s for rate in rates),
                    step_s=step_s,
                    floor=None
                    if floors is None
                    else self._work.decode_distance(
                        floors,
                        step_s.median,
                        batch=case.batch,
                        context_tokens=case.context_tokens,
                        is_shared=case.prefix == "shared",
                    ),
                )
            )
        return results


def _first(prefix: ContextRef, num_tokens: int) -> ContextRef:
    return ContextRef(context_id=prefix.context_id, num_tokens=num_tokens)


def _told(config: EngineBenchConfig) -> dict[str, object]:
    """The settings, without where on this machine the model lies."""
    named = replace(config.engine, model_dir=Path(config.engine.model_dir).name)
    return asdict(replace(config, engine=named))
