"""The paper's figures: the paper's ratios, the simulator's, and what is measured on this machine."""

from collections.abc import Sequence

from parrot.bench.report import prose
from parrot.bench.report.apps import Comparison, comparisons
from parrot.bench.report.files import Found, Results
from parrot.bench.report.markdown import number, section, spread_text, table

FIGURES_OF = {
    "chain": ("11a", "11b"),
    "chain-background": ("12a",),
    "mapreduce": ("13a", "13b"),
    "copilot": ("14", "15a", "15b"),
    "gpts": ("16",),
    "gpts-rate": ("16",),
    "agents": ("17",),
    "chat-mapreduce": ("18",),
}
"""Which workload on real processes is that of which figures."""


def paper(results: Results) -> str:
    """The section."""
    if not results.paper:
        return ""
    content = results.paper[-1].content
    figures: Sequence[Found] = content["figures"]
    about = prose.PAPER.format(tolerance=f"{content['tolerance']:.0%}")
    points = [row for figure in figures for row in figure["rows"] if row["paper"] is not None]
    agree = sum(bool(row["agrees"]) for row in points)
    summary = f"{agree} of {len(points)} points agree."
    return section(
        "The paper's figures",
        about,
        summary,
        _real(results, figures),
        *(_figure(figure) for figure in figures),
    )


def fair(results: Results) -> str:
    """The fair set, simulated."""
    if not results.paper or not results.paper[-1].content.get("fair"):
        return ""
    content = results.paper[-1].content
    rows: Sequence[Found] = content["fair"]
    againsts = list(dict.fromkeys(row["against"] for row in rows))
    ratios = {(row["app"], row["round_trip_s"], row["against"]): row["ratio"] for row in rows}
    keys = list(dict.fromkeys((row["app"], row["round_trip_s"]) for row in rows))
    cells = [
        [app, f"{trip * 1000:g} ms", *(number(ratios.get((app, trip, one))) for one in againsts)]
        for app, trip in keys
    ]
    behind = [
        f"{app} at {trip * 1000:g} ms against {one}"
        for (app, trip, one), ratio in ratios.items()
        if ratio < 0.97
    ]
    said = f"Behind by more than 3 %: {'; '.join(behind)}." if behind else "Nowhere behind by more than 3 %."
    return section(
        "The fair set, simulated",
        prose.FAIR,
        table(["application", "round trip", *(f"against {one}" for one in againsts)], cells),
        said,
    )


def ablations(results: Results) -> str:
    """What each ingredient brings."""
    if not results.ablations:
        return ""
    content = results.ablations[-1].content
    rows: Sequence[Found] = content["rows"]
    if not rows:
        return ""
    keys = list(rows[0])
    cells = [[number(row.get(key)) for key in keys] for row in rows]
    return section(
        "Ablations, simulated",
        f"{content['note']} Measured by `parrot sim ablations`.",
        table(keys, cells),
        "![What each ingredient brings](results/sim-ablations.svg)",
    )


def _real(results: Results, figures: Sequence[Found]) -> str:
    """The paper's, the simulated and the measured ratios side by side."""
    measured = [one for one in comparisons(results) if one.work["work"] in FIGURES_OF]
    rows = []
    for one in measured:
        mine = [f for f in figures if f["figure"] in FIGURES_OF[one.work["work"]]]
        if mine:
            theirs, ours = _ranges(mine)
            rows.append([", ".join(f["figure"] for f in mine), one.work["work"], theirs, ours, *_cells(one)])
    if not rows:
        return ""
    headers = ["figures", "workload", "paper", "simulated", "measured here", "against", "round trip"]
    return f"{prose.BESIDE}\n\n{table(headers, rows)}"


def _cells(one: Comparison) -> list[str]:
    return [spread_text(one.ratio["speedup"]), one.side, f"{one.work['rtt_s'] * 1000:g} ms"]


def _ranges(figures: Sequence[Found]) -> tuple[str, str]:
    rows = [row for figure in figures for row in figure["rows"]]
    return _range([row["paper"] for row in rows]), _range([row["ours"] for row in rows])


def _range(values: Sequence[float | None]) -> str:
    present = [value for value in values if value is not None]
    return f"{number(min(present))}–{number(max(present))}" if present else "–"


def _figure(figure: Found) -> str:
    title = f"### Figure {figure['figure']}: {figure['title']}"
    if figure["state"] != "run":
        return f"{title}\n\nNot run: {figure['state']}. {figure.get('note') or ''}".rstrip()
    rows = [
        [
            number(row["point"]),
            row["against"],
            number(row["paper"]),
            number(row["ours"]),
            "–" if row["paper"] is None else ("yes" if row["agrees"] else "no"),
        ]
        for row in figure["rows"]
    ]
    note = f"\n\n{figure['note']}." if figure.get("note") else ""
    grid = table([figure["varies"], "against", "paper", "ours", "agrees"], rows)
    return f"{title}\n\n{grid}{note}\n\n![Figure {figure['figure']}](results/sim-{figure['figure']}.svg)"
