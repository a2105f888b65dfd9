"""The service under other settings of the interpreter, and on a store that was put back to an earlier one."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from served_process import Served

Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[Served] = []

    def start(*, db: str = "store.db", **environment: str) -> Served:
        served = Served(["--engine", "scripted", "--port", "0", "--db", db], tmp_path, environment)
        started.append(served)
        return served

    yield start
    for served in started:
        served.close()


def call(name: str, template: str, **inputs: str) -> dict[str, Any]:
    """A call that gives the variable of its own name."""
    out = {"output": {"variable": name, "sampling": {"max_tokens": 12, "ignore_eos": True}}}
    return {
        "name": name,
        "template": template + " {{out}}",
        "parameters": {"out": out, **{key: {"variable": ref} for key, ref in inputs.items()}},
    }


DIAMOND = [
    call("plan", "Plan what is to be done, at length and with care, for all who read it:"),
    call("left", "The plan: {{plan}} Now the left half:", plan="plan"),
    call("right", "The plan: {{plan}} Now the right half:", plan="plan"),
    call("whole", "Join {{left}} and {{right}}:", left="left", right="right"),
]


def open_session(client: httpx2.Client) -> str:
    answer = client.post("/v1/sessions", json={"name": "e2e"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["session_id"])


def value(client: httpx2.Client, session_id: str, name: str) -> str:
    view = client.get(f"/v1/sessions/{session_id}/variables/{name}", params={"wait": 20}).json()
    assert view["state"] == "ready", view
    return str(view["value"])


def run_diamond(client: httpx2.Client) -> tuple[str, list[str]]:
    session_id = open_session(client)
    answer = client.post(f"/v1/sessions/{session_id}/calls", json={"calls": DIAMOND})
    assert answer.status_code == 202, answer.text
    return session_id, [value(client, session_id, name) for name in ("plan", "left", "right", "whole")]


def seen(served: Served) -> list[object]:
    """What an application and bad requests get of a service."""
    with httpx2.Client(base_url=served.url(), timeout=30) as client:
        session_id, values = run_diamond(client)
        graph = client.get(f"/v1/sessions/{session_id}/graph").json()
        stages = [
            (one["name"], one["stage"], one["state"], one["tokens"]["prompt"], one["tokens"]["output"])
            for one in graph["calls"]
        ]
        refused = [
            (answer.status_code, answer.json()["error"]["code"])
            for answer in (
                client.post("/v1/sessions", content=b"{", headers={"Content-Type": "application/json"}),
                client.post(f"/v1/sessions/{session_id}/calls", json={"calls": [DIAMOND[0]]}),
                client.post(f"/v1/sessions/{session_id}/calls", json={"calls": [call("x", "{{y}}")]}),
                client.get(f"/v1/sessions/{session_id}/variables/never"),
                client.get("/v1/sessions/ses_nobody"),
            )
        ]
        assert client.delete(f"/v1/sessions/{session_id}").status_code == 204
    assert served.end(signal.SIGTERM) == 0
    return [values, stages, refused]


def test_without_assertions_and_with_other_hashes_everything_is_the_same(serve: Serve) -> None:
    usual = seen(serve(db="usual.db", PYTHONHASHSEED="0"))
    optimised = seen(serve(db="optimised.db", PYTHONOPTIMIZE="1", PYTHONHASHSEED="1"))
    other = seen(serve(db="other.db", PYTHONHASHSEED="4242"))
    assert optimised == usual
    assert other == usual


def test_a_store_that_is_put_back_serves_what_it_has_and_gives_no_id_again(
    serve: Serve, tmp_path: Path
) -> None:
    first = serve()
    with httpx2.Client(base_url=first.url(), timeout=30) as client:
        early, values = run_diamond(client)
    assert first.end(signal.SIGTERM) == 0
    shutil.copy(tmp_path / "store.db", tmp_path / "older.db")

    second = serve()
    with httpx2.Client(base_url=second.url(), timeout=30) as client:
        late, _ = run_diamond(client)
        more = {"calls": [call("more", "And more of {{whole}}:", whole="whole")]}
        assert client.post(f"/v1/sessions/{early}/calls", json=more).status_code == 202
        given = value(client, early, "more")
    assert second.end(signal.SIGTERM) == 0
    for old in tmp_path.glob("store.db-*"):
        old.unlink()
    shutil.copy(tmp_path / "older.db", tmp_path / "store.db")

    third = serve()
    with httpx2.Client(base_url=third.url(), timeout=30) as client:
        assert client.get(f"/v1/sessions/{late}").status_code == 404
        assert [value(client, early, name) for name in ("plan", "left", "right", "whole")] == values
        assert client.get(f"/v1/sessions/{early}/variables/more").status_code == 404
        assert client.post(f"/v1/sessions/{early}/calls", json=more).status_code == 202
        assert value(client, early, "more") == given
        again, _ = run_diamond(client)
        assert again not in {early, late}
    assert third.end(signal.SIGTERM) == 0
    assert "Traceback" not in third.said()
