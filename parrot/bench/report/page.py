"""The page as a whole."""

from parrot.bench.report import prose
from parrot.bench.report.apps import applications, baselines, serving
from parrot.bench.report.engine import control, engine, reliability, scale, soak
from parrot.bench.report.files import ResultFile, Results
from parrot.bench.report.langchain import langchain
from parrot.bench.report.markdown import code, number, section, table
from parrot.bench.report.migration import migration
from parrot.bench.report.paper import ablations, fair, paper
from parrot.bench.report.speed import speed

EXPECTED = {
    "engine": "the engine by itself (`parrot bench engine`)",
    "apps": "applications on real servers (`parrot bench apps`)",
    "langchain": "LangChain's patterns, eager and lazy (`examples/langchain/measure.py`)",
    "migration": "one application in five versions (`parrot bench migration`)",
    "control": "the control plane (`parrot bench control`)",
    "scale": "large and many applications (`parrot bench scale`)",
    "soak": "long random traffic on the engine (`parrot bench soak`)",
    "reliability": "promises under faults (`make reliability`)",
    "paper": "the paper's figures, simulated (`parrot sim paper`)",
    "ablations": "ablations, simulated (`parrot sim ablations`)",
    "speed": "the speed of scheduler and simulator (`parrot sim speed`)",
}


def render(results: Results) -> str:
    """The page, in Markdown."""
    sections = (
        prose.HEAD,
        applications(results),
        serving(results),
        baselines(results),
        langchain(results),
        migration(results),
        engine(results),
        control(results),
        scale(results),
        soak(results),
        reliability(results),
        paper(results),
        fair(results),
        ablations(results),
        speed(results),
        not_measured(results),
        sources(results),
    )
    return "\n\n".join(part for part in sections if part) + "\n"


def not_measured(results: Results) -> str:
    """What is missing, and what was left out."""
    lines = [
        f"* {text}: there is no result." for kind, text in EXPECTED.items() if not getattr(results, kind)
    ]
    sides = {server["name"] for file in results.apps for server in file.content["servers"]}
    if results.apps and not any(side.startswith("vllm") for side in sides):
        lines.append("* applications against vLLM: no result has it as a base line.")
    if not any(engine["device"] != "cpu" for file in results.engine for engine in file.content["engines"]):
        lines.append("* anything on a GPU: no result of the engine has one.")
    lines += [
        f"* {skipped['case']}: {skipped['reason']} ({code(file.name)})."
        for file in results.engine[-1:]
        for skipped in file.content["skipped"]
    ]
    lines += [
        f"* figure {figure['figure']}: {figure['state']}."
        for file in results.paper[-1:]
        for figure in file.content["figures"]
        if figure["state"] != "run"
    ]
    lines.append("* the quality of answers: models are random, since only speed and memory are looked at.")
    return section("What was not measured", "\n".join(lines))


def sources(results: Results) -> str:
    """Where each file comes from."""
    rows = [_source(file) for file in results.all()]
    return section(
        "Where the numbers come from",
        prose.SOURCES,
        table(["file", "when", "commit", "machine", "load", "versions"], rows),
    )


def _source(file: ResultFile) -> list[str]:
    content = file.content
    source, machine = content.get("source") or content.get("commit"), content.get("machine")
    versions = content.get("versions") or {}
    commit = "–"
    if source:
        commit = code(source["commit"][:10] + ("+" if source["is_modified"] else ""))
    return [
        code(file.name),
        file.started_at.partition("+")[0].replace("T", " ") or "virtual time",
        commit,
        "–"
        if machine is None
        else f"{machine['num_cpus']} × {machine['cpu']}, {number(machine['memory_bytes'] / 2**30, 0)} GiB",
        number(content.get("load_average"), 1),
        ", ".join(f"{name} {version}" for name, version in versions.items()) or "–",
    ]
