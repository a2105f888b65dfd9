"""Who a request comes from."""

import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from parrot.core.admission import TenantTerms
from parrot.errors import AuthenticationError, ConfigError
from parrot.ports.clock import Clock
from parrot.server.config import ApiKey
from parrot.server.keys import read_key_file
from parrot.types.ids import DEFAULT_TENANT, TenantId

SCHEME = b"bearer "
LOOK_INTERVAL_S = 1.0
"""A change of the key file is seen by the first request after this."""
INDEX_BYTES = 8
"""Of a hash, to find a key by. Timing may tell whether some key's hash begins alike, which helps nobody to
find a key; the whole hash is compared in constant time."""

OnTerms = Callable[[Mapping[TenantId, TenantTerms]], None]

logger = logging.getLogger("parrot.server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whoever sent a request."""

    tenant_id: TenantId
    admin: bool
    """May see what concerns the whole service."""
    sha256: bytes | None = None
    """Of the key; None without keys."""


_ANYBODY = Caller(tenant_id=DEFAULT_TENANT, admin=True)


class Authenticator:
    """Finds the caller of a request by its `Authorization` header.

    The key file is read again when it has changed; one that cannot be read or understood changes nothing,
    is logged, and told by `failure`.
    """

    def __init__(
        self,
        keys: tuple[ApiKey, ...],
        *,
        clock: Clock,
        path: Path | None = None,
        on_terms: OnTerms = lambda _terms: None,
    ) -> None:
        """Raises `ConfigError` when the key file cannot be used."""
        self._configured = keys
        self._path = path
        self._clock = clock
        self._on_terms = on_terms
        self._keys: dict[bytes, list[ApiKey]] = {}
        self._seen: tuple[int, ...] | None = None
        self._looked_at_s = clock.now_s()
        self.failure: ConfigError | None = None
        """Why the key file, as it is now, is not used."""
        self._read()

    @property
    def required(self) -> bool:
        """Whether a key is needed; with a key file that has none, nobody comes in."""
        return bool(self._configured) or self._path is not None

    def caller(self, authorization: bytes | None) -> Caller:
        """Whose key the header carries; without configured keys, always the tenant `default`.

        Raises:
            AuthenticationError: no header, another scheme, or not one of our keys.
        """
        if not self.required:
            return _ANYBODY
        self._look()
        if authorization is None or authorization[: len(SCHEME)].lower() != SCHEME:
            raise AuthenticationError("send the header Authorization: Bearer KEY")
        given = hashlib.sha256(authorization[len(SCHEME) :]).digest()
        key = self._find(given)
        if key is None:
            raise AuthenticationError("the key is not valid here")
        return Caller(tenant_id=key.tenant_id, admin=key.admin, sha256=given)

    def require_valid(self, caller: Caller) -> None:
        """See that a key that was valid is so still.

        Raises:
            AuthenticationError: it was revoked, or has expired.
        """
        self._look()
        if caller.sha256 is not None and self._find(caller.sha256) is None:
            raise AuthenticationError("the key is not valid any more")

    def reload(self) -> None:
        """Read the key file again, whether it has changed or not."""
        try:
            self._read()
        except ConfigError as error:
            self.failure = error
        if self.failure is not None:
            logger.error("the keys stay as they were: %s", self.failure.message)

    def _find(self, sha256: bytes) -> ApiKey | None:
        found: ApiKey | None = None
        for key in self._keys.get(sha256[:INDEX_BYTES], ()):
            if hmac.compare_digest(sha256, key.sha256):
                found = key
        if found is not None and found.expires_at is not None and self._clock.wall_s() >= found.expires_at:
            return None
        return found

    def _look(self) -> None:
        now_s = self._clock.now_s()
        if self._path is None or now_s - self._looked_at_s < LOOK_INTERVAL_S:
            return
        self._looked_at_s = now_s
        if self._signature() != self._seen:
            self.reload()

    def _signature(self) -> tuple[int, ...] | None:
        """Tells whether the file was changed or replaced; None when there is none."""
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode, found.st_uid)

    def _read(self) -> None:
        keys = self._configured
        terms: dict[TenantId, TenantTerms] = {}
        if self._path is not None:
            self._seen = self._signature()
            content = read_key_file(self._path)
            keys, terms = (*keys, *content.api_keys()), content.terms()
        index: dict[bytes, list[ApiKey]] = {}
        for key in keys:
            index.setdefault(key.sha256[:INDEX_BYTES], []).append(key)
        self._keys, self.failure = index, None
        self._on_terms(terms)
