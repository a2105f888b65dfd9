"""Where the simulator's chance comes from: streams of random numbers, each with a name and a seed."""

from collections.abc import Callable
from random import Random

from parrot.sim.tokens import NUM_SEEDS


def stream(seed: int, name: str) -> Random:
    """A stream of its own for each use, so that drawing more in one place changes nothing in another."""
    return Random(f"{seed}/{name}")  # noqa: S311 - workloads, not secrets


def text_seeds(rng: Random) -> Callable[[], int]:
    """Gives a fresh seed of a text on each call."""
    return lambda: rng.randrange(NUM_SEEDS)


def counted_ids() -> Callable[[], str]:
    """Gives 32 hexadecimal digits that count up: identifiers that are the same in every run."""
    count = 0

    def fresh() -> str:
        nonlocal count
        count += 1
        return f"{count:032x}"

    return fresh
