"""An application as data: its calls and what flows between them. Written once, run in two ways
(`clients.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from parrot.sim.engine import MODEL
from parrot.sim.tokens import mark
from parrot.types.objective import Objective


class Text(Struct, frozen=True, kw_only=True):
    """A piece of a prompt that is known from the start."""

    num_tokens: int
    seed: int
    """Equal seeds, equal text."""


class Ref(Struct, frozen=True, kw_only=True):
    """The output of another call."""

    call: str


Piece = Text | Ref


class AppCall(Struct, frozen=True, kw_only=True):
    """One call: pieces of a prompt, then one output."""

    name: str
    prompt: tuple[Piece, ...]
    """A semantic-variable boundary lies after each piece."""
    num_output_tokens: int

    @property
    def needs(self) -> tuple[str, ...]:
        """The calls whose outputs it reads, each once, in order."""
        return tuple(dict.fromkeys(piece.call for piece in self.prompt if isinstance(piece, Ref)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """One run of an application.

    `rounds` are groups of calls that its client submits one after the other, each when the one before has
    ended as a whole; most applications have one.
    """

    kind: str
    rounds: tuple[tuple[AppCall, ...], ...]
    objective: Objective | None = "latency"
    """How its user waits for the final outputs; None leaves it unsaid."""

    @property
    def calls(self) -> Iterator[AppCall]:
        """All its calls in order."""
        return (call for calls in self.rounds for call in calls)

    @property
    def num_calls(self) -> int:
        """How many calls it makes."""
        return sum(map(len, self.rounds))

    def finals(self) -> tuple[str, ...]:
        """Calls whose outputs no other call reads: what the user waits for."""
        read = {name for call in self.calls for name in call.needs}
        return tuple(call.name for call in self.calls if call.name not in read)


def call_json(call: AppCall, values: Mapping[str, str]) -> dict[str, Any]:
    """A call as clients send it. Outputs found in `values` are written into the prompt, others are linked."""
    template: list[str] = []
    parameters: dict[str, Any] = {}
    for index, piece in enumerate(call.prompt):
        if isinstance(piece, Text) and index == 0:
            template.append(mark(piece.num_tokens, piece.seed))
            continue
        name = f"p{index}"
        template.append(f"{{{{{name}}}}}")
        if isinstance(piece, Text):
            parameters[name] = {"value": mark(piece.num_tokens, piece.seed)}
        elif piece.call in values:
            parameters[name] = {"value": values[piece.call]}
        else:
            parameters[name] = {"variable": piece.call}
    template.append("{{out}}")
    sampling = {"max_tokens": call.num_output_tokens, "ignore_eos": True}
    parameters["out"] = {"output": {"variable": call.name, "sampling": sampling}}
    return {"name": call.name, "model": MODEL, "template": "".join(template), "parameters": parameters}


def check_application(calls: Sequence[AppCall]) -> None:
    """Refuse names that come twice, reads of calls that are not there or come later, empty prompts."""
    known: set[str] = set()
    for call in calls:
        if call.name in known:
            raise ValueError(f"two calls are named {call.name!r}")
        unknown = [name for name in call.needs if name not in known]
        if unknown:
            raise ValueError(f"{call.name!r} reads {unknown[0]!r}, which does not come before it")
        if not call.prompt or call.num_output_tokens < 1:
            raise ValueError(f"{call.name!r} has no prompt or no output")
        known.add(call.name)
