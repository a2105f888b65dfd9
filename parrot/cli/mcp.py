"""`parrot mcp`: registered functions as tools of the Model Context Protocol."""

import asyncio

import click

from parrot.cli.client import DEFAULT_URL
from parrot.cli.output import say


@click.command()
@click.option(
    "--url", envvar="PARROT_URL", default=DEFAULT_URL, show_default=True, help="The service's address."
)
@click.option("--api-key", envvar="PARROT_API_KEY", hidden=True)
@click.option("--only", multiple=True, metavar="NAME", help="Offer this function only (repeatable).")
@click.option(
    "--http",
    "port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Listen on this port of 127.0.0.1 in place of standard input; 0 takes a free one.",
)
def mcp(*, url: str, api_key: str | None, only: tuple[str, ...], port: int | None) -> None:
    """Offer a service's registered functions as tools of the Model Context Protocol.

    An agent starts this command and speaks to it over standard input and output; the key for the service
    comes from PARROT_API_KEY. With --http, clients bring their own keys. Needs the extra mcp.
    """
    from parrot.integrations import mcp as protocol

    tools = protocol.FunctionTools(url, only=only)
    if port is None:
        asyncio.run(protocol.serve_stdio(protocol.function_server(tools, api_key=api_key)))
        return
    with protocol.listen(port) as listener:
        say(f"tools of {url} at http://{protocol.HOST}:{listener.getsockname()[1]}/mcp")
        asyncio.run(protocol.serve_http(protocol.function_server(tools), listener))
