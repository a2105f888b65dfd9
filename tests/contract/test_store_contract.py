import asyncio
import itertools
import random
from pathlib import Path

import pytest
from reliability.postgres_server import PostgresServer
from store_contract import OpenStore, StoreContract, closed, given_value, opened, reply

from parrot.ports.store import Store
from parrot.store import MemoryStore, StoreConfig, open_store
from parrot.types.ids import DEFAULT_TENANT, SessionId

NUM_NONCES = 20
NUM_ROUNDS = 200


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        async def open_memory() -> Store:
            return MemoryStore()

        return open_memory


class CountingContract(StoreContract):
    """Of stores that are on a disk."""

    async def test_what_a_tenant_stores_is_counted_and_given_back(self, open_store: OpenStore) -> None:
        store = await open_store()
        before = (await store.usage()).bytes_of
        assert not before
        await store.append([opened("a"), given_value("x" * 1000)])
        await store.append([opened("b"), given_value("ä" * 1000, "b"), closed("b")])
        used = before[DEFAULT_TENANT]
        assert 3000 <= used <= 8000
        await store.purge(closed_before_wall_s=20.0)
        assert 1000 <= (await store.usage()).bytes_of[DEFAULT_TENANT] <= used - 2000
        await store.close()

    async def test_it_is_summed_up_alike_from_what_is_stored(self, open_store: OpenStore) -> None:
        store = await open_store()
        await store.append([opened("a"), given_value("x" * 1000)])
        await store.append([given_value("y" * 1000)])
        late = dict((await store.usage()).bytes_of)
        await store.append([given_value("z" * 1000)])
        followed = (await store.usage()).bytes_of[DEFAULT_TENANT]
        assert 2000 < followed - late[DEFAULT_TENANT] < 2400
        await store.close()

    async def test_readers_that_leave_at_any_moment_spoil_nobody_elses_answer(
        self, open_store: OpenStore
    ) -> None:
        store, chance = await open_store(), random.Random(0)
        for n in range(NUM_NONCES):
            session, key = f"s{n}", reply(f"k{n}", text=f"nonce {n}")
            await store.append([opened(session), given_value(f"nonce {n}", session)], idempotent=key)

        async def read(n: int) -> bool:
            """Whether the answer is the one to this question."""
            if n % 2:
                found = await store.find_idempotent(DEFAULT_TENANT, "POST /v1/sessions", f"k{n}")
                return found == reply(f"k{n}", text=f"nonce {n}")
            session = f"s{n}"
            log = [item.event for item in await store.load_session(SessionId(session))]
            return log == [opened(session), given_value(f"nonce {n}", session)]

        answers: list[bool | BaseException] = []
        for _ in range(NUM_ROUNDS):
            reading = [asyncio.ensure_future(read(n)) for n in range(NUM_NONCES)]
            await asyncio.sleep(chance.choice((0.0, 0.0005, 0.002)))
            for task in chance.sample(reading, NUM_NONCES // 2):
                task.cancel()
            answers += await asyncio.gather(*reading, return_exceptions=True)
        await store.close()
        assert not [answer for answer in answers if not isinstance(answer, bool | asyncio.CancelledError)]
        assert answers.count(False) == 0
        assert sum(isinstance(answer, asyncio.CancelledError) for answer in answers) > NUM_ROUNDS
        assert answers.count(True) > NUM_ROUNDS


class TestSqliteStore(CountingContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        numbers = itertools.count()

        async def open_file() -> Store:
            path = tmp_path / f"{next(numbers)}.db"
            return await open_store(StoreConfig(path=path, synchronous="normal"))

        return open_file


class TestPostgresStore(CountingContract):
    num_random_logs = 20

    @pytest.fixture
    def open_store(self, postgres: PostgresServer) -> OpenStore:
        async def open_schema() -> Store:
            return await open_store(StoreConfig(url=postgres.url()))

        return open_schema
