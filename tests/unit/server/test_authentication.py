"""Keys and tenants."""

import pytest

from parrot.errors import AuthenticationError
from parrot.server.auth import Authenticator
from parrot.server.config import ApiKey
from parrot.types.ids import DEFAULT_TENANT, TenantId

A, B = TenantId("a"), TenantId("b")
KEYS = (ApiKey.of(A, "key-of-a"), ApiKey.of(B, "key-of-b"))


def test_without_keys_everybody_is_the_default_tenant() -> None:
    assert Authenticator(()).tenant(None) == DEFAULT_TENANT


@pytest.mark.parametrize(("header", "tenant"), [(b"Bearer key-of-a", A), (b"bearer key-of-b", B)])
def test_a_key_opens_its_tenants_door(header: bytes, tenant: TenantId) -> None:
    assert Authenticator(KEYS).tenant(header) == tenant


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
        Authenticator(KEYS).tenant(header)
    assert "key-of-a" not in str(caught.value)


def test_a_configured_key_is_not_kept() -> None:
    assert "key-of-a" not in repr(KEYS)
