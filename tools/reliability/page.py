"""The page *Reliability*: words from a template, figures from the results file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_name("page.md")
LABELS = {
    "attempts_of_a_call_mean": "number of a call's last attempt, mean (each restart skips one)",
    "attempts_of_a_call_max": "number of a call's last attempt, at most",
}
"""What figures are called whose name says too little."""


def write_page(results: Mapping[str, Any]) -> str:
    """The page for a results file."""
    page = TEMPLATE.read_text(encoding="utf-8")
    findings = "\n".join(_tables(results)).rstrip()
    return page.replace("{origin}", _origin(results)).replace("{findings}", findings)


def _origin(results: Mapping[str, Any]) -> str:
    machine, source = results["machine"], results["commit"]
    at = f"commit `{source['commit'][:12]}`" if source else "an installed package"
    tier = {"ci": "the short tier", "hour": "the long tier"}[results["tier"]]
    return (
        f"Made {results['made_at'][:10]} by {tier}, at {at}, on {machine['num_cpus']} processors\n"
        f"({machine['cpu']}), Python {results['versions']['python']}."
    )


def _tables(results: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for finding in results["findings"]:
        lines += [f"### {finding['scenario']}", ""]
        if finding["skipped"]:
            lines += [f"Not tried on this machine: {finding['skipped']}.", ""]
            continue
        faults = ", ".join(f"{number:,} × {what}" for what, number in finding["faults"].items())
        kept = "Kept." if finding["kept"] else "**Not kept.**"
        lines += [f"{kept} Done to it: {faults}. {finding['seconds']:.0f} s.", ""]
        lines += ["| what must not happen | found | bound |", "|---|---|---|"]
        lines += [
            f"| {zero['what']} | {int(zero['count'])} of {zero['of']:,} | {_bound(zero)} |"
            for zero in finding["zeros"]
        ]
        lines += ["", "| what was measured | |", "|---|---|"]
        lines += [f"| {floor['what']} | {floor['count']:,} |" for floor in finding["floors"]]
        lines += [f"| {_label(name)} | {value:,} |" for name, value in finding["figures"].items()]
        lines += [""]
        lines += [f"* {problem}" for problem in finding["problems"]]
        lines += [""] if finding["problems"] else []
    return lines


def _label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " "))


def _bound(zero: Mapping[str, Any]) -> str:
    if zero["count"] or not zero["of"]:
        return "–"
    return f"< {zero['bound_95']:.2g}" if zero["of"] > 3 else "–"
