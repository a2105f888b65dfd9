"""LangChain's patterns, eager and lazy."""

from parrot.bench.report import prose
from parrot.bench.report.files import Found, Results
from parrot.bench.report.markdown import number, section, spread_text, table

_HEADERS = ("pattern", "round trip", "calls", "edges", "eager", "lazy", "gain", "prefilled, eager", "lazy")


def langchain(results: Results) -> str:
    """The section."""
    if not results.langchain:
        return ""
    file = results.langchain[-1]
    content = file.content
    text = prose.LANGCHAIN.format(
        engine=content["engine"],
        file=file.name,
        max_tokens=content["max_tokens"],
        runs=content["runs"],
        command=content["command"],
    )
    return section(
        "LangChain, eager and lazy", text, table(_HEADERS, [_row(one) for one in content["patterns"]])
    )


def _row(one: Found) -> list[str]:
    return [
        one["pattern"],
        f"{one['rtt_s'] * 1000:g} ms",
        number(one["num_calls"]),
        number(one["num_edges"]),
        spread_text(one["eager"]["seconds"]),
        spread_text(one["lazy"]["seconds"]),
        f"**{spread_text(one['gain'])}**",
        number(one["eager"]["prefilled_tokens"], 0),
        number(one["lazy"]["prefilled_tokens"], 0),
    ]
