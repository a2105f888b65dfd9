"""Requests made up from the interface's own document, right and wrong, alone and in sequences."""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

from reliability.findings import Finding, Floor, Zero
from reliability.served_process import Served

PROGRAM = "schemathesis"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "use_after_free",
    "ensure_resource_availability",
)
SHORT = {
    "PARROT_LIMITS__MAX_STREAM_S": "1",
    "PARROT_LIMITS__MAX_WAIT_S": "1",
    "PARROT_LIMITS__MAX_SESSIONS": "100000",
}
"""Limits under which no request takes long."""
GRACE_S = 300.0


def missing() -> str | None:
    """Why it cannot be done here; None when it can."""
    return None if shutil.which(PROGRAM) else f"{PROGRAM} is not installed (`pipx install {PROGRAM}`)"


async def made_up_requests(directory: Path, *, duration_s: int) -> Finding:
    """Schemathesis against a service: each operation alone, then operations that follow from each other."""
    served = Served(["--engine", "scripted", "--port", "0", "--db", "store.db"], directory, SHORT)
    try:
        url = await asyncio.to_thread(served.url)
        done = await asyncio.to_thread(_run, url, directory, duration_s)
        ended = served.process.poll()
    finally:
        await asyncio.to_thread(served.close)
    cases = re.search(r"([\d,]+) generated, ([\d,]+) passed", done.stdout)
    generated, passed = (int(text.replace(",", "")) for text in cases.groups()) if cases else (0, 0)
    operations = re.search(r"Tested: (\d+)", done.stdout)
    sequences = re.search(r"Scenarios:\s+(\d+)", done.stdout)
    failures = re.findall(r"^- (.+)$", done.stdout, re.MULTILINE) if done.returncode else []
    return Finding(
        scenario="Requests are made up from the interface's document",
        promise="P6",
        faults={"seconds of made-up requests": duration_s},
        zeros=(
            Zero(
                what="answers that are a fault of the service or not as the document says",
                count=generated - passed,
                of=generated,
            ),
            Zero(what="services that ended", count=int(ended is not None), of=1),
        ),
        floors=(
            Floor(what="requests and sequences", count=generated, at_least=500),
            Floor(what="operations tried", count=int(operations.group(1)) if operations else 0, at_least=25),
        ),
        figures={"sequences_of_requests": int(sequences.group(1)) if sequences else 0},
        problems=tuple(failures[:20]),
    )


def _run(url: str, directory: Path, duration_s: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(PROGRAM, "run", f"{url}/openapi.json", "--no-color", "--continue-on-failure"),
            *("--max-time", str(duration_s), "--request-timeout", "60", "--checks", ",".join(CHECKS)),
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=duration_s + GRACE_S,
    )
