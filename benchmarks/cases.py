"""What `against` measures, and the process that measures it for one of the trees.

A case is a function that makes everything ready and returns `work(count)`, which does so many units of what is measured. It runs on
other commits too, so it uses nothing but what has been public for long. See `against` for who talks to this process, and how.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import hotgrad as hg
import steps
from measure import pin, reason
from network import SIZES, Problem
from trainers import ENGINES, hotgrad_fit, hotgrad_model

SMALL = SIZES[0]
BUDGET = 0.8  # seconds that the turns of a case take together, on each side, if five turns do not take longer
TURN = 0.02  # seconds of a turn, and of one that has a few milliseconds in it that are not what is measured
LONG = 0.15


@dataclass(frozen=True)
class Ready:
    """`work(count)` does so many units of what is measured; `ran()` names the engine of the last `fit`."""

    work: Callable[[int], object]
    ran: Callable[[], str] = str


def fit(problem: Problem, engine: str) -> Ready:
    """`fit` of so many epochs on a model that has trained before; what the call costs once is a few per cent of it."""
    trainer = hotgrad_fit(engine, problem, True)
    return Ready(trainer.train, lambda: trainer.ran)


def fixed(engine: str) -> Ready:
    """`fit` of one step, on a model that has trained before."""
    trainer = hotgrad_fit(engine, Problem(SMALL.batch, SMALL.width, SMALL.batch), True)
    return Ready(repeating(lambda: trainer.train(1)).work, lambda: trainer.ran)


def eager(problem: Problem) -> Ready:
    """A training step in expressions on Variables."""
    stepper = steps.hotgrad_tape(problem)
    x, y = (stepper.array(t[: problem.batch].clone()) for t in problem.data())
    return repeating(lambda: stepper.step(x, y))


def training_step() -> tuple[Callable[[Any, Any], Any], Any, Any]:
    """A step with modules and an optimizer, and its batch."""
    model = hotgrad_model(SMALL)
    optimizer = hg.optim.SGD(model.parameters(), lr=0.01)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = hg.functional.mse(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    x, y = (t[: SMALL.batch].clone() for t in SMALL.data())
    return step, x, y


def modules() -> Ready:
    """A training step with modules and an optimizer."""
    step, x, y = training_step()
    return repeating(lambda: step(x, y))


def call(engine: str, what: str) -> Ready:
    """A call of a captured program: the network's outputs, or a whole training step."""
    if what == "step":
        step, x, y = training_step()
        program = hg.capture(step, x, y).to(engine)
        return repeating(lambda: program(x, y))
    model = hotgrad_model(SMALL)
    x = SMALL.data()[0][: SMALL.batch].clone()
    program = hg.capture(model, x).to(engine)
    return repeating(lambda: program(x))


def predict() -> Ready:
    """`predict` of a batch."""
    model = hotgrad_model(SMALL)
    x = SMALL.data()[0][: SMALL.batch].clone()
    return repeating(lambda: model.predict(x))


def capture() -> Ready:
    """Capturing a training step."""
    step, x, y = training_step()
    return repeating(lambda: hg.capture(step, x, y))


def compiling(depth: int) -> Ready:
    """A first native `fit` of one step with nothing compiled yet, the C compiler's time included."""
    layers: list[Any] = [hg.Linear(2, 25)]
    for _ in range(depth - 2):
        layers += [hg.ReLU(), hg.Linear(25, 25)]
    model = hg.Sequential([*layers, hg.ReLU(), hg.Linear(25, 2)], "mse", hg.optim.SGD(lr=0.01))
    x, y = (t[: SMALL.batch].clone() for t in SMALL.data())
    model.fit(x, y, epochs=1, batch_size=SMALL.batch, engine="eager", seed=0, verbose=0)

    def once() -> None:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HOTGRAD_CACHE"], kept = folder, os.environ["HOTGRAD_CACHE"]
            try:
                model.fit(x, y, epochs=1, batch_size=SMALL.batch, engine="native", seed=0, verbose=0)
            finally:
                os.environ["HOTGRAD_CACHE"] = kept

    return repeating(once)


def repeating(once: Callable[[], object]) -> Ready:
    """`once`, so many times."""

    def work(count: int) -> None:
        for _ in range(count):
            once()

    return Ready(work)


CASES: dict[str, Callable[[], Ready]] = {
    **{f"eager {p.name}": functools.partial(eager, p) for p in SIZES},
    "eager 20x25 modules": modules,
    **{f"fit {p.name} {engine}": functools.partial(fit, p, engine) for p in SIZES for engine in ENGINES},
    **{f"fixed {engine}": functools.partial(fixed, engine) for engine in ENGINES},
    **{f"call {engine} {what}": functools.partial(call, engine, what) for engine in ("replay", "native") for what in ("forward", "step")},
    "call predict": predict,
    "capture": capture,
    **{f"compile {depth} layers": functools.partial(compiling, depth) for depth in (4, 12)},
}
QUICK = (
    "eager 20x25",
    "eager 20x25 modules",
    "fit 20x25 eager",
    "fit 20x25 replay",
    "fit 20x25 native",
    "fixed native",
    "call native step",
)


def chosen(quick: bool, only: list[str] | None) -> list[str]:
    """The names of the cases that are quick, or that hold all words of one of these texts. Raises ValueError if there are none."""
    if only is None:
        return list(QUICK if quick else CASES)
    names = [name for name in CASES if any(set(words.split()) <= set(name.split()) for words in only)]
    if not names:
        raise ValueError(f"no case holds the words {', '.join(map(repr, only))}; there are: {', '.join(CASES)}")
    return names


# ------------------------------------------------------------------------------------------------------------------ the process


def spent() -> float:
    """CPU time, in seconds, of this process and of the children it waited for, compilers among them."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def turn(ready: Ready, count: int) -> float:
    """Seconds that so many units take."""
    gc.collect()
    started = spent()
    ready.work(count)
    return spent() - started


def enough(ready: Ready, seconds: float) -> int:
    """How many units take about so long."""
    count = 1
    while (took := turn(ready, count)) < seconds / 2:
        count = max(count + 1, min(10 * count, round(count * seconds / max(took, 1e-9))))
    return count


class Measuring:
    """The case that is being measured, which the other side calls for by requests."""

    def answer(self, case: str = "", count: int = 0, turns: int = 0, budget: float = BUDGET) -> dict[str, Any]:
        """Make a case ready, for turns of `count` units, found out if it is 0; or, without one, take a turn."""
        if not case:
            return {"seconds": turn(self.ready, self.count) / self.count}
        self.ready = CASES[case]()
        self.ready.work(1)
        length = min(LONG if case.startswith("fit") and not case.endswith("eager") else TURN, budget)
        self.count = count or enough(self.ready, length)
        took = turn(self.ready, self.count)
        gc.collect()
        gc.freeze()  # no turn pays for looking through what is there already
        return {"count": self.count, "turns": turns or max(5, round(budget / took)), "ran": self.ready.ran()}


def main() -> None:
    """Answer requests, a line each, until there are no more."""
    folder = Path(sys.argv[1])
    pin()
    torch.set_num_threads(1)
    if folder not in Path(hg.__file__).parents:
        raise RuntimeError(f"hotgrad was imported from {hg.__file__}, not from {folder}")
    measuring = Measuring()
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            try:
                said = measuring.answer(**json.loads(line))
            except Exception as error:
                said = {"error": reason(error)}
            print(json.dumps(said), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
