"""Files with secrets: made for their owner only, and refused when others can get at them."""

import os
import stat
from pathlib import Path

import pytest

from parrot.errors import ConfigError
from parrot.server.private import read_or_make_secret, require_private, write_private


def test_a_secret_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = read_or_make_secret(tmp_path / "secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert len(made) == 64
    assert read_or_make_secret(tmp_path / "secret") == made
    assert read_or_make_secret(tmp_path / "another") != made


@pytest.mark.parametrize("text", ["", "hunter2\n", "é" * 40])
def test_a_secret_that_anybody_could_guess_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, text.encode())
    with pytest.raises(ConfigError) as caught:
        read_or_make_secret(path)
    assert str(path) in caught.value.message
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("mode", [0o601, 0o602, 0o604, 0o620, 0o644, 0o666])
def test_row_136_a_file_that_others_can_read_or_change_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, b"x" * 64)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        require_private(path, what="the secret")


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_group_may_read_as_mounted_secrets_let_it(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, b"x" * 64)
    path.chmod(mode)
    assert read_or_make_secret(path) == "x" * 64


def test_what_is_missing_or_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigError, match="the key"):
            require_private(path, what="the key")


def test_nothing_is_left_when_a_file_cannot_be_put_in_place(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    with pytest.raises(OSError, match="taken"):
        write_private(tmp_path / "taken", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
