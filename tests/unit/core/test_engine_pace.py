"""An engine's pace, learnt from its own reports."""

import random
from dataclasses import replace

import pytest

from parrot.core.cost_model import EnginePace, PaceEstimate, SharedPace, Work


def reports(base_s: float, decode_s: float, prefill_s: float, count: int, noise: float = 0.0) -> list[Work]:
    draw = random.Random(1)
    works = []
    for _ in range(count):
        steps = draw.randrange(1, 20)
        decoded, prefilled = draw.randrange(64) * steps, draw.choice([0, 0, 512]) * steps
        busy_s = steps * base_s + decoded * decode_s + prefilled * prefill_s
        works.append(
            Work(
                busy_s=busy_s * draw.uniform(1 - noise, 1 + noise),
                num_steps=steps,
                num_prefilled_tokens=prefilled,
                num_decoded_tokens=decoded,
            )
        )
    return works


def test_a_pace_is_found_from_exact_reports() -> None:
    estimate = PaceEstimate()
    for work in reports(0.013, 0.0007, 0.0006, 40):
        estimate.observe(work)
    pace = estimate.pace
    assert pace.base_s == pytest.approx(0.013, rel=0.01)
    assert pace.decode_s == pytest.approx(0.0007, rel=0.01)
    assert pace.prefill_s == pytest.approx(0.0006, rel=0.01)


def test_noise_does_not_throw_it_off() -> None:
    estimate = PaceEstimate()
    for work in reports(0.013, 0.0007, 0.0006, 200, noise=0.2):
        estimate.observe(work)
    assert estimate.pace.step_s(32) == pytest.approx(0.013 + 32 * 0.0007, rel=0.15)
    assert estimate.pace.fill_s(1000) == pytest.approx(0.6, rel=0.15)


def test_it_follows_an_engine_that_becomes_slower() -> None:
    estimate = PaceEstimate()
    for work in reports(0.01, 0.001, 0.0005, 100) + reports(0.03, 0.003, 0.0015, 200):
        estimate.observe(work)
    assert estimate.pace.step_s(16) == pytest.approx(0.03 + 16 * 0.003, rel=0.1)


def test_nothing_ever_takes_less_than_no_time() -> None:
    estimate = PaceEstimate()
    for work in reports(0.0, 0.0, 0.001, 50, noise=0.5):
        estimate.observe(work)
    assert min(estimate.pace.base_s, estimate.pace.decode_s, estimate.pace.prefill_s) >= 0


def test_reports_without_work_teach_nothing() -> None:
    estimate = PaceEstimate()
    estimate.observe(Work(busy_s=0.0, num_steps=0, num_prefilled_tokens=0, num_decoded_tokens=0))
    assert estimate.pace == EnginePace()
    assert estimate.num_reports == 0


def test_engines_that_are_alike_have_one_pace_and_learn_it_together() -> None:
    shared = SharedPace()
    engines = [PaceEstimate(shared) for _ in range(4)]
    for number, work in enumerate(reports(0.013, 0.0007, 0.0006, 80, noise=0.1)):
        engines[number % 3].observe(work)
    assert len({engine.pace for engine in engines}) == 1
    assert engines[3].pace.step_s(16) == pytest.approx(0.013 + 16 * 0.0007, rel=0.1)


def test_an_engine_much_slower_than_those_like_it_has_a_pace_of_its_own() -> None:
    shared = SharedPace()
    engines = [PaceEstimate(shared) for _ in range(4)]
    slow = PaceEstimate(shared)
    for work in reports(0.013, 0.0007, 0.0006, 120):
        for engine in engines:
            engine.observe(work)
        slow.observe(replace(work, busy_s=2 * work.busy_s))
    assert slow.pace.step_s(16) > 1.5 * engines[0].pace.step_s(16)
    assert slow.pace.step_s(16) == pytest.approx(2 * (0.013 + 16 * 0.0007), rel=0.2)


def test_a_pace_is_told_anew_only_when_it_has_moved() -> None:
    estimate = PaceEstimate()
    told = [estimate.observe(work) for work in reports(0.013, 0.0007, 0.0006, 100)]
    assert told[0]
    assert not any(told[20:])


def test_what_a_step_reads_of_the_kv_in_use_is_found_apart_from_the_requests() -> None:
    draw = random.Random(2)
    estimate = PaceEstimate()
    for _ in range(100):
        steps, batch, kv = draw.randrange(1, 20), draw.randrange(1, 64), draw.randrange(50_000)
        work = Work(
            busy_s=steps * (0.026 + batch * 0.001 + kv * 5e-7),
            num_steps=steps,
            num_prefilled_tokens=0,
            num_decoded_tokens=batch * steps,
            num_kv_tokens=kv,
        )
        estimate.observe(work)
    assert estimate.pace.decode_s == pytest.approx(0.001, rel=0.05)
    assert estimate.pace.kv_s == pytest.approx(5e-7, rel=0.05)
    assert estimate.pace.step_s(32, 10_000) == pytest.approx(0.026 + 0.032 + 0.005, rel=0.05)


def test_the_batch_within_a_target_is_the_largest_that_keeps_it() -> None:
    pace = EnginePace(base_s=0.02, decode_s=0.01)
    assert pace.batch_within(0.1, 64) == 8
    assert pace.step_s(8) <= 0.1 + 1e-9 < pace.step_s(9)
    assert pace.batch_within(10.0, 64) == 64
    assert pace.batch_within(0.001, 64) == 1
    assert EnginePace(base_s=0.02, decode_s=0.01, kv_s=1e-6).batch_within(0.1, 64, 30_000) == 5


def test_reports_that_are_all_alike_leave_a_pace_that_fits_them() -> None:
    estimate = PaceEstimate()
    work = Work(busy_s=1.0, num_steps=37, num_prefilled_tokens=0, num_decoded_tokens=37, num_kv_tokens=560.0)
    for _ in range(2000):
        estimate.observe(work)
    assert estimate.pace.busy_s(work) == pytest.approx(1.0, rel=0.05)
