"""What a framework asks of a chat completion, as a call of a graph has it."""

from collections.abc import Mapping
from typing import Any

_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "stop": "stop",
    "top_k": "top_k",
    "min_p": "min_p",
    "min_tokens": "min_tokens",
    "ignore_eos": "ignore_eos",
}
"""Parameters of a chat completion that a call has too, and what they are called there."""

_WITHOUT_MEANING: Mapping[str, object] = {"stream": False, "n": 1}
"""Parameters that change nothing when they have these values."""


def sampling_of(payload: Mapping[str, Any]) -> dict[str, object] | None:
    """A call's sampling, from the body of a chat completion; None when a parameter has no place there.

    So too when the answer's length is not bounded: a chat completion and a call bound it differently.
    """
    fields = {
        name: value for name, value in payload.items() if name not in ("messages", "model", "extra_body")
    }
    fields |= payload.get("extra_body") or {}
    sampling: dict[str, object] = {"temperature": 1.0}
    for name, value in fields.items():
        if value is None or (name in _WITHOUT_MEANING and value == _WITHOUT_MEANING[name]):
            continue
        if name == "stop":
            sampling["stop"] = (value,) if isinstance(value, str) else tuple(value)
        elif name in _SAMPLING:
            sampling[_SAMPLING[name]] = value
        elif name not in ("stream", "stream_options"):
            return None
    return sampling if "max_tokens" in sampling else None
