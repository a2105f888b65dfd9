"""The few figures that README.md shows between two marks, from the same result files as the page."""

from parrot.bench.report.apps import OWN, Comparison, comparisons
from parrot.bench.report.files import Results
from parrot.bench.report.markdown import median_text, number, spread_text, table
from parrot.bench.report.migration import gains
from parrot.errors import ConfigError

BEGIN = "<!-- measured: made by `parrot bench report` -->"
END = "<!-- measured: end -->"


def headline(results: Results) -> str:
    """Applications against each peer, then engine and control plane, as Markdown."""
    closed = [one for one in comparisons(results) if one.work.get("rate") is None and one.side != OWN]
    parts = [_applications(closed, side) for side in sorted({one.side for one in closed}, reverse=True)]
    return "\n\n".join(part for part in (*parts, _engine(results), _control(results)) if part)


def with_headline(readme: str, results: Results) -> str:
    """README with the figures of these results.

    Raises:
        ConfigError: it lacks a mark.
    """
    return _between(readme, headline(results), "--readme")


def with_gains(tutorial: str, results: Results) -> str:
    """The page on migrating with what each step gained.

    Raises:
        ConfigError: it lacks a mark.
    """
    return _between(tutorial, gains(results), "--tutorial")


def _between(page: str, text: str, param: str) -> str:
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"the page lacks {BEGIN} or {END}", param=param)
    return f"{head}{begin}\n{text}\n{end}{tail}"


def _applications(found: list[Comparison], side: str) -> str:
    ours = [one for one in found if one.side == side]
    rtts = sorted({one.work["rtt_s"] for one in ours})
    rows = []
    for work in dict.fromkeys(one.work["work"] for one in ours):
        cells: list[object] = [work]
        for rtt_s in rtts:
            one = next((o for o in ours if o.work["work"] == work and o.work["rtt_s"] == rtt_s), None)
            if one is None:
                cells += ["–"] * 3
            else:
                cells += [median_text(one.of("parrot")["jct_s"]), median_text(one.of(side)["jct_s"])]
                cells.append(f"**{spread_text(one.ratio['speedup'])}**")
        rows.append(cells)
    headers = ["application"]
    for rtt_s in rtts:
        at = f"at {rtt_s * 1000:g} ms"
        headers += [f"Parrot, s, {at}", f"{side}, s, {at}", "times as fast"]
    return table(headers, rows)


def _engine(results: Results) -> str:
    if not results.engine:
        return ""
    content = results.engine[-1].content
    prefill = {one["num_tokens"]: one["tokens_per_s"] for one in content["prefill"]}
    decode = {
        (one["batch"], one["context_tokens"]): one["tokens_per_s"]
        for one in content["decode"]
        if one["attention"] == "shared" and one["prefix"] == "shared"
    }
    rows = [[f"prefill of {number(n)} tokens", median_text(v, digits=0)] for n, v in prefill.items()]
    rows += [
        [f"decoding {batch} at once, after {number(context)} shared tokens", median_text(v, digits=0)]
        for (batch, context), v in decode.items()
        if batch in (1, 32)
    ]
    return table([f"the engine by itself ({content['model']})", "tokens a second"], rows)


def _control(results: Results) -> str:
    for file in reversed(results.control):
        batches, chain = file.content.get("batches"), file.content.get("chain")
        if batches and chain:
            added = chain["added_s"]
            return (
                f"The control plane by itself: {number(batches['calls_per_s']['median'], 0)} calls a second "
                f"over HTTP; a dependent call starts {number(added['p50'] * 1000)} ms after its input is "
                f"there ({number(added['p99'] * 1000)} ms at the 99th percentile)."
            )
    return ""
