"""Reading OpenAI's streams without anybody's SDK."""

import json
from collections.abc import Mapping
from typing import Any

from http_harness import Harness

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


async def stream(service: Harness, path: str, **body: object) -> list[dict[str, Any]]:
    """The chunks of a streamed answer, which must be framed and ended as OpenAI's are."""
    async with service.client.stream("POST", path, json={"stream": True, **body}) as answer:
        assert answer.status_code == 200, (await answer.aread()).decode()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        text = (await answer.aread()).decode()
    events = [event for event in text.split("\n\n") if event and not event.startswith(":")]
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


async def ask(service: Harness, path: str, **body: object) -> dict[str, Any]:
    """A whole answer."""
    answer = await service.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def complete(service: Harness, prompt: object, **body: object) -> dict[str, Any]:
    """A completion, as the benchmark asks for it."""
    fields: Mapping[str, object] = {"max_tokens": 12, "temperature": 0, "ignore_eos": True, **body}
    return await ask(service, COMPLETIONS, prompt=prompt, **fields)


def user(content: object) -> list[dict[str, object]]:
    """A conversation of one message."""
    return [{"role": "user", "content": content}]
