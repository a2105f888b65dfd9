"""Build the native kernels with the address and undefined-behaviour sanitizers, and drive all of them.

Usage: python tools/sanitize_kernels.py [build directory]
"""

import os
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SANITIZE = ["-std=c++17", "-O1", "-g1", "-pthread", "-Wno-psabi"]
SANITIZE += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def main(build_dir: Path) -> int:
    """Returns the exit status: 0 where everything is clean, or where there is no compiler."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        print("skipped: no C++ compiler was found")
        return 0
    build_dir.mkdir(parents=True, exist_ok=True)
    settings = runpy.run_path(str(ROOT / "setup.py"), run_name="settings")
    files = {name: settings["ISA_FLAGS"][name] for name in settings["FILES"]}

    def compile_one(name: str, flags: list[str]) -> str:
        out = build_dir / f"{Path(name).stem}.o"
        command = [compiler, *SANITIZE, *settings["WARNINGS"], *flags, "-c", str(ROOT / "csrc" / name)]
        subprocess.run([*command, "-o", str(out)], check=True)
        return str(out)

    print("compiling the kernels with sanitizers: a minute or two", flush=True)
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(compile_one, *item) for item in {**files, "check/check.cpp": []}.items()]
        objects = [job.result() for job in jobs]
    program = build_dir / "check"
    subprocess.run([compiler, *SANITIZE, *objects, "-o", str(program)], check=True)
    return subprocess.run([str(program)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "sanitize"))
