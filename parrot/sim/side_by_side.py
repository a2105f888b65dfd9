"""Simulations side by side. One runs in one thread; those that do not depend on each other can have a process
each, and give what they give one after the other.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Progress = Callable[[str, float], None]
"""Is told what begins, and which share of all is done (0 to 1)."""


@dataclass(frozen=True, slots=True)
class Task(Generic[T_co]):
    """Something to be run. `run` and what it gives are pickled on their way to a process and back."""

    label: str
    run: Callable[[], T_co]


def num_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_side_by_side(
    tasks: Sequence[Task[T]], *, jobs: int = 1, on_progress: Progress | None = None
) -> list[T]:
    """Run all, `jobs` at a time and in their order; with 1, in this process. Gives their results in the same
    order. What a task raises is raised here once those that run by then have ended; no other begins.
    """
    tell = on_progress or (lambda _label, _share: None)
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        return [_told(task, number / len(tasks), tell).run() for number, task in enumerate(tasks)]
    results: dict[int, T] = {}
    running: dict[Future[T], int] = {}
    with pool(jobs) as executor:
        for number, task in enumerate(tasks):
            if len(running) == jobs:
                _take_ended(running, results)
            _told(task, len(results) / len(tasks), tell)
            running[executor.submit(task.run)] = number
        while running:
            _take_ended(running, results)
    return [results[number] for number in range(len(tasks))]


def pool(jobs: int) -> ProcessPoolExecutor:
    """So many processes, which end with this one, however it ends."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin)


def _told(task: Task[T], share: float, tell: Progress) -> Task[T]:
    tell(task.label, share)
    return task


def _take_ended(running: dict[Future[T], int], results: dict[int, T]) -> None:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        results[running.pop(future)] = future.result()


def _begin() -> None:
    """In a new process: one that is interrupted dies without a word, the one that waits for it speaks."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
