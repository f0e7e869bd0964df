"""This tree against another commit: how much longer each thing takes here, with an interval that can see two per cent.

    python benchmarks/run.py against COMMIT [--quick] [--only WORDS ...] [--pairs N] [--out FILE]

The package as it stands here and that of COMMIT are copied side by side into a temporary folder; what measures them is this tree's.
Two processes, one for each, take short turns. What counts is the CPU time of a process and of the compilers that it started, so
that a busy machine disturbs little. By where its memory lies, a process is a per cent or two faster or slower as long as it lives, so
there are several pairs of processes: each gives one ratio, of the medians over its turns, and the interval (95 %, Student's t) comes
from how much the pairs differ. A column says whether a case is slower than 1.02: no, YES, or ? if the interval holds 1.02; then
more pairs tell, or a quieter machine.

Cases; 20x25 is batch 20, width 25, and native code comes from a warm cache unless it says otherwise:
  eager    a training step in expressions on Variables, at four sizes, and with modules and an optimizer
  fit      training in the steady state, at four sizes on four engines
  fixed    a fit of one step, on each engine: what a fit costs once
  call     a call of a captured program, of a whole training step or forward only, and predict
  capture  capturing a training step
  compile  a first native fit with an empty cache, the C compiler's time included

`--only "fit native" eager` takes the cases that hold both words `fit` and `native`, and those that hold `eager`. `--quick` takes
some small ones, two minutes on a quiet machine; all take twenty. Exits with 1 if a case is slower than 1.02 or cannot run.
"""

from __future__ import annotations

import argparse
import filecmp
import io
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from measure import HERE, ONE_THREAD, environment, in_fresh_process
from report import heading, quantity

LIMIT = 1.02
SIDES = ("this", "that")  # of one length, as paths can matter
# Student's t for 95 %, by degrees of freedom; beyond, the last
T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09)


@dataclass
class Case:
    """What was measured of one case: for each pair of processes, each side's seconds per unit, a number a turn."""

    name: str
    samples: list[dict[str, list[float]]] = field(default_factory=list)
    ran: dict[str, str] = field(default_factory=dict)
    failed: str = ""

    @property
    def ratios(self) -> list[float]:
        """Of each pair of processes, the median time of this side over that of the other."""
        return [statistics.median(pair["this"]) / statistics.median(pair["that"]) for pair in self.samples]

    @property
    def interval(self) -> tuple[float, float, float]:
        """The ratio, and the ends of its interval; infinitely wide from one pair."""
        logs = [math.log(ratio) for ratio in self.ratios]
        middle = statistics.mean(logs)
        if len(logs) < 2:
            return math.exp(middle), 0.0, math.inf
        half = T[min(len(logs) - 1, len(T)) - 1] * statistics.stdev(logs) / math.sqrt(len(logs))
        return math.exp(middle), math.exp(middle - half), math.exp(middle + half)

    @property
    def slower(self) -> str:
        """Whether this side takes more than LIMIT times as long: "no", "YES", or "?" where the interval holds LIMIT."""
        _, low, high = self.interval
        return "no" if high <= LIMIT else "YES" if low > LIMIT else "?"

    @property
    def row(self) -> list[str]:
        """Name, both medians, ratio, interval, half its width, verdict, what else must be said."""
        if self.failed:
            return [self.name, *[""] * 5, "", self.failed]
        times = [quantity(statistics.median(t for pair in self.samples for t in pair[side]), "s") for side in SIDES]
        ratio, low, high = self.interval
        ran = " / ".join(dict.fromkeys(self.ran.values())) if "auto" in self.name else ""
        interval = [f"{ratio:.3f}", f"{low:.3f} to {high:.3f}", f"{50 * (high - low):.1f} %"]
        return [self.name, *times, *interval, self.slower, f"ran {ran}" if ran else ""]


class Worker:
    """A process that measures one of the packages; it answers each request, in JSON, with a line of JSON."""

    def __init__(self, folder: Path, cache: Path) -> None:
        variables = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(folder), "HOTGRAD_CACHE": str(cache)}
        command = [sys.executable, str(HERE / "cases.py"), str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables, text=True)

    def ask(self, **request: Any) -> dict[str, Any]:
        """What it answers. Raises RuntimeError if it has ended."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("the process has no pipes")
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the process that measures ended with {self.process.wait()}; its last words stand above")
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()


def unpacked(root: Path, commit: str, folder: Path) -> str:
    """Put the package of this tree into `folder`/this and that of the commit into `folder`/that; give the commit's name.

    Raises RuntimeError if there is no such commit.
    """
    git = ["git", "-C", str(root)]
    shown = subprocess.run([*git, "log", "-1", "--format=%h %s", commit, "--"], capture_output=True, text=True)
    if shown.returncode:
        raise RuntimeError(f"{commit!r} is no commit of {root}: {shown.stderr.strip()}")
    archive = subprocess.run([*git, "archive", commit, "hotgrad"], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        # Python before 3.11.4 has no filters
        tar.extractall(folder / "that", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    shutil.copytree(root / "hotgrad", folder / "this" / "hotgrad", ignore=shutil.ignore_patterns("__pycache__"))
    return shown.stdout.strip()


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    files = [{path.relative_to(folder) for path in folder.rglob("*.py")} for folder in (one, other)]
    return files[0] == files[1] and filecmp.cmpfiles(one, other, map(str, files[0]), shallow=False)[1:] == ([], [])


def compare(folder: Path, names: Sequence[str], pairs: int, **budget: float) -> list[Case]:
    """Measure `folder`/this and `folder`/that. `budget`: the seconds that each side's turns of a case take together."""
    cases = {name: Case(name) for name in names}
    sizes: dict[str, Any] = {name: {"count": 0, "turns": 0, **budget} for name in names}
    for _ in range(pairs):
        with Worker(folder / "this", folder / "cache this") as this, Worker(folder / "that", folder / "cache that") as that:
            workers = {"this": this, "that": that}
            for name, case in cases.items():
                if not case.failed:
                    measure(case, workers, sizes[name])
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return list(cases.values())


def measure(case: Case, workers: dict[str, Worker], size: dict[str, Any]) -> None:
    """One pair's turns of one case; who comes first changes from turn to turn. `size` is found out once, for all."""
    for side, worker in workers.items():
        said = worker.ask(case=case.name, **size)
        if "error" in said:
            case.failed = f"cannot run on {side} side: {said['error']}"
            return
        size |= {"count": said["count"], "turns": said["turns"]}
        case.ran[side] = said["ran"]
    taken: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(size["turns"]):
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            taken[side].append(workers[side].ask()["seconds"])
    case.samples.append(taken)


def table(cases: Sequence[Case]) -> str:
    """A line for each case."""
    rows = [["", "this", "that", "this / that", "95 %", "±", f"slower than {LIMIT}", ""], *(case.row for case in cases)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:-1]), row[-1]]).rstrip() for row in rows)


def main(arguments: Sequence[str]) -> int:
    """The command; gives the exit code."""
    parser = argparse.ArgumentParser(prog="run.py against", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", metavar="COMMIT", help="anything that git takes for one")
    parser.add_argument("--quick", action="store_true", help="some small cases, fewer pairs; about two minutes")
    parser.add_argument("--only", nargs="+", metavar="WORDS", help="the cases that hold all words of one of these")
    parser.add_argument("--pairs", type=int, help="pairs of processes: more make the interval narrower (default 10, quick 6)")
    parser.add_argument("--out", type=Path, help="write all samples to this file, as JSON")
    given = parser.parse_args(arguments)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            commit = unpacked(HERE.parent, given.commit, folder)
            names = in_fresh_process("cases:chosen", given.quick, given.only, environment={"PYTHONPATH": str(folder / "this")})
        except RuntimeError as error:
            parser.error(str(error))
        print(heading(environment() | {"clock": "CPU time"}))
        print(f"this tree against {commit}", flush=True)
        if same(folder / "this", folder / "that"):
            print("The packages are equal: what is seen is how much such a comparison errs.", flush=True)
        cases = compare(folder, names, given.pairs or (6 if given.quick else 10))
    print(f"\n{table(cases)}\n\n{time.perf_counter() - started:.0f} s in all")
    if given.out:
        given.out.write_text(json.dumps([asdict(case) for case in cases], indent=1))
    return int(any(case.failed or case.slower == "YES" for case in cases))
