"""Registered functions as tools, as a client of the protocol sees them."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from http_harness import KEY_A, KEY_B, Harness, running_service

from parrot.engine.scripted_config import ScriptedConfig

pytest.importorskip("mcp.client", reason="needs the extra mcp: nox -s mcp")

import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

pytestmark = pytest.mark.asyncio(loop_scope="module")

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTIONS: dict[str, dict[str, object]] = {
    "translate": {
        "template": "Into {{language}}: {{text}} #text{{translation}}",
        "description": "Translates.",
        "inputs": {"language": {"default": "French"}},
        "outputs": {"translation": {}},
    },
    "both": {"template": "{{a}} #text{{first}} and{{second}}", "outputs": {"first": {}, "second": {}}},
    "place": {"template": "Where is {{who}}?{{where}}", "outputs": {"where": {"schema": CITY}}},
    "explode": {"template": "{{fuse}} #bomb{{noise}}", "outputs": {"noise": {"sampling": {"max_tokens": 9}}}},
    "cut": {
        "template": "Where is {{who}}?{{where}}",
        "outputs": {"where": {"schema": CITY, "sampling": {"max_tokens": 1}}},
    },
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Harness]:
    """A service that keeps the functions for tenant A."""
    async with running_service() as harness:
        for name, spec in FUNCTIONS.items():
            answer = await harness.client.put(f"/v1/functions/{name}", json=spec)
            assert answer.status_code == 201, answer.text
        yield harness


def _command(service: Harness, *arguments: str, key: str = KEY_A) -> StdioServerParameters:
    """How an agent starts the server: nothing but the key is in its environment."""
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "parrot.cli", "mcp", "--url", f"http://127.0.0.1:{service.port}", *arguments],
        env={"PARROT_API_KEY": key, "PATH": os.environ["PATH"]},
    )


def _agent(service: Harness, *arguments: str, key: str = KEY_A) -> Client:
    """A client that starts the server."""
    return Client(_command(service, *arguments, key=key), read_timeout_seconds=60)


def _text(result: Any) -> str:
    return "\n".join(part.text for part in result.content)


async def test_functions_are_listed_with_their_inputs_and_outputs(service: Harness) -> None:
    async with _agent(service) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools.keys() == FUNCTIONS.keys()
        translate = tools["translate"]
        assert translate.description == "Translates."
        assert translate.input_schema == {
            "type": "object",
            "properties": {"language": {"type": "string", "default": "French"}, "text": {"type": "string"}},
            "required": ["text"],
            "additionalProperties": False,
        }
        assert translate.output_schema is not None
        assert translate.output_schema["properties"] == {"translation": {"type": "string"}}
        assert tools["place"].output_schema is not None
        assert tools["place"].output_schema["properties"] == {"where": CITY}


async def test_a_call_gives_its_output_and_frees_its_session(service: Harness) -> None:
    async with _agent(service) as client:
        result = await client.call_tool("translate", {"text": "Good morning"})
        assert not result.is_error
        assert _text(result) == "no JSON at all"
        assert result.structured_content == {"translation": "no JSON at all"}
        assert (await service.client.get("/v1/sessions")).json()["sessions"] == []


async def test_several_outputs_come_as_several_texts(service: Harness) -> None:
    async with _agent(service) as client:
        result = await client.call_tool("both", {"a": "x"})
        assert len(result.content) == 2
        assert result.structured_content is not None
        assert list(result.structured_content) == ["first", "second"]


async def test_an_output_with_a_schema_comes_as_its_value(service: Harness) -> None:
    async with _agent(service) as client:
        result = await client.call_tool("place", {"who": "Ishmael"})
        assert not result.is_error, _text(result)
        assert isinstance(result.structured_content["where"]["city"], str)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("translate", {}, "needs the input text"),
        ("translate", {"text": "a", "tone": "b"}, "no input tone"),
        ("translate", {"text": 7}, "the input text is a text"),
        ("no_such", {}, "not_found"),
        ("translate", {"text": "long " * 20_000}, "error[P"),
        ("cut", {"who": "Ishmael"}, "cut before its JSON was whole"),
    ],
)
async def test_what_is_wrong_with_a_call_is_told_to_the_model(
    service: Harness, name: str, arguments: dict[str, Any], said: str
) -> None:
    async with _agent(service) as client:
        result = await client.call_tool(name, arguments)
        assert result.is_error
        assert said in _text(result)


async def test_calls_of_one_client_run_together(service: Harness) -> None:
    async with _agent(service) as client:
        results = await asyncio.gather(*(client.call_tool("translate", {"text": str(i)}) for i in range(8)))
        assert [result.is_error for result in results] == [False] * 8


async def test_a_new_version_is_called_without_a_new_start(service: Harness) -> None:
    async with _agent(service) as client:
        for mark, expected in (("#x", "x" * 100), ("#text", "no JSON at all")):
            spec = {
                "template": f"{{{{text}}}} {mark}{{{{out}}}}",
                "outputs": {"out": {"sampling": {"max_tokens": 200}}},
            }
            answer = await service.client.put("/v1/functions/newest", json=spec)
            assert answer.status_code == 201
            assert _text(await client.call_tool("newest", {"text": "a"})) == expected
        assert (await service.client.delete("/v1/functions/newest")).status_code == 204


async def test_only_named_functions_are_offered(service: Harness) -> None:
    async with _agent(service, "--only", "translate") as agent:
        assert [tool.name for tool in (await agent.list_tools()).tools] == ["translate"]
        with pytest.raises(MCPError, match="no tool place"):
            await agent.call_tool("place", {"who": "x"})


async def test_a_key_sees_its_own_tenants_functions_only(service: Harness) -> None:
    async with _agent(service, key=KEY_B) as agent:
        assert (await agent.list_tools()).tools == []
        assert "not_found" in _text(await agent.call_tool("translate", {"text": "a"}))


async def test_a_wrong_key_is_told(service: Harness) -> None:
    async with _agent(service, key="wrong") as agent:
        with pytest.raises(MCPError, match=r"Bearer|key"):
            await agent.list_tools()


async def test_a_service_that_is_away_is_told(service: Harness) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        command = _command(service, "--url", f"http://127.0.0.1:{closed.getsockname()[1]}")
        async with Client(command, read_timeout_seconds=60) as agent:
            assert "no service answers" in _text(await agent.call_tool("translate", {"text": "a"}))


async def test_a_call_that_the_agent_cancels_frees_its_session() -> None:
    slow = ScriptedConfig(context_tokens=4096, decode_step_s=0.05, tokens_per_step=1)
    async with running_service(engine=slow) as service:
        spec = {
            "template": "{{text}}{{out}}",
            "outputs": {"out": {"sampling": {"max_tokens": 3000, "ignore_eos": True}}},
        }
        assert (await service.client.put("/v1/functions/long", json=spec)).status_code == 201
        async with _agent(service) as agent:
            calling = asyncio.create_task(agent.call_tool("long", {"text": "a"}))
            await _until(service, 1)
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            await _until(service, 0)


async def _until(service: Harness, num_sessions: int) -> None:
    async with asyncio.timeout(60):
        while len((await service.client.get("/v1/sessions")).json()["sessions"]) != num_sessions:
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _over_http(url: str, key: str | None) -> AsyncIterator[Client]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(url, http_client=http), read_timeout_seconds=60) as agent,
    ):
        yield agent


async def test_over_http_each_client_is_served_with_its_own_key(service: Harness) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "parrot.cli", "mcp", "--http", "0"),
        *("--url", f"http://127.0.0.1:{service.port}"),
        env={"PARROT_API_KEY": KEY_A, "PATH": os.environ["PATH"]},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
        url = line.split()[-1]
        async with _over_http(url, KEY_A) as agent:
            assert len((await agent.list_tools()).tools) == len(FUNCTIONS)
            assert _text(await agent.call_tool("translate", {"text": "a"})) == "no JSON at all"
        async with _over_http(url, KEY_B) as agent:
            assert (await agent.list_tools()).tools == []
        async with _over_http(url, None) as agent:
            with pytest.raises(MCPError, match=r"Bearer|key"):
                await agent.list_tools()
        async with httpx2.AsyncClient() as http:
            page = await http.post(url, json={}, headers={"Origin": "http://elsewhere.example"})
        assert page.status_code in (400, 403)
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) in (0, -15)
