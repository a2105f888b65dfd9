"""The durable store: sessions' events in a database, and the same in memory for embedded use."""

from parrot.ports.store import Store
from parrot.store.config import StoreConfig
from parrot.store.memory import MemoryStore

__all__ = ["MemoryStore", "StoreConfig", "open_store"]


async def open_store(config: StoreConfig) -> Store:
    """Open the store that `config` describes, creating it when its file does not exist.

    Raises:
        StoreError: `store_locked` (a service has it open), `store_corrupt` (damaged, or not a store),
            `store_newer` (written by a newer version), `store_full`, `store_unavailable` (anything else that
            keeps the file from being used).
    """
    from parrot.store.sqlite import SqliteStore

    return await SqliteStore.open(config)
