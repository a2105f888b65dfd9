"""How fast the scheduler decides and the simulator simulates."""

from collections.abc import Sequence

from parrot.bench.report import prose
from parrot.bench.report.files import Found, Results, newest_sections
from parrot.bench.report.markdown import code, number, section, spread_text, table
from parrot.bench.report.targets import (
    LIVE_GROWTH,
    ROUND_OF_ALL_S,
    ROUND_OF_ONE_S,
    SIMULATED_CALLS_PER_S,
    Target,
)


def speed(results: Results) -> str:
    """The section."""
    if not results.speed:
        return ""
    content, names = newest_sections(results.speed, ("rounds", "simulated", "together", "live", "long"))
    commands = {
        kind: code(file.content["command"])
        for file in results.speed
        for kind in content
        if file.content.get(kind)
    }
    rows = [
        [*row, commands[kind]]
        for kind, found in (
            ("rounds", _rounds(content["rounds"] or {})),
            ("simulated", _simulated(content["simulated"] or ())),
            ("together", _together(content["together"] or ())),
            ("long", _long(content["long"] or ())),
            ("live", _live(content["live"] or ())),
        )
        for row in found
    ]
    return section(
        "Scheduler and simulator",
        prose.SPEED.format(file=", ".join(names)),
        table(["what", "median (min–max)", "target", "", "measured by"], rows),
    )


def _rounds(rounds: Found) -> list[list[object]]:
    if not rounds:
        return []
    size = f"{number(rounds['num_waiting'])} calls waiting, {number(rounds['num_engines'])} engines"
    return [
        _round(f"a round in which one call changed, {size}, ms", rounds["one_changed_s"], ROUND_OF_ONE_S),
        _round(f"a round that places all, {size}, ms", rounds["all_placed_s"], ROUND_OF_ALL_S),
    ]


def _simulated(simulated: Sequence[Found]) -> list[list[object]]:
    return [
        _per_second(f"{number(one['num_engines'])} engines, one processor", one, one["calls_per_cpu_s"])
        for one in simulated
    ]


def _together(together: Sequence[Found]) -> list[list[object]]:
    fleet = "{num_engines} engines, {num_processes} simulations together"
    return [_per_second(fleet.format(**one), one, one["calls_per_real_s"]) for one in together]


def _per_second(fleet: str, one: Found, calls: float) -> list[object]:
    return [
        f"simulated calls a second, {one['app']}, {fleet}",
        number(calls, 0),
        SIMULATED_CALLS_PER_S.text(),
        SIMULATED_CALLS_PER_S.verdict(calls),
    ]


def _long(runs: Sequence[Found]) -> list[list[object]]:
    return [
        [
            f"peak memory of {number(run['num_calls'])} simulated calls, MiB",
            number(run["rss_bytes"] / 2**20, 0),
            "–",
            "",
        ]
        for run in runs
    ]


def _live(live: Sequence[Found]) -> list[list[object]]:
    rows: list[list[object]] = [
        [
            f"processor time of a call beside {number(one['num_live'])} live calls, ms",
            number(one["cpu_s_per_call"] * 1000),
            "–",
            "",
        ]
        for one in live
    ]
    if len(live) > 1:
        first, last = live[0], live[-1]
        ratio = last["cpu_s_per_call"] / first["cpu_s_per_call"]
        rows.append(
            ["the last over the first", number(ratio), LIVE_GROWTH.text(), LIVE_GROWTH.verdict(ratio)]
        )
    return rows


def _round(name: str, seconds: dict[str, float], target: Target) -> list[object]:
    bound = f"≤ {number(target.bound * 1000, 0)}"
    return [name, spread_text(seconds, times=1000), bound, target.verdict(seconds["median"])]
