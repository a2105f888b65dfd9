"""Outcomes as OpenAI's objects: completions, chat completions, and the chunks of their streams."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parrot.core.executor.requests import Outcome, Piece
from parrot.ports.engine import Tokenizer, TokenLogprob
from parrot.server.openai.tool_stream import CallReader
from parrot.server.openai.tools import NO_ARGUMENTS, calls_in, is_call

Json = dict[str, object]

LEAST_LOGPROB = -9999.0
"""Stands for a likelihood of zero, whose logarithm JSON cannot write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What all objects of one answer begin with."""

    id: str
    created: int
    """Seconds since the epoch."""
    model: str

    def of(self, kind: str) -> Json:
        """The beginning of an object."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage_of(outcomes: Sequence[Outcome], num_choices: int) -> Json:
    """Tokens of an answer. Each prompt counts once, however many choices it has; `cached_tokens` are those
    that were taken from what was computed before, for the first of them.
    """
    firsts = outcomes[::num_choices]
    prompt = sum(outcome.num_prompt_tokens for outcome in firsts)
    completion = sum(outcome.num_tokens for outcome in outcomes)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(outcome.num_shared_tokens for outcome in firsts)},
    }


class CompletionWriter:
    """`text_completion` objects."""

    def __init__(self, head: Head, tokenizer: Tokenizer, *, tells: bool, echoes: Sequence[str]) -> None:
        """`tells`: log-probabilities are wanted. `echoes`: what stands before each choice's text."""
        self._head = head
        self._tokenizer = tokenizer
        self._tells = tells
        self._echoes = echoes
        self._offsets = [len(echo) for echo in echoes]

    def whole(self, outcomes: Sequence[Outcome], usage: Json) -> Json:
        """The answer in one piece."""
        choices = [
            self._choice(index, self._echoes[index] + outcome.text, outcome.logprobs, outcome.finish_reason)
            for index, outcome in enumerate(outcomes)
        ]
        return {**self._head.of("text_completion"), "choices": choices, "usage": usage}

    def first(self, index: int) -> Json | None:
        """The chunk before a choice's text, if it has one."""
        echo = self._echoes[index]
        return self._chunk(self._choice(index, echo, (), None)) if echo else None

    def piece(self, index: int, piece: Piece) -> Json:
        """A chunk with more of a choice."""
        return self._chunk(self._choice(index, piece.text, piece.logprobs, None))

    def last(self, index: int, outcome: Outcome) -> Sequence[Json]:
        """The chunk that says how a choice ended."""
        return [self._chunk(self._choice(index, "", (), outcome.finish_reason))]

    def usage(self, usage: Json) -> Json:
        """The chunk with the usage."""
        return {**self._head.of("text_completion"), "choices": [], "usage": usage}

    def _chunk(self, choice: Json) -> Json:
        return {**self._head.of("text_completion"), "choices": [choice]}

    def _choice(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob], finish_reason: str | None
    ) -> Json:
        told = self._logprobs(index, logprobs) if self._tells else None
        return {"index": index, "text": text, "logprobs": told, "finish_reason": finish_reason}

    def _logprobs(self, index: int, logprobs: Sequence[TokenLogprob]) -> Json:
        tokens = [self._tokenizer.decode([told.token_id]) for told in logprobs]
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [_bounded(told.logprob) for told in logprobs],
            "top_logprobs": [
                {self._tokenizer.decode([i]): _bounded(logprob) for i, logprob in told.top}
                for told in logprobs
            ],
            "text_offset": offsets,
        }


class ChatWriter:
    """`chat.completion` objects and their chunks."""

    def __init__(self, head: Head, tokenizer: Tokenizer, *, tells: bool, tools: bool = False) -> None:
        """`tells`: log-probabilities are wanted. `tools`: an answer may be calls of tools."""
        self._head = head
        self._tokenizer = tokenizer
        self._tells = tells
        self._tools = tools
        self._calling: dict[int, CallReader] = {}
        """Of choices that are calls, or may be."""
        self._spoken: set[int] = set()
        """Choices that are no calls."""
        self._untold: dict[int, list[TokenLogprob]] = {}
        """Likelihoods of tokens of which nothing was shown yet."""

    def whole(self, outcomes: Sequence[Outcome], usage: Json) -> Json:
        """The answer in one piece."""
        choices: list[Json] = []
        for index, outcome in enumerate(outcomes):
            calls = self._calls(index, outcome.text)
            message: Json = {"role": "assistant", "content": outcome.text, "refusal": None}
            if calls is not None:
                message |= {"content": None, "tool_calls": calls}
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": self._logprobs(outcome.logprobs),
                    "finish_reason": _finish_reason(outcome, has_calls=calls is not None),
                }
            )
        return {**self._head.of("chat.completion"), "choices": choices, "usage": usage}

    def first(self, index: int) -> Json | None:
        """The chunk that says who speaks."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, piece: Piece) -> Json | None:
        """A chunk with more of a choice; None when nothing of it can be told yet."""
        untold = self._untold.setdefault(index, [])
        untold += piece.logprobs
        delta = self._delta(index, piece.text)
        if delta is None:
            return None
        del self._untold[index]
        return self._chunk(index, delta, logprobs=self._logprobs(untold))

    def last(self, index: int, outcome: Outcome) -> Sequence[Json]:
        """The chunks with what was not told yet of a choice, and how it ended."""
        reader = self._calling.get(index)
        has_calls = reader is not None and bool(reader.calls)
        deltas: list[Json] = []
        if reader is not None and not reader.calls:
            deltas.append({"content": outcome.text})
        elif reader is not None:
            bare = [number for number, call in enumerate(reader.calls) if not call.arguments]
            calls = [{"index": number, "function": {"arguments": NO_ARGUMENTS}} for number in bare]
            deltas += [{"tool_calls": calls}] if calls else []
        deltas.append({})
        reason = _finish_reason(outcome, has_calls=has_calls)
        untold = self._untold.pop(index, None)
        return [
            self._chunk(
                index,
                delta,
                logprobs=self._logprobs(untold) if untold and number == 0 else None,
                finish_reason=reason if number == len(deltas) - 1 else None,
            )
            for number, delta in enumerate(deltas)
        ]

    def _delta(self, index: int, text: str) -> Json | None:
        """What more text of a choice shows."""
        if self._tools and index not in self._spoken:
            if index not in self._calling and not text:
                return None
            if index in self._calling or is_call(text):
                return self._call_delta(index, text)
            self._spoken.add(index)
        return {"content": text}

    def _call_delta(self, index: int, text: str) -> Json | None:
        """More of a choice's calls: names when they are there, arguments as they come."""
        calls: list[Json] = []
        for piece in self._calling.setdefault(index, CallReader()).feed(text):
            call: Json = {"index": piece.number, "function": {"arguments": piece.arguments}}
            if piece.name is not None:
                call |= {"id": f"{self._call_prefix(index)}{piece.number}", "type": "function"}
                call["function"] = {"name": piece.name, "arguments": piece.arguments}
            calls.append(call)
        return {"tool_calls": calls} if calls else None

    def usage(self, usage: Json) -> Json:
        """The chunk with the usage."""
        return {**self._head.of("chat.completion.chunk"), "choices": [], "usage": usage}

    def _calls(self, index: int, text: str) -> list[Json] | None:
        return calls_in(text, self._call_prefix(index)) if self._tools else None

    def _call_prefix(self, index: int) -> str:
        """What the ids of a choice's calls begin with."""
        return f"call_{self._head.id.rpartition('-')[2][:20]}{index}"

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, object],
        *,
        logprobs: Json | None = None,
        finish_reason: str | None = None,
    ) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._head.of("chat.completion.chunk"), "choices": [choice]}

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> Json | None:
        if not self._tells:
            return None
        return {"content": told_tokens(self._tokenizer, logprobs), "refusal": None}


def told_tokens(tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob]) -> list[Json]:
    """How likely tokens were, and the likeliest in their places."""
    return [
        {
            **_token(tokenizer, told.token_id, told.logprob),
            "top_logprobs": [_token(tokenizer, i, logprob) for i, logprob in told.top],
        }
        for told in logprobs
    ]


def _token(tokenizer: Tokenizer, token_id: int, logprob: float) -> Json:
    token = tokenizer.decode([token_id])
    # A part of a character has no text of its own, so its bytes are not known here.
    data = None if "\ufffd" in token else list(token.encode())
    return {"token": token, "logprob": _bounded(logprob), "bytes": data}


def _finish_reason(outcome: Outcome, *, has_calls: bool) -> str:
    """`tool_calls` when there are calls, unless the last of them was cut off."""
    return "tool_calls" if has_calls and outcome.finish_reason != "length" else outcome.finish_reason


def _bounded(logprob: float) -> float:
    return max(LEAST_LOGPROB, logprob)
