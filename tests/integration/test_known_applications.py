"""What single requests gain when their client says what they are a part of."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from core_harness import TENANT, running_service

from parrot.core.executor.requests import Outcome, RequestRun
from parrot.core.service import Service
from parrot.core.sessions import ALONE, PartOf
from parrot.engine.scripted_config import ScriptedConfig
from parrot.types.ids import TenantId
from parrot.wire.requests import SubmitCalls

ONE_AT_A_TIME = ScriptedConfig(max_batch=1, decode_step_s=0.005, tokens_per_step=1)
SMALL = ScriptedConfig(num_blocks=64, block_tokens=16, context_tokens=1024)


def completion(prompt: str, **inputs: str) -> SubmitCalls:
    sampling = {"max_tokens": 8, "ignore_eos": True}
    parameters = {name: {"value": value} for name, value in {"prompt": prompt, **inputs}.items()}
    template = "{{prompt}}" + "".join(f"{{{{{name}}}}}" for name in inputs) + "{{out}}"
    call = {"template": template, "parameters": {**parameters, "out": {"output": {"sampling": sampling}}}}
    return SubmitCalls.model_validate({"calls": [call]})


async def ask(service: Service, prompt: str, part_of: PartOf = ALONE, **inputs: str) -> Outcome:
    async with service.requests.run(TENANT, completion(prompt, **inputs), name="r", part_of=part_of) as run:
        return await run.outcome(0)


async def ends(service: Service, *requests: tuple[str, PartOf]) -> list[str]:
    """The names of requests that are sent in this order behind one that runs, in the order of their ends."""
    ended: list[str] = []

    async def wait(name: str, run: RequestRun) -> None:
        await run.outcome(0)
        ended.append(name)

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group, asyncio.timeout(60):
        for name, part_of in (("first of all", ALONE), *requests):
            running = service.requests.run(TENANT, completion(f"{name} says"), name="r", part_of=part_of)
            run = await stack.enter_async_context(running)
            group.create_task(wait(name, run))
            while name == "first of all" and not run.begun:
                await asyncio.sleep(0.001)
    return ended


def words(count: int, kind: str) -> str:
    return " ".join(f"{kind}{number}" for number in range(count))


async def test_the_next_request_of_an_application_is_as_old_as_its_first() -> None:
    part_of = PartOf(application="run-1")
    async with running_service(ONE_AT_A_TIME) as service:
        await ask(service, "step one", part_of)
        ended = await ends(service, ("stranger 1", ALONE), ("stranger 2", ALONE), ("step two", part_of))
    assert ended[:2] == ["first of all", "step two"]


async def test_what_is_urgent_comes_first_and_what_is_not_comes_last() -> None:
    urgent, idle = PartOf(urgency_s=5.0), PartOf(urgency_s=-5.0)
    async with running_service(ONE_AT_A_TIME) as service:
        ended = await ends(service, ("can wait", idle), ("usual", ALONE), ("urgent", urgent))
    assert ended == ["first of all", "urgent", "usual", "can wait"]


@pytest.mark.parametrize(
    ("part_of", "stays"),
    [(PartOf(chain="talk"), True), (PartOf(prefix="talk"), True), (ALONE, False)],
    ids=["chain", "prefix", "alone"],
)
async def test_what_belongs_to_a_chain_outlives_what_was_used_later(part_of: PartOf, stays: bool) -> None:
    async with running_service(SMALL) as service:
        begin = words(60, "turn")
        first = await ask(service, begin, part_of)
        for number in range(8):
            await ask(service, words(60, f"stranger{number}x"))
        second = await ask(service, f"{begin}{first.text} and then", part_of)
    assert (second.num_shared_tokens > 0) is stays


async def test_a_last_request_gives_up_what_was_kept() -> None:
    async with running_service(SMALL) as service:
        begin = words(60, "turn")
        await ask(service, begin, PartOf(application="a", chain="a"))
        assert service.counters()["prefixes_wanted"] > 0
        await ask(service, f"{begin} end", PartOf(application="a", chain="a", is_last=True))
        assert service.counters()["prefixes_wanted"] == 0


async def test_a_mark_is_a_place_to_fork_to_the_token() -> None:
    async with running_service(ScriptedConfig()) as service:
        rules = words(50, "rule")
        num_tokens = (await ask(service, rules)).num_prompt_tokens
        first = await ask(service, rules, PartOf(keep_s=60.0), question=" why is that so, and not otherwise?")
        second = await ask(service, rules, question=" something else entirely comes here now")
        other = await ask(service, f"{rules} something else entirely")
    assert num_tokens % 32 != 0
    assert first.num_shared_tokens == second.num_shared_tokens == num_tokens
    assert other.num_shared_tokens == num_tokens // 32 * 32


async def test_another_tenant_has_no_part_in_an_application() -> None:
    part_of = PartOf(application="run-1", chain="run-1")
    async with running_service(ONE_AT_A_TIME) as service:
        await ask(service, "step one", part_of)
        other = TenantId("other")
        async with service.requests.run(other, completion("step one"), name="r", part_of=part_of) as run:
            outcome = await run.outcome(0)
    assert outcome.num_shared_tokens == 0


async def test_what_is_over_is_forgotten() -> None:
    async with running_service(SMALL) as service:
        for number in range(600):
            await ask(service, f"one of many {number}", PartOf(application=f"{number}", chain=f"{number}"))
        wanted = service.counters()["prefixes_wanted"]
    assert 0 < wanted <= 512
