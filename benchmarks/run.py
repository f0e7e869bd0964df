"""Everything that the README says about speed and memory, measured.

    python benchmarks/run.py [--quick] [--only NAME ...] [--out DIR] [--plot] [--cpu-time]
    python benchmarks/run.py against COMMIT ...    compares this tree with another commit; see `run.py against --help`

Groups, each in a process of its own:
  eager   one training step, eagerly          fit     whole training, per step, in the steady state
  first   a first fit, compiling included     auto    what choosing the engine costs
  import  seconds to import                   op      one op, forward and backward
  chain   long and wide graphs                memory  peak memory
  check   checking gradients                  second  second derivatives
  functions  derivatives of functions, and searches with them

Writes results.json (all samples, versions, processor), results.md, and with --plot results.png into the folder `--out`
(results, beside this file). Exits with 1 if contenders that should compute the same do not, or a group fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import against
from measure import HERE, Group, environment, in_fresh_process
from report import heading, plot, save, section

GROUPS = {
    "eager": "training:eager",
    "fit": "training:fit",
    "first": "training:first",
    "auto": "training:auto",
    "import": "engine:imports",
    "op": "engine:op",
    "chain": "engine:chain",
    "memory": "engine:memory",
    "check": "engine:check",
    "second": "engine:second",
    "functions": "functions:functions",
}


def measured(name: str, quick: bool, cpu_time: bool) -> Group:
    """One group, from its own process."""
    started = time.perf_counter()
    try:
        group = Group(**in_fresh_process(GROUPS[name], quick, environment={"BENCHMARK_CLOCK": "cpu" if cpu_time else "wall"}))
    except RuntimeError as error:
        group = Group(GROUPS[name], failed=[f"the group ended early: {error}"])
    group.seconds = time.perf_counter() - started
    return group


def main() -> int:
    """The command; gives the exit code."""
    if sys.argv[1:2] == ["against"]:
        return against.main(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns and sizes; about two minutes")
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS), metavar="NAME", help="some groups")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="the folder to write to")
    parser.add_argument("--plot", action="store_true", help="also a picture; needs matplotlib")
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine: CPU time, except in first fits, which compile")
    arguments = parser.parse_args()
    found, where = {}, environment() | {"clock": "CPU time" if arguments.cpu_time else "wall clock"}
    print(heading(where), flush=True)
    for name in arguments.only:
        found[name] = measured(name, arguments.quick, arguments.cpu_time)
        print("\n" + section(name, found[name]), flush=True)
        save(arguments.out, where, found)
    if arguments.plot:
        plot(arguments.out / "results.png", found)
    print(f"\nsaved in {arguments.out}")
    return int(any(group.failed for group in found.values()))


if __name__ == "__main__":
    sys.exit(main())
