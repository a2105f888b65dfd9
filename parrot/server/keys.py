"""The file of API keys: who may come in, and what holds for each tenant. It has hashes, never keys.

```json
{"keys": [{"key_id": "key_5f0c1a2b", "tenant": "acme", "sha256": "…64 hexadecimal digits…",
           "admin": false, "note": "", "created": "2026-01-31T12:00:00Z",
           "expires": null, "revoked": null}],
 "tenants": {"acme": {"weight": 2.0, "limits": {"tokens_per_minute": 1000000}}}}
```

A key is 256 bits from the system's source of chance, so its hash needs neither salt nor stretching.
"""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from parrot.core.admission import TenantTerms
from parrot.core.limits import TENANT_LIMITS
from parrot.errors import ConfigError
from parrot.server.config import ApiKey
from parrot.server.private import PRIVATE, require_private, write_private
from parrot.types.ids import NAME_PATTERN, TenantId

MAX_FILE_BYTES = 16 << 20
KEY_PREFIX = "parrot-"


def _tenant(name: str) -> str:
    if not NAME_PATTERN.match(name):
        raise ValueError("a tenant's name is an identifier of at most 64 characters")
    return name


def _limit(name: str) -> str:
    if name not in TENANT_LIMITS:
        raise ValueError(f"no such limit of a tenant; there are {', '.join(sorted(TENANT_LIMITS))}")
    return name


TenantName = Annotated[str, AfterValidator(_tenant)]
LimitName = Annotated[str, AfterValidator(_limit)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class KeyEntry(_Entry):
    """One key, as it is kept."""

    key_id: Annotated[str, StringConstraints(pattern=r"^key_[0-9a-f]{8}$")]
    """By which people name it; no secret."""
    tenant: TenantName
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    admin: bool = False
    note: Annotated[str, StringConstraints(max_length=200)] = ""
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    def state(self, now: datetime) -> str:
        """`valid`, `revoked` or `expired`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"

    def api_key(self) -> ApiKey:
        """The same for whoever checks requests."""
        return ApiKey(
            tenant_id=TenantId(self.tenant),
            sha256=bytes.fromhex(self.sha256),
            admin=self.admin,
            key_id=self.key_id,
            expires_at=None if self.expires is None else self.expires.timestamp(),
        )


class TenantEntry(_Entry):
    """What holds for one tenant; see `TenantTerms`."""

    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    limits: dict[LimitName, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)

    def terms(self) -> TenantTerms:
        """The same for the core; counts are whole numbers."""
        limits = {
            name: value if name == "requests_per_s" else int(value) for name, value in self.limits.items()
        }
        return TenantTerms(weight=self.weight, limits=limits)


class KeyFile(_Entry):
    """The whole file."""

    keys: tuple[KeyEntry, ...] = ()
    tenants: dict[TenantName, TenantEntry] = Field(default_factory=dict)

    def api_keys(self) -> tuple[ApiKey, ...]:
        """The keys that were not revoked."""
        return tuple(entry.api_key() for entry in self.keys if entry.revoked is None)

    def terms(self) -> dict[TenantId, TenantTerms]:
        """What holds for single tenants."""
        return {TenantId(name): entry.terms() for name, entry in self.tenants.items()}


def read_key_file(path: Path) -> KeyFile:
    """Read and check the file.

    Raises:
        ConfigError: it is missing, open to others, too large, or not what it should be.
    """
    require_private(path, what="the key file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the key file {path} cannot be read: {error.strerror}", param=str(path)) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"the key file {path} is larger than {MAX_FILE_BYTES:,} bytes", param=str(path))
    try:
        return KeyFile.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = f"the key file {path}: {place + ': ' if place else ''}{first['msg']}"
        raise ConfigError(message, param=str(path)) from None


def write_key_file(path: Path, content: KeyFile) -> None:
    """Put the file in place, whole, for its owner only.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        write_private(path, content.model_dump_json(indent=1).encode() + b"\n")
    except OSError as error:
        raise ConfigError(
            f"the key file {path} cannot be written: {error.strerror}", param=str(path)
        ) from None


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Keep others from changing the file meanwhile; its directory is made when it is missing.

    Raises:
        ConfigError: the directory cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        raise ConfigError(f"cannot write beside {path}: {error.strerror}", param=str(path)) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def make_key() -> tuple[str, str]:
    """A new key, to be shown once, and the hash that is kept of it."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


def make_key_id() -> str:
    """A name for a new key."""
    return f"key_{secrets.token_hex(4)}"
