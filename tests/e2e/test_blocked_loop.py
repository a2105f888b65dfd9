"""A service whose event loop stands still for seconds: it says where, and blames no engine."""

import os
import signal
import time
from pathlib import Path

import httpx2
import pytest
from served_process import Served

BLOCKED_S = 5.0
HOOK = f"""
import signal, time

def hold_up_everything(*_):
    time.sleep({BLOCKED_S})

signal.signal(signal.SIGUSR1, hold_up_everything)
"""
"""Python runs it in every process that is started with its directory in the path."""
QUICK_LIVENESS = {
    "PARROT_SERVICE__ENGINE_PING_INTERVAL_S": "0.25",
    "PARROT_SERVICE__ENGINE_DEAD_AFTER_S": "1.5",
    "PARROT_SERVICE__ENGINE_STUCK_AFTER_S": "1.5",
    "PARROT_ENGINES__MAIN__DECODE_STEP_S": "0.01",
}
CALL = {
    "calls": [
        {
            "template": "Talk on and on: {{text}}",
            "parameters": {
                "text": {"output": {"variable": "text", "sampling": {"max_tokens": 800, "ignore_eos": True}}}
            },
        }
    ]
}


@pytest.mark.slow
def test_a_blocked_event_loop_is_told_with_its_place_and_no_engine_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    served = Served(
        ["--engine", "scripted", "--port", "0", "--db", "store.db"],
        tmp_path,
        {**QUICK_LIVENESS, "PYTHONPATH": path},
    )
    try:
        with httpx2.Client(base_url=served.url(), timeout=30) as client:
            session = f"/v1/sessions/{client.post('/v1/sessions', json={}).json()['session_id']}"
            client.post(f"{session}/calls", json=CALL).raise_for_status()
            began_s = time.monotonic()
            served.process.send_signal(signal.SIGUSR1)
            time.sleep(0.1)
            client.get("/healthz")
            blocked_s = time.monotonic() - began_s
            view = client.get(f"{session}/variables/text", params={"wait": 20}).json()
            (call,) = client.get(f"{session}/graph").json()["calls"]
            engines = client.get("/v1/engines").json()["engines"]
        assert served.end(signal.SIGTERM) == 0
    finally:
        served.close()
    assert blocked_s > BLOCKED_S - 1
    assert (view["state"], call["attempt"]) == ("ready", 1)
    assert [engine["num_restarts"] for engine in engines] == [0]
    assert served.said().count("the event loop stands still") == 1
    assert "hold_up_everything" in served.said()
