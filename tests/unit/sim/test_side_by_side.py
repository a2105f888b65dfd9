"""Simulations in processes of their own give what they give one after the other."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from parrot.sim.ablations import TELLING, whole
from parrot.sim.fair import FairWorkload, mean_jct_s
from parrot.sim.paper import run_paper
from parrot.sim.side_by_side import Task, run_side_by_side

LIMIT_S = 30.0
PARENT = """
import sys, time
from functools import partial
from parrot.sim.side_by_side import Task, run_side_by_side

if __name__ == "__main__":
    run_side_by_side([Task("long", partial(time.sleep, 600)) for _ in range(2)], jobs=2)
"""


def with_processes(number: int) -> tuple[int, int]:
    """The number, and the process that had it."""
    time.sleep(0.2)
    return number, os.getpid()


def failing(number: int) -> int:
    raise ValueError(f"number {number}")


def test_results_are_in_the_order_of_the_tasks_whoever_runs_them() -> None:
    told: list[tuple[str, float]] = []
    tasks = [Task(f"task {number}", partial(with_processes, number)) for number in range(5)]
    found = run_side_by_side(tasks, jobs=2, on_progress=lambda *begun: told.append(begun))
    assert [number for number, _ in found] == [0, 1, 2, 3, 4]
    assert len({process for _, process in found}) == 2
    assert os.getpid() not in {process for _, process in found}
    assert [label for label, _ in told] == [task.label for task in tasks]
    assert [share for _, share in told] == sorted(share for _, share in told)
    assert (told[0][1], told[-1][1]) >= (0.0, 0.4)


def test_one_at_a_time_needs_no_other_process() -> None:
    found = run_side_by_side([Task("task", partial(with_processes, 1))], jobs=8)
    assert found == [(1, os.getpid())]
    assert run_side_by_side([], jobs=8) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_task_raises_is_raised(jobs: int) -> None:
    tasks = [Task("fails", partial(failing, number)) for number in range(3)]
    with pytest.raises(ValueError, match=r"number [01]"):
        run_side_by_side(tasks, jobs=jobs)


def test_a_simulation_gives_the_same_in_every_process() -> None:
    workload = FairWorkload(app="questions", count=6, rate=1.0)
    systems = [whole(workload), whole(TELLING[0])]
    tasks = [Task("simulation", partial(mean_jct_s, system, workload)) for system in systems]
    assert run_side_by_side(tasks, jobs=2) == run_side_by_side(tasks, jobs=1)


def test_the_papers_figures_are_the_same_in_every_process() -> None:
    assert run_paper(["11a"], jobs=2) == run_paper(["11a"])


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="children are found in /proc, which is not here"
)
def test_processes_end_with_the_one_that_waits_for_them(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT, encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script)]) as parent:
        of_parent = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        ends_at = time.monotonic() + LIMIT_S
        while len(children := of_parent.read_text().split()) < 3 and time.monotonic() < ends_at:
            time.sleep(0.05)
        parent.kill()
    assert len(children) == 3, "two processes, and the one that keeps account of resources"
    while any(alive(child) for child in children) and time.monotonic() < ends_at:
        time.sleep(0.05)
    assert not [child for child in children if alive(child)]


def alive(process: str) -> bool:
    """Whether it is there and not merely waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
