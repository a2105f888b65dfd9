"""A service that is given no more memory: what it acknowledged is kept, and it does not linger half dead."""

import resource
import time
from pathlib import Path

import httpx2
import pytest
from served_process import Served

VALUE_CHARS = (1 << 20) - 1000
MOST_VALUES = 400
ARGUMENTS = ["--engine", "scripted", "--port", "0", "--db", "store.db"]


def address_space(served: Served) -> int:
    """Bytes, as the limit counts them."""
    pages = Path(f"/proc/{served.process.pid}/statm").read_text(encoding="ascii").split()[0]
    return int(pages) * resource.getpagesize()


def limit(served: Served, more_bytes: int) -> None:
    """Let it have so many bytes beyond what it has; without end for a negative number."""
    most = resource.RLIM_INFINITY if more_bytes < 0 else address_space(served) + more_bytes
    resource.prlimit(served.process.pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def value_of(number: int) -> str:
    return f"{number} " + "x" * VALUE_CHARS


def fill(client: httpx2.Client, session: str) -> list[int]:
    """Store values until one is not taken; gives those that were."""
    taken: list[int] = []
    for number in range(MOST_VALUES):
        try:
            answer = client.put(f"{session}/variables/v{number}", json={"value": value_of(number)})
        except httpx2.TransportError:
            return taken
        if answer.status_code >= 300:
            return taken
        taken.append(number)
    raise AssertionError("the memory did not run out")


def goes_on_or_ends(served: Served, client: httpx2.Client, session: str) -> bool:
    """Whether within a while it takes values again, or is gone."""
    for _ in range(100):
        if served.process.poll() is not None:
            return True
        try:
            answer = client.put(f"{session}/variables/late", json={"value": "late"})
        except httpx2.TransportError:
            time.sleep(0.1)
            continue
        if answer.status_code < 300:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("more_mib", [2, 24, 62])
def test_without_memory_nothing_acknowledged_is_lost_and_it_goes_on_or_ends(
    tmp_path: Path, more_mib: int
) -> None:
    served = Served(ARGUMENTS, tmp_path, {})
    try:
        with httpx2.Client(base_url=served.url(), timeout=30) as client:
            session = f"/v1/sessions/{client.post('/v1/sessions', json={}).json()['session_id']}"
            client.put(f"{session}/variables/first", json={"value": "first"}).raise_for_status()
            limit(served, more_mib << 20)
            taken = fill(client, session)
            if served.process.poll() is None:
                limit(served, -1)
            lives = goes_on_or_ends(served, client, session)
            said = served.said()
    finally:
        served.close()
    again = Served(ARGUMENTS, tmp_path, {})
    try:
        with httpx2.Client(base_url=again.url(), timeout=30) as client:
            kept = [
                number
                for number in taken
                if client.get(f"{session}/variables/v{number}").json().get("value") == value_of(number)
            ]
    finally:
        again.close()
    assert kept == taken
    assert lives, said
