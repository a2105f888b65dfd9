"""HTTPS, keys read again on a signal, and connections counted by address, over real sockets."""

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from server_fakes import FakeService, app_of

from parrot.errors import ConfigError
from parrot.server.config import ApiKey, ServerConfig
from parrot.server.keys import KeyEntry, KeyFile, make_key, write_key_file
from parrot.server.protocol import BoundedProtocol, bounded_protocol
from parrot.server.run import require_safe_listen, require_usable_tls, serve
from parrot.types.ids import TenantId

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


def certificate(directory: Path, name: str = "server") -> tuple[Path, Path]:
    """A certificate for this machine that signed itself, and its private key."""
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    key.chmod(0o600)
    return cert, key


@asynccontextmanager
async def serving(config: ServerConfig) -> AsyncIterator[int]:
    """The port of a server that is stopped at the end."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            serve(
                app_of(FakeService(), config),
                config,
                on_ready=lambda _host, port: ready.set_result(port),
                stop=stop,
            )
        )
        try:
            yield await ready
        finally:
            stop.set()


@needs_openssl
async def test_with_a_certificate_the_service_speaks_https_only(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    async with serving(ServerConfig(port=0, tls_cert=cert, tls_key=key)) as port:
        trusting = ssl.create_default_context(cafile=str(cert))
        async with httpx2.AsyncClient(verify=trusting) as client:
            answer = await client.get(f"https://127.0.0.1:{port}/healthz")
            assert answer.json()["status"] == "ok"
            with pytest.raises(httpx2.HTTPError):
                await client.get(f"http://127.0.0.1:{port}/healthz")
        async with httpx2.AsyncClient() as doubting:
            with pytest.raises(httpx2.ConnectError):
                await doubting.get(f"https://127.0.0.1:{port}/healthz")


@needs_openssl
def test_a_private_key_that_others_can_read_or_that_is_anothers_is_refused(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    _, stranger = certificate(tmp_path, "stranger")
    require_usable_tls(ServerConfig(tls_cert=cert, tls_key=key))
    with pytest.raises(ConfigError, match="certificate"):
        require_usable_tls(ServerConfig(tls_cert=cert, tls_key=stranger))
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        require_usable_tls(ServerConfig(tls_cert=cert, tls_key=key))


@pytest.mark.parametrize("alone", ["tls_cert", "tls_key"])
def test_a_certificate_and_its_private_key_go_together(alone: str) -> None:
    settings: dict[str, Any] = {alone: Path("x.pem")}
    with pytest.raises(ConfigError, match="go together"):
        require_usable_tls(ServerConfig(**settings))


async def test_keys_are_read_again_on_a_signal(tmp_path: Path) -> None:
    path, key = tmp_path / "keys.json", make_key()
    write_key_file(path, KeyFile())
    async with serving(ServerConfig(port=0, keys_file=path)) as port, httpx2.AsyncClient() as client:
        address, headers = f"http://127.0.0.1:{port}/v1/models", {"Authorization": f"Bearer {key[0]}"}
        assert (await client.get(address, headers=headers)).status_code == 401
        entry = KeyEntry(key_id="key_00000001", tenant="a", sha256=key[1], created=datetime.now(UTC))
        write_key_file(path, KeyFile(keys=(entry,)))
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
        assert (await client.get(address, headers=headers)).status_code == 200


def test_a_key_file_lets_the_service_listen_beyond_this_machine(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without keys"):
        require_safe_listen(ServerConfig(host="0.0.0.0"))
    allowed = ServerConfig(host="0.0.0.0", keys_file=tmp_path / "keys.json")
    require_safe_listen(allowed)
    with pytest.raises(ConfigError, match=r"keys\.json"):  # and the file has to be there
        app_of(FakeService(), allowed)


class FakeConnection:
    """A connection from some address, as far as it is counted."""

    def __init__(self, kind: type[BoundedProtocol], host: str) -> None:
        self.protocol = kind.__new__(kind)
        self.protocol.client = (host, 1)
        self.protocol._address = None

    def enter(self) -> bool:
        return self.protocol._enter_address()


@pytest.mark.parametrize(
    ("host", "most"), [("203.0.113.7", 2), ("2001:db8::7", 2), ("127.0.0.1", 9), ("::1", 9)]
)
def test_connections_from_one_address_beyond_this_machine_are_bounded(host: str, most: int) -> None:
    keys = (ApiKey.of(TenantId("t"), "k"),)
    kind = bounded_protocol(ServerConfig(keys=keys, max_connections_per_address=2))
    taken = sum(FakeConnection(kind, host).enter() for _ in range(9))
    assert taken == most
    assert FakeConnection(kind, "198.51.100.1").enter()
