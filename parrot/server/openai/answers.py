"""Outcomes as OpenAI's objects: completions, chat completions, and the chunks of their streams."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parrot.core.executor.requests import Outcome, Piece
from parrot.ports.engine import Tokenizer, TokenLogprob
from parrot.server.openai.tools import calls_in, is_call

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
        self._held: dict[int, str] = {}
        """What came so far of choices that are calls: these are given when they are whole."""
        self._spoken: set[int] = set()
        """Choices that are no calls."""

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
                    "finish_reason": outcome.finish_reason if calls is None else "tool_calls",
                }
            )
        return {**self._head.of("chat.completion"), "choices": choices, "usage": usage}

    def first(self, index: int) -> Json | None:
        """The chunk that says who speaks."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, piece: Piece) -> Json | None:
        """A chunk with more of a choice, unless it turns out to be a call."""
        if self._tools and index not in self._spoken:
            held = self._held[index] = self._held.get(index, "") + piece.text
            if is_call(held) is not False:
                return None
            self._spoken.add(index)
        return self._chunk(index, {"content": piece.text}, logprobs=self._logprobs(piece.logprobs))

    def last(self, index: int, outcome: Outcome) -> Sequence[Json]:
        """The chunks with a choice's calls, and how it ended."""
        if not self._tools or index in self._spoken:
            return [self._chunk(index, {}, finish_reason=outcome.finish_reason)]
        calls = self._calls(index, outcome.text)
        if calls is None:
            delta: Json = {"content": outcome.text}
            return [self._chunk(index, delta), self._chunk(index, {}, finish_reason=outcome.finish_reason)]
        delta = {"tool_calls": [{"index": number, **call} for number, call in enumerate(calls)]}
        return [self._chunk(index, delta), self._chunk(index, {}, finish_reason="tool_calls")]

    def usage(self, usage: Json) -> Json:
        """The chunk with the usage."""
        return {**self._head.of("chat.completion.chunk"), "choices": [], "usage": usage}

    def _calls(self, index: int, text: str) -> list[Json] | None:
        run = self._head.id.rpartition("-")[2]
        return calls_in(text, f"call_{run[:20]}{index}") if self._tools else None

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
        content: list[Json] = [
            {
                **self._token(told.token_id, told.logprob),
                "top_logprobs": [self._token(i, logprob) for i, logprob in told.top],
            }
            for told in logprobs
        ]
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, logprob: float) -> Json:
        token = self._tokenizer.decode([token_id])
        # A part of a character has no text of its own, so its bytes are not known here.
        data = None if "\ufffd" in token else list(token.encode())
        return {"token": token, "logprob": _bounded(logprob), "bytes": data}


def _bounded(logprob: float) -> float:
    return max(LEAST_LOGPROB, logprob)
