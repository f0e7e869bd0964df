"""What targets mean, and how well outputs match them: accuracy for labels, one-hot and -1/+1 targets, R2 for the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from hotgrad.errors import ShapeError
from hotgrad.functional import remedy


def labels_of(y: Tensor, columns: int) -> Tensor | None:
    """The label of each row of the targets `y`, int64 (n,), or None if they are not labels.

    `columns`: how many columns the model's output has; 1 also for outputs of shape (n,). Labels are: integers (n,) where there
    are several columns; rows with one 1 among 0s, or one +1 among -1s; and for one column, values that are all 0 or 1, or all
    -1 or +1.

    >>> labels_of(torch.tensor([[-1.0, 1.0], [1.0, -1.0]]), 2)
    tensor([1, 0])
    """
    if y.ndim > 2:
        return None
    low = y.min() if y.numel() else 0
    binary = bool(((y == 1) | (y == low)).all()) and bool((low == 0) | (low == 1) | (low == -1))
    if columns == 1:
        return (y.reshape(len(y)) > 0).long() if binary and (y.ndim == 1 or y.shape[1] == 1) else None
    if y.ndim == 1:
        whole = not y.is_floating_point() and bool(low >= 0)
        return y.long() if whole else None
    return y.argmax(1) if binary and y.shape[1] == columns and bool(((y == 1).sum(1) == 1).all()) else None


def columns_of(output: Tensor) -> int:
    """How many columns an output has, 1 for (n,)."""
    return 1 if output.ndim == 1 else output.shape[1]


def chosen(output: Tensor, threshold: float) -> Tensor:
    """The label that each row of `output` gives: the largest column, or for one column whether it exceeds `threshold`.

    Raises ShapeError for outputs of more than two axes.

    >>> chosen(torch.tensor([[0.1, 0.9], [2.0, 1.0]]), 0.0)
    tensor([1, 0])
    """
    if output.ndim > 2:
        raise ShapeError(f"labels need an output of shape (n,) or (n, classes); got {tuple(output.shape)}")
    return (output.reshape(len(output)) > threshold).long() if columns_of(output) == 1 else output.argmax(1)


def r2(output: Tensor, y: Tensor) -> float:
    """The coefficient of determination, averaged over columns: 1 - (squared errors) / (squared deviations from the mean).

    A column of equal targets counts 1 if it is met exactly, else 0. Computed in float64. Raises ShapeError unless the shapes agree.

    >>> r2(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]))
    1.0
    """
    if output.shape != y.shape:
        raise ShapeError(
            f"the output has shape {tuple(output.shape)} and the targets {tuple(y.shape)}; R2 needs them equal. {remedy(output, y)}"
        )
    found, wanted = output.double().reshape(len(y), -1), y.double().reshape(len(y), -1)
    errors = (found - wanted).square().sum(0)
    spread = (wanted - wanted.mean(0)).square().sum(0)
    equal = (wanted == wanted[:1]).all(0) | (spread == 0)
    return float(torch.where(equal, (errors == 0).double(), 1 - errors / torch.where(equal, 1.0, spread)).mean())
