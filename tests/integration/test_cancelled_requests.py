"""Requests that are given up at any moment: nobody gets an answer that was meant for another."""

import asyncio
from random import Random

import pytest
from http_harness import Harness

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUM_READS = 3000
NUM_WRITES = 400
NUM_NAMES = 40


async def test_answers_go_to_who_asked_however_many_give_up(http_service: Harness) -> None:
    chance = Random(7)
    client, sid = http_service.client, await http_service.session()
    nonces = {f"of_{number}": f"nonce {chance.getrandbits(64):x}" for number in range(NUM_NAMES)}
    for name, nonce in nonces.items():
        answer = await client.put(f"/v1/sessions/{sid}/variables/{name}", json={"value": nonce})
        assert answer.is_success, answer.text
    num_answered = num_given_up = 0

    async def read(name: str, patience_s: float) -> None:
        nonlocal num_answered, num_given_up
        try:
            async with asyncio.timeout(patience_s):
                answer = await client.get(f"/v1/sessions/{sid}/variables/{name}", params={"wait": 5})
        except TimeoutError:
            num_given_up += 1
            return
        assert (answer.json()["name"], answer.json()["value"]) == (name, nonces[name])
        num_answered += 1

    for _ in range(NUM_READS // 20):
        names = chance.choices(list(nonces), k=20)
        await asyncio.gather(*(read(name, chance.expovariate(1 / 0.02)) for name in names))
    assert num_answered + num_given_up == NUM_READS
    assert min(num_answered, num_given_up) > NUM_READS // 20
    await http_service.check_canary()


async def test_a_write_that_was_given_up_is_whole_or_was_not_done(http_service: Harness) -> None:
    chance = Random(8)
    client, sid = http_service.client, await http_service.session()

    async def write(number: int, patience_s: float) -> bool:
        try:
            async with asyncio.timeout(patience_s):
                answer = await client.put(
                    f"/v1/sessions/{sid}/variables/v{number}", json={"value": f"nonce {number}"}
                )
        except TimeoutError:
            return False
        assert answer.is_success, answer.text
        return True

    told = []
    for first in range(0, NUM_WRITES, 10):
        told += await asyncio.gather(
            *(write(first + more, chance.expovariate(1 / 0.02)) for more in range(10))
        )
    found = [await client.get(f"/v1/sessions/{sid}/variables/v{number}") for number in range(NUM_WRITES)]
    for number, (was_told, answer) in enumerate(zip(told, found, strict=True)):
        assert answer.status_code == 200 or (answer.status_code == 404 and not was_told)
        if answer.status_code == 200:
            assert answer.json()["value"] == f"nonce {number}"
    assert 0 < sum(told) < NUM_WRITES
