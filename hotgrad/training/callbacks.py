"""What runs after each epoch: early stopping, and the lines or the bar that `verbose` asks for.

A callback is any callable `callback(model, history)`; returning True ends training, and False or None does not. It may also have `begin(model)` and
`end(model, history)`, called before the first and after the last epoch, and `state_dict()` with `load_state_dict(state)`,
through which a checkpoint and the return to an epoch's start cover it; its state is of tensors, numbers, strings, lists, dicts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tqdm.auto import tqdm

from hotgrad.checks import finite_number, flag, nearest, shown, whole_number
from hotgrad.core.explain import warn
from hotgrad.errors import OperandError, SettingError
from hotgrad.training.history import History, line
from hotgrad.training.model import Model
from hotgrad.training.state import Snapshot


def check_callbacks(callbacks: Any) -> Sequence[Callable[..., Any]]:
    """The callbacks as a tuple. Raises OperandError for one that cannot be called as a callback is, such as a class."""
    found = (callbacks,) if callable(callbacks) or not isinstance(callbacks, Iterable) else tuple(callbacks)
    for callback in found:
        if isinstance(callback, type):
            raise OperandError(
                f"a callback is an object, and {callback.__name__} is a class: give {callback.__name__}(...), an instance of it"
            )
        if not callable(callback):
            raise OperandError(f"a callback is called as callback(model, history); got {callback!r:.60}")
    return found


def ends(callback: Any, answer: Any) -> bool:
    """Whether what a callback returned ends training. Raises OperandError unless it is True, False or None."""
    if answer is not None and type(answer).__name__ not in ("bool", "bool_"):  # as numpy calls its own
        raise OperandError(
            f"the callback {getattr(callback, '__qualname__', type(callback).__qualname__)} returned {shown(answer)}; "
            "return True to end training, and False or nothing to go on"
        )
    return bool(answer)


class EarlyStopping:
    """Ends training when `monitor` has not improved by more than `min_delta` for `patience` epochs.

    `monitor` is a key of the History; accuracies are to grow, everything else is to fall. With `restore_best` the model, its
    optimizer and its generator end as they were after the best epoch, also if training ends for another reason. Where another
    callback changes the layers, so that the best weights no longer fit, it warns (RuntimeWarning) and starts anew with the next epoch.
    `best` and `best_epoch` tell which that was. Raises SettingError for a negative or fractional patience, and in `fit`, before
    anything changes, for a monitor that the History will not have.

    >>> model = hg.Sequential(hg.Linear(1, 1), loss="mse", optimizer="sgd")
    >>> history = model.fit([[0.0], [1.0]], [[0.0], [0.0]], epochs=50, verbose=0, callbacks=[EarlyStopping("loss", patience=3, min_delta=10)])
    >>> len(history)
    4
    """

    def __init__(self, monitor: str = "val_loss", patience: int = 10, min_delta: float = 0.0, restore_best: bool = True) -> None:
        self.monitor = monitor
        self.patience = whole_number("patience", patience, 0)
        self.min_delta = finite_number("min_delta", min_delta)
        self.restore_best = flag("restore_best", restore_best)
        self._forget()

    def begin(self, model: Model) -> None:
        """Forget earlier trainings."""
        self._forget()

    def _forget(self) -> None:
        self.best: float | None = None
        self.best_epoch = 0
        self.waited = 0
        self._snapshot: Snapshot | None = None

    def __call__(self, model: Model, history: History) -> bool:
        row = history[-1]
        self.check(row)
        if self._outgrown(model, history):
            return False
        value = row[self.monitor]
        sign = -1 if "accuracy" in self.monitor else 1
        if not math.isnan(value) and (self.best is None or sign * (self.best - value) > self.min_delta):
            self.best, self.best_epoch, self.waited = value, int(row["epoch"]), 0
            if self.restore_best:
                self._snapshot = Snapshot(model)
        else:
            self.waited += 1
        return self.waited >= max(self.patience, 1)

    def check(self, names: Iterable[str]) -> None:
        """Raises SettingError if what it watches is not among these keys of the History."""
        if self.monitor not in names:
            like = nearest(self.monitor, names)
            remedy = (
                "; give fit validation_data"
                if str(self.monitor).startswith("val_") and not any(n.startswith("val_") for n in names)
                else ""
            )
            raise SettingError(f"EarlyStopping watches {self.monitor!r}, but the History has only {', '.join(names)}{remedy or like}")

    def end(self, model: Model, history: History) -> None:
        """Bring back the best epoch's state."""
        if self._snapshot is not None and self.best_epoch != history[-1]["epoch"] and not self._outgrown(model, history):
            self._snapshot.restore(model)

    def _outgrown(self, model: Model, history: History) -> bool:
        """Forget, with a warning, the best weights if they no longer fit the model."""
        if self._snapshot is None or self._snapshot.fits(model):
            return False
        warn(
            f"{self!r}: the layers have changed, so that the best weights so far, of epoch {self.best_epoch}, do not fit the model after "
            f"epoch {history[-1]['epoch']}; they are forgotten, and epochs count anew from the next one",
            RuntimeWarning,
        )
        self.begin(model)
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the best value so far, its epoch, the epochs waited, the best state."""
        snapshot = self._snapshot.tree if self._snapshot else None
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited, "snapshot": snapshot}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.best, self.best_epoch, self.waited = state["best"], state["best_epoch"], state["waited"]
        self._snapshot = None if state["snapshot"] is None else Snapshot(state["snapshot"])

    def __repr__(self) -> str:
        return f"EarlyStopping({self.monitor!r}, patience={self.patience}, min_delta={self.min_delta}, restore_best={self.restore_best})"


class Progress:
    """What a checked `verbose` asks for: nothing (0), a line each k-th epoch (k, True being 1), or "auto": a bar on a terminal or
    in a notebook, else about ten lines.
    """

    def __init__(self, verbose: int | bool | str, epochs: int, done: int) -> None:
        self.epochs, self.done = epochs, done
        self.bar: Any = None
        if verbose == "auto":
            self.every = max(1, epochs // 10)
            if (sys.stderr is not None and sys.stderr.isatty()) or "ipykernel" in sys.modules:
                self.every = 0
                self.bar = tqdm(total=epochs, initial=done, unit="epoch", leave=True)
        else:
            self.every = int(verbose)

    def epoch(self, row: dict[str, float], last: bool) -> None:
        """Show one finished epoch."""
        self.done += 1
        if self.bar is not None:
            shown = {name: f"{row[name]:.4g}" for name in ("loss", "accuracy", "val_loss", "val_accuracy") if name in row}
            self.bar.set_postfix(shown, refresh=False)
            self.bar.update()
        elif self.every and (self.done % self.every == 0 or last):
            print(line({**row, "epoch": self.done}, self.epochs), flush=True)

    def close(self) -> None:
        """Finish the bar."""
        if self.bar is not None:
            self.bar.close()
