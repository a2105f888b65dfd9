"""What only the scripted engine does: scripted answers, costs, faults, counters."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from parrot.engine.scripted import ScriptedAnswer, ScriptedConfig, ScriptedEngine, ScriptedFault
from parrot.errors import ConfigError, EngineError, InvalidError
from parrot.ports.engine import ContextRef, FillRequest, GenerateChunk, GenerateRequest, LoadChanged, Lost
from parrot.types.ids import CallId, ContextId, EngineId, RequestId
from parrot.types.sampling import Grammar, Sampling

MakeEngine = Callable[[ScriptedConfig], ScriptedEngine]


class VirtualClock:
    """Time passes only by sleeping, and then at once."""

    def __init__(self) -> None:
        self.sleeps: list[float] = []

    @property
    def steps(self) -> list[float]:
        """Without the pauses between two tellings of the load."""
        return [duration_s for duration_s in self.sleeps if duration_s != 0.2]

    def now_s(self) -> float:
        return sum(self.sleeps)

    def wall_s(self) -> float:
        return self.now_s()

    async def sleep(self, duration_s: float) -> None:
        self.sleeps.append(duration_s)
        await asyncio.sleep(0)


@pytest.fixture
async def make_engine() -> AsyncIterator[MakeEngine]:
    engines: list[ScriptedEngine] = []

    def make(config: ScriptedConfig) -> ScriptedEngine:
        engines.append(ScriptedEngine(config, engine_id=EngineId("e")))
        return engines[-1]

    yield make
    for engine in engines:
        await engine.close()


def request(
    engine: ScriptedEngine,
    prompt: str,
    *,
    context: int = 1,
    call: str | None = None,
    attempt: int = 1,
    grammar: Grammar | None = None,
    sampling: Sampling | None = None,
    parent: ContextRef | None = None,
) -> GenerateRequest:
    return GenerateRequest(
        request_id=RequestId("r"),
        context_id=ContextId(context),
        token_ids=engine.tokenizer.encode(prompt),
        sampling=sampling or Sampling(),
        parent=parent,
        grammar=grammar,
        call_id=CallId(call) if call else None,
        attempt=attempt,
    )


async def answer(engine: ScriptedEngine, asked: GenerateRequest) -> str:
    chunks = [chunk async for chunk in engine.generate(asked)]
    await engine.free([asked.context_id])
    return "".join(chunk.text for chunk in chunks)


async def test_the_text_follows_from_the_seed_and_the_prompt_alone(make_engine: MakeEngine) -> None:
    one, same, other = (make_engine(ScriptedConfig(seed=seed)) for seed in (1, 1, 2))
    texts = [await answer(engine, request(engine, "Tell me a story")) for engine in (one, same, other)]
    assert texts[0] == texts[1] != texts[2]
    assert await answer(one, request(one, "Tell me a story.")) != texts[0]
    assert one.info.model_hash == same.info.model_hash != other.info.model_hash


async def test_a_larger_limit_only_makes_the_text_longer(make_engine: MakeEngine) -> None:
    engine = make_engine(ScriptedConfig())
    short, long = [
        await answer(engine, request(engine, "Go", sampling=Sampling(max_tokens=n, ignore_eos=True)))
        for n in (9, 90)
    ]
    assert long.startswith(short)
    assert len(long.split()) > 60


async def test_random_sampling_without_a_seed_differs_each_time(make_engine: MakeEngine) -> None:
    engine = make_engine(ScriptedConfig())
    texts = {
        await answer(engine, request(engine, "Go", sampling=Sampling(temperature=1.0))) for _ in range(5)
    }
    assert len(texts) == 5


async def test_the_first_rule_that_fits_the_prompts_end_gives_the_answer(make_engine: MakeEngine) -> None:
    rules = (
        ScriptedAnswer(pattern="weather", answer="It rains, 🙂."),
        ScriptedAnswer(pattern=r"\d+ and \d+\s*$", regex=True, answer="7"),
        ScriptedAnswer(pattern="and", answer="never"),
    )
    engine = make_engine(ScriptedConfig(answers=rules, answer_tail_chars=60))
    assert await answer(engine, request(engine, "What of the weather and sun?")) == "It rains, 🙂."
    assert await answer(engine, request(engine, "Add 3 and 4 ")) == "7"
    assert "It rains" not in await answer(engine, request(engine, "weather" + " filler" * 20))


async def test_an_answer_is_found_in_a_prompt_that_forks(make_engine: MakeEngine) -> None:
    engine = make_engine(ScriptedConfig(answers=(ScriptedAnswer(pattern="the weather", answer="Rain."),)))
    tokens = engine.tokenizer.encode("What is the ")
    await engine.fill(FillRequest(request_id=RequestId("f"), context_id=ContextId(9), token_ids=tokens))
    parent = ContextRef(context_id=ContextId(9), num_tokens=len(tokens))
    assert await answer(engine, request(engine, "weather", parent=parent)) == "Rain."


async def test_a_scripted_answer_obeys_limits_and_ignore_eos(make_engine: MakeEngine) -> None:
    engine = make_engine(ScriptedConfig(answers=(ScriptedAnswer(pattern="", answer="one two three four"),)))
    assert await answer(engine, request(engine, "x", sampling=Sampling(max_tokens=2))) == "one two"
    assert await answer(engine, request(engine, "x", sampling=Sampling(stop=(" three",)))) == "one two"
    longer = await answer(engine, request(engine, "x", sampling=Sampling(max_tokens=20, min_tokens=20)))
    assert longer.startswith("one two three four ")


async def test_a_schema_gives_json_and_a_regex_only_what_is_scripted(make_engine: MakeEngine) -> None:
    engine = make_engine(ScriptedConfig(answers=(ScriptedAnswer(pattern="code", answer="A-17"),)))
    schema = Grammar(kind="schema", source='{"type": "object", "properties": {"n": {"type": "integer"}}}')
    assert json.loads(await answer(engine, request(engine, "some json", grammar=schema))) == {"n": 1}
    regex = Grammar(kind="regex", source=r"[A-Z]-\d+")
    assert await answer(engine, request(engine, "a code", grammar=regex)) == "A-17"
    for grammar in (regex, Grammar(kind="regex", source="("), Grammar(kind="schema", source="[")):
        with pytest.raises(InvalidError) as refused:
            await answer(engine, request(engine, "else", grammar=grammar))
        assert refused.value.code == "grammar_unsupported"


async def test_work_takes_its_stated_time_on_the_engines_clock() -> None:
    clock = VirtualClock()
    config = ScriptedConfig(prefill_tokens_per_s=100, decode_step_s=0.5, step_tokens=30)
    engine = ScriptedEngine(config, engine_id=EngineId("e"), clock=clock)
    tokens = engine.tokenizer.encode("word " * 90)[:75]
    await engine.fill(FillRequest(request_id=RequestId("f"), context_id=ContextId(1), token_ids=tokens))
    assert clock.steps == [0.3, 0.3, 0.15]
    await answer(engine, request(engine, "", sampling=Sampling(max_tokens=4, ignore_eos=True)))
    await engine.close()
    assert clock.steps[3:] == [0.5] * 4
    assert engine.load().num_steps == 7


async def test_each_attempt_of_a_call_counts_once(make_engine: MakeEngine) -> None:
    engine = make_engine(ScriptedConfig())
    for attempt in (1, 1, 2):
        await answer(engine, request(engine, "x", call="a", attempt=attempt))
    await answer(engine, request(engine, "x", call="b"))
    await answer(engine, request(engine, "x"))
    assert dict(engine.executions) == {"a": 2, "b": 1}


@pytest.mark.parametrize(("kind", "code"), [("raise", "engine_failed"), ("bad_output", "engine_bad_output")])
async def test_a_scripted_failure_strikes_only_the_marked_request(
    make_engine: MakeEngine, kind: str, code: str
) -> None:
    fault = ScriptedFault(kind="raise" if kind == "raise" else "bad_output", marker="POISON", after_tokens=3)
    engine = make_engine(ScriptedConfig(faults=(fault,)))
    poisoned, healthy = await asyncio.gather(
        answer(engine, request(engine, "a POISON pill")),
        answer(engine, request(engine, "bread", context=2)),
        return_exceptions=True,
    )
    assert isinstance(poisoned, EngineError)
    assert (poisoned.code, isinstance(healthy, str)) == (code, True)
    await engine.free([ContextId(1)])
    assert engine.load().num_owned_blocks == 0


async def test_a_fault_spares_skips_and_ends(make_engine: MakeEngine) -> None:
    engine = make_engine(ScriptedConfig(faults=(ScriptedFault(kind="raise", skip=1, times=2),)))
    outcomes = []
    for context in range(4):
        try:
            await answer(engine, request(engine, "x", context=context))
            outcomes.append("fine")
        except EngineError as error:
            outcomes.append(error.code)
    assert outcomes == ["fine", "engine_failed", "engine_failed", "fine"]


async def test_a_fault_can_strike_fills(make_engine: MakeEngine) -> None:
    engine = make_engine(ScriptedConfig(faults=(ScriptedFault(kind="raise", on="fill", marker="bad"),)))
    tokens = engine.tokenizer.encode("a bad fill")
    with pytest.raises(EngineError):
        await engine.fill(FillRequest(request_id=RequestId("f"), context_id=ContextId(1), token_ids=tokens))
    assert await answer(engine, request(engine, "a bad word", context=2))


async def test_a_hanging_engine_answers_nothing_but_can_be_closed(make_engine: MakeEngine) -> None:
    engine = make_engine(ScriptedConfig(faults=(ScriptedFault(kind="hang", marker="stop here"),)))
    hanging = asyncio.create_task(answer(engine, request(engine, "stop here")))
    later = asyncio.create_task(answer(engine, request(engine, "x", context=2)))
    done, _ = await asyncio.wait((hanging, later), timeout=0.05)
    assert done == set()
    await engine.close()
    results = await asyncio.gather(hanging, later, return_exceptions=True)
    assert [isinstance(r, EngineError) and r.code for r in results] == ["engine_lost", "engine_lost"]


async def test_a_slow_request_slows_its_steps() -> None:
    clock = VirtualClock()
    config = ScriptedConfig(faults=(ScriptedFault(kind="slow", delay_s=7.0),), tokens_per_step=1)
    engine = ScriptedEngine(config, engine_id=EngineId("e"), clock=clock)
    await answer(engine, request(engine, "x", sampling=Sampling(max_tokens=3, ignore_eos=True)))
    await engine.close()
    assert clock.steps == [7.0] * 3


async def test_a_free_engine_gives_several_tokens_in_a_chunk(make_engine: MakeEngine) -> None:
    engine = make_engine(ScriptedConfig())
    chunks: list[GenerateChunk] = []
    async for chunk in engine.generate(
        request(engine, "x", sampling=Sampling(max_tokens=64, ignore_eos=True))
    ):
        chunks.append(chunk)
    assert [len(chunk.token_ids) for chunk in chunks] == [32, 32]


async def test_loads_are_told_at_most_five_times_a_second(make_engine: MakeEngine) -> None:
    engine = make_engine(ScriptedConfig(decode_step_s=0.001))
    loads: list[LoadChanged] = []

    async def read() -> None:
        async for notice in engine.notices():
            if isinstance(notice, LoadChanged):
                loads.append(notice)

    reading = asyncio.create_task(read())
    sampling = Sampling(max_tokens=200, ignore_eos=True)
    await answer(engine, request(engine, "x", sampling=sampling))
    await asyncio.sleep(0.25)
    await engine.close()
    await reading
    assert 2 <= len(loads) <= 6
    assert loads[-1].load.num_owned_blocks == 0


async def test_a_leak_is_reported_when_nothing_is_in_use(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """C2: the engine checks by itself."""
    engine = make_engine(ScriptedConfig())
    await answer(engine, request(engine, "x"))
    assert caplog.records == []
    engine._tree.num_owned += 1
    with caplog.at_level(logging.ERROR):
        await answer(engine, request(engine, "x", context=2))
    assert "leaks" in caplog.records[-1].message


async def test_a_bug_in_the_engine_loses_it_and_fails_what_is_under_way(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(ScriptedConfig())

    def broken() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(engine._batcher, "step", broken)
    with pytest.raises(EngineError) as lost:
        await answer(engine, request(engine, "x"))
    assert lost.value.code == "engine_lost"
    assert [notice async for notice in engine.notices()][-1] == Lost(
        reason="a fault of the engine (ZeroDivisionError); its log has more"
    )
    assert "failed" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_blocks": 0},
        {"decode_step_s": -1.0},
        {"prefill_tokens_per_s": float("nan")},
        {"tokens_per_step": 0},
    ],
)
def test_a_setting_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        replace(ScriptedConfig(), **wrong)  # type: ignore[arg-type]


async def test_an_answer_pattern_that_is_not_re2_is_refused() -> None:
    rule = ScriptedAnswer(pattern="(?=x)", regex=True, answer="")
    with pytest.raises(ConfigError):
        ScriptedEngine(ScriptedConfig(answers=(rule,)), engine_id=EngineId("e"))
