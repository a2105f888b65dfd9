"""The protocol's server, over standard input and output or over HTTP."""

import errno
import socket
from typing import Any

import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
)
from starlette.applications import Starlette
from starlette.requests import Request

from parrot import __version__
from parrot.errors import ConfigError, ParrotError
from parrot.integrations.mcp.tools import FunctionTools

HOST = "127.0.0.1"
INSTRUCTIONS = """\
Each tool is a semantic function: a prompt that is kept by a Parrot service and completed by its model. Inputs
and outputs are texts, unless a tool's output schema says otherwise."""


def function_server(tools: FunctionTools, *, api_key: str | None = None) -> Server[Any]:
    """A server of the protocol that offers `tools`.

    Args:
        tools: What it offers; listed anew whenever a client asks.
        api_key: The key for the service, for transports that carry none. Over HTTP each client is served
            with the key that it sends as a bearer token, and never with this one.
    """

    def key_for(context: ServerRequestContext[Any]) -> str | None:
        if not isinstance(context.request, Request):
            return api_key
        scheme, _, key = context.request.headers.get("authorization", "").partition(" ")
        return key.strip() or None if scheme.lower() == "bearer" else None

    async def list_tools(
        context: ServerRequestContext[Any],
        params: PaginatedRequestParams | None,  # noqa: ARG001 - all come on one page
    ) -> ListToolsResult:
        try:
            return ListToolsResult(tools=await tools.list_tools(key_for(context)))
        except ParrotError as error:
            raise MCPError(
                INTERNAL_ERROR, f"error[{error.number}] {error.message}", {"code": error.code}
            ) from error

    async def call_tool(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        if not tools.offers(params.name):
            raise MCPError(INVALID_PARAMS, f"there is no tool {params.name}")
        return await tools.call_tool(params.name, params.arguments or {}, key_for(context))

    return Server(
        "parrot",
        version=__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def serve_stdio(server: Server[Any]) -> None:
    """Serve one client over this process's standard input and output until it goes away."""
    async with stdio_server() as (received, sent):
        await server.run(received, sent, server.create_initialization_options())


def http_app(server: Server[Any]) -> Starlette:
    """The server as an ASGI application: streamable HTTP at `/mcp`, for clients on this machine. Requests for
    another host's name, or from another site's page, are refused.
    """
    app: Starlette = server.streamable_http_app(stateless_http=True, host=HOST)
    return app


def listen(port: int) -> socket.socket:
    """A socket on this machine's own address; 0 takes a free port.

    Raises:
        ConfigError: `port_in_use`; `bad_config` for a port that cannot be used.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise ConfigError(
            f"cannot listen on {HOST}:{port}: {error.strerror or error}",
            code="port_in_use" if taken else "bad_config",
            param="http",
        ) from None


async def serve_http(server: Server[Any], listener: socket.socket) -> None:
    """Serve clients over HTTP until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        http_app(server), log_config=None, access_log=False, server_header=False, ws="none"
    )
    await uvicorn.Server(config).serve(sockets=[listener])
