"""Learning rates that change: `lr=CosineLR(0.1, epochs=50)` in place of a number.

A schedule holds the rate of the next step in `lr`. The optimizer calls `epoch_end(monitored)` after each epoch, or
`step_end()` after each step, and the schedule sets `lr` anew. `state_dict` holds numbers only.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, TypeVar

from hotgrad.checks import finite_number, whole_number
from hotgrad.core.moving import moving, untraced
from hotgrad.errors import SettingError

__all__ = ["CosineLR", "ExponentialLR", "MultiStepLR", "OneCycleLR", "PlateauLR", "Schedule", "SequentialLR", "StepLR", "WarmupLR"]

S = TypeVar("S", bound="Schedule")


class Schedule:
    """Base of the schedules: the rate after `count` epochs is `at(count)`, which a subclass defines.

    `per`: "epoch", or "step" to count the optimizer's steps instead.

    >>> class Halving(hg.optim.Schedule):
    ...     def at(self, count):
    ...         return self.base * 0.5**count
    >>> schedule = Halving(0.1)
    >>> schedule.epoch_end()
    >>> schedule.lr
    0.05
    """

    def __init__(self, lr: float = 0.01, per: str = "epoch") -> None:
        self.base = finite_number("lr", lr)
        if per not in ("epoch", "step"):
            raise SettingError(f"per must be 'epoch' or 'step'; got {per!r}")
        self.per = per
        self.restart()

    def restart(self) -> None:
        """Forget where it stands."""
        self._count = 0

    def at(self, count: int) -> float:
        """The rate after `count` epochs or steps."""
        return self.base

    @property
    def count(self) -> int:
        """How many epochs or steps are done."""
        return moving(self, "count", lambda ahead: self._count)  # type: ignore[no-any-return]

    @count.setter
    def count(self, value: int) -> None:
        self._count = value

    @property
    def lr(self) -> float:
        """The rate of the next step."""
        return moving(self, "lr", lambda ahead: self.at(self._count))  # type: ignore[no-any-return]

    def now(self) -> float:
        """`lr` as a number, also while a program is captured."""
        return untraced(lambda: self.lr)

    @property
    def moves_within_epochs(self) -> bool:
        """Whether `lr` may differ from step to step."""
        return self.per != "epoch" or type(self).step_end is not Schedule.step_end

    def epoch_end(self, monitored: float | None = None) -> None:
        """Called after each epoch, with the validation loss, or the training loss where there is none."""
        if self.per == "epoch":
            self._count += 1

    def step_end(self) -> None:
        """Called after each step of the optimizer."""
        if self.per == "step":
            self._count += 1

    def fresh(self: S) -> S:
        """A schedule of the same settings, at its start."""
        out = copy.deepcopy(self)
        out.restart()
        return out

    def settings(self) -> dict[str, Any]:
        """The numbers that describe it, apart from where it stands."""
        return {name: value for name, value in vars(self).items() if name.lstrip("_") not in self.state_dict()}

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as numbers."""
        return {"count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        for name in self.state_dict():
            setattr(self, name, state[name])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"


class StepLR(Schedule):
    """`lr` times `gamma` for every `step_size` epochs done.

    >>> schedule = hg.optim.StepLR(0.1, step_size=30)
    >>> schedule.at(29), schedule.at(30)
    (0.1, 0.010000000000000002)
    """

    def __init__(self, lr: float, step_size: int, gamma: float = 0.1, per: str = "epoch") -> None:
        super().__init__(lr, per)
        self.step_size, self.gamma = whole_number("step_size", step_size), finite_number("gamma", gamma, above=True)

    def at(self, count: int) -> float:
        return float(self.base * self.gamma ** (count // self.step_size))


class MultiStepLR(Schedule):
    """`lr` times `gamma` for every one of the `milestones`, numbers of epochs, that is reached.

    >>> schedule = hg.optim.MultiStepLR(0.1, milestones=(30, 80), gamma=0.5)
    >>> schedule.at(29), schedule.at(30), schedule.at(80)
    (0.1, 0.05, 0.025)
    """

    def __init__(self, lr: float, milestones: Sequence[int], gamma: float = 0.1, per: str = "epoch") -> None:
        super().__init__(lr, per)
        self.milestones = tuple(sorted(whole_number("milestones", milestone, 0) for milestone in milestones))
        self.gamma = finite_number("gamma", gamma, above=True)

    def at(self, count: int) -> float:
        return float(self.base * self.gamma ** sum(milestone <= count for milestone in self.milestones))


class ExponentialLR(Schedule):
    """`lr` times `gamma` for every epoch done.

    >>> hg.optim.ExponentialLR(0.1, gamma=0.5).at(2)
    0.025
    """

    def __init__(self, lr: float, gamma: float, per: str = "epoch") -> None:
        super().__init__(lr, per)
        self.gamma = finite_number("gamma", gamma, above=True)

    def at(self, count: int) -> float:
        return float(self.base * self.gamma**count)


class OneCycleLR(Schedule):
    """From `lr` / `div_factor` by half a cosine up to `lr` within the share `pct_start` of `total` steps, and by another down to the first rate
    over `final_div_factor` (Smith and Topin 2018), which then stays. `total` counts steps, or epochs for per="epoch".

    >>> schedule = hg.optim.OneCycleLR(0.1, total=11, pct_start=0.5)
    >>> [round(schedule.at(n), 7) for n in (0, 10)]
    [0.004, 4e-07]
    """

    def __init__(
        self, lr: float, total: int, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4, per: str = "step"
    ) -> None:
        super().__init__(lr, per)
        self.total, self.pct_start = whole_number("total", total, 2), finite_number("pct_start", pct_start, 0, 1)
        self.div_factor = finite_number("div_factor", div_factor, above=True)
        self.final_div_factor = finite_number("final_div_factor", final_div_factor, above=True)

    def at(self, count: int) -> float:
        first, top, last = self.base / self.div_factor, self.pct_start * self.total - 1, self.total - 1
        if count <= top:
            return _between(first, self.base, count / top)
        return _between(self.base, first / self.final_div_factor, min((count - top) / (last - top), 1.0) if last > top else 1.0)


def _between(start: float, end: float, done: float) -> float:
    """The number that half a cosine has reached on its way."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


class SequentialLR(Schedule):
    """One schedule after the other, each from its own start: the next one from each of the `milestones`, numbers of epochs, on.

    Raises SettingError unless there is one milestone less than schedules, they rise, and all count the same; a PlateauLR is refused.

    >>> schedule = hg.optim.SequentialLR([hg.optim.ExponentialLR(0.1, 0.5), hg.optim.Schedule(0.02)], milestones=[2])
    >>> [schedule.at(n) for n in range(4)]
    [0.1, 0.05, 0.02, 0.02]
    """

    def __init__(self, schedules: Sequence[Schedule], milestones: Sequence[int]) -> None:
        self.schedules = tuple(schedules)
        self.milestones = tuple(whole_number("milestones", milestone) for milestone in milestones)
        rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:]))
        if not self.schedules or len(self.milestones) != len(self.schedules) - 1 or not rising:
            raise SettingError(f"milestones must rise and be one less than the {len(self.schedules)} schedules; got {self.milestones}")
        kinds = {schedule.per for schedule in self.schedules}
        if len(kinds) != 1 or any(isinstance(schedule, PlateauLR) for schedule in self.schedules):
            raise SettingError("the schedules must count the same, epochs or steps, and none may be a PlateauLR")
        super().__init__(self.schedules[0].base, kinds.pop())

    def at(self, count: int) -> float:
        number = sum(milestone <= count for milestone in self.milestones)
        return self.schedules[number].at(count - (self.milestones[number - 1] if number else 0))


class CosineLR(Schedule):
    """Half a cosine from `lr` down to `minimum` within `epochs`, then `minimum` (Loshchilov and Hutter 2017, equation 5).

    Raises SettingError for a `minimum` above `lr`.

    >>> schedule = hg.optim.CosineLR(0.1, epochs=10)
    >>> schedule.at(0), round(schedule.at(5), 6), schedule.at(10), schedule.at(11)
    (0.1, 0.05, 0.0, 0.0)
    """

    def __init__(self, lr: float, epochs: int, minimum: float = 0.0, per: str = "epoch") -> None:
        super().__init__(lr, per)
        self.epochs, self.minimum = whole_number("epochs", epochs), finite_number("minimum", minimum, 0, self.base)

    def at(self, count: int) -> float:
        done = min(count, self.epochs) / self.epochs
        return self.minimum + (self.base - self.minimum) * (1 + math.cos(math.pi * done)) / 2


class WarmupLR(Schedule):
    """From `start_factor` times `lr` up to `lr`, in equal steps within `epochs`; then on with `lr`, a number or another schedule.

    Raises SettingError for a `start_factor` above 1.

    >>> schedule = hg.optim.WarmupLR(hg.optim.StepLR(0.1, 1, 0.5), epochs=4, start_factor=0.5)
    >>> [round(schedule.at(n), 4) for n in range(6)]
    [0.05, 0.0625, 0.075, 0.0875, 0.1, 0.05]
    """

    def __init__(self, lr: float | Schedule, epochs: int = 5, start_factor: float = 1 / 3, per: str = "epoch") -> None:
        self.then = lr if isinstance(lr, Schedule) else None
        if isinstance(lr, PlateauLR) or (isinstance(lr, Schedule) and lr.per != per):
            raise SettingError(
                f"WarmupLR goes on with a number, or with a schedule that counts the same ({per!r}) and is no PlateauLR; got {lr!r}"
            )
        super().__init__(lr.base if isinstance(lr, Schedule) else lr, per)
        self.epochs, self.start_factor = whole_number("epochs", epochs), finite_number("start_factor", start_factor, 0, 1)

    def at(self, count: int) -> float:
        if count >= self.epochs:
            return self.then.at(count - self.epochs) if self.then else self.base
        return self.base * (self.start_factor + (1 - self.start_factor) * count / self.epochs)


class PlateauLR(Schedule):
    """`lr`, times `factor` whenever the monitored loss has not fallen for more than `patience` epochs, but not to below `minimum`.

    A rate that begins below `minimum` stays as it is.

    It has fallen if it is less than the best one before by the share `threshold` of that. After a change, `cooldown` epochs
    pass before epochs are counted again.

    >>> schedule = hg.optim.PlateauLR(0.1, patience=1)
    >>> for loss in (1.0, 1.0, 1.0):
    ...     schedule.epoch_end(loss)
    >>> schedule.lr
    0.010000000000000002
    """

    def __init__(
        self, lr: float, factor: float = 0.1, patience: int = 10, threshold: float = 1e-4, cooldown: int = 0, minimum: float = 0.0
    ) -> None:
        super().__init__(lr)
        self.factor = finite_number("factor", factor, above=True)
        if factor >= 1:
            raise SettingError(f"factor must be less than 1; got {factor!r}")
        self.patience, self.cooldown = finite_number("patience", patience), finite_number("cooldown", cooldown)
        self.threshold, self.minimum = finite_number("threshold", threshold), finite_number("minimum", minimum)

    def restart(self) -> None:
        super().restart()
        self.rate = self.base
        self.best = math.inf  # the lowest loss so far
        self.bad = 0  # epochs since
        self.rest = 0  # epochs that do not count yet

    def at(self, count: int) -> float:
        return self.rate

    def epoch_end(self, monitored: float | None = None) -> None:
        """Raises SettingError without a value to look at."""
        if monitored is None:
            raise SettingError("PlateauLR needs the loss of the epoch: call epoch_end(loss)")
        super().epoch_end()
        better = monitored < self.best * (1 - self.threshold) if self.best > 0 else monitored < self.best * (1 + self.threshold)
        if better:
            self.best, self.bad = monitored, 0
        else:
            self.bad += 1
        if self.rest:
            self.rest, self.bad = self.rest - 1, 0
        if self.bad > self.patience:
            lower = max(self.rate * self.factor, self.minimum)
            self.rate, self.rest, self.bad = min(self.rate, lower), int(self.cooldown), 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._count, "rate": self.rate, "best": self.best, "bad": self.bad, "rest": self.rest}
