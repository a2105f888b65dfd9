"""One application gives the same text through the SDK over HTTP, embedded, and by hand call by call."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from sdk_harness import SCRIPTED, application, listening, texts

import parrot
from parrot import Input, Join, Output, Sampling, StripTransform, semantic_function
from parrot.config.settings import EngineConfig
from parrot.sdk.asgi import StreamingASGITransport
from parrot.sdk.session import Session

PARTS = ["The ship sails at noon.", "It carries wool & cider — “dry”.", "Nobody has counted the crew."]


@semantic_function(max_tokens=12)
def note(part: Input, text: Output) -> None:
    """You read a report. Part: {{part}}
    Note: {{text}}"""


@semantic_function(max_tokens=16)
def combine(
    notes: Annotated[Input, Join("\n")],
    heading: Annotated[Output, Sampling(max_tokens=6), StripTransform()],
    whole: Output,
) -> None:
    """You read a report. Notes:
    {{notes}}
    Heading: {{heading}}
    Text: {{whole}}"""


@semantic_function(
    max_tokens=10,
    messages=[
        parrot.system("Be brief."),
        parrot.user("{{heading}}: {{whole}}"),
        parrot.assistant("{{reply}}"),
    ],
)
def respond(heading: Input, whole: Input, reply: Output) -> None:
    """Answer in a chat."""


async def run_application(session: Session) -> list[str]:
    notes = [note.using(session)(part) for part in PARTS]
    result: Any = combine.using(session)(notes)
    reply = respond.using(session)(*result)
    return texts(await session.gather(*notes, *result, reply, timeout_s=60))


class ByHand:
    """Each call in its own request, its outputs fetched before the next one is made."""

    def __init__(self, http: httpx2.AsyncClient, session_id: str) -> None:
        self._http = http
        self._path = f"/v1/sessions/{session_id}"

    async def call(self, prompt: Mapping[str, object], **parameters: object) -> dict[str, tuple[str, str]]:
        body = {"calls": [{**prompt, "parameters": parameters}]}
        accepted = await self._http.post(f"{self._path}/calls", json=body)
        assert accepted.status_code == 202, accepted.text
        outputs = {}
        for placeholder, output in accepted.json()["calls"][0]["outputs"].items():
            ident = output["variable_id"]
            view = (await self._http.get(f"{self._path}/variables/{ident}", params={"wait": "30"})).json()
            outputs[placeholder] = (view["value"], ident)
        return outputs


def out(max_tokens: int, **more: object) -> dict[str, object]:
    return {"output": {"sampling": {"max_tokens": max_tokens}, **more}}


async def run_by_hand(url: str, *, inline: bool) -> list[str]:
    """`inline`: values are passed back as texts; otherwise as references to the variables."""
    async with httpx2.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
        opened = await http.post("/v1/sessions", json={})
        hand = ByHand(http, opened.json()["session_id"])

        def passed(value: tuple[str, str]) -> dict[str, str]:
            return {"value": value[0]} if inline else {"variable": value[1]}

        read = {"template": "You read a report. Part: {{part}}\nNote: {{text}}"}
        notes = [(await hand.call(read, part={"value": part}, text=out(12)))["text"] for part in PARTS]
        members = {f"n{index}": passed(value) for index, value in enumerate(notes)}
        combined = await hand.call(
            {
                "template": "You read a report. Notes:\n{{n0}}\n{{n1}}\n{{n2}}\n"
                "Heading: {{heading}}\nText: {{whole}}"
            },
            **members,
            heading=out(6, transforms=[{"type": "strip"}]),
            whole=out(16),
        )
        reply = await hand.call(
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "{{h}}: {{w}}"},
                    {"role": "assistant", "content": "{{reply}}"},
                ]
            },
            h=passed(combined["heading"]),
            w=passed(combined["whole"]),
            reply=out(10),
        )
    values = [*notes, combined["heading"], combined["whole"], reply["reply"]]
    return [value for value, _ in values]


async def run_all_ways(engine: EngineConfig) -> dict[str, list[str]]:
    async with application(engine) as app, listening(app) as url:
        async with parrot.connect(url) as session:
            over_http = await run_application(session)
        by_hand = await run_by_hand(url, inline=False)
        inline = await run_by_hand(url, inline=True)
    async with (
        application(engine) as app,
        parrot.connect(transport=StreamingASGITransport(app)) as session,
    ):
        embedded = await run_application(session)
    return {"http": over_http, "embedded": embedded, "by hand": by_hand, "inline": inline}


async def test_scripted_engine_gives_the_same_text_every_way() -> None:
    results = await run_all_ways(SCRIPTED)
    assert all(len(text) > 0 for text in results["http"])
    assert results == dict.fromkeys(results, results["http"])


async def test_torch_engine_gives_the_same_text_every_way(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from parrot.engine.torch.config import TorchConfig
    from parrot.engine.torch.init import init_model

    init_model("tiny", tmp_path / "tiny", seed=1)
    results = await run_all_ways(TorchConfig(model_dir=str(tmp_path / "tiny")))
    # A random model writes tokens that no text would be split into; the service hands on tokens, not text.
    del results["inline"]
    assert results == dict.fromkeys(results, results["http"])
