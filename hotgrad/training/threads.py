"""Trainings side by side on threads, which gains where the native engine runs: it holds no lock of Python's."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")

# Set in threads that train side by side: the event that ends their trainings.
stopping: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("stopping", default=None)


def cores() -> int:
    """How many threads this process may run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(tasks: Sequence[Callable[[], T]], jobs: int) -> list[T]:
    """The results of the tasks, in order, run on so many threads. The first exception comes out, and stops the others.

    Ctrl-C makes trainings in the tasks end between two steps.

    >>> side_by_side([lambda: 1, lambda: 2], jobs=2)
    [1, 2]
    """
    if jobs == 1 or len(tasks) < 2:
        return [task() for task in tasks]
    stop = threading.Event()

    def run(task: Callable[[], T]) -> T:
        stopping.set(stop)
        return task()

    with ThreadPoolExecutor(min(jobs, len(tasks))) as pool:
        futures = [pool.submit(contextvars.copy_context().run, run, task) for task in tasks]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()  # raises what it raised, before the others are waited for
            return [future.result() for future in futures]
        finally:
            stop.set()
            for future in futures:
                future.cancel()
