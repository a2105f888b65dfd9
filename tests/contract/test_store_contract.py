import itertools
from pathlib import Path

import pytest
from reliability.postgres_server import PostgresServer
from store_contract import OpenStore, StoreContract, closed, given_value, opened

from parrot.ports.store import Store
from parrot.store import MemoryStore, StoreConfig, open_store
from parrot.types.ids import DEFAULT_TENANT


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
