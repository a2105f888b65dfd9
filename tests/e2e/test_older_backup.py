"""An older copy of the database is put in the place of a newer one."""

import shutil
import signal
from pathlib import Path
from typing import Any

import httpx2
from served_process import Served

ARGUMENTS = ["--engine", "scripted", "--port", "0", "--db", "store.db"]
KEY = {"Idempotency-Key": "the-second"}


def call(name: str) -> dict[str, Any]:
    out = {"output": {"variable": name, "sampling": {"max_tokens": 30, "ignore_eos": True}}}
    return {"calls": [{"template": f"About {name}: {{{{out}}}}", "parameters": {"out": out}}]}


def open_session(client: httpx2.Client) -> str:
    session_id: str = client.post("/v1/sessions", json={}).json()["session_id"]
    return session_id


def submit(client: httpx2.Client, session_id: str, name: str, **headers: str) -> str:
    answer = client.post(f"/v1/sessions/{session_id}/calls", json=call(name), headers=headers)
    answer.raise_for_status()
    call_id: str = answer.json()["calls"][0]["call_id"]
    return call_id


def ready(client: httpx2.Client, session_id: str, name: str) -> dict[str, Any]:
    view: dict[str, Any] = client.get(
        f"/v1/sessions/{session_id}/variables/{name}", params={"wait": 20}
    ).json()
    assert view["state"] == "ready", view
    return view


def backed_up(store: Path, backup: Path) -> tuple[str, str, dict[str, Any]]:
    """Copy a store in which one call is done; the session, the call and its variable."""
    served = Served(ARGUMENTS, store.parent, {})
    try:
        with httpx2.Client(base_url=served.url(), timeout=30) as client:
            session_id = open_session(client)
            call_id = submit(client, session_id, "one")
            view = ready(client, session_id, "one")
        assert served.end(signal.SIGTERM) == 0
    finally:
        served.close()
    shutil.copy(store, backup)
    return session_id, call_id, view


def test_over_an_older_copy_ids_are_new_and_clients_are_told_what_is_gone(tmp_path: Path) -> None:
    store, backup = tmp_path / "store.db", tmp_path / "backup.db"
    kept, call_id, one = backed_up(store, backup)
    ids = {call_id}
    second = Served(ARGUMENTS, tmp_path, {})
    try:
        with httpx2.Client(base_url=second.url(), timeout=30) as client:
            ids.add(submit(client, kept, "two", **KEY))
            two = ready(client, kept, "two")
            lost = open_session(client)
            ids.add(submit(client, lost, "three"))
            variable_ids = {one["variable_id"], two["variable_id"]}
            variable_ids.add(ready(client, lost, "three")["variable_id"])
            log_length = len(client.get(f"/v1/sessions/{kept}/graph").json()["calls"])
        second.process.kill()
        second.end()
    finally:
        second.close()
    for beside in ("-wal", "-shm"):
        Path(f"{store}{beside}").unlink(missing_ok=True)
    shutil.copy(backup, store)

    third = Served(ARGUMENTS, tmp_path, {})
    try:
        with httpx2.Client(base_url=third.url(), timeout=30) as client:
            assert ready(client, kept, "one") == one
            gone = [
                client.get(f"/v1/sessions/{lost}").status_code,
                client.get(f"/v1/sessions/{kept}/variables/two").status_code,
                client.get(f"/v1/sessions/{kept}/variables/{two['variable_id']}").status_code,
            ]
            ahead = client.get(
                f"/v1/sessions/{kept}/events",
                headers={"Last-Event-ID": "1000", "Accept": "text/event-stream"},
            )
            again = submit(client, kept, "two", **KEY)
            after = ready(client, kept, "two")
            new = open_session(client)
            more = {again, submit(client, new, "three")}
            new_variables = {after["variable_id"], ready(client, new, "three")["variable_id"]}
            assert client.get("/readyz").json()["status"] == "ok"
        assert third.end(signal.SIGTERM) == 0
    finally:
        third.close()
    assert gone == [404, 404, 404]
    assert (ahead.status_code, ahead.json()["error"]["code"]) == (409, "event_from_future")
    assert (log_length, len(ids), len(more)) == (2, 3, 2)
    assert not more & ids
    assert not new_variables & variable_ids
    assert new not in {kept, lost}
    assert after["value"] == two["value"]
    assert "Traceback" not in third.said()


def test_an_older_copy_beside_a_newer_wal_is_whole_or_refused(tmp_path: Path) -> None:
    """Who forgets the `-wal` file gives SQLite pages of two times."""
    store, backup = tmp_path / "store.db", tmp_path / "backup.db"
    kept, _, one = backed_up(store, backup)
    second = Served(ARGUMENTS, tmp_path, {})
    try:
        with httpx2.Client(base_url=second.url(), timeout=30) as client:
            for number in range(12):  # enough to begin the WAL anew
                body = {"value": f"{number} " + "x" * 1_000_000}
                client.put(f"/v1/sessions/{kept}/variables/v{number}", json=body).raise_for_status()
            submit(client, kept, "two")
            ready(client, kept, "two")
        second.process.kill()
        second.end()
    finally:
        second.close()
    shutil.copy(backup, store)
    third = Served(ARGUMENTS, tmp_path, {})
    try:
        url = third.url_or_none()
        if url is None:
            assert third.end() == 1
            assert "is damaged" in third.said()
            assert "take store.db-wal away" in third.said()
        else:
            with httpx2.Client(base_url=url, timeout=30) as client:
                assert ready(client, kept, "one") == one
                assert ready(client, kept, "two")
    finally:
        third.close()
    assert "Traceback" not in third.said()
