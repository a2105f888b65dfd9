"""On a real model: what an application says does not depend on policy, placement or ingredients."""

from pathlib import Path
from typing import Any, get_args

import pytest
from core_harness import call, get, open_session, running_service, submit

from parrot.core.service_config import Ingredient, ServiceConfig

torch = pytest.importorskip("torch", reason="the torch engine is not installed")

from parrot.engine.torch.config import TorchConfig  # noqa: E402
from parrot.engine.torch.init import init_model  # noqa: E402

RULES = "You are a careful member of the team and follow every one of its many rules. " * 3
VARIANTS = [
    ServiceConfig(),
    ServiceConfig(policy="cache-aware"),
    ServiceConfig(policy="request-level", without=("sharing",)),
    ServiceConfig(without=("pipelining", "retention")),
    ServiceConfig(without=("prefill-ahead", "groups", "fairness")),
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    init_model("tiny", directory)
    return directory


def team() -> list[dict[str, Any]]:
    """An architect, coders who share the design, a reviewer who sees all code, and two who revise."""
    calls = [call(RULES + "Design: {{out}}", "design", max_tokens=24)]
    for i in range(3):
        calls.append(call(RULES + "Design: {{d}} File " + str(i) + ": {{out}}", f"code{i}", d="$design"))
    files = {f"c{i}": f"$code{i}" for i in range(3)}
    review: dict[str, Any] = call(RULES + "{{c0}} {{c1}} {{c2}} Review: {{out}}", "review", **files)  # type: ignore[arg-type]
    calls.append(review)
    calls += [
        call(
            RULES + "Design: {{d}} {{r}} Revise " + str(i) + ": {{out}}", f"new{i}", d="$design", r="$review"
        )
        for i in range(2)
    ]
    return calls


async def results(
    config: ServiceConfig, model_dir: Path, num_engines: int, num_blocks: int
) -> list[str | None]:
    block_bytes = 2 * 4 * 16 * 4 * 1024
    engines = [
        TorchConfig(
            model_dir=str(model_dir),
            dtype="float32",
            kv_bytes=num_blocks * block_bytes,
            max_batch=3,
            step_tokens=64,
        )
        for _ in range(num_engines)
    ]
    async with running_service(*engines, config=config) as service:
        sid = await open_session(service)
        await submit(service, sid, *team())
        names = ["design", "code0", "code1", "code2", "review", "new0", "new1"]
        return [(await get(service, sid, name, 60)).value for name in names]


async def test_text_is_the_same_under_every_policy(model_dir: Path) -> None:
    plain = ServiceConfig(policy="fifo", without=get_args(Ingredient))
    expected = await results(plain, model_dir, 1, 4000)
    assert all(expected)
    assert len(set(expected)) == len(expected)
    for config in VARIANTS:
        assert await results(config, model_dir, 2, 400) == expected, config
