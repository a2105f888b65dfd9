"""A response in the background goes on when the service is killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2

ENVIRONMENT = {
    "PARROT_ENGINES__MAIN__KIND": "scripted",
    "PARROT_ENGINES__MAIN__DECODE_STEP_S": "0.02",
}


def serve(port: int, directory: Path) -> subprocess.Popen[bytes]:
    """A service that is started, and answers."""
    command = ["-m", "parrot.cli", "serve", "--port", str(port), "--db", str(directory / "db")]
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *command], env=os.environ | ENVIRONMENT, stdout=log, stderr=log, cwd=directory
        )
    for _ in range(300):
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                return process
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError((directory / "log").read_text())


def test_a_background_response_survives_kill_9_and_can_be_gone_on_from(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1/responses"
    process = serve(port, tmp_path)
    try:
        body: dict[str, Any] = {"input": "Talk {{at}} length", "ignore_eos": True, "max_output_tokens": 60}
        begun = httpx2.post(url, json={**body, "background": True}).json()
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        process = serve(port, tmp_path)
        for _ in range(200):
            response = httpx2.get(f"{url}/{begun['id']}").json()
            if response["status"] == "incomplete":
                break
            time.sleep(0.1)
        assert response["status"] == "incomplete", response
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert response["usage"]["output_tokens"] == 60
        # Draws are new after a restart, but there is an answer, and only one.
        text = response["output"][0]["content"][0]["text"]
        assert httpx2.get(f"{url}/{begun['id']}").json()["output"][0]["content"][0]["text"] == text
        after = httpx2.post(
            url, json={"input": "And?", "max_output_tokens": 5, "previous_response_id": begun["id"]}
        ).json()
        assert after["usage"]["input_tokens"] > 60
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
