import itertools
from pathlib import Path

import pytest
from reliability.postgres_server import PostgresServer
from store_contract import OpenStore, StoreContract

from parrot.ports.store import Store
from parrot.store import MemoryStore, StoreConfig, open_store


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        async def open_memory() -> Store:
            return MemoryStore()

        return open_memory


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        numbers = itertools.count()

        async def open_file() -> Store:
            path = tmp_path / f"{next(numbers)}.db"
            return await open_store(StoreConfig(path=path, synchronous="normal"))

        return open_file


class TestPostgresStore(StoreContract):
    num_random_logs = 20

    @pytest.fixture
    def open_store(self, postgres: PostgresServer) -> OpenStore:
        async def open_schema() -> Store:
            return await open_store(StoreConfig(url=postgres.url()))

        return open_schema
