"""Response objects, and the events of their streams."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import msgspec
from fastapi.sse import format_sse_event

from parrot.core.executor.requests import Outcome, Piece
from parrot.errors import ParrotError
from parrot.ports.engine import Tokenizer, TokenLogprob
from parrot.server.openai.answers import Json, told_tokens
from parrot.server.openai.chat_bodies import ChatMessage
from parrot.server.openai.errors import error_fields
from parrot.server.openai.response_bodies import ResponseBody, called
from parrot.server.openai.tool_stream import CallPiece, CallReader
from parrot.server.openai.tools import NO_ARGUMENTS, calls_in, is_call

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """What is fixed about a response from its beginning."""

    id: str
    created_at: int
    model: str
    body: ResponseBody
    has_tools: bool
    tokenizer: Tokenizer | None = None
    """The model's, when likelihoods are told."""

    @property
    def key(self) -> str:
        """What the ids of its parts are made of."""
        return self.id.removeprefix("resp_")

    def object(self, status: Status, **more: object) -> Json:
        """The response in some state."""
        body = self.body
        text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text is not None else {}
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "completed_at": None,
            "status": status,
            "background": bool(body.background),
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "metadata": body.metadata or {},
            "model": self.model,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "conversation": {"id": body.conversation_id} if body.conversation_id else None,
            "prompt": body.prompt.model_dump(exclude_none=True) if body.prompt is not None else None,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": {"effort": None, "summary": None},
            "safety_identifier": body.safety_identifier,
            "service_tier": body.service_tier or "default",
            "store": body.store is not False,
            "frequency_penalty": body.frequency_penalty or 0.0,
            "presence_penalty": body.presence_penalty or 0.0,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}, **text},
            "tool_choice": _choice(body),
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
            **more,
        }

    def ended(self, outcome: Outcome, *, at_s: int) -> Json:
        """The whole response, which was complete at that time."""
        cut = outcome.finish_reason == "length"
        return self.object(
            "incomplete" if cut else "completed",
            completed_at=None if cut else at_s,
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            output=self.items(outcome),
            usage={
                "input_tokens": outcome.num_prompt_tokens,
                "input_tokens_details": {"cached_tokens": outcome.num_shared_tokens},
                "output_tokens": outcome.num_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": outcome.num_prompt_tokens + outcome.num_tokens,
            },
        )

    def failed(self, error: ParrotError) -> Json:
        """A response of which nothing came."""
        if error.code == "cancelled":
            return self.object("cancelled")
        told = {"code": "server_error", "message": f"{error.message} [{error.code}]"}
        return self.object("failed", error=told)

    def items(self, outcome: Outcome) -> list[Json]:
        """`output`."""
        status = "incomplete" if outcome.finish_reason == "length" else "completed"
        calls = self._calls(outcome.text)
        if calls is None:
            return [self.message(outcome.text, status, outcome.logprobs)]
        # Of several only the last can have been cut off.
        ends = ["completed"] * (len(calls) - 1) + [status]
        return [
            self.call(number, name, arguments, end)
            for (number, (_, name, arguments)), end in zip(enumerate(calls), ends, strict=True)
        ]

    def call(self, number: int, name: str, arguments: str, status: str) -> Json:
        """The item of a call."""
        return {
            "type": "function_call",
            "id": f"fc_{self.key}{number}",
            "call_id": f"{self._call_prefix}{number}",
            "name": name,
            "arguments": arguments,
            "status": status,
        }

    def message(self, text: str | None, status: str, logprobs: Sequence[TokenLogprob] = ()) -> Json:
        """The item of an answer in words; without text, as it begins."""
        content = [] if text is None else [text_part(text, self.told(logprobs))]
        fields: Json = {"type": "message", "id": f"msg_{self.key}", "status": status}
        return {**fields, "role": "assistant", "content": content}

    def told(self, logprobs: Sequence[TokenLogprob]) -> list[Json]:
        """How likely tokens were, if that is wanted."""
        return told_tokens(self.tokenizer, logprobs) if self.tokenizer is not None else []

    def answer(self, outcome: Outcome) -> ChatMessage:
        """What the next turn is told of this one."""
        calls = self._calls(outcome.text)
        if calls is None:
            return ChatMessage(role="assistant", content=outcome.text)
        made = tuple(called(name, arguments, call_id) for call_id, name, arguments in calls)
        return ChatMessage(role="assistant", tool_calls=made)

    @property
    def _call_prefix(self) -> str:
        return f"call_{self.key[:20]}"

    def _calls(self, text: str) -> list[tuple[str, str, str]] | None:
        """Id, name and arguments of each call that an answer makes."""
        calls = calls_in(text, self._call_prefix) if self.has_tools else None
        if calls is None:
            return None
        return [
            (str(call["id"]), function.name, function.arguments)
            for call in calls
            for function in [msgspec.convert(call["function"], _Called)]
        ]


class _Called(msgspec.Struct):
    name: str
    arguments: str


def text_part(text: str, logprobs: Sequence[Json] = ()) -> Json:
    """A message's text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


@dataclass(slots=True, kw_only=True)
class ResponseEvents:
    """The events of one response's stream, in their order."""

    head: ResponseHead
    _numbers: Iterator[int] = field(default_factory=count)
    _calling: CallReader | None = None
    """Set when the answer is calls, or may be."""
    _speaks: bool = False

    def begin(self) -> list[Json]:
        """Before anything has come."""
        response = self.head.object("in_progress")
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def piece(self, piece: Piece) -> list[Json]:
        """Some more of the answer."""
        if not self._speaks and (self._calling is not None or not piece.text or self._is_call(piece.text)):
            return self._call_events(piece.text)
        events = [] if self._speaks else self._open()
        told = self.head.told(piece.logprobs)
        return [*events, self._text_event("response.output_text.delta", delta=piece.text, logprobs=told)]

    def end(self, outcome: Outcome, *, at_s: int) -> list[Json]:
        """The rest, and the whole response."""
        items = self.head.items(outcome)
        events: list[Json] = []
        if items[0]["type"] == "message":
            events += self._close(outcome)
            events.append(self._event("response.output_item.done", output_index=0, item=items[0]))
        elif self._calling is not None:
            events += self._end_call(len(items) - 1, str(items[-1]["status"]))
        response = self.head.ended(outcome, at_s=at_s)
        return [*events, self._event(f"response.{response['status']}", response=response)]

    def _is_call(self, text: str) -> bool:
        return self.head.has_tools and bool(is_call(text))

    def _call_events(self, text: str) -> list[Json]:
        """Some more of an answer that is calls, or may be."""
        if not text:
            return []
        self._calling = self._calling or CallReader()
        events: list[Json] = []
        for piece in self._calling.feed(text):
            if piece.name is not None and piece.number:
                events += self._end_call(piece.number - 1, "completed")
            events += self._call_piece(piece)
        return events

    def _call_piece(self, piece: CallPiece) -> list[Json]:
        events: list[Json] = []
        if piece.name is not None:
            item = self.head.call(piece.number, piece.name, "", "in_progress")
            events.append(self._event("response.output_item.added", output_index=piece.number, item=item))
        if piece.arguments:
            events.append(self._arguments("delta", piece.number, delta=piece.arguments))
        return events

    def _end_call(self, number: int, status: str) -> list[Json]:
        assert self._calling is not None, "a call that ends has begun"
        call = self._calling.calls[number]
        events = []
        if not call.arguments:
            events.append(self._arguments("delta", number, delta=NO_ARGUMENTS))
        arguments = call.arguments or NO_ARGUMENTS
        item = self.head.call(number, call.name, arguments, status)
        return [
            *events,
            self._arguments("done", number, name=call.name, arguments=arguments),
            self._event("response.output_item.done", output_index=number, item=item),
        ]

    def _arguments(self, what: str, number: int, **fields: object) -> Json:
        place = {"item_id": f"fc_{self.head.key}{number}", "output_index": number}
        return self._event(f"response.function_call_arguments.{what}", **place, **fields)

    def _open(self) -> list[Json]:
        self._speaks = True
        item = self.head.message(None, "in_progress")
        return [
            self._event("response.output_item.added", output_index=0, item=item),
            self._text_event("response.content_part.added", part=text_part("")),
        ]

    def _close(self, outcome: Outcome) -> list[Json]:
        events: list[Json] = []
        if not self._speaks:
            events = self._open()
            if outcome.text:
                events.append(self._text_event("response.output_text.delta", delta=outcome.text, logprobs=[]))
        told = self.head.told(outcome.logprobs)
        return [
            *events,
            self._text_event("response.output_text.done", text=outcome.text, logprobs=told),
            self._text_event("response.content_part.done", part=text_part(outcome.text, told)),
        ]

    def _text_event(self, kind: str, **fields: object) -> Json:
        place = {"item_id": f"msg_{self.head.key}", "output_index": 0, "content_index": 0}
        return self._event(kind, **place, **fields)

    def _event(self, kind: str, **fields: object) -> Json:
        return {"type": kind, "sequence_number": next(self._numbers), **fields}


class NamedJson:
    """How one response's stream is framed: each event is named as its type is."""

    def __init__(self) -> None:
        self._num_sent = 0

    def item(self, item: Json) -> bytes:
        """One event."""
        self._num_sent += 1
        return format_sse_event(event=str(item["type"]), data_str=msgspec.json.encode(item).decode())

    def error(self, error: ParrotError, request_id: str) -> bytes:
        """What went wrong after the stream had begun; nothing follows."""
        told = error_fields(error, request_id)
        fields = {name: told[name] for name in ("code", "message", "param")}
        return self.item({"type": "error", "sequence_number": self._num_sent, **fields})


def _choice(body: ResponseBody) -> object:
    choice = body.tool_choice or "auto"
    return choice if isinstance(choice, str) else choice.model_dump()
