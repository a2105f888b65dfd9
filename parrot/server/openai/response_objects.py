"""Response objects, and the events of their streams."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import msgspec
from fastapi.sse import format_sse_event

from parrot.core.executor.requests import Outcome, Piece
from parrot.errors import ParrotError
from parrot.server.openai.answers import Json
from parrot.server.openai.chat_bodies import ChatMessage
from parrot.server.openai.errors import error_fields
from parrot.server.openai.response_bodies import ResponseBody, called
from parrot.server.openai.tools import calls_in, is_call

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """What is fixed about a response from its beginning."""

    id: str
    created_at: int
    model: str
    body: ResponseBody
    has_tools: bool

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
            "status": status,
            "background": bool(body.background),
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self.model,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "conversation": {"id": body.conversation_id} if body.conversation_id else None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": body.service_tier or "default",
            "store": body.store is not False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}, **text},
            "tool_choice": _choice(body),
            "tools": [tool.model_dump(exclude_none=True) for tool in body.tools or ()],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
            **more,
        }

    def ended(self, outcome: Outcome) -> Json:
        """The whole response."""
        cut = outcome.finish_reason == "length"
        return self.object(
            "incomplete" if cut else "completed",
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
            return [self.message(outcome.text, status)]
        return [
            {
                "type": "function_call",
                "id": f"fc_{self.key}{number}",
                "call_id": call_id,
                "name": name,
                "arguments": arguments,
                "status": status,
            }
            for number, (call_id, name, arguments) in enumerate(calls)
        ]

    def message(self, text: str | None, status: str) -> Json:
        """The item of an answer in words; without text, as it begins."""
        content = [] if text is None else [text_part(text)]
        fields: Json = {"type": "message", "id": f"msg_{self.key}", "status": status}
        return {**fields, "role": "assistant", "content": content}

    def answer(self, outcome: Outcome) -> ChatMessage:
        """What the next turn is told of this one."""
        calls = self._calls(outcome.text)
        if calls is None:
            return ChatMessage(role="assistant", content=outcome.text)
        made = tuple(called(name, arguments, call_id) for call_id, name, arguments in calls)
        return ChatMessage(role="assistant", tool_calls=made)

    def _calls(self, text: str) -> list[tuple[str, str, str]] | None:
        """Id, name and arguments of each call that an answer makes."""
        calls = calls_in(text, f"call_{self.key[:20]}") if self.has_tools else None
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


def text_part(text: str) -> Json:
    """A message's text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


@dataclass(slots=True, kw_only=True)
class ResponseEvents:
    """The events of one response's stream, in their order."""

    head: ResponseHead
    _numbers: Iterator[int] = field(default_factory=count)
    _held: str = ""
    """What came of an answer of which it is not known yet whether it is a call."""
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
        text = piece.text
        if not self._speaks:
            self._held += text
            if not self._held or (self.head.has_tools and is_call(self._held)):
                return []
            text = self._held
        events = [] if self._speaks else self._open()
        return [*events, self._text_event("response.output_text.delta", delta=text, logprobs=[])]

    def end(self, outcome: Outcome) -> list[Json]:
        """The rest, and the whole response."""
        items = self.head.items(outcome)
        events: list[Json] = []
        for index, item in enumerate(items):
            events += self._close(outcome) if item["type"] == "message" else self._call(index, item)
            events.append(self._event("response.output_item.done", output_index=index, item=item))
        response = self.head.ended(outcome)
        return [*events, self._event(f"response.{response['status']}", response=response)]

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
        return [
            *events,
            self._text_event("response.output_text.done", text=outcome.text, logprobs=[]),
            self._text_event("response.content_part.done", part=text_part(outcome.text)),
        ]

    def _call(self, index: int, item: Json) -> list[Json]:
        begun = {**item, "arguments": "", "status": "in_progress"}
        place = {"item_id": item["id"], "output_index": index}
        return [
            self._event("response.output_item.added", output_index=index, item=begun),
            self._event("response.function_call_arguments.delta", **place, delta=item["arguments"]),
            self._event(
                "response.function_call_arguments.done",
                **place,
                name=item["name"],
                arguments=item["arguments"],
            ),
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
