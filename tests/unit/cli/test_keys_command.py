"""`parrot keys` as a process: the file it keeps, and what it never tells."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from parrot.server.keys import read_key_file


def parrot(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARROT_")}
    directories = {"XDG_CONFIG_HOME": str(cwd / "user"), "XDG_DATA_HOME": str(cwd / "data")}
    return subprocess.run(
        [sys.executable, "-m", "parrot.cli", *arguments],
        cwd=cwd,
        env={**inherited, **directories},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_key_is_made_listed_and_revoked_and_never_kept(tmp_path: Path) -> None:
    made = json.loads(
        parrot("keys", "new", "acme", "--admin", "--note", "ops", "--json", cwd=tmp_path).stdout
    )
    path = Path(made["file"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made["key"] not in path.read_text()
    listed = parrot("keys", "ls", cwd=tmp_path).stdout
    assert made["key_id"] in listed
    assert "valid" in listed
    assert parrot("keys", "revoke", made["key_id"], cwd=tmp_path).returncode == 0
    assert "revoked" in parrot("keys", "ls", cwd=tmp_path).stdout
    assert read_key_file(path).api_keys() == ()
    assert "sha256" not in parrot("keys", "ls", "--json", cwd=tmp_path).stdout


def test_a_tenants_weight_and_limits_are_set_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "parrot.toml").write_text('[server]\nkeys_file = "my-keys.json"\n')
    parrot("keys", "tenant", "acme", "--weight", "2", "--limit", "max_sessions=7", cwd=tmp_path)
    done = parrot("keys", "tenant", "acme", "--limit", "requests_per_s=0.5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (entry,) = read_key_file(tmp_path / "my-keys.json").tenants.values()
    assert (entry.weight, entry.limits) == (2.0, {"max_sessions": 7.0, "requests_per_s": 0.5})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("new", "not a name"), "tenant's name"),
        (("revoke", "key_00000000"), "no key"),
        (("tenant", "acme", "--limit", "max_call_bytes=1"), "no such limit"),
        (("tenant", "acme", "--limit", "max_sessions=many"), "number"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(
    arguments: tuple[str, ...], complaint: str, tmp_path: Path
) -> None:
    done = parrot("keys", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not list(tmp_path.rglob("keys.json"))
