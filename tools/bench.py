"""Measure everything that can be measured here, and make the page: `python tools/bench.py [RESULTS]`.

`VLLM_VENV` names a virtual environment with vLLM in it, which is then started for the time; `VLLM_URL` a
vLLM that runs already, with the model that `parrot models init bench-115m` makes. `LLAMACPP_VENV` names an
environment with `xllamacpp` and `gguf`. Without any, applications are compared with Parrot's own completions
API alone. What was skipped is said at the end.
"""

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def say(text: str) -> None:
    """Tell a person."""
    print(text, file=sys.stderr, flush=True)


def steps(results: Path, skipped: list[str]) -> list[list[str]]:
    """The commands, in order; what cannot run here goes to `skipped`."""
    out = ["--out", str(results)]
    baselines = ["--baseline-parrot"]
    if venv := os.environ.get("VLLM_VENV"):
        baselines += ["--baseline", f"vllm:{venv}"]
    elif url := os.environ.get("VLLM_URL"):
        baselines += ["--baseline", f"openai:{url}"]
    else:
        skipped.append("applications against vLLM: neither VLLM_VENV nor VLLM_URL is set")
    others: list[list[str]] = []
    if venv := os.environ.get("LLAMACPP_VENV"):
        others = [["bench", "apps", "--baseline", f"llamacpp:{venv}", "--work", "chain,mapreduce", *out]]
    else:
        skipped.append("applications against llama.cpp: LLAMACPP_VENV is not set")
    serving = "gpts-rate,chat-mapreduce,chain-background"
    plots = ["--plots" if find_spec("matplotlib") is not None else "--no-plots"]
    if plots == ["--no-plots"]:
        skipped.append("plots: matplotlib is not installed (extra `plots`)")
    simulated = [["sim", "paper", *out, *plots], ["sim", "ablations", *out, *plots], ["sim", "speed", *out]]
    if find_spec("torch") is None:
        skipped.append("the engine, and applications on it: torch is not installed (extra `engine`)")
        return [["bench", "control", *out], ["bench", "scale", *out], *simulated]
    import torch

    if not torch.cuda.is_available():
        skipped.append("everything on a GPU: there is none that torch can use")
    return [
        ["bench", "engine", *out],
        ["bench", "apps", *baselines, "--rtt", "0", "--rtt", "0.25", *out],
        ["bench", "apps", *baselines, "--work", serving, "--rate", "2", "--runs", "1", *out],
        *others,
        ["bench", "control", *out],
        ["bench", "scale", *out],
        *simulated,
    ]


def main(results: Path) -> int:
    """Run all; a step that fails does not stop the others, and is said."""
    results.mkdir(parents=True, exist_ok=True)
    began, skipped = time.monotonic(), list[str]()
    for arguments in steps(results, skipped):
        say(f"\n── parrot {' '.join(arguments)}")
        at = time.monotonic()
        if subprocess.run([sys.executable, "-m", "parrot.cli", *arguments], cwd=ROOT, check=False).returncode:
            skipped.append(f"`parrot {' '.join(arguments)}` failed")
        say(f"── {time.monotonic() - at:.0f} s")
    page = results.parent / "README.md"
    plots = [] if find_spec("matplotlib") is not None else ["--no-plots"]
    marked = (
        {"--readme": "README.md", "--tutorial": "docs/tutorials/migrating.md"} if results == RESULTS else {}
    )
    readme = [word for option, path in marked.items() for word in (option, str(ROOT / path))]
    report = ["bench", "report", "--results", str(results), "--out", str(page), *readme, *plots]
    status = subprocess.run([sys.executable, "-m", "parrot.cli", *report], cwd=ROOT, check=False).returncode
    say(f"\n{(time.monotonic() - began) / 60:.0f} minutes; skipped:")
    for what in skipped or ["nothing"]:
        say(f"* {what}")
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else RESULTS))
