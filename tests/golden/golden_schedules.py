"""Small workloads and the exact schedule that each must give.

`python tests/golden/golden_schedules.py` writes the files beside this one anew; read what it changed.

A file has one line for each call: which engine, since when, until when, how much was shared, and why.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from parrot.core.policies import POLICIES
from parrot.sim.application import AppCall, Application, Ref, Text
from parrot.sim.clients import ClientKind, Measured
from parrot.sim.cost import PRESETS
from parrot.sim.engine import SimulatedConfig
from parrot.sim.simulation import Job, SimulationConfig, simulate

DIRECTORY = Path(__file__).resolve().parent
SYSTEM = Text(num_tokens=1000, seed=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A workload and a setting."""

    name: str
    jobs: tuple[Job, ...]
    policy: str
    client: ClientKind = "graph"
    num_engines: int = 2
    kv_tokens: int = 16_000

    @property
    def path(self) -> Path:
        """Where its schedule is written."""
        return DIRECTORY / f"schedule-{self.name}.json"


def own(seed: int, num_tokens: int = 200) -> Text:
    """Text that no other call has."""
    return Text(num_tokens=num_tokens, seed=1000 + seed)


def chain(kind: str, seed: int, length: int = 3) -> Application:
    """Each call reads the one before."""
    calls = tuple(
        AppCall(
            name=f"{kind}_{i}",
            prompt=(SYSTEM, *((Ref(call=f"{kind}_{i - 1}"),) if i else ()), own(seed + i)),
            num_output_tokens=20,
        )
        for i in range(length)
    )
    return Application(kind=kind, rounds=(calls,))


def map_reduce(seed: int, width: int = 6) -> Application:
    """`width` maps, one reduce."""
    maps = tuple(
        AppCall(name=f"map_{i}", prompt=(own(-1, 40), own(seed + i)), num_output_tokens=10 + i)
        for i in range(width)
    )
    reads = tuple(Ref(call=each.name) for each in maps)
    reduce = AppCall(name="reduce", prompt=(own(-2, 30), *reads), num_output_tokens=20)
    return Application(kind="mapreduce", rounds=((*maps, reduce),))


def diamond(seed: int) -> Application:
    """One call, two that read it, one that reads both."""
    return Application(
        kind="diamond",
        rounds=(
            (
                AppCall(name="top", prompt=(SYSTEM, own(seed)), num_output_tokens=30),
                AppCall(name="left", prompt=(SYSTEM, Ref(call="top"), own(seed + 1)), num_output_tokens=10),
                AppCall(name="right", prompt=(SYSTEM, Ref(call="top"), own(seed + 2)), num_output_tokens=40),
                AppCall(name="join", prompt=(Ref(call="left"), Ref(call="right")), num_output_tokens=10),
            ),
        ),
    )


def mixed() -> tuple[Job, ...]:
    """Chains, a map-reduce and a diamond that meet on the engines."""
    return (
        Job(at_s=0.0, application=chain("first", 0)),
        Job(at_s=0.1, application=map_reduce(100)),
        Job(at_s=0.3, application=chain("second", 200)),
        Job(at_s=0.35, application=diamond(300)),
    )


def crowd() -> tuple[Job, ...]:
    """More than an engine's memory holds at a time, so that requests give way to each other."""
    return tuple(Job(at_s=0.2 * i, application=map_reduce(100 * i, width=8)) for i in range(4))


CASES: tuple[Case, ...] = (
    *(Case(name=f"mixed-{policy}", jobs=mixed(), policy=policy) for policy in POLICIES),
    Case(name="requests-fifo", jobs=mixed(), policy="fifo", client="requests"),
    *(Case(name=f"crowd-{policy}", jobs=crowd(), policy=policy, kv_tokens=1600) for policy in POLICIES),
)


def schedule(case: Case) -> str:
    """The case's schedule as JSON text, a line for each call."""
    preset = PRESETS["a100-80g-13b"]
    engine = SimulatedConfig(
        cost=preset.cost(), num_blocks=case.kv_tokens // 16, max_batch=8, step_tokens=512
    )
    config = SimulationConfig(
        engines=(engine,) * case.num_engines,
        policy=case.policy,
        client=case.client,
        round_trip=0.2,
        with_calls=True,
    )
    found: list[Measured] = []
    simulate(config, case.jobs, observe=found.append)
    lines = [
        json.dumps(line, ensure_ascii=False)
        for measured in sorted(found, key=lambda each: (each.began_at_s, each.kind))
        for line in _lines(measured)
    ]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _lines(measured: Measured) -> Iterator[Mapping[str, object]]:
    assert measured.error is None, measured.error
    for call in measured.calls:
        times = call.times
        yield {
            "at": round(measured.began_at_s, 6),
            "call": call.name,
            "engine": call.engine_id,
            "ready": times.ready_s,
            "placed": times.placed_s,
            "first": times.first_token_s,
            "done": times.done_s,
            "prompt": call.tokens.prompt,
            "shared": call.tokens.shared,
            "objective": call.objective,
            "group": call.task_group,
            "why": call.why,
        }


def main() -> None:
    """Write every case's file."""
    for case in CASES:
        case.path.write_text(schedule(case), encoding="utf-8")


if __name__ == "__main__":
    main()
