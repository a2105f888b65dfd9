"""`parrot bench apps`: texts, prompts, counters and sums."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from parrot.bench.apps.applications import APPLICATIONS, Function, Run, Size, Text
from parrot.bench.apps.gauges import Counters, parse_metrics
from parrot.bench.apps.openai_side import rendered
from parrot.bench.apps.records import CallTimes, RunRecord, Usage
from parrot.bench.apps.serving import SERVING, Load
from parrot.bench.apps.side import Outcome
from parrot.bench.apps.summing import difference, record_of, summarise
from parrot.bench.apps.texts import DrawnTexts, Material, read_material
from parrot.errors import ConfigError


class RecordingStep:
    """Answers each call with its number, and keeps the prompts."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, function: Function, /, **inputs: Text | Sequence[Text]) -> Text:
        self.asked.append(rendered(function, inputs))
        return f"<{len(self.asked)}>"

    def text(self, name: str, text: str) -> Text:
        return text


def _run(scale: float = 1.0, material: Material | None = None) -> Run:
    return Run(texts=DrawnTexts(seed="a"), material=material or Material(), size=Size(scale=scale))


def _asked(name: str, run: Run) -> list[tuple[str, int]]:
    step = RecordingStep()
    asyncio.run(_drive(name, step, run))
    return step.asked


async def _drive(name: str, step: RecordingStep, run: Run) -> None:
    await APPLICATIONS[name].run(step, run)


def test_a_chain_carries_each_summary_into_the_next_prompt() -> None:
    run = _run()
    asked = _asked("chain", run)
    chunk = run.texts.words(300, "chunk 1")
    assert asked[1] == (
        f"Summarise the document so far.\nPrevious summary: <1>\nNext chunk: {chunk}\nSummary:",
        50,
    )
    assert len(asked) == 6


def test_a_map_reduce_joins_all_summaries_in_order() -> None:
    asked = _asked("mapreduce", _run())
    numbers = "\n".join(f"<{number}>" for number in range(1, 13))
    assert asked[-1] == (f"Combine the summaries:\n{numbers}\nFINAL:", 50)
    assert len(asked) == 13


@pytest.mark.parametrize(
    ("name", "num_calls", "num_systems", "tokens"),
    [("gpts", 24, 4, 40), ("shared", 24, 1, 60), ("copilot", 32, 1, 60)],
)
def test_questions_go_to_each_assistant_in_turn(
    name: str, num_calls: int, num_systems: int, tokens: int
) -> None:
    asked = _asked(name, _run(0.1))
    systems = [prompt.partition("\nUser: ")[0] for prompt, _ in asked]
    assert len(asked) == num_calls
    assert len(set(systems)) == num_systems
    assert systems[: len(systems) // num_systems * num_systems : num_systems] == [systems[0]] * (
        num_calls // num_systems
    )
    assert {max_tokens for _, max_tokens in asked} == {round(tokens * 0.1)}


def test_a_team_reviews_and_revises_twice_with_all_files_in_view() -> None:
    asked = [prompt for prompt, _ in _asked("agents", _run())]
    assert len(asked) == 1 + 6 + 2 * 12
    codes = "\n".join(f"<{number}>" for number in range(2, 8))
    assert f"{codes}\nReview file 0:" in asked[7]
    assert f"{codes}\nReview: <8>\nRevise file 0:" in asked[13]


def test_the_same_key_gives_the_same_text_and_another_seed_another() -> None:
    texts = DrawnTexts(seed="1/chain/0")
    assert texts.words(50, "chunk 0") == DrawnTexts(seed="1/chain/0").words(50, "chunk 0")
    assert texts.words(50, "chunk 0") != DrawnTexts(seed="1/chain/1").words(50, "chunk 0")
    assert texts.words(50, "chunk 0") != texts.of("user 1").words(50, "chunk 0")


def test_material_gives_passages_and_lengths(tmp_path: Path) -> None:
    (tmp_path / "article_0.txt").write_text(" ".join(f"w{number}" for number in range(40)))
    (tmp_path / "gpts_top4.json").write_text(
        json.dumps([{"prompt_length": 300, "output_length": 10}, {"prompt_length": 100, "output_length": 30}])
    )
    (tmp_path / "bing_prompt_lengths.txt").write_text("5107\n10214\n")
    (tmp_path / "metagpt_log_3_round.jsonl").write_text(json.dumps({"q": "team words " * 20, "id": "x"}))
    material = read_material(tmp_path)
    passage = material.texts("s", kind="articles").words(60, "key").split()
    first = int(passage[0][1:])
    assert passage == [f"w{number % 40}" for number in range(first, first + 60)]
    assert [(one.prompt, one.answer) for one in material.assistants] == [(1.5, 0.5), (0.5, 1.5)]
    assert material.questions == (0.0, 1.0)
    assert set(material.texts("s", kind="team").words(10, "key").split()) == {"team", "words"}


def test_a_directory_without_workload_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no workload data"):
        read_material(tmp_path)


@pytest.mark.parametrize("name", list(SERVING))
def test_arrivals_come_in_time_with_texts_of_their_own(name: str) -> None:
    arrivals = SERVING[name].arrivals(_run(0.1), Load(rate=5, duration_s=20), Random(3))
    assert all(0 <= arrival.at_s < 20 for arrival in arrivals)
    assert {SERVING[name].foreground, SERVING[name].users} == {arrival.stream for arrival in arrivals}
    users = [arrival for arrival in arrivals if arrival.stream == SERVING[name].users]
    assert 60 < len(users) < 140
    assert len({arrival.run.texts.words(8, "prompt") for arrival in arrivals}) == len(arrivals)


def test_metrics_are_summed_over_their_labels() -> None:
    text = (
        "# HELP vllm:prefix_cache_hits_total hits\n"
        'vllm:prefix_cache_hits_total{engine="0"} 1.5e+02\nvllm:prefix_cache_hits_total{engine="1"} 50\n'
        'vllm:cache_config_info{block_size="128",path="a\\"b,c"} 1.0\nup 1\nodd NaN-ish\n'
    )
    values, labels = parse_metrics(text)
    assert values["vllm:prefix_cache_hits_total"] == 200
    assert labels["vllm:cache_config_info"] == {"block_size": "128", "path": 'a\\"b,c'}
    assert values["up"] == 1
    assert "odd" not in values


def test_counters_that_are_not_told_stay_unknown() -> None:
    before, after = Counters(prefilled_tokens=5), Counters(prefilled_tokens=25, cached_tokens=3)
    assert difference(before, after) == Counters(prefilled_tokens=20)


def _record(side: str, run: int, jct_s: float) -> RunRecord:
    outcome = Outcome(
        jct_s=jct_s,
        num_requests=1,
        usage=Usage(num_calls=1, prompt_tokens=10, output_tokens=4),
        calls=[CallTimes(ready_s=1.0, first_token_s=1.5, done_s=3.0, output_tokens=4)],
    )
    return record_of(outcome, work="chain", side=side, run=run, rtt_s=0.0, seed="s")


def test_a_record_tells_what_calls_took() -> None:
    record = _record("parrot", 0, 2.0)
    assert record.ttft_s is not None
    assert record.tpot_s is not None
    assert record.normalised_latency_s is not None
    assert (record.ttft_s.median, record.tpot_s.median, record.normalised_latency_s.median) == (0.5, 0.5, 0.5)
    assert record.output_tokens_per_s == 2.0


def test_runs_are_compared_with_the_run_of_the_same_number() -> None:
    records = [
        _record(side, run, jct_s)
        for side, times in (("parrot", (1.0, 2.0, 4.0)), ("vllm", (2.0, 6.0, 4.0)))
        for run, jct_s in enumerate(times)
    ]
    records = [replace(record, rate=None) for record in records]
    (ratio,) = summarise(records, ["parrot", "vllm"]).ratios
    assert (ratio.speedup.min, ratio.speedup.median, ratio.speedup.max) == (1.0, 2.0, 3.0)
    assert ratio.of_medians == 2.0
