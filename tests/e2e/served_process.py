"""`parrot serve` as a process, for tests that start, signal and kill it."""

from reliability.served_process import START_TIMEOUT_S, Served

__all__ = ["START_TIMEOUT_S", "Served"]
