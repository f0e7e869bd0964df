"""How things are timed: contenders take turns, in one thread on one core, in processes of their own.

Nothing heavy is imported here, so that the parent process and the timing of imports stay light.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

Name = TypeVar("Name", bound=Hashable)
HERE = Path(__file__).parent
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
}
# On a machine that others use too, the time that this process had a core says more than the wall clock.
clock = time.process_time if os.environ.get("BENCHMARK_CLOCK") == "cpu" else time.perf_counter
PACKAGES = ("hotgrad", "torch", "jax", "jaxlib", "autograd", "mygrad", "scikit-learn", "numpy")


@dataclass
class Group:
    """What one group measured: samples by case and contender, in seconds, or in bytes if `unit` is "B".

    `base`: the contenders whose fastest is the 1.00 of the ratios, and `of`, how the tables call it. `missing`: who could not
    take part, and why. `failed`: what was wrong, not just absent.
    """

    title: str
    base: tuple[str, ...] = ()
    of: str = ""
    unit: str = "s"
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, case: str, samples: Mapping[str, list[float]]) -> None:
        """Keep the samples of one case."""
        self.samples.setdefault(case, {}).update(samples)

    def median(self, case: str, contender: str) -> float | None:
        """The median of the samples, None where there are none."""
        values = self.samples[case].get(contender)
        return statistics.median(values) if values else None

    def reference(self, case: str) -> float | None:
        """The median of the fastest of `base`."""
        medians = [value for name in self.base if (value := self.median(case, name)) is not None]
        return min(medians, default=None)


def spread(samples: list[float]) -> float:
    """The interquartile range; 0 for a single sample."""
    if len(samples) < 2:
        return 0.0
    quarters = statistics.quantiles(samples, n=4, method="inclusive")
    return quarters[2] - quarters[0]


def timed(work: Callable[[], Any]) -> float:
    """Seconds that one call takes."""
    started = clock()
    work()
    return clock() - started


def repeated(work: Callable[[], Any], seconds: float, least: int = 1) -> Callable[[], float]:
    """A function that calls `work` for about so many seconds and gives the seconds per call."""
    work()
    once = timed(work)
    count = max(least, int(seconds / max(once, 1e-9)))

    def sample() -> float:
        started = clock()
        for _ in range(count):
            work()
        return (clock() - started) / count

    return sample


def interleaved(contenders: Mapping[Name, Callable[[], float]], turns: int) -> dict[Name, list[float]]:
    """`turns` samples of each; contenders take turns, so that what disturbs the machine disturbs them all.

    Objects that exist before are hidden from the garbage collector: no contender pays for what the others have imported.
    """
    samples: dict[Name, list[float]] = {name: [] for name in contenders}
    gc.collect()
    gc.freeze()
    try:
        for _ in range(turns):
            for name, sample in contenders.items():
                samples[name].append(sample())
    finally:
        gc.unfreeze()
    return samples


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside, if it takes longer; where there are no such alarms, do nothing."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ----------------------------------------------------------------------------------------------------------------- processes


def in_fresh_process(function: str, *arguments: Any, limit: float = 3600, environment: Mapping[str, str] | None = None) -> Any:
    """The result of `module:function` of this folder, called in a new process, in one thread on one core.

    Arguments and result travel as JSON. What it prints comes through. Raises RuntimeError with its last words if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer")
        command = [sys.executable, str(HERE / "measure.py"), function, json.dumps(arguments), str(answer)]
        try:
            done = subprocess.run(command, env={**os.environ, **ONE_THREAD, **(environment or {})}, stderr=-1, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"took longer than {limit:g} s") from None
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"exit code {done.returncode}")
        return json.loads(answer.read_text())


def reason(error: BaseException) -> str:
    """One line of what went wrong."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]:.300}" if text else type(error).__name__


def pin() -> None:
    """Stay on one core, the last, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def environment() -> dict[str, Any]:
    """Versions, processor, threads, compiler."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    lines = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.splitlines() if compiler else []
    return {
        "versions": versions,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": 1,
        "compiler": lines[0] if lines else "none",
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "time": time.strftime("%Y-%m-%d %H:%M"),
    }


def processor() -> str:
    """The model of the CPU."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """The other end of `in_fresh_process`."""
    name, arguments, answer = sys.argv[1:]
    module, function = name.split(":")
    pin()
    result = getattr(importlib.import_module(module), function)(*json.loads(arguments))
    Path(answer).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
