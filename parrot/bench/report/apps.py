"""Applications: Parrot and base lines on the same machine."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from parrot.bench.report import prose
from parrot.bench.report.files import Found, Results
from parrot.bench.report.markdown import code, median_text, number, section, spread_text, table
from parrot.bench.report.targets import OVER_LLAMACPP, SPEEDUPS, Target

OWN = "parrot-completions"
"""Parrot's own completions API, driven by a client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Parrot and one base line on one workload, in one file."""

    work: Found
    ratio: Found
    file: str
    command: str
    source: Found

    @property
    def side(self) -> str:
        """The base line."""
        return str(self.ratio["side"])

    @property
    def key(self) -> tuple[str, float, float | None, str]:
        """What is compared: workload, round trip, rate, base line."""
        return self.work["work"], self.work["rtt_s"], self.work.get("rate"), self.side

    def of(self, side: str) -> Found:
        """A side's summary."""
        found: Found = next(one for one in self.work["sides"] if one["side"] == side)
        return found

    @property
    def target(self) -> Target | None:
        """What the project wants against vLLM and llama.cpp on a processor."""
        work, rtt_s = self.work["work"], self.work["rtt_s"]
        if self.source.get("plan", {}).get("scale", 1.0) != 1.0:
            return None
        if self.side.startswith("llamacpp"):
            return OVER_LLAMACPP.get(work) if rtt_s == 0 else None
        targets = SPEEDUPS.get(work) if self.side.startswith("vllm") else None
        if targets is None:
            return None
        if rtt_s == 0:
            return targets[0]
        return targets[1] if abs(rtt_s - 0.25) < 0.01 else None


def comparisons(results: Results) -> list[Comparison]:
    """The newest of each comparison, applications before what arrives by rate."""
    newest: dict[object, Comparison] = {}
    for file in results.apps:
        for work in file.content["works"]:
            for ratio in work["ratios"]:
                one = Comparison(
                    work=work,
                    ratio=ratio,
                    file=file.name,
                    command=re.sub(r"--work \S+", f"--work {work['work']}", file.content["command"]),
                    source=file.content,
                )
                newest[one.key] = one
    order = [*SPEEDUPS]
    return sorted(
        newest.values(),
        key=lambda one: (
            one.work.get("rate") or 0.0,
            one.side == OWN,
            one.side,
            one.work["rtt_s"],
            order.index(one.work["work"]) if one.work["work"] in order else len(order),
        ),
    )


def applications(results: Results) -> str:
    """The section."""
    found = comparisons(results)
    if not found:
        return ""
    closed = [one for one in found if one.work.get("rate") is None]
    return section(
        "Applications",
        prose.APPLICATIONS,
        _times(closed),
        "![Job completion times](results/apps.svg)" if closed else "",
        prose.TOKENS,
        _tokens(closed),
        _losses(found),
    )


def serving(results: Results) -> str:
    """The section on work that arrives by rate."""
    found = [one for one in comparisons(results) if one.work.get("rate") is not None]
    if not found:
        return ""
    bounds = {one.source["plan"]["bound_s"] for one in found}
    told = " or ".join(number(bound * 1000) for bound in sorted(bounds))
    return section(
        "Work that arrives by rate", prose.SERVING.format(bound=told), _streams(found), _goodput(found)
    )


def baselines(results: Results) -> str:
    """The section on how base lines were set up."""
    rows = []
    for file in results.apps[-6:]:
        for server in file.content["servers"]:
            settings = "; ".join(f"{name}: {value}" for name, value in server["settings"].items())
            rows.append([server["name"], settings or "it tells nothing", code(file.name)])
    if not rows:
        return ""
    return section("Base lines", prose.BASELINES, table(["server", "settings", "file"], _distinct(rows)))


def _times(found: list[Comparison]) -> str:
    rows = []
    for one in found:
        target = one.target
        rows.append(
            [
                one.work["work"],
                f"{one.work['rtt_s'] * 1000:g} ms",
                one.side,
                spread_text(one.of("parrot")["jct_s"]),
                spread_text(one.of(one.side)["jct_s"]),
                f"**{spread_text(one.ratio['speedup'])}**",
                "–" if target is None else target.text(),
                "–" if target is None else target.verdict(one.ratio["speedup"]["median"]),
                code(one.command),
            ]
        )
    headers = ["workload", "round trip", "base line", "Parrot, s", "base line, s", "ratio", "target", ""]
    return table([*headers, "measured by"], rows) if rows else ""


def _tokens(found: list[Comparison]) -> str:
    rows = []
    for one in found:
        for side in ("parrot", one.side):
            summary = one.of(side)
            rows.append(
                [
                    one.work["work"],
                    f"{one.work['rtt_s'] * 1000:g} ms",
                    side,
                    median_text(summary["hit_rate"], times=100, digits=0) + " %"
                    if summary["hit_rate"]
                    else "–",
                    median_text(summary["prefilled_tokens"], digits=0),
                    number(summary["peak_kv_tokens"]),
                    median_text(summary["output_tokens_per_s"], digits=1),
                    median_text(summary["ttft_s"], times=1000, digits=0),
                    median_text(summary["tpot_s"], times=1000, digits=1),
                    median_text(summary["normalised_latency_s"], times=1000, digits=1),
                ]
            )
    headers = ["workload", "round trip", "side", "cached", "prefilled", "peak KV", "output tokens/s"]
    return table([*headers, "TTFT, ms", "TPOT, ms", "ms a token"], _distinct(rows)) if rows else ""


def _streams(found: list[Comparison]) -> str:
    rows = []
    for one in found:
        for side in ("parrot", one.side):
            rows += [
                [
                    one.work["work"],
                    number(one.work["rate"]),
                    side,
                    stream["stream"],
                    spread_text(stream["jct_s"]),
                    spread_text(stream["ttft_s"], times=1000, digits=0),
                    spread_text(stream["tpot_s"], times=1000, digits=1),
                    spread_text(stream["normalised_latency_s"], times=1000, digits=1),
                    code(one.command),
                ]
                for stream in one.of(side)["streams"]
            ]
    headers = [
        "workload",
        "requests/s",
        "side",
        "stream",
        "completion, s",
        "TTFT, ms",
        "TPOT, ms",
        "ms a token",
    ]
    return table([*headers, "measured by"], _distinct(rows))


def _goodput(found: list[Comparison]) -> str:
    rows = []
    for one in found:
        for side in ("parrot", one.side):
            goodput = one.of(side)["goodput"]
            rows.append([one.work["work"], number(one.work["rate"]), side, spread_text(goodput, digits=2)])
    return table(["workload", "requests/s", "side", "goodput, requests/s"], _distinct(rows))


def _losses(found: list[Comparison]) -> str:
    """What a sceptic asks for first."""
    lost = [one for one in found if one.ratio["speedup"]["median"] < 1]
    short = [
        one
        for one in found
        if one.target is not None and one.target.verdict(one.ratio["speedup"]["median"]) == "missed"
    ]
    lines = [
        f"* {_named(one)}: slower, {number(one.ratio['speedup']['median'])} times as fast." for one in lost
    ]
    lines += [
        f"* {_named(one)}: {number(one.ratio['speedup']['median'])}, and {one.target.text()} is wanted."
        for one in short
        if one not in lost and one.target is not None
    ]
    return "\n".join(["### Where Parrot loses, or misses its target", "", *lines]) if lines else ""


def _named(one: Comparison) -> str:
    rate = "" if one.work.get("rate") is None else f" at {number(one.work['rate'])} requests/s"
    return f"{one.work['work']}{rate}, {one.work['rtt_s'] * 1000:g} ms, against {one.side}"


def _distinct(rows: Iterator[list[str]] | list[list[str]]) -> list[list[str]]:
    """Rows without those that say the same again."""
    return [list(row) for row in dict.fromkeys(map(tuple, rows))]
