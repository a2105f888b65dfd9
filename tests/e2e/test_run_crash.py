"""A service that dies over a run before it has answered: sent again under its key, the run is made once."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
from served_process import Served

BODY: dict[str, Any] = {
    "session": {"name": "once"},
    "variables": [{"variable": "doc", "value": "rain"}],
    "calls": [
        {
            "template": "On {{doc}}: {{out}}",
            "parameters": {"doc": {"variable": "doc"}, "out": {"output": {"variable": "text"}}},
        }
    ],
    "follow": [{"variable": "text"}],
}
KEY = {"Idempotency-Key": "the-run"}
ARGUMENTS = ["--engine", "scripted", "--port", "0", "--db", "store.db"]


@pytest.mark.parametrize(
    ("point", "num_there"),
    [
        ("after_commit:calls_submitted", 1),
        pytest.param("in_transaction:calls_submitted", 0, marks=pytest.mark.slow),
    ],
)
def test_a_run_is_made_once_though_the_service_dies_before_it_answers(
    tmp_path: Path, point: str, num_there: int
) -> None:
    dying = Served(ARGUMENTS, tmp_path, {}, crash_at=point)
    try:
        with httpx2.Client(base_url=dying.url(), timeout=60) as client, pytest.raises(httpx2.TransportError):
            client.post("/v1/run", json=BODY, headers=KEY)
        dying.process.wait(60)
    finally:
        dying.close()
    served = Served(ARGUMENTS, tmp_path, {})
    try:
        with httpx2.Client(base_url=served.url(), timeout=60) as client:
            there = client.get("/v1/sessions").json()["sessions"]
            answers = [client.post("/v1/run", json=BODY, headers=KEY) for _ in range(2)]
            after = client.get("/v1/sessions").json()["sessions"]
    finally:
        served.close()
    assert len(there) == num_there
    assert [answer.status_code for answer in answers] == [200, 200], answers
    accepted = [answer.text.split("\n")[1] for answer in answers]
    calls = [text.partition('"calls":[{')[2].partition('"outputs"')[0] for text in accepted]
    assert calls[0] == calls[1] != ""
    assert [one["session_id"] for one in after] == [one["session_id"] for one in there or after]
    assert all("event: ready" in answer.text for answer in answers)
