"""The page *Reliability*: words from a template, figures from the results file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_name("page.md")
LABELS = {
    "executions_of_a_call_mean": "times that a call was given to an engine, mean",
    "executions_of_a_call_max": "the same, at most",
    "seconds_until_placed_again_p50": "seconds from the signal until a call ran again, half of them within",
    "seconds_until_placed_again_max": "the same, at most",
    "attempts_of_a_call_mean": "number of a call's last attempt, mean (each restart skips one)",
    "attempts_of_a_call_max": "number of a call's last attempt, at most",
    "auc_of_anothers_session": "another's session known from nobody's by time (AUC; 0.5: not)",
    "auc_of_anothers_session_low": "the same, low end of the 95 % interval",
    "auc_of_anothers_session_high": "the same, high end of the 95 % interval",
    "p_of_anothers_session": "the same, p-value of the Kolmogorov-Smirnov test",
    "auc_of_anothers_prompt": "another's prompt known from a new one by time (AUC; 0.5: not)",
    "auc_of_anothers_prompt_low": "the same, low end of the 95 % interval",
    "auc_of_anothers_prompt_high": "the same, high end of the 95 % interval",
    "p_of_anothers_prompt": "the same, p-value of the Kolmogorov-Smirnov test",
    "event_loop_late_ms_max": "how late the service's event loop was, ms, at most",
    "memory_growth_mib_max": "memory of the service above what it had before, MiB, at most",
    "other_tenants_ms_p99_before": "two calls of a well-behaved tenant before, ms, 99 of 100 within",
    "other_tenants_ms_p99_beside": "the same beside the bad input (all clients run in one process)",
    "auc_of_ones_own_prompt": "one's own prompt known from a new one by time (AUC; 1: always)",
}
"""What figures are called whose name says too little."""


def write_page(results: Mapping[str, Any], long: Mapping[str, Any] | None = None) -> str:
    """The page for a results file, and for that of the long tier, if it was run."""
    page = TEMPLATE.read_text(encoding="utf-8")
    lines = _tables(results) if long is None else [*_tables(results), *_summary(long)]
    findings = "\n".join(lines).rstrip()
    return page.replace("{origin}", _origin(results)).replace("{findings}", findings)


def _origin(results: Mapping[str, Any]) -> str:
    machine, source = results["machine"], results["commit"]
    at = f"commit `{source['commit'][:12]}`" if source else "an installed package"
    tier = {"ci": "the short tier", "hour": "the long tier"}[results["tier"]]
    took = f" in {results['seconds'] / 60:.0f} minutes" if results.get("seconds") else ""
    return (
        f"Made {results['made_at'][:10]} by {tier}{took}, at {at}, on {machine['num_cpus']} processors\n"
        f"({machine['cpu']}), Python {results['versions']['python']}."
    )


def _summary(results: Mapping[str, Any]) -> list[str]:
    """The long tier's findings, one line each."""
    share = results.get("share", 1.0)
    part = "" if share == 1.0 else f" It was run with {share:.0%} of its repetitions."
    lines = ["## The same for longer", "", _origin(results) + part, ""]
    lines += [
        "| scenario | done to it | kept | what must not happen | bound of the largest count |",
        "|---|---|---|---|---|",
    ]
    for finding in results["findings"]:
        if finding["skipped"]:
            lines += [f"| {finding['scenario']} | – | not tried: {finding['skipped']} | – | – |"]
            continue
        faults = ", ".join(f"{number:,} × {what}" for what, number in finding["faults"].items())
        zeros = finding["zeros"]
        found, of = sum(int(zero["count"]) for zero in zeros), sum(zero["of"] for zero in zeros)
        kept = "yes" if finding["kept"] else "**no**"
        bound = _bound(max(zeros, key=lambda zero: zero["of"])) if zeros else "–"
        lines += [f"| {finding['scenario']} | {faults} | {kept} | {found} of {of:,} | {bound} |"]
    problems = [problem for finding in results["findings"] for problem in finding["problems"]]
    return [*lines, "", *(f"* {problem}" for problem in problems)]


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
