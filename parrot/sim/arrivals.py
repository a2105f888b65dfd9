"""When applications arrive: times in virtual seconds, in order."""

import itertools
from collections.abc import Iterator
from random import Random


def poisson(rng: Random, rate: float) -> Iterator[float]:
    """Without end, `rate` a second on average, independent of each other."""
    if rate <= 0:
        return
    now_s = 0.0
    while True:
        now_s += rng.expovariate(rate)
        yield now_s


def uniform(rate: float) -> Iterator[float]:
    """Without end, `rate` a second, at equal distances."""
    if rate <= 0:
        return
    for index in itertools.count(1):
        yield index / rate


def bursts(rng: Random, *, rate: float, size: int) -> Iterator[float]:
    """Without end: bursts of `size` at one instant, whose instants are Poisson, `rate` arrivals a second in
    all.
    """
    for now_s in poisson(rng, rate / size):
        yield from itertools.repeat(now_s, size)
