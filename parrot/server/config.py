"""How the HTTP service listens, whom it lets in, and how patient it is."""

import hashlib
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from parrot.types.ids import TenantId

DEFAULT_PORT = 8321


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a socket that listens on `host`, or connects from it."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key that lets one tenant in; the key itself is not kept."""

    tenant_id: TenantId
    """Whose sessions the key opens."""
    sha256: bytes
    """SHA-256 of the key's UTF-8 text, 32 bytes."""
    admin: bool = False
    """Opens what concerns the whole service too."""
    key_id: str = ""
    """By which people name it, if it has such a name."""
    expires_at: float | None = None
    """Seconds of the wall clock; from then on it opens nothing."""

    @classmethod
    def of(cls, tenant_id: TenantId, key: str, *, admin: bool = False) -> "ApiKey":
        """Hash a key in plain text."""
        return cls(tenant_id=tenant_id, sha256=hashlib.sha256(key.encode()).digest(), admin=admin)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings of the HTTP service. What a request may contain stands in `parrot.core.limits`."""

    host: str = "127.0.0.1"
    """The address to listen on; beyond this machine only with `keys` or a `keys_file`."""
    port: int = DEFAULT_PORT
    """The TCP port; 0 takes a free one."""
    keys: tuple[ApiKey, ...] = ()
    """Who may come in, each written `TENANT:SHA256` or `TENANT:SHA256:admin`. Without keys and a `keys_file`:
    everybody on this machine, all as the tenant `default`."""
    keys_file: Path | None = None
    """More keys, and what holds for single tenants; written by `parrot keys`, and read again when it changes
    or on SIGHUP. `parrot serve` takes the file that `parrot keys` makes, if it is there."""
    tls_cert: Path | None = None
    """The certificate chain, in PEM; with it and `tls_key` the service speaks HTTPS only."""
    tls_key: Path | None = None
    """The certificate's private key, in PEM, not encrypted."""
    drain_timeout_s: float = 30.0
    """At shutdown, running calls are given so long to end."""
    close_timeout_s: float = 2.0
    """After the drain, answers under way are given so long to be sent."""
    header_timeout_s: float = 10.0
    """A request's headers must have arrived after this."""
    body_timeout_s: float = 30.0
    """A request's body must have arrived after this."""
    keep_alive_s: float = 15.0
    """A connection without a request is closed after this."""
    max_connections: int = 1024
    """Connections beyond this are refused with 503."""
    max_connections_per_address: int = 64
    """The same for connections from one address; this machine's own have no such bound, for a proxy may
    stand there."""
    max_header_bytes: int = 16 << 10
    """Request line and headers together."""
    max_headers: int = 100
    """Headers of one request."""
    max_uri_bytes: int = 8 << 10
    """Path and query of one request."""
    heartbeat_s: float = 15.0
    """A stream carries a comment every so often, which keeps proxies from closing it; a client that has not
    read anything for that long is dropped."""
