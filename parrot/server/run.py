"""Serving an application on a socket, from the first connection to the last answer."""

import asyncio
import contextlib
import errno
import http.client
import json
import signal
import socket
import ssl
from collections.abc import Callable, Iterator

import uvicorn

from parrot.errors import ConfigError
from parrot.server.app import ParrotApp
from parrot.server.config import ServerConfig, is_loopback
from parrot.server.private import require_private
from parrot.server.protocol import bounded_protocol

PROBE_TIMEOUT_S = 1.0
MAX_PROBE_BYTES = 4096

OnReady = Callable[[str, int], None]
"""Told the host and the port when connections are taken."""


def require_safe_listen(config: ServerConfig) -> None:
    """Refuse to let everybody in from beyond this machine.

    Raises:
        ConfigError: `no_auth_listen`.
    """
    if not (config.keys or config.keys_file is not None or is_loopback(config.host)):
        raise ConfigError(
            f"refusing to listen on {config.host} without keys: whoever reaches it could use the service; "
            "make a key with `parrot keys new TENANT`, or listen on 127.0.0.1",
            code="no_auth_listen",
            param="server.host",
        )


def require_usable_tls(config: ServerConfig) -> None:
    """See that certificate and private key are there, belong together, and that the key is private.

    Raises:
        ConfigError: they are not, or one is set without the other.
    """
    cert, key = config.tls_cert, config.tls_key
    if cert is None and key is None:
        return
    if cert is None or key is None:
        raise ConfigError("server.tls_cert and server.tls_key go together", param="server.tls_cert")
    require_private(key, what="the private key")
    try:
        # An encrypted key would be asked for on the terminal; an empty password refuses it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "cannot be used"
        message = f"the certificate {cert} with the private key {key}: {reason}"
        raise ConfigError(message, param="server.tls_cert") from None


async def serve(
    app: ParrotApp,
    config: ServerConfig,
    *,
    on_ready: OnReady | None = None,
    on_drain: Callable[[], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGINT, SIGTERM or `stop`; then drain the service and send what is under way.

    A second signal ends at once. The service is started before and closed after by the caller.

    Raises:
        ConfigError: `no_auth_listen`, `port_in_use`, or `bad_config` for an address that cannot be used.
    """
    require_safe_listen(config)
    require_usable_tls(config)
    listener = await _listen(config)
    stop = stop or asyncio.Event()
    server = _Server(_uvicorn_config(app, config), on_started=lambda: _tell(listener, on_ready))
    with contextlib.closing(listener), _signals(stop, server, app.authenticator.reload):
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(sockets=[listener]))
            stopping = group.create_task(stop.wait())
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                if on_drain is not None:
                    on_drain()
                await _drain(app, config, server)
            stopping.cancel()


async def _drain(app: ParrotApp, config: ServerConfig, server: "_Server") -> None:
    draining = asyncio.ensure_future(app.service.drain(config.drain_timeout_s))
    forced = asyncio.ensure_future(server.forced.wait())
    try:
        await asyncio.wait((draining, forced), return_when=asyncio.FIRST_COMPLETED)
        if draining.done():
            draining.result()
    finally:
        draining.cancel()
        forced.cancel()
        await asyncio.gather(draining, forced, return_exceptions=True)
        app.closing.set()
        server.should_exit = True


def _tell(listener: socket.socket, on_ready: OnReady | None) -> None:
    if on_ready is not None:
        host, port = listener.getsockname()[:2]
        on_ready(host, port)


def _uvicorn_config(app: ParrotApp, config: ServerConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=bounded_protocol(config),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=config.tls_cert,
        ssl_keyfile=config.tls_key,
        timeout_keep_alive=max(1, round(config.keep_alive_s)),
        timeout_graceful_shutdown=max(1, round(config.close_timeout_s)),
    )


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers, which would raise the signals again at the end."""

    def __init__(self, config: uvicorn.Config, *, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self.forced = asyncio.Event()
        """Set by the second signal."""
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _signals(stop: asyncio.Event, server: _Server, reload: Callable[[], None]) -> Iterator[None]:
    """The first signal sets `stop`, the second ends the server at once; SIGHUP has the keys read again."""
    loop = asyncio.get_running_loop()

    def handle() -> None:
        if stop.is_set():
            server.forced.set()
            server.force_exit = True
        stop.set()

    handled: list[signal.Signals] = []
    for number, handler in ((signal.SIGINT, handle), (signal.SIGTERM, handle), (signal.SIGHUP, reload)):
        with contextlib.suppress(ValueError, RuntimeError):  # only the main thread may handle signals
            loop.add_signal_handler(number, handler)
            handled.append(number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


async def _listen(config: ServerConfig) -> socket.socket:
    if not 0 <= config.port <= 65535:
        raise ConfigError(f"{config.port} is not a port", param="server.port")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror:
        raise ConfigError(f"{config.host} is not an address", param="server.host") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise await _cannot_listen(config, error) from None
    return listener


async def _cannot_listen(config: ServerConfig, error: OSError) -> ConfigError:
    if error.errno != errno.EADDRINUSE:
        reason = error.strerror or "cannot be used"
        return ConfigError(f"cannot listen on {config.host}:{config.port}: {reason}", param="server.port")
    occupant = await asyncio.to_thread(_occupant, config.host, config.port)
    return ConfigError(
        f"port {config.port} is taken by {occupant}; stop it or choose another port",
        code="port_in_use",
        param="server.port",
    )


def _occupant(host: str, port: int) -> str:
    """Who listens there, as far as it tells."""
    connection = http.client.HTTPConnection(host, port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        answer = json.loads(connection.getresponse().read(MAX_PROBE_BYTES))
    except (OSError, ValueError, http.client.HTTPException):
        return "another program"
    finally:
        connection.close()
    if isinstance(answer, dict) and {"status", "version", "pid"} <= answer.keys():
        return f"Parrot {str(answer['version'])[:40]}, process {str(answer['pid'])[:20]}"
    return "another program"
