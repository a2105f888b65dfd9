"""`parrot serve` as a process: plain HTTP in, killed and started again, told to stop."""

import json
import os
import re
import signal
import subprocess
import sys
import time
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

    def start(*arguments: str, db: str = "store.db", **environment: str) -> Served:
        served = Served(
            ["--engine", "scripted", "--port", "0", "--db", db, *arguments], tmp_path, environment
        )
        started.append(served)
        return served

    yield start
    for served in started:
        served.close()


def chain(length: int, max_tokens: int = 20) -> dict[str, Any]:
    """Calls of which each consumes the output of the one before."""
    return {
        "calls": [
            {
                "name": f"step_{number}",
                "template": "Go on from {{before}}. Then: {{after}}",
                "parameters": {
                    "before": {"variable": f"text_{number - 1}"} if number else {"value": "the beginning"},
                    "after": {
                        "output": {
                            "variable": f"text_{number}",
                            "sampling": {"max_tokens": max_tokens, "ignore_eos": True},
                        }
                    },
                },
            }
            for number in range(length)
        ]
    }


def open_session(client: httpx2.Client) -> str:
    answer = client.post("/v1/sessions", json={"name": "e2e"})
    assert answer.status_code == 201, answer.text
    session_id: str = answer.json()["session_id"]
    return session_id


def value(client: httpx2.Client, session_id: str, name: str) -> str:
    for _ in range(10):
        view = client.get(f"/v1/sessions/{session_id}/variables/{name}", params={"wait": 10}).json()
        if view["state"] != "pending":
            assert view["state"] == "ready", view
            text: str = view["value"]
            return text
    raise AssertionError(f"{name} stayed pending")


def test_a_graph_is_served_over_plain_http(serve: Serve) -> None:
    served = serve()
    with httpx2.Client(base_url=served.url(), timeout=30) as client:
        session_id = open_session(client)
        accepted = client.post(f"/v1/sessions/{session_id}/calls", json=chain(3))
        assert accepted.status_code == 202
        assert value(client, session_id, "text_2")
        graph = client.get(f"/v1/sessions/{session_id}/graph").json()
        assert [(call["stage"], call["state"]) for call in graph["calls"]] == [
            (0, "done"),
            (1, "done"),
            (2, "done"),
        ]
        assert client.get("/readyz").json()["status"] == "ok"
        assert client.get("/healthz").json()["pid"] == served.process.pid
    assert served.end(signal.SIGTERM) == 0
    banner = served.said()
    assert re.search(r"Parrot \S+ +http://127\.0\.0\.1:\d+/v1 ", banner)
    assert "main          scripted, KV for 1,048,576 tokens" in banner
    assert "Traceback" not in banner


def test_acknowledged_calls_are_finished_after_kill_9(serve: Serve) -> None:
    slow = {"PARROT_ENGINES__MAIN__DECODE_STEP_S": "0.01"}
    served = serve(**slow)
    with httpx2.Client(base_url=served.url(), timeout=30) as client:
        session_id = open_session(client)
        client.post(f"/v1/sessions/{session_id}/calls", json=chain(6)).raise_for_status()
        first = value(client, session_id, "text_0")
        states = [
            client.get(f"/v1/sessions/{session_id}/variables/text_{number}").json()["state"]
            for number in range(6)
        ]
        assert "pending" in states
    served.process.kill()
    assert served.end() == -signal.SIGKILL

    again = serve(**slow)
    with httpx2.Client(base_url=again.url(), timeout=30) as client:
        values = [value(client, session_id, f"text_{number}") for number in range(6)]
        assert values[0] == first
        graph = client.get(f"/v1/sessions/{session_id}/graph").json()
        assert {call["state"] for call in graph["calls"]} == {"done"}
    assert again.end(signal.SIGTERM) == 0


def test_a_restart_and_an_undisturbed_run_give_the_same_text(serve: Serve) -> None:
    slow = {"PARROT_ENGINES__MAIN__DECODE_STEP_S": "0.01"}
    quiet = serve(db="quiet.db")
    with httpx2.Client(base_url=quiet.url(), timeout=30) as client:
        session_id = open_session(client)
        client.post(f"/v1/sessions/{session_id}/calls", json=chain(4)).raise_for_status()
        undisturbed = value(client, session_id, "text_3")
    served = serve(**slow)
    with httpx2.Client(base_url=served.url(), timeout=30) as client:
        session_id = open_session(client)
        client.post(f"/v1/sessions/{session_id}/calls", json=chain(4)).raise_for_status()
        value(client, session_id, "text_1")
    served.process.kill()
    served.end()
    again = serve(**slow)
    with httpx2.Client(base_url=again.url(), timeout=30) as client:
        assert value(client, session_id, "text_3") == undisturbed


def test_sigterm_lets_running_calls_end_refuses_new_ones_and_exits_with_0(serve: Serve) -> None:
    served = serve(PARROT_ENGINES__MAIN__DECODE_STEP_S="0.05")
    with httpx2.Client(base_url=served.url(), timeout=30) as client:
        session_id = open_session(client)
        client.post(f"/v1/sessions/{session_id}/calls", json=chain(1, max_tokens=30)).raise_for_status()
        _until_running(client, session_id)
        served.process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + 5
        status = 409  # as long as work is taken: the variable has a producer already
        while status == 409 and time.monotonic() < deadline_s:
            status = client.post(
                f"/v1/sessions/{session_id}/calls", json={"calls": chain(1)["calls"]}
            ).status_code
        assert status == 503
        assert value(client, session_id, "text_0")
    assert served.end() == 0
    assert "stopping: running calls have up to 30 s to end" in served.said()


def _until_running(client: httpx2.Client, session_id: str) -> None:
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        if client.get(f"/v1/sessions/{session_id}").json()["calls"]["running"]:
            return
    raise AssertionError("the call did not begin to run")


def test_a_second_signal_stops_at_once(serve: Serve) -> None:
    served = serve(PARROT_ENGINES__MAIN__DECODE_STEP_S="0.5")
    with httpx2.Client(base_url=served.url(), timeout=30) as client:
        session_id = open_session(client)
        client.post(f"/v1/sessions/{session_id}/calls", json=chain(1, max_tokens=100)).raise_for_status()
        _until_running(client, session_id)
    began_s = time.monotonic()
    served.process.send_signal(signal.SIGINT)
    while "stopping" not in served.said() and time.monotonic() < began_s + 10:
        time.sleep(0.05)
    served.end(signal.SIGINT)
    assert time.monotonic() - began_s < 15


def test_a_taken_port_is_refused_with_the_others_version_and_pid(serve: Serve) -> None:
    served = serve()
    port = served.url().rpartition(":")[2]
    second = serve("--port", port, db="other.db")
    assert second.end() == 2
    assert f"error[P6002]: port {port} is taken by Parrot" in second.said()
    assert f"process {served.process.pid}" in second.said()


def test_a_store_in_use_is_refused_with_the_others_pid(serve: Serve) -> None:
    served = serve()
    served.url()
    second = serve()
    assert second.end() == 1
    assert "error[P5003]" in second.said()
    assert f"process {served.process.pid}" in second.said()


def test_a_store_in_a_directory_that_is_not_there_is_refused(serve: Serve) -> None:
    """Row 135 of the bad-input catalogue."""
    served = serve(db="absent/store.db")
    assert served.end() == 1
    assert "there is no directory" in served.said()


def test_without_engines_it_starts_degraded_and_stops_by_itself(tmp_path: Path) -> None:
    """Row 138 of the bad-input catalogue."""
    served = Served(["--port", "0", "--db", "store.db", "--stop-after", "3"], tmp_path, {})
    try:
        with httpx2.Client(base_url=served.url(), timeout=30) as client:
            assert client.get("/readyz").status_code == 503
            assert client.get("/healthz").status_code == 200
        assert served.end() == 0
        assert "warning: no engine is configured" in served.said()
    finally:
        served.close()


def test_a_model_that_cannot_be_loaded_ends_it_with_status_2_and_the_cause_last(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    served = Served(["--model", "model", "--port", "0", "--db", "store.db"], tmp_path, {})
    try:
        assert served.end() == 2
        last = served.said().rpartition("error[")[2]
        assert last.startswith("P4006]: ")
        assert "fix: name a Hugging Face model directory" in last
    finally:
        served.close()


def test_keys_guard_the_api_and_the_commands_use_them(serve: Serve, tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "parrot.cli", "keys", "new", "bob", "--entry", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    key = json.loads(made.stdout)
    (tmp_path / "parrot.toml").write_text(f'[server]\nkeys = ["{key["entry"]}"]\n')
    address = serve().url()
    listing = [sys.executable, "-m", "parrot.cli", "sessions", "ls", "--url", address]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PARROT_")}
    refused = subprocess.run(listing, env=bare, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "error[P1900]" in refused.stderr
    let_in = subprocess.run(
        listing, env={**bare, "PARROT_API_KEY": key["key"]}, capture_output=True, text=True, check=False
    )
    assert let_in.returncode == 0, let_in.stderr


def said(*arguments: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "parrot.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_session_is_recorded_and_replayed_under_another_policy(serve: Serve, tmp_path: Path) -> None:
    url = serve().url()
    with httpx2.Client(base_url=url, timeout=10.0) as client:
        sid = open_session(client)
        assert client.post(f"/v1/sessions/{sid}/calls", json=chain(3)).status_code == 202
        last = client.get(f"/v1/sessions/{sid}/variables/text_2", params={"wait": 10}).json()
        assert last["state"] == "ready"
    recorded = said("sim", "record", sid, "--url", url)
    trace = json.loads(recorded)
    assert [call["inputs"] for call in trace["calls"]] == [[], ["step_0"], ["step_1"]]
    assert {call["output_tokens"] for call in trace["calls"]} == {20}
    file = tmp_path / "trace.json"
    file.write_text(recorded, encoding="utf-8")
    replayed = json.loads(
        said("sim", "--trace", str(file), "--count", "2", "--against", "request-level", "--json")
    )
    graph, requests = replayed["results"]
    assert (graph["num_calls"], requests["num_calls"]) == (6, 6)
    assert graph["output_tokens"] == requests["output_tokens"] == 120
    assert replayed["speedup"] > 1
