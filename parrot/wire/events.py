"""Events as JSON: one codec for the durable log and for the streams that clients read.

An event's kind is its class's name in snake case (`call_placed`); its fields are the class's own. A field
that is added later needs a default: then old logs can be read. A field that is not known any more is skipped.
"""

import re
from typing import Any, get_args

import msgspec

from parrot.types.events import Event

_EVENTS: tuple[type[Any], ...] = get_args(Event)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


_NAMES: dict[type[Any], str] = {event: _snake_case(event.__name__) for event in _EVENTS}
_DECODERS = {name: msgspec.json.Decoder(event) for event, name in _NAMES.items()}
_ENCODER = msgspec.json.Encoder()

EVENT_NAMES = frozenset(_DECODERS)
"""Every kind of event that there is."""


def event_name(event: Event) -> str:
    """The event's kind, such as `variable_ready`."""
    return _NAMES[type(event)]


def event_to_json(event: Event) -> dict[str, object]:
    """The event as a JSON object, its kind under `event`."""
    fields: dict[str, object] = msgspec.to_builtins(event)
    return {"event": event_name(event), **fields}


def encode_event(event: Event) -> str:
    """The event's fields as JSON text; its kind is kept beside it.

    Raises:
        ValueError: a text in it has a lone surrogate.
    """
    return _ENCODER.encode(event).decode()


def decode_event(name: str, text: str) -> Event:
    """The event of kind `name` whose fields are `text`.

    Raises:
        LookupError: there is no such kind; a newer version wrote it.
        ValueError: `text` is not what `encode_event` writes for this kind.
    """
    decoder = _DECODERS.get(name)
    if decoder is None:
        raise LookupError(f"no event is called {name!r}")
    event: Event = decoder.decode(text)
    return event
