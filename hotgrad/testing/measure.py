"""How much the checker sees: planted mistakes caught, by class, and false alarms on right rules."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from unittest import mock

import torch

from hotgrad.core import variable, walk
from hotgrad.ops import CLASSES
from hotgrad.testing.check import check_op
from hotgrad.testing.functions import check_programs
from hotgrad.testing.mutants import mutants
from hotgrad.testing.report import GradientError


@dataclass
class Power:
    """What `power` found. `str` is the table."""

    caught: dict[str, int] = field(default_factory=dict)
    planted: dict[str, int] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    small: int = 0  # of the failures that were shrunk, those of at most two calls and four elements
    shrunk: int = 0
    right: int = 0  # examples on right rules
    false_alarms: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """The part of the planted mistakes that was caught."""
        return sum(self.caught.values()) / max(1, sum(self.planted.values()))

    def count(self, kind: str, name: str, error: GradientError | None, shrunk: bool) -> None:
        """Add one planted mistake, with the error that it led to."""
        self.planted[kind] = self.planted.get(kind, 0) + 1
        self.caught[kind] = self.caught.get(kind, 0) + (error is not None)
        if error is None:
            self.missed.append(f"{kind}: {name}")
        elif shrunk and error.elements:
            self.shrunk += 1
            self.small += error.elements <= 4 and error.calls <= 2

    def __str__(self) -> str:
        wide = max(map(len, self.planted), default=5)
        rows = [f"{'class of mistakes':<{wide}}  caught  planted"]
        rows += [f"{kind:<{wide}}  {self.caught[kind]:6}  {n:7}" for kind, n in self.planted.items()]
        caught, planted = sum(self.caught.values()), sum(self.planted.values())
        rows.append(f"{'all':<{wide}}  {caught:6}  {planted:7}  {self.share:.1%} in {self.seconds:.0f} s")
        rows.append(f"false alarms: {len(self.false_alarms)} in {self.right} examples on right rules")
        if self.shrunk:
            rows.append(f"shrunk to at most two calls and four elements: {self.small} of {self.shrunk}")
        return "\n".join(
            rows + [f"missed: {name}" for name in sorted(set(self.missed))] + [f"false alarm: {name}" for name in self.false_alarms]
        )


def power(max_examples: int = 25, seeds: Iterable[int] = (0,), *, shrink: bool = False, false_alarms: bool = True, thin: int = 1) -> Power:
    """Plant mistakes in our own ops and in the engine, check each at `max_examples`, and count what is caught, for every seed.

    `shrink`: look for the smallest failing input as well, and count the small ones. `false_alarms`: check the right rules too.
    `thin`: plant only every so many-th of the wrong rules. `str` of the result is a table.

    >>> found = power(5, thin=40, false_alarms=False)
    >>> found.share > 0.5
    True
    """
    started = time.perf_counter()
    found = Power()
    for seed in seeds:
        for kind, op in islice(mutants(), seed % thin, None, thin):
            found.count(kind, op.__name__, _outcome(check_op, op, max_examples=max_examples, seed=seed, shrink=shrink), shrink)
        for kind, name, broken in engine_mutants():
            with broken():
                error = _outcome(check_programs, max_examples, seed, shrink)
                for op in (CLASSES["Add"], CLASSES["Mul"]):
                    error = error or _outcome(check_op, op, max_examples=max_examples, seed=seed, shrink=shrink)
            found.count(kind, name, error, shrink)
        if false_alarms:
            for op in CLASSES.values():
                try:
                    found.right += check_op(op, max_examples=max_examples, seed=seed, shrink=False).examples
                except GradientError as error:
                    found.false_alarms.append(f"{op.name}, seed {seed}: {str(error).splitlines()[0]}")
    found.seconds = time.perf_counter() - started
    return found


def _outcome(check: Callable[..., Any], *args: Any, **options: Any) -> GradientError | None:
    try:
        check(*args, **options)
    except GradientError as error:
        return error
    return None


# ------------------------------------------------------------------------------------------------------- engine mistakes


def engine_mutants() -> Iterator[tuple[str, str, Callable[[], contextlib.AbstractContextManager[Any]]]]:
    """Mistakes in the walk itself, as (class, name, a context manager that plants it for its duration)."""
    walked, fit, seed_of, backward = walk.walk, walk._fit, walk._seed, variable.Variable.backward

    def averaged(gi: Any, parent: Any, record: Any, kind: Any) -> Any:
        out = fit(gi, parent, record, kind)
        return out * (out.numel() / gi.numel()) if getattr(gi, "numel", lambda: 0)() > out.numel() > 0 else out

    def last_axis_kept(gi: Any, parent: Any, record: Any, kind: Any) -> Any:
        shape = tuple(parent.shape)
        if isinstance(gi, kind) and shape and tuple(gi.shape) != shape and gi.ndim == len(shape) and gi.numel():
            return gi[tuple(slice(0, 1) if n == 1 else slice(None) for n in shape)]
        return fit(gi, parent, record, kind)

    def ones(root: Any, gradient: Any, kind: type[Any]) -> Any:
        out = seed_of(root, gradient, kind)
        return torch.ones_like(out) if isinstance(out, torch.Tensor) else out

    def replaced(self: Any, *args: Any, **options: Any) -> None:
        """Puts the new gradient in place of the accumulated one."""
        for accumulator in walked([(self, args[0] if args else options.get("gradient"))], None, True, False, variable.Variable):
            accumulator.grad = None
        backward(self, *args, **options)

    def after(change: Callable[[dict[Any, Any]], dict[Any, Any]]) -> Callable[..., Any]:
        return lambda *args, **options: change(walked(*args, **options))

    def plain(change: Callable[[torch.Tensor], Any]) -> Callable[[dict[Any, Any]], dict[Any, Any]]:
        return lambda found: {node: change(g) if isinstance(g, torch.Tensor) else g for node, g in found.items()}

    def one_memory(found: dict[Any, Any]) -> dict[Any, Any]:
        """Leaves of one shape get one tensor."""
        first: dict[Any, Any] = {}
        for node, g in found.items():
            if isinstance(g, torch.Tensor):
                kept = first.setdefault((tuple(g.shape), g.dtype), g)
                found[node] = kept if torch.equal(kept, g) else g
        return found

    def planted(target: Any, name: str, value: Any) -> Callable[[], contextlib.AbstractContextManager[Any]]:
        return lambda: mock.patch.object(target, name, value)

    engine = "engine: "
    yield engine + "broadcasting", "averaged", planted(walk, "_fit", averaged)
    yield engine + "broadcasting", "one copy taken", planted(walk, "_fit", last_axis_kept)
    yield engine + "seed", "replaced by ones", planted(walk, "_seed", ones)
    yield engine + "accumulation", "overwritten", planted(variable.Variable, "backward", replaced)
    yield engine + "accumulation", "doubled", planted(variable, "walk", after(plain(lambda g: g * 2)))
    yield (
        engine + "memory",
        "stride 0",
        planted(
            variable,
            "walk",
            after(plain(lambda g: g.sum().expand(g.shape) if g.ndim and bool((g == g.reshape(-1)[:1].sum()).all()) else g)),
        ),
    )
    yield engine + "memory", "shared by leaves", planted(variable, "walk", after(one_memory))
    yield engine + "dtype", "float32", planted(variable, "walk", after(plain(lambda g: g.float())))
    yield engine + "shape", "one axis more", planted(variable, "walk", after(plain(lambda g: g.unsqueeze(0))))
    yield engine + "lost", "one leaf forgotten", planted(variable, "walk", after(lambda found: dict(list(found.items())[:1])))
