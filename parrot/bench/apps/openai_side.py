"""An application as a client of any OpenAI-compatible server: a loop in the client, one request a call."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import httpx2

from parrot.bench.apps.applications import Application, Function, Run, Text
from parrot.bench.apps.network import DelayedTransport, http_client
from parrot.bench.apps.records import CallTimes, Usage
from parrot.bench.apps.side import Outcome
from parrot.errors import UnavailableError, UnreachableError
from parrot.ports.clock import Clock
from parrot.types.template import PlaceholderPiece, parse_template


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer of a completions API."""

    text: str
    prompt_tokens: int
    cached_tokens: int | None
    times: CallTimes


class CompletionsClient:
    """Asks for completions."""

    def __init__(self, http: httpx2.AsyncClient, model: str, *, clock: Clock, stream: bool) -> None:
        self._http = http
        self._model = model
        self._clock = clock
        self._stream = stream

    async def complete(self, prompt: str, *, max_tokens: int) -> Completion:
        """The `max_tokens` tokens that follow a prompt, greedily, the end-of-text token ignored.

        Raises:
            UnreachableError: the server refused, failed or sent something else.
        """
        body: dict[str, object] = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        sent_s = self._clock.now_s()
        try:
            if self._stream:
                return await self._streamed(body, sent_s)
            response = await self._http.post("/v1/completions", json=body)
            answer = response.json()
            if not response.is_success:
                raise UnreachableError(
                    f"{self._http.base_url} refused a completion: {answer}", code="bad_answer"
                )
            text, usage = answer["choices"][0]["text"], answer["usage"]
        except (httpx2.HTTPError, ValueError, KeyError, IndexError) as error:
            raise UnreachableError(
                f"no completion from {self._http.base_url}: {type(error).__name__} {error}", code="bad_answer"
            ) from error
        return self._completion(text, usage, sent_s, first_s=None)

    async def _streamed(self, body: Mapping[str, object], sent_s: float) -> Completion:
        pieces: list[str] = []
        usage: Mapping[str, Any] = {}
        first_s: float | None = None
        async for chunk in self._chunks({**body, "stream": True, "stream_options": {"include_usage": True}}):
            for choice in chunk.get("choices") or ():
                if first_s is None:
                    first_s = self._clock.now_s()
                pieces.append(choice.get("text") or "")
            usage = chunk.get("usage") or usage
        return self._completion("".join(pieces), usage, sent_s, first_s=first_s)

    async def _chunks(self, body: Mapping[str, object]) -> AsyncIterator[Mapping[str, Any]]:
        async with self._http.stream("POST", "/v1/completions", json=body) as response:
            if not response.is_success:
                await response.aread()
                raise UnreachableError(
                    f"{self._http.base_url} refused a completion: {response.text}", code="bad_answer"
                )
            async for line in response.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield json.loads(line.removeprefix("data: "))

    def _completion(
        self, text: str, usage: Mapping[str, Any], sent_s: float, *, first_s: float | None
    ) -> Completion:
        details = usage.get("prompt_tokens_details") or {}
        return Completion(
            text=text,
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=details.get("cached_tokens"),
            times=CallTimes(
                ready_s=sent_s,
                first_token_s=first_s,
                done_s=self._clock.now_s(),
                output_tokens=usage["completion_tokens"],
            ),
        )


class RequestStep:
    """Calls that return their texts, one request each."""

    def __init__(self, client: CompletionsClient) -> None:
        self._client = client
        self.completions: list[Completion] = []

    async def __call__(self, function: Function, /, **inputs: Text | Sequence[Text]) -> Text:
        """Put the prompt together, ask, and wait for the answer."""
        prompt, max_tokens = rendered(function, inputs)
        completion = await self._client.complete(prompt, max_tokens=max_tokens)
        self.completions.append(completion)
        return completion.text

    def text(self, name: str, text: str) -> Text:  # noqa: ARG002 - a variable's name, where there are variables
        """The text: it travels with every request."""
        return text


class OpenAISide:
    """Runs applications from a client, against any OpenAI-compatible server."""

    def __init__(
        self,
        url: str,
        network: httpx2.AsyncBaseTransport,
        model: str,
        *,
        clock: Clock,
        name: str,
        stream: bool = False,
    ) -> None:
        """`network` carries the programs' requests."""
        self.name = name
        self._url = url
        self._network = network
        self._model = model
        self._clock = clock
        self._stream = stream

    async def run(self, application: Application, run: Run, *, rtt_s: float) -> Outcome:
        """One run: request by request."""
        network = DelayedTransport(self._network, rtt_s=rtt_s, clock=self._clock)
        stream = self._stream or application.streams
        began_s = self._clock.now_s()
        async with http_client(self._url, network) as http:
            client = CompletionsClient(http, self._model, clock=self._clock, stream=stream)
            step = RequestStep(client)
            await application.run(step, run)
            jct_s = self._clock.now_s() - began_s
        return Outcome(
            jct_s=jct_s,
            num_requests=network.num_requests,
            usage=usage_of(step.completions),
            calls=[completion.times for completion in step.completions],
        )


def usage_of(completions: Sequence[Completion]) -> Usage:
    """The tokens of all answers."""
    cached = [one.cached_tokens for one in completions if one.cached_tokens is not None]
    return Usage(
        num_calls=len(completions),
        prompt_tokens=sum(one.prompt_tokens for one in completions),
        cached_tokens=sum(cached) if len(cached) == len(completions) else None,
        output_tokens=sum(one.times.output_tokens for one in completions),
    )


def rendered(function: Function, inputs: Mapping[str, Text | Sequence[Text]]) -> tuple[str, int]:
    """The prompt that a call of a function with one output stands for, and how many tokens may follow."""
    plan = function.plan
    prompt, values = plan.expand(plan.bind((), dict(inputs)))
    pieces = []
    for piece in parse_template(cast("str", prompt["template"])):
        if not isinstance(piece, PlaceholderPiece):
            pieces.append(piece.text)
        elif piece.name in plan.outputs:
            sampling = cast("Mapping[str, int]", plan.outputs[piece.name].spec["sampling"])
            return "".join(pieces), sampling["max_tokens"]
        else:
            pieces.append(cast("str", values[piece.name]))
    raise AssertionError("a semantic function has an output")


async def served_model(url: str) -> tuple[str, str]:
    """The first model that a server lists, and who it says owns it.

    Raises:
        UnreachableError: nothing answers there, or not with a list of models.
        UnavailableError: `engine_unavailable`; the list is empty, as while engines start.
    """
    async with http_client(url) as http:
        try:
            response = await http.get("/v1/models")
            models = response.raise_for_status().json()["data"]
            served = [(str(model["id"]), str(model.get("owned_by", ""))) for model in models]
        except httpx2.TransportError as error:
            raise UnreachableError(f"no server answers at {url}: {error}", code="unreachable") from error
        except (httpx2.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnreachableError(
                f"what answers at {url} does not list models: {error}", code="bad_answer"
            ) from error
    if not served:
        raise UnavailableError(f"{url} serves no model yet", code="engine_unavailable")
    return served[0]
