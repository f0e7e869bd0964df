"""The groups about training: `eager`, `fit`, `first`, `auto`. Each function measures one in this process and gives it as a dict."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from measure import Group, clock, deadline, in_fresh_process, interleaved, reason, timed
from network import SIZES, Problem
from steps import STEPS, Contender, Stepper
from trainers import ENGINES, TRAINERS, Trainer

COMPILING = 180  # seconds that a contender may take to get ready
LONG = 20_000  # steps for which engine="auto" is to choose where the steady state counts, or as many as take a second
ALLOWED = 2e-3  # of difference, relative to the largest entry; biases are still small, and rounding can switch a ReLU


def sizes(quick: bool) -> tuple[Problem, ...]:
    """The sizes to measure."""
    return SIZES[:2] if quick else SIZES


def chosen(contenders: dict[str, Contender], quick: bool, group: Group) -> dict[str, Contender]:
    """Those that are installed; the others are noted in the group. A quick run does without compiling by torch."""
    found = {}
    for name, contender in contenders.items():
        if contender.missing:
            group.missing[name] = contender.missing
        elif quick and name.startswith("torch.compile"):
            group.missing[name] = "left out of quick runs"
        else:
            found[name] = contender
            if contender.differs:
                group.notes.append(f"{name}: {contender.differs}")
    return found


def difference(found: list[Any], expected: list[Any]) -> float:
    """The largest difference over the largest entry, of all arrays."""
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) for a, b in zip(found, expected))


def copies(losses: list[float], parameters: list[Any]) -> list[Any]:
    """As numpy arrays that later steps do not change."""
    arrays = [p.numpy() if isinstance(p, torch.Tensor) else p for p in parameters]
    return [np.array(a, dtype=np.float64) for a in (losses, *arrays)]


def prepared(
    group: Group, case: str, contenders: dict[str, Contender], ready: Callable[[Contender], tuple[Any, list[Any]]]
) -> dict[str, Any]:
    """What `ready` makes of each contender, with the numbers it computed, which must be those of torch.nn.

    A contender that fails is noted as missing, one that computes something else as failed.
    """
    made, numbers = {}, {}
    for name, contender in contenders.items():
        try:
            with deadline(COMPILING):
                made[name], numbers[name] = ready(contender)
        except Exception as error:
            group.missing[f"{name} at {case}"] = reason(error)
    if "torch.nn" not in numbers:
        group.failed.append(f"without torch.nn at {case} there is nothing to compare with")
        return made
    for name in made:
        if not contenders[name].differs and (gap := difference(numbers[name], numbers["torch.nn"])) > ALLOWED:
            group.failed.append(f"{name} at {case} computes something else than torch.nn: {gap:.1e} of the largest entry")
    return made


# --------------------------------------------------------------------------------------------------------------------- eager


def eager(quick: bool) -> dict[str, Any]:
    """One step on one batch that stays the same; the loss of the last of some steps is read."""
    group = Group("one training step on one batch", ("hotgrad",), "hotgrad's")
    contenders = chosen(STEPS, quick, group)
    for problem in sizes(quick):
        made = prepared(group, problem.name, contenders, functools.partial(ready_step, problem))
        group.add(problem.name, interleaved(made, 7 if quick else 15))
    return dataclasses.asdict(group)


def ready_step(problem: Problem, contender: Contender) -> tuple[Callable[[], float], list[Any]]:
    """A function that gives the seconds per step, and losses and parameters after 20 steps."""
    stepper: Stepper = contender.make(problem)
    x, y = (stepper.array(t[: problem.batch].clone()) for t in problem.data())

    def some(count: int) -> float:
        started = clock()
        for _ in range(count):
            loss = stepper.step(x, y)
        float(loss)
        return (clock() - started) / count

    losses = [float(stepper.step(x, y)) for _ in range(20)]
    numbers = copies(losses, stepper.parameters())
    count = max(1, int(0.03 / some(10)))
    return lambda: some(count), numbers


# ----------------------------------------------------------------------------------------------------------------------- fit


def fit(quick: bool) -> dict[str, Any]:
    """Whole training per step, in the steady state: (time of 3n epochs - time of n epochs) / steps of 2n epochs.

    Both are calls on a model that has trained before, so compiling and capturing are not in it, nor what a call costs once;
    shuffling, gathering and the losses of each epoch are. "auto" is measured on long trainings, see `steady`.
    """
    group = Group("whole training, per step, in the steady state", tuple(f"hotgrad {e}" for e in ENGINES), "hotgrad's best engine")
    contenders = chosen(TRAINERS, quick, group)
    for problem in sizes(quick):
        made = prepared(group, problem.name, contenders, functools.partial(ready_trainer, problem))
        time_in_turns(group, made, problem, quick)
    return dataclasses.asdict(group)


def ready_trainer(problem: Problem, contender: Contender) -> tuple[Trainer, list[Any]]:
    """A shuffling trainer that has trained already, and losses and parameters of another after three epochs in the rows' order."""
    ordered = contender.make(problem, False)
    losses = ordered.train(3)
    numbers = copies(losses, ordered.parameters())
    shuffling = contender.make(problem, True)
    shuffled = shuffling.train(3)
    if not contender.differs and (shuffled == losses or abs(shuffled[-1] / losses[-1] - 1) > 0.1):
        raise RuntimeError(f"shuffling is amiss: losses {shuffled} shuffled, {losses} in order")
    return shuffling, numbers


def time_in_turns(group: Group, trainers: dict[str, Trainer], problem: Problem, quick: bool) -> None:
    """Add the seconds per step; fewer samples of the largest network, whose epochs take long."""
    seconds = 0.04 if quick else 0.15
    turns = 5 if quick or problem.width > 128 else 11
    samples = {name: steady(trainer, problem, seconds, name == "hotgrad auto") for name, trainer in trainers.items()}
    group.add(problem.name, interleaved(samples, turns))
    group.notes += [f"{name} at {problem.name} ran {trainer.ran}" for name, trainer in trainers.items() if name == "hotgrad auto"]


def steady(trainer: Trainer, problem: Problem, seconds: float, long: bool) -> Callable[[], float]:
    """A function that gives the seconds per step, from calls of n and of 3n epochs, n being such that they differ by about `seconds`.

    `long`: n is large from the start, as "auto" chooses otherwise for short trainings. Both calls must run on the same engine.
    """

    def difference_of(n: int) -> float:
        times, engines = [], set()
        for epochs in (n, 3 * n):
            times.append(timed(functools.partial(trainer.train, epochs)))
            engines.add(trainer.ran)
        return times[1] - times[0] if len(engines) == 1 else 0.0

    n = 1
    while long and n * problem.steps < LONG and timed(functools.partial(trainer.train, n)) < 1.0:
        n *= 4
    while (found := difference_of(n)) < seconds / 2:
        n *= 2 if found <= 0 else min(10, max(2, round(seconds / found)))
    return lambda: difference_of(n) / (2 * n * problem.steps)


# --------------------------------------------------------------------------------------------------------------------- first


def first(quick: bool) -> dict[str, Any]:
    """A first training of 15,000 steps (quick: 3,000) in a fresh process, building and compiling included, imports not."""
    epochs = 60 if quick else 300
    title = f"a first training of {50 * epochs:,} steps at 20x25, from the start"
    group = Group(title, tuple(f"hotgrad {engine}" for engine in ENGINES), "hotgrad's best engine")
    names = [*(f"hotgrad {engine}" for engine in ENGINES), "torch.nn", "JAX scan"]
    contenders = list(chosen({name: TRAINERS[name] for name in names}, quick, group))
    with tempfile.TemporaryDirectory() as cache:
        for case in ("empty cache",) if quick else ("empty cache", "warm cache"):
            samples: dict[str, list[float]] = {}
            for turn in range(1 if quick else 3):
                for name in contenders:
                    if name in group.missing:
                        continue
                    folder = f"{cache}/{name}" if case == "warm cache" else f"{cache}/{name} {turn}"
                    try:
                        if case == "warm cache" and turn == 0:
                            first_in(folder, name, 2)
                        samples.setdefault(name, []).append(first_in(folder, name, epochs))
                    except RuntimeError as error:
                        group.missing[name] = str(error)
            group.add(case, samples)
    group.notes.append("the cache is HOTGRAD_CACHE for hotgrad and the persistent compilation cache for JAX")
    return dataclasses.asdict(group)


def first_in(folder: str, name: str, epochs: int, batch: int = 20, rows: int = 1000) -> float:
    """Seconds of a first training in a new process that caches what it compiles in `folder`."""
    keep = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0"}
    caches = {"HOTGRAD_CACHE": folder, "JAX_COMPILATION_CACHE_DIR": f"{folder} jax"}
    seconds: float = in_fresh_process("training:first_fit", name, epochs, batch, rows, limit=300, environment=caches | keep)
    return seconds


def first_fit(name: str, epochs: int, batch: int, rows: int) -> float:
    """Seconds that building a trainer and training take; for hotgrad those of `fit`, which builds what it runs by itself."""
    problem = Problem(batch, 25, rows)
    make = functools.partial(TRAINERS[name].make, problem, True)
    if name.startswith("JAX"):
        import jax

        jax.devices()  # starting the back end counts as importing
    if name.startswith("hotgrad"):
        trainer = make()
        started = time.perf_counter()
    else:
        started = time.perf_counter()
        trainer = make()
    trainer.train(epochs)
    return time.perf_counter() - started


# ---------------------------------------------------------------------------------------------------------------------- auto


def auto(quick: bool) -> dict[str, Any]:
    """`fit(engine="auto")`: per step against the best single engine, and in all against eager, for few and many steps."""
    singles = tuple(f"hotgrad {engine}" for engine in ENGINES if engine != "auto")
    group = Group('what engine="auto" costs', singles, "the best single engine")
    contenders = {name: contender for name, contender in TRAINERS.items() if name in (*singles, "hotgrad auto", "torch.nn")}
    for problem in sizes(quick):
        made = prepared(group, problem.name, contenders, functools.partial(ready_trainer, problem))
        made.pop("torch.nn", None)  # here only as what the others must equal
        time_in_turns(group, made, problem, quick)
    for count in (1, 100, 10_000) if quick else (1, 10, 100, 1000, 10_000):
        rows = min(1000, 20 * count)
        samples: dict[str, list[float]] = {"hotgrad eager": [], "hotgrad auto": []}
        for _ in range(1 if quick else 5):
            for name, values in samples.items():
                with tempfile.TemporaryDirectory() as cache:
                    values.append(first_in(cache, name, count * 20 // rows, 20, rows))
        group.add(f"steps in all: {count:,}", samples)
    group.notes.append("steps in all: a first fit at 20x25 in a fresh process with an empty cache; in brackets, times eager's")
    return dataclasses.asdict(group)
