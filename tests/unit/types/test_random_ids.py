"""Identifiers are random, whole and never given twice."""

import os
from concurrent.futures import ThreadPoolExecutor

from parrot.ports.chance import RandomIds


def test_each_is_given_once_also_to_many_threads() -> None:
    fresh = RandomIds()
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda _: fresh(), range(5000)))
    assert len(set(given)) == 5000
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in given)


def test_a_forked_process_draws_its_own() -> None:
    fresh = RandomIds()
    fresh()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, fresh().encode())
        os._exit(0)
    os.waitpid(child, 0)
    of_child = os.read(read, 32).decode()
    os.close(read)
    os.close(write)
    assert of_child not in {fresh() for _ in range(100)}
