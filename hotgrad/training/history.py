"""What happened in a `fit`, epoch by epoch."""

from __future__ import annotations

from typing import Any

from hotgrad.errors import SettingError


def row_keys(labelled: bool, validated: bool, validation_labelled: bool) -> list[str]:
    """The keys that the rows of a `fit` will have: whether its targets are labels, whether there are validation data, and with labels.

    >>> row_keys(True, False, False)
    ['epoch', 'loss', 'accuracy', 'lr', 'seconds']
    """
    given = {"accuracy": labelled, "val_loss": validated, "val_accuracy": validated and validation_labelled}
    return [name for name in ("epoch", "loss", *given, "lr", "seconds") if given.get(name, True)]


class History(list[dict[str, float]]):
    """One dict per epoch, with the keys `epoch loss accuracy val_loss val_accuracy lr seconds` where they mean something.

    `engine` names the engine that ran, `engine_note` says why others did not.

    >>> history = History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    >>> history[-1]["loss"], history.column("loss")
    (0.25, [0.5, 0.25])
    """

    engine: str = "eager"
    engine_note: str = ""

    def column(self, name: str) -> list[float]:
        """The values of one key over the epochs that have it. Raises SettingError for a key that no epoch has."""
        if self and not any(name in row for row in self):
            raise SettingError(f"the History has no {name!r}; it has {', '.join(self[-1])}")
        return [row[name] for row in self if name in row]

    def plot(self, ax: Any = None) -> Any:
        """Draw loss, and accuracy where there is one, over the epochs with matplotlib (extra `plot`); returns the figure.

        `ax`: a matplotlib axes to draw the loss on, instead of a new figure.
        """
        from matplotlib.figure import Figure

        names = [pair for pair in (("loss", "val_loss"), ("accuracy", "val_accuracy")) if any(pair[0] in row for row in self)]
        if ax is None:
            figure = Figure(figsize=(5 * max(1, len(names)), 3.5), layout="constrained")
            axes = list(figure.subplots(1, max(1, len(names)), squeeze=False)[0])
        else:
            figure, axes, names = ax.figure, [ax], names[:1]
        for axis, (train, held_out) in zip(axes, names):
            for name, label in ((train, "training"), (held_out, "validation")):
                rows = [row for row in self if name in row]
                if rows:
                    axis.plot([row["epoch"] for row in rows], [row[name] for row in rows], label=label)
            axis.set_xlabel("epoch")
            axis.set_ylabel(train)
            axis.legend()
        return figure

    def __repr__(self) -> str:
        last = ": " + line(self[-1]) if self else ""
        return f"<History of {len(self)} epoch{'s' if len(self) != 1 else ''}, {self.engine}{last}>"


def line(row: dict[str, float], total: int | None = None) -> str:
    """One epoch as a line of text.

    >>> line({"epoch": 3, "loss": 0.25, "lr": 0.01, "seconds": 0.1})
    'epoch 3  loss 0.25  lr 0.01  0.10 s'
    """
    width = len(str(total or int(row["epoch"])))
    parts = [f"epoch {int(row['epoch']):{width}}" + (f"/{total}" if total else "")]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "lr"):
        if name in row:
            parts.append(f"{name} {row[name]:.4f}" if "accuracy" in name else f"{name} {row[name]:.4g}")
    if "seconds" in row:
        parts.append(f"{row['seconds']:.2f} s")
    return "  ".join(parts)
