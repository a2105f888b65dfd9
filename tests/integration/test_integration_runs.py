"""Runs of integrations against a service: what is left of them when they end."""

import threading
from collections.abc import Iterator
from concurrent.futures import wait

import httpx2
import pytest
from scripted_service import TEXT_KEYED, scripted_service

from parrot.errors import UsageError
from parrot.integrations.background import background
from parrot.integrations.run import ChatCall, Run, Service, prompt_of

PATIENCE_S = 60.0


@pytest.fixture
def url() -> Iterator[str]:
    with scripted_service(TEXT_KEYED) as address:
        yield address


def call(text: str) -> ChatCall:
    prompt = prompt_of([("user", [text])])
    assert prompt is not None
    return ChatCall(name="say", model="scripted", prompt=prompt, sampling={"max_tokens": 5})


def left_behind(url: str) -> int:
    """Sessions that the service has, once all that ended has left."""
    wait(list(background()._leaving), timeout=PATIENCE_S)
    return len(httpx2.get(f"{url}/v1/sessions", trust_env=False).json()["sessions"])


def test_a_run_that_ends_before_its_call_was_taken_up_leaves_no_session(url: str) -> None:
    run, held = Run(name="early", metadata={}), threading.Event()
    background().loop.call_soon_threadsafe(held.wait)
    answer = run.call(Service(url=url, api_key=None), call("Say tea."))
    run.close()
    held.set()
    wait([answer], timeout=PATIENCE_S)
    assert run._sessions == {}
    assert left_behind(url) == 0


def test_a_run_that_has_ended_takes_no_more_calls(url: str) -> None:
    run = Run(name="late", metadata={})
    answer = run.call(Service(url=url, api_key=None), call("Say tea."))
    assert run.texts([answer])[answer]
    run.close()
    late = run.call(Service(url=url, api_key=None), call("Say more."))
    assert isinstance(late.exception(timeout=PATIENCE_S), UsageError)
    assert left_behind(url) == 0
