"""What the demo says at its end: what each way took, and what serving whole applications saved."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from parrot.cli.demo.applications import APPLICATIONS
from parrot.cli.demo.measure import WAYS, Measured, Way
from parrot.cli.timeline import timeline_lines

COLUMNS = ("calls", "trips", "seconds", "prefilled", "shared", "ahead", "generated")
WIDTHS = (6, 6, 9, 10, 8, 8, 10)
DRAWN = "coding_team"
"""The application whose timeline is drawn."""
ROW_TITLES: dict[Way, str] = {
    "application": "as an application",
    "cached": "single, cached",
    "alone": "single, unshared",
}


def summarise(runs: Sequence[Measured]) -> dict[tuple[str, Way], Measured]:
    """One result for each application and way: the run of median duration."""
    found: dict[tuple[str, Way], Measured] = {}
    for application in APPLICATIONS:
        for way in WAYS:
            same = sorted(
                (run for run in runs if run.application == application.name and run.way == way),
                key=lambda run: run.duration_s,
            )
            if same:
                found[application.name, way] = same[(len(same) - 1) // 2]
    return found


def report_lines(runs: Sequence[Measured], *, note: str | None) -> Iterator[str]:
    """The report, in 80 columns."""
    results = summarise(runs)
    yield _row("", COLUMNS)
    for application in APPLICATIONS:
        yield application.title
        for way in WAYS:
            run = results.get((application.name, way))
            if run is not None:
                yield _row(f"  {ROW_TITLES[way]}", _cells(run))
    yield ""
    yield from _timeline(results)
    yield "saved in all, by giving whole applications to the service"
    for way in WAYS[1:]:
        yield saved_line(results, way)
    yield ""
    repeats = len(runs) // max(1, len(results))
    counted = f"medians of {repeats} runs each" if repeats > 1 else "one run each"
    yield f"Same engine, same prompts, same output lengths; {counted}, in the"
    yield "order of the rows. trips: times the client asks and waits. prefilled: prompt"
    yield "tokens computed. shared: those that were there. ahead: shared ones that had been"
    yield "computed while other inputs were being made. single: one request a call,"
    yield "independent ones at once. cached: common prefixes are found all the same."
    yield "unshared: no two begin alike."
    if note:
        yield note


def _timeline(results: Mapping[tuple[str, Way], Measured]) -> Iterator[str]:
    run = results.get((DRAWN, "application"))
    if run is None or run.graph is None:
        return
    (title,) = (application.title for application in APPLICATIONS if application.name == DRAWN)
    yield f"{title}, as an application (▸ critical path)"
    yield from timeline_lines(run.graph)
    yield ""


def saved_line(results: Mapping[tuple[str, Way], Measured], way: Way) -> str:
    """What all applications together saved against one of the other ways."""
    ours, theirs = _total(results, "application"), _total(results, way)
    saved_s = theirs["duration_s"] - ours["duration_s"]
    ratio = f"{theirs['duration_s'] / ours['duration_s']:.2f}x" if ours["duration_s"] else ""
    saved = {key: f"{theirs[key] - ours[key]:,.0f}" for key in ("prefilled", "round_trips")}
    return (
        f"{f'  against {ROW_TITLES[way]}':<30}{saved_s:>8.2f} s {ratio:>7}"
        f"{saved['prefilled']:>11} tokens{saved['round_trips']:>8} trips"
    )


def report_data(runs: Sequence[Measured]) -> dict[str, object]:
    """The report as JSON values; `runs` has every run, in the order in which they were made."""
    results = summarise(runs)
    ours = _total(results, "application")
    return {
        "order": list(WAYS),
        "runs": [_plain(run) for run in runs],
        "total": {way: _total(results, way) for way in WAYS},
        "saved": {
            way: {key: round(value - ours[key], 6) for key, value in _total(results, way).items()}
            for way in WAYS[1:]
        },
        "graphs": {
            run.application: run.graph.model_dump(mode="json") for run in results.values() if run.graph
        },
    }


def _row(title: str, cells: Sequence[str]) -> str:
    return f"{title:<22}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


def _cells(run: Measured) -> tuple[str, ...]:
    return (
        f"{run.num_calls:,}",
        f"{run.num_round_trips:,}",
        f"{run.duration_s:.2f}",
        f"{run.num_prefilled_tokens:,}",
        f"{run.num_shared_tokens:,}",
        f"{run.num_ahead_tokens:,}",
        f"{run.num_output_tokens:,}",
    )


def _plain(run: Measured) -> dict[str, object]:
    return {field.name: getattr(run, field.name) for field in fields(run) if field.name != "graph"}


def _total(results: Mapping[tuple[str, Way], Measured], way: Way) -> dict[str, float]:
    runs = [run for (_, its_way), run in results.items() if its_way == way]
    return {
        "duration_s": sum(run.duration_s for run in runs),
        "round_trips": sum(run.num_round_trips for run in runs),
        "prefilled": sum(run.num_prefilled_tokens for run in runs),
        "shared": sum(run.num_shared_tokens for run in runs),
        "ahead": sum(run.num_ahead_tokens for run in runs),
        "generated": sum(run.num_output_tokens for run in runs),
    }
