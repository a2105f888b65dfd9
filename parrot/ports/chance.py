"""Identifiers that nobody can guess, from the operating system's source of chance."""

import os

_AT_A_TIME = 64


class RandomIds:
    """Gives 32 hexadecimal digits of 128 random bits.

    Asks the system for many at a time, which costs as much as for one. Safe to use from several threads, and
    in a process forked off, which draws its own.
    """

    def __init__(self) -> None:
        self._ready: list[str] = []
        os.register_at_fork(after_in_child=self._ready.clear)

    def __call__(self) -> str:
        """The next."""
        try:
            return self._ready.pop()
        except IndexError:
            drawn = os.urandom(16 * _AT_A_TIME).hex()
            self._ready.extend(drawn[start : start + 32] for start in range(32, len(drawn), 32))
            return drawn[:32]


fresh_hex = RandomIds()
"""This process's."""
