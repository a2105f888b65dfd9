"""What requests say of the application that they are a part of, in the words of several clients.

said by                                                     means
a session's header, `parrot.application`,                   one application
`metadata.session_id` or `thread_id`, `conversation`
these headers, `conversation`, `previous_response_id`       requests that follow each other
`prompt_cache_key`                                          prompts that begin alike
`service_tier`, `priority`, `nvext.agent_hints`             how urgent it is
`prompt_cache_options.ttl`, `prompt_cache_retention`        how long beginnings are worth keeping
"""

from collections.abc import Mapping
from dataclasses import replace

from parrot.core.precedence import URGENCY_S
from parrot.core.sessions import ALONE, PartOf
from parrot.server.openai.bodies import HintedBody
from parrot.types.objective import Objective
from parrot.wire.requests import MAX_LABEL_CHARS

SESSION_HEADERS = ("x-dynamo-session-id", "x-session-id", "session-id", "x-claude-code-session-id")
"""Which of a client's sessions a request belongs to, as NVIDIA Dynamo's clients and agents for code say it;
the first that is there counts."""
PARENT_HEADERS = ("x-dynamo-parent-session-id", "x-parent-session-id")
"""The session that began this one."""
FINAL_HEADER = "x-dynamo-session-final"
"""`true`: the session's last request."""
_APPLICATION_KEYS = ("session_id", "thread_id")
"""Of `metadata`."""
_TIMES_S = {"30m": 1800.0, "12h": 43_200.0, "24h": 86_400.0}


def part_of(body: HintedBody) -> PartOf:
    """What a body says; `ALONE` when that is nothing."""
    metadata = body.metadata or {}
    named = next((metadata[key] for key in _APPLICATION_KEYS if metadata.get(key)), None)
    parrot = body.parrot
    part = PartOf(
        application=_label(parrot.application if parrot is not None and parrot.application else named),
        prefix=_label(body.prompt_cache_key),
        group=_label(parrot.group if parrot is not None else None),
        urgency_s=urgency_s(body),
        keep_s=_keep_s(body),
    )
    return ALONE if part == ALONE else part


def with_headers(part: PartOf, headers: Mapping[str, str]) -> PartOf:
    """The same, with what the request's headers say in place of the body's word."""
    session = next((headers[name] for name in SESSION_HEADERS if headers.get(name)), None)
    if session is None:
        return part
    parent = next((headers[name] for name in PARENT_HEADERS if headers.get(name)), session)
    return replace(
        part,
        application=_label(parent),
        chain=_label(session),
        is_last=headers.get(FINAL_HEADER, "").lower() == "true",
    )


def in_chain(part: PartOf, chain: str | None) -> PartOf:
    """The same for a turn of a conversation, unless a header said more."""
    if chain is None or part.chain is not None:
        return part
    return replace(part, application=part.application or _label(chain), chain=_label(chain))


def objective_of(body: HintedBody) -> Objective:
    """Somebody waits for an answer, unless its sender says that it has time."""
    if body.parrot is not None and body.parrot.objective is not None:
        return body.parrot.objective
    if body.hints.latency_sensitivity == 0:
        return "throughput"
    later = body.service_tier == "flex" or (body.priority is not None and body.priority > 0)
    return "throughput" if later else "latency"


def urgency_s(body: HintedBody) -> float:
    """How much earlier than others of its tenant the request is wanted; later when negative."""
    hints = body.hints
    first = body.service_tier in {"priority", "fast"} or (hints.strict_priority or 0) > 0
    urgency = (URGENCY_S if first else 0) + (hints.priority or 0) - (body.priority or 0)
    return float(max(-URGENCY_S, min(URGENCY_S, urgency)))


def _keep_s(body: HintedBody) -> float | None:
    options = body.prompt_cache_options
    time = options.ttl if options is not None else None
    return _TIMES_S.get(time or body.prompt_cache_retention or "")


def _label(text: str | None) -> str | None:
    return text[:MAX_LABEL_CHARS] if text else None
