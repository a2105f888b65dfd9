"""One application in several versions, and what each step gains."""

from parrot.bench.report import prose
from parrot.bench.report.files import Found, ResultFile, Results
from parrot.bench.report.markdown import code, median_text, number, section, spread_text, table

HEADERS = ("version", "round trip, ms", "s", "gain", "requests", "round trips", "prefilled", "measured by")

QUIET_LOAD = 1.0
"""Processes that wanted a processor before a measurement: more disturb its seconds."""


def migration(results: Results) -> str:
    """The section; of each round trip the newest measurement."""
    newest: dict[float, ResultFile] = {}
    for file in results.migration:
        newest.update(dict.fromkeys((one["rtt_s"] for one in file.content["summaries"]), file))
    if not newest:
        return ""
    file = newest[min(newest)]
    files = " and ".join(dict.fromkeys(code(newest[rtt_s].name) for rtt_s in sorted(newest)))
    content = file.content
    told = prose.MIGRATION.format(calls=content["num_calls"], service=content["service"], files=files)
    rows = [
        _row(one, newest[rtt_s].content["command"])
        for rtt_s in sorted(newest)
        for one in newest[rtt_s].content["summaries"]
        if one["rtt_s"] == rtt_s
    ]
    loads = {one.content["load_average"] for one in newest.values()}
    busy = prose.BUSY.format(load=number(max(loads), 1)) if max(loads) > QUIET_LOAD else ""
    left_out = [f"{one['version']} was left out: {one['reason']}." for one in content["skipped"]]
    return section("From a loop to a graph", told, table(HEADERS, rows), busy, *left_out)


def gains(results: Results) -> str:
    """The newest measurement as a table for the tutorial."""
    if not results.migration:
        return ""
    rows = [_row(one, "")[:-1] for one in results.migration[-1].content["summaries"]]
    return table(HEADERS[:-1], rows)


def _row(one: Found, command: str) -> list[object]:
    return [
        one["title"],
        number(one["rtt_s"] * 1000, 0),
        spread_text(one["seconds"]),
        f"{number(one['gain'])} ×",
        median_text(one["num_requests"], digits=0),
        median_text(one["num_round_trips"], digits=0),
        spread_text(one["prefilled_tokens"], digits=0),
        code(command),
    ]
