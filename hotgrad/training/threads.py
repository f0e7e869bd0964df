"""Trainings side by side on threads, which gains where the native engine runs: it holds no lock of Python's."""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from hotgrad.engines.native.compiler import given_up

T = TypeVar("T")

# Set in threads that train side by side: the event that ends their trainings.
stopping: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("stopping", default=None)
# Whether a `fit` is a part of something larger, which a training that was cut off would falsify.
part: contextvars.ContextVar[bool] = contextvars.ContextVar("part", default=False)


def cores() -> int:
    """How many threads this process may run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def part_of_more() -> Iterator[None]:
    """What is built on `fit` trains inside: there Ctrl-C makes `fit` raise KeyboardInterrupt in place of returning what it has."""
    token = part.set(True)
    try:
        yield
    finally:
        part.reset(token)


def side_by_side(tasks: Sequence[Callable[[], T]], jobs: int, names: Sequence[str] = ()) -> list[T]:
    """The results of the tasks, in order, run on so many threads. The first exception comes out, and stops the others.

    Ctrl-C makes trainings in the tasks end between two steps, and raises a KeyboardInterrupt with the `names` of the tasks that were
    not finished.

    >>> side_by_side([lambda: 1, lambda: 2], jobs=2)
    [1, 2]
    """
    results: dict[int, T] = {}

    def run(place: int, stop: threading.Event | None) -> None:
        if stop is not None:
            stopping.set(stop)
            given_up.set(stop.is_set)
        with part_of_more():
            results[place] = tasks[place]()

    try:
        if jobs == 1 or len(tasks) < 2:
            for place in range(len(tasks)):
                run(place, None)
        else:
            _on_threads(run, len(tasks), min(jobs, len(tasks)))
    except KeyboardInterrupt:
        left = [names[place] if names else f"task {place}" for place in range(len(tasks)) if place not in results]
        raise KeyboardInterrupt(f"not finished: {', '.join(left) or 'none'}") from None
    return [results[place] for place in range(len(tasks))]


def _on_threads(run: Callable[[int, threading.Event], None], tasks: int, jobs: int) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(contextvars.copy_context().run, run, place, stop) for place in range(tasks)]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in (*done, *futures):  # the first raises what it raised, before the others are waited for
                future.result()
        finally:
            stop.set()
            for future in futures:
                future.cancel()
