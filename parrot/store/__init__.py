"""The durable store: sessions' events in a database, and the same in memory for embedded use."""

import asyncio

from parrot.ports.store import Store
from parrot.store.config import StoreConfig
from parrot.store.memory import MemoryStore

__all__ = ["MemoryStore", "StoreConfig", "open_store"]


async def open_store(config: StoreConfig) -> Store:
    """Open the store that `config` describes, creating it when its file, or its tables, do not exist.

    Raises:
        ConfigError: the address of a database that this version cannot use.
        StoreError: `store_locked` (a service has it open), `store_corrupt` (damaged, or not a store),
            `store_newer` (written by a newer version), `store_full`, `store_unavailable` (anything else that
            keeps it from being used).
    """
    from parrot.store.log import LogStore

    if config.url:
        from parrot.store.postgres import open_postgres

        return LogStore(await asyncio.to_thread(open_postgres, config))
    from parrot.store.sqlite import open_sqlite

    return LogStore(await asyncio.to_thread(open_sqlite, config))
