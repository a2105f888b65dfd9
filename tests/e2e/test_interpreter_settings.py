"""The service under other settings of the interpreter: without assertions, and with other hashes."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
from served_process import Served

WIDTH = 4
BAD_BODIES: tuple[Any, ...] = (
    [],
    {"calls": []},
    {"calls": [{"template": "{{a", "parameters": {}}]},
    {"calls": [{"template": "{{a}} {{out}}", "parameters": {"out": {"output": {"variable": "o"}}}}]},
    {"calls": [{"template": "no output", "parameters": {}}]},
    {"calls": [{"template": "a {{o}}", "parameters": {"o": {"output": {"variable": "total"}}}}]},
    {"calls": [{"template": "a {{o}}", "parameters": {"o": {"variable": "nobody has it"}}}]},
    {
        "calls": [
            {"template": "a {{o}}", "parameters": {"o": {"output": {"sampling": {"max_tokens": True}}}}},
        ]
    },
)


def map_reduce() -> dict[str, Any]:
    """Calls beside each other, and one that consumes them all."""
    parts = [
        {
            "name": f"part_{number}",
            "template": "Read this, and be short. {{text}} The gist: {{gist}}",
            "parameters": {
                "text": {"value": f"Chapter {number}. " + "It rained. " * (number + 1)},
                "gist": {
                    "output": {
                        "variable": f"gist_{number}",
                        "sampling": {"max_tokens": 12, "temperature": 1.0, "seed": number},
                    }
                },
            },
        }
        for number in range(WIDTH)
    ]
    whole = {
        "name": "whole",
        "template": " ".join(f"{{{{g{number}}}}}" for number in range(WIDTH)) + " All: {{total}}",
        "parameters": {
            **{f"g{number}": {"variable": f"gist_{number}"} for number in range(WIDTH)},
            "total": {"output": {"variable": "total", "sampling": {"max_tokens": 12}}},
        },
    }
    return {"calls": [*parts, whole]}


def behaviour(directory: Path, environment: dict[str, str]) -> dict[str, Any]:
    """What a service does with a graph and with bad requests, in what is the same each time."""
    directory.mkdir()
    served = Served(["--engine", "scripted", "--port", "0", "--db", "store.db"], directory, environment)
    try:
        with httpx2.Client(base_url=served.url(), timeout=30) as client:
            session = f"/v1/sessions/{client.post('/v1/sessions', json={}).json()['session_id']}"
            client.post(f"{session}/calls", json=map_reduce()).raise_for_status()
            total = client.get(f"{session}/variables/total", params={"wait": 20}).json()
            assert total["state"] == "ready", total
            graph = client.get(f"{session}/graph").json()
            refusals = [client.post(f"{session}/calls", json=body) for body in BAD_BODIES]
            return {
                "texts": {
                    name: client.get(f"{session}/variables/{name}").json()["value"]
                    for name in ("total", *(f"gist_{number}" for number in range(WIDTH)))
                },
                "calls": [
                    (call["name"], call["stage"], call["state"], call["objective"]) for call in graph["calls"]
                ],
                "refusals": [(answer.status_code, answer.json()["error"]["code"]) for answer in refusals],
            }
    finally:
        served.close()


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return behaviour(tmp_path_factory.mktemp("usual") / "service", {"PYTHONHASHSEED": "0"})


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"PYTHONOPTIMIZE": "1"}, id="no_assertions"),
        pytest.param({"PYTHONOPTIMIZE": "2"}, id="no_docstrings"),
        pytest.param({"PYTHONHASHSEED": "1"}, id="other_hashes"),
        pytest.param({"PYTHONHASHSEED": "4294967295"}, id="yet_other_hashes"),
    ],
)
def test_the_interpreters_settings_change_no_text_no_plan_and_no_refusal(
    tmp_path: Path, usual: dict[str, Any], environment: dict[str, str]
) -> None:
    told = behaviour(tmp_path / "service", environment)
    assert told == usual
    assert all(status in (400, 404, 409, 422) for status, _ in told["refusals"])
