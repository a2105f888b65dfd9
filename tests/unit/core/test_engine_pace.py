"""An engine's pace, learnt from its own reports."""

import random

import pytest

from parrot.core.cost_model import EnginePace, PaceEstimate, Work


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


def test_the_batch_within_a_target_is_the_largest_that_keeps_it() -> None:
    pace = EnginePace(base_s=0.02, decode_s=0.01)
    assert pace.batch_within(0.1, 64) == 8
    assert pace.step_s(8) <= 0.1 + 1e-9 < pace.step_s(9)
    assert pace.batch_within(10.0, 64) == 64
    assert pace.batch_within(0.001, 64) == 1
