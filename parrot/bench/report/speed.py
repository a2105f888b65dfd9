"""How fast the scheduler decides and the simulator simulates."""

from parrot.bench.report import prose
from parrot.bench.report.files import Results
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
    file = results.speed[-1]
    content, rounds = file.content, file.content["rounds"]
    size = f"{number(rounds['num_waiting'])} calls waiting, {number(rounds['num_engines'])} engines"
    rows: list[list[object]] = [
        _round(f"a round in which one call changed, {size}, ms", rounds["one_changed_s"], ROUND_OF_ONE_S),
        _round(f"a round that places all, {size}, ms", rounds["all_placed_s"], ROUND_OF_ALL_S),
    ]
    rows += [
        [
            f"simulated calls a second, {one['app']}, {number(one['num_engines'])} engines",
            number(one["calls_per_cpu_s"], 0),
            SIMULATED_CALLS_PER_S.text(),
            SIMULATED_CALLS_PER_S.verdict(one["calls_per_cpu_s"]),
        ]
        for one in content["simulated"]
    ]
    rows += [
        [
            f"processor time of a call beside {number(one['num_live'])} live calls, ms",
            number(one["cpu_s_per_call"] * 1000),
            "–",
            "",
        ]
        for one in content["live"]
    ]
    if len(content["live"]) > 1:
        first, last = content["live"][0], content["live"][-1]
        ratio = last["cpu_s_per_call"] / first["cpu_s_per_call"]
        rows.append(
            ["the last over the first", number(ratio), LIVE_GROWTH.text(), LIVE_GROWTH.verdict(ratio)]
        )
    command = code(content["command"])
    return section(
        "Scheduler and simulator",
        prose.SPEED.format(file=file.name),
        table(["what", "median (min–max)", "target", "", "measured by"], [[*row, command] for row in rows]),
    )


def _round(name: str, seconds: dict[str, float], target: Target) -> list[object]:
    bound = f"≤ {number(target.bound * 1000, 0)}"
    return [name, spread_text(seconds, times=1000), bound, target.verdict(seconds["median"])]
