"""The command line as a process: quick help, exit statuses, errors with numbers, data alone on stdout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def parrot(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARROT_")}
    return subprocess.run(
        [sys.executable, "-m", "parrot.cli", *arguments],
        cwd=cwd,
        env={**inherited, "XDG_CONFIG_HOME": str(cwd / "user"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_help_is_quick_and_loads_nothing_of_the_service(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from parrot.cli.root import run; status = run(['--help'])\n"
        "heavy = {'torch', 'pydantic', 'fastapi', 'rich', 'sqlalchemy', 'httpx2'} & set(sys.modules)\n"
        "print('RESULT', status, sorted(heavy), time.process_time())"
    )
    took: list[float] = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
        )
        result = done.stdout.splitlines()[-1]
        assert result.startswith("RESULT 0 []")
        took.append(float(result.split()[-1]))
    assert "Serve applications over HTTP." in done.stdout
    assert min(took) <= 0.3


@pytest.mark.parametrize("command", ["demo", "serve", "run", "sessions", "models", "config", "doctor"])
def test_every_command_has_help(command: str, tmp_path: Path) -> None:
    done = parrot(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: parrot {command}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("fly",), "No such command"),
        (("serve", "--replicas", "0"), "--replicas"),
        (("sessions", "show"), "SESSION_ID"),
        (("models", "init", "gigantic", "x"), "no preset"),
    ],
)
def test_wrong_usage_ends_with_status_2(arguments: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    done = parrot(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stdout == ""


def test_a_wrong_setting_ends_with_status_2_and_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "parrot.toml").write_text("[limits]\nmax_wait = 3\n")
    done = parrot("config", "show", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error[P6000]: ./parrot.toml:limits.max_wait: no such setting")
    assert "Traceback" not in done.stderr


def test_no_service_ends_with_status_3_and_says_how_to_start_one(tmp_path: Path) -> None:
    done = parrot("ps", "--url", "http://127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("error[P7000]: no service answers at http://127.0.0.1:9")
    assert "fix: start one with `parrot serve" in done.stderr


def test_errors_are_json_on_standard_output_where_json_is_asked_for(tmp_path: Path) -> None:
    done = parrot("sessions", "ls", "--json", "--url", "http://127.0.0.1:9", cwd=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["number"]) == ("unreachable", "P7000")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = parrot("ps", "--url", "http://127.0.0.1:9", cwd=tmp_path, PARROT_DEBUG="1")
    assert done.returncode == 3
    assert "Traceback" in done.stderr


def test_settings_are_shown_with_their_origin(tmp_path: Path) -> None:
    (tmp_path / "parrot.toml").write_text('[service]\nsalt = "s3cret"\n')
    done = parrot("config", "show", "--origin", "--json", cwd=tmp_path, PARROT_LIMITS__MAX_WAIT_S="7")
    shown = json.loads(done.stdout)
    assert shown["limits.max_wait_s"] == {"value": 7.0, "origin": "environment"}
    assert shown["service.salt"] == {"value": "********", "origin": "./parrot.toml"}
    assert shown["limits.max_fan_in"]["origin"] == "default"
    assert "s3cret" not in done.stdout + done.stderr


def test_a_new_key_is_printed_once_and_only_its_hash_is_for_the_file(tmp_path: Path) -> None:
    made = json.loads(parrot("keys", "new", "bob", "--entry", "--json", cwd=tmp_path).stdout)
    (tmp_path / "parrot.toml").write_text(f'[server]\nhost = "0.0.0.0"\nkeys = ["{made["entry"]}"]\n')
    done = parrot("config", "show", "--changed", cwd=tmp_path)
    assert done.returncode == 0
    assert made["key"] not in made["entry"] + done.stdout


def test_versions_are_told(tmp_path: Path) -> None:
    versions = json.loads(parrot("version", "--json", cwd=tmp_path).stdout)
    assert versions["python"].startswith("3.")
    assert parrot("--version", cwd=tmp_path).stdout.startswith(f"parrot {versions['parrot']}")


def test_completion_knows_the_commands(tmp_path: Path) -> None:
    assert "_PARROT_COMPLETE" in parrot("completion", "bash", cwd=tmp_path).stdout
    offered = parrot(
        cwd=tmp_path, _PARROT_COMPLETE="bash_complete", COMP_WORDS="parrot se", COMP_CWORD="1"
    ).stdout
    assert "serve" in offered
    assert "sessions" in offered


def test_doctor_says_what_is_there_and_mends_nothing(tmp_path: Path) -> None:
    done = parrot("doctor", "--json", cwd=tmp_path, XDG_DATA_HOME=str(tmp_path / "data"))
    checks = json.loads(done.stdout)
    assert {"python", "processor", "memory", "settings", "port", "data", "store"} <= {
        check["name"] for check in checks
    }
    assert all(check["fix"] for check in checks if check["state"] != "ok")
    assert not (tmp_path / "data").exists()


def test_doctor_ends_with_status_1_when_something_must_be_mended(tmp_path: Path) -> None:
    (tmp_path / "parrot.toml").write_text("[limits]\nmax_wait = 3\n")
    done = parrot("doctor", cwd=tmp_path)
    assert done.returncode == 1
    assert "limits.max_wait" in done.stdout


def test_a_damaged_store_is_found_by_doctor(tmp_path: Path) -> None:
    store = tmp_path / "data" / "parrot" / "parrot.db"
    store.parent.mkdir(parents=True)
    store.write_bytes(b"not a database at all" * 100)
    checks = json.loads(parrot("doctor", "--json", cwd=tmp_path, XDG_DATA_HOME=str(tmp_path / "data")).stdout)
    (found,) = [check for check in checks if check["name"] == "store"]
    assert found["state"] == "fail"
