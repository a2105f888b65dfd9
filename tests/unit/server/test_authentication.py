"""Keys, tenants, and a key file that changes while the service runs."""

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from parrot.core.admission import TenantTerms
from parrot.errors import AuthenticationError, ConfigError
from parrot.ports.clock import SystemClock
from parrot.server.auth import LOOK_INTERVAL_S, Authenticator
from parrot.server.config import ApiKey
from parrot.server.keys import KeyEntry, KeyFile, TenantEntry, make_key, make_key_id, write_key_file
from parrot.types.ids import DEFAULT_TENANT, TenantId

A, B = TenantId("a"), TenantId("b")
KEYS = (ApiKey.of(A, "key-of-a"), ApiKey.of(B, "key-of-b", admin=True))
NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Clock(SystemClock):
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.wall = NOW.timestamp()

    def now_s(self) -> float:
        return self.seconds

    def wall_s(self) -> float:
        return self.wall


def entry(tenant: str, key: tuple[str, str], **fields: object) -> KeyEntry:
    return KeyEntry.model_validate(
        {"key_id": make_key_id(), "tenant": tenant, "sha256": key[1], "created": NOW, **fields}
    )


def bearer(key: tuple[str, str]) -> bytes:
    return f"Bearer {key[0]}".encode()


def of(*keys: ApiKey) -> Authenticator:
    return Authenticator(keys, clock=Clock())


def test_without_keys_everybody_is_the_default_tenant_and_may_see_all() -> None:
    caller = of().caller(None)
    assert (caller.tenant_id, caller.admin) == (DEFAULT_TENANT, True)


@pytest.mark.parametrize(
    ("header", "tenant", "admin"), [(b"Bearer key-of-a", A, False), (b"bearer key-of-b", B, True)]
)
def test_a_key_opens_its_tenants_door(header: bytes, tenant: TenantId, admin: bool) -> None:
    caller = of(*KEYS).caller(header)
    assert (caller.tenant_id, caller.admin) == (tenant, admin)


def test_a_tenant_may_have_several_keys() -> None:
    authenticator = of(*KEYS, ApiKey.of(A, "another"))
    assert authenticator.caller(b"Bearer another").tenant_id == A
    assert authenticator.caller(b"Bearer key-of-a").tenant_id == A


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic a2V5",
        b"key-of-a",
        b"Bearer key-of-a\x00",
        b"Bearer key-of-a ",
        b"Bearer  key-of-a",
        b"Bearer " + b"x" * 10_000,
        "Bearer kеy-of-a".encode(),
        b"Bearer ' OR 1=1--",
    ],
)
def test_anything_else_is_turned_away(header: bytes | None) -> None:
    with pytest.raises(AuthenticationError) as caught:
        of(*KEYS).caller(header)
    assert "key-of-a" not in str(caught.value)


def test_a_configured_key_is_not_kept() -> None:
    assert "key-of-a" not in repr(KEYS)


def test_a_key_of_the_file_is_revoked_without_a_restart(tmp_path: Path) -> None:
    path, clock, first, second = tmp_path / "keys.json", Clock(), make_key(), make_key()
    entries = (entry("a", first), entry("a", second, admin=True))
    write_key_file(path, KeyFile(keys=entries))
    authenticator = Authenticator((), clock=clock, path=path)
    caller = authenticator.caller(bearer(first))
    write_key_file(path, KeyFile(keys=(entries[0].model_copy(update={"revoked": NOW}), entries[1])))
    clock.seconds += LOOK_INTERVAL_S
    with pytest.raises(AuthenticationError):
        authenticator.require_valid(caller)
    with pytest.raises(AuthenticationError):
        authenticator.caller(bearer(first))
    assert authenticator.caller(bearer(second)).admin


def test_a_key_opens_nothing_once_it_has_expired(tmp_path: Path) -> None:
    path, clock, key = tmp_path / "keys.json", Clock(), make_key()
    write_key_file(path, KeyFile(keys=(entry("a", key, expires=NOW + timedelta(hours=1)),)))
    authenticator = Authenticator((), clock=clock, path=path)
    assert authenticator.caller(bearer(key)).tenant_id == A
    clock.wall += 3600
    with pytest.raises(AuthenticationError):
        authenticator.caller(bearer(key))


@pytest.mark.parametrize("damage", ["", "{", '{"keys": [{}]}', '{"strange": 1}', '{"keys": 7}'])
def test_row_140_a_key_file_that_breaks_changes_nothing_and_says_so(damage: str, tmp_path: Path) -> None:
    path, clock, key = tmp_path / "keys.json", Clock(), make_key()
    content = KeyFile(keys=(entry("a", key),))
    write_key_file(path, content)
    authenticator = Authenticator((), clock=clock, path=path)
    path.write_text(damage)
    clock.seconds += LOOK_INTERVAL_S
    assert authenticator.caller(bearer(key)).tenant_id == A
    assert authenticator.failure is not None
    write_key_file(path, content)
    clock.seconds += LOOK_INTERVAL_S
    assert authenticator.caller(bearer(key)).tenant_id == A
    assert authenticator.failure is None


def test_a_key_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    path, clock, key = tmp_path / "keys.json", Clock(), make_key()
    write_key_file(path, KeyFile(keys=(entry("a", key),)))
    authenticator = Authenticator((), clock=clock, path=path)
    path.unlink()
    authenticator.reload()
    assert authenticator.caller(bearer(key)).tenant_id == A
    assert authenticator.failure is not None


def test_with_a_key_file_that_has_no_keys_nobody_comes_in(tmp_path: Path) -> None:
    write_key_file(tmp_path / "keys.json", KeyFile())
    authenticator = Authenticator((), clock=Clock(), path=tmp_path / "keys.json")
    with pytest.raises(AuthenticationError):
        authenticator.caller(None)


def test_terms_of_tenants_are_told_at_first_and_with_every_change(tmp_path: Path) -> None:
    told: list[object] = []
    path = tmp_path / "keys.json"
    heavy = TenantEntry(weight=2.0, limits={"max_sessions": 7, "requests_per_s": 0.5})
    write_key_file(path, KeyFile(tenants={"a": heavy}))
    authenticator = Authenticator((), clock=Clock(), path=path, on_terms=told.append)
    write_key_file(path, KeyFile())
    authenticator.reload()
    assert told == [
        {A: TenantTerms(weight=2.0, limits={"max_sessions": 7, "requests_per_s": 0.5})},
        {},
    ]


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o602, 0o644])
def test_row_136_a_key_file_that_is_open_to_others_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_key_file(path, KeyFile())
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        Authenticator((), clock=Clock(), path=path)


def test_a_key_file_is_written_for_its_owner_only(tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        write_key_file(tmp_path / "keys.json", KeyFile())
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["keys.json"]


@pytest.mark.parametrize(
    "text",
    [
        '{"tenants": {"a": {"limits": {"max_call_bytes": 1}}}}',
        '{"tenants": {"a": {"weight": 0}}}',
        '{"tenants": {"a b": {}}}',
        '{"tenants": {"a": {"limits": {"max_sessions": -1}}}}',
    ],
)
def test_a_limit_no_tenant_has_of_its_own_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"keys\.json"):
        Authenticator((), clock=Clock(), path=path)
