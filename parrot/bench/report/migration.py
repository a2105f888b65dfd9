"""One application in several versions, and what each step gains."""

from parrot.bench.report import prose
from parrot.bench.report.files import Found, Results
from parrot.bench.report.markdown import code, median_text, number, section, spread_text, table


def migration(results: Results) -> str:
    """The section."""
    if not results.migration:
        return ""
    file = results.migration[-1]
    content = file.content
    told = prose.MIGRATION.format(calls=content["num_calls"], service=content["service"], file=file.name)
    headers = [
        "version",
        "round trip, ms",
        "s",
        "gain",
        "requests",
        "round trips",
        "prefilled",
        "measured by",
    ]
    left_out = [f"{one['version']} was left out: {one['reason']}." for one in content["skipped"]]
    rows = [_row(one, content["command"]) for one in content["summaries"]]
    return section("From a loop to a graph", told, table(headers, rows), *left_out)


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
