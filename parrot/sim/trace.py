"""A session's graph as a trace: recorded from a live service, replayed in simulation under any policy.

    {"format": 1, "session_id": "ses_…",
     "calls": [{"name": "map_0", "submitted_s": 0.0, "duration_s": 1.2, "inputs": ["fetch"],
                "prompt_tokens": 1064, "shared_tokens": 40, "output_tokens": 50}, …]}

`prompt_tokens` counts everything before the outputs, what it reads of other calls included. Text itself is
not in a trace. Which calls shared a prefix cannot be told from lengths, so the tokens that a call shared
when it was recorded stand at the beginning of its prompt as text that all calls of the trace have.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from parrot.errors import ConfigError
from parrot.sim.application import AppCall, Application, Piece, Ref, Text
from parrot.sim.chance import stream, text_seeds
from parrot.wire.answers import GraphView

FORMAT = 1
_PREFIX_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceCall:
    """One recorded call."""

    name: str
    submitted_s: float
    """Seconds after the session was opened."""
    prompt_tokens: int
    shared_tokens: int
    output_tokens: int
    inputs: tuple[str, ...] = ()
    """Names of the calls whose outputs it read."""
    duration_s: float | None = None
    """From submission to the end, as recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A recorded session."""

    session_id: str
    calls: tuple[TraceCall, ...]

    def to_json(self) -> dict[str, object]:
        """As one JSON value."""
        return {
            "format": FORMAT,
            "session_id": self.session_id,
            "calls": [asdict(call) for call in self.calls],
        }


def record(graph: GraphView) -> Trace:
    """The trace of a session; calls that did not end well are left out, with all that read them.

    Raises:
        ConfigError: no call of it has ended well.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    calls: list[TraceCall] = []
    producers_of: dict[str, list[str]] = {}
    for edge in graph.edges:
        producers_of.setdefault(edge.target, []).append(edge.source)
    for call in sorted(graph.calls, key=lambda each: each.stage):
        producers = producers_of.get(call.call_id, [])
        if call.state != "done" or any(producer not in names for producer in producers):
            continue
        name = call.name if call.name not in taken else f"{call.name}_{len(names)}"
        names[call.call_id] = name
        taken.add(name)
        done_s = call.times.done_s
        calls.append(
            TraceCall(
                name=name,
                submitted_s=call.times.submitted_s,
                prompt_tokens=call.tokens.prompt,
                shared_tokens=call.tokens.shared,
                output_tokens=max(1, call.tokens.output),
                inputs=tuple(dict.fromkeys(names[producer] for producer in producers)),
                duration_s=None if done_s is None else round(done_s - call.times.submitted_s, 6),
            )
        )
    if not calls:
        raise ConfigError("no call of this session has ended well; there is nothing to record")
    return Trace(session_id=graph.session_id, calls=tuple(calls))


def read_trace(value: object) -> Trace:
    """The inverse of `Trace.to_json`.

    Raises:
        ConfigError: it is not a trace.
    """
    try:
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            raise ConfigError(f"this is not a trace of format {FORMAT}", param="trace")
        calls = tuple(_read_call(call) for call in value["calls"])
        return Trace(session_id=str(value["session_id"]), calls=calls)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"this is not a trace: {type(error).__name__}: {error}", param="trace") from None


def _read_call(call: Mapping[str, Any]) -> TraceCall:
    read = TraceCall(**{**call, "inputs": tuple(call.get("inputs", ()))})
    if min(read.prompt_tokens, read.shared_tokens) < 0 or read.output_tokens < 1:
        raise ValueError(f"{read.name!r} has counts of tokens that cannot be")
    return read


def replay(trace: Trace, rng: Random | None = None) -> Application:
    """The traced application, with marks for its texts: each call as long as it was, reading what it read.

    Calls that were submitted before any call submitted with them had ended are a round; a later submission
    waits for the round before as a whole, as its client may have done. Texts are drawn from `rng`; without it
    they are the same each time.

    Raises:
        ConfigError: the trace's calls do not fit together.
    """
    outputs = {call.name: call.output_tokens for call in trace.calls}
    seeds = text_seeds(rng or stream(0, trace.session_id))
    rounds: list[list[AppCall]] = [[]]
    first_end_s = math.inf
    known: set[str] = set()
    for call in sorted(trace.calls, key=lambda each: each.submitted_s):
        unknown = [name for name in call.inputs if name not in outputs]
        if unknown or call.name in known:
            what = f"reads {unknown[0]!r}, which is not in it" if unknown else "comes twice"
            raise ConfigError(f"the trace's call {call.name!r} {what}", param="trace")
        known.add(call.name)
        read = sum(outputs[name] for name in call.inputs)
        shared = min(call.shared_tokens, max(0, call.prompt_tokens - read))
        own = max(0, call.prompt_tokens - read - shared)
        prompt: list[Piece] = []
        if shared:
            prompt.append(Text(num_tokens=shared, seed=_PREFIX_SEED))
        prompt.extend(Ref(call=name) for name in call.inputs)
        if own or not prompt:
            prompt.append(Text(num_tokens=max(1, own), seed=seeds()))
        if call.submitted_s >= first_end_s:
            rounds.append([])
            first_end_s = math.inf
        if call.duration_s is not None:
            first_end_s = min(first_end_s, call.submitted_s + call.duration_s)
        rounds[-1].append(AppCall(name=call.name, prompt=tuple(prompt), num_output_tokens=call.output_tokens))
    return Application(kind="trace", rounds=tuple(map(tuple, rounds)))
