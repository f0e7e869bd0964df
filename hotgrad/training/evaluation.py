"""What targets mean, forward passes in either mode, and how well outputs match targets: losses, accuracy, R2."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from hotgrad.core.drawing import drawing_from
from hotgrad.core.in_place import forward_pass
from hotgrad.core.modes import Tape, enable_grad, no_grad, surely
from hotgrad.core.variable import Variable, wrap
from hotgrad.errors import OperandError, ShapeError, TapeError
from hotgrad.functional import check_labels, remedy
from hotgrad.modules import Module
from hotgrad.training.inputs import check_rows
from hotgrad.training.side_by_side import modules_of


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


T = TypeVar("T")

# Where no batch_size is given: at most so many rows, and so many elements of input, per forward pass.
ROWS = 4096
ELEMENTS = 2**22


def keeping_modes(model: Module, body: Callable[[], T], *undo: Callable[[], object]) -> T:
    """What `body()` gives; then each module is in its own mode again, train or eval, and `undo` is done, whatever happened; see `surely`."""
    modes = [(module, module.training) for module in modules_of(model)]

    def back() -> None:
        for module, training in modes:
            module.training = training

    return surely(body, back, *undo)


def unrecorded(body: Callable[[], T]) -> T:
    """What `body()` gives without recording, with random numbers of its own; if it takes gradients itself, as of a penalty, then with, on a tape of its own."""

    def alone() -> T:
        with drawing_from(torch.Generator().manual_seed(0)):
            return body()

    try:
        return no_grad.run(alone)
    except TapeError:
        pass

    def recorded() -> T:
        with Tape():
            return enable_grad.run(alone)

    return recorded()


def forward(model: Module, x: Tensor, batch_size: int | None = None, run: Callable[[Tensor], Any] | None = None) -> Tensor:
    """The model's output for all rows of `x`, in eval mode, unrecorded, computed in pieces of `batch_size` rows.

    `run` computes a piece in place of the model. Raises OperandError unless the model gives a Variable or tensor, ShapeError unless that has one row per row of `x`.
    """
    outputs: list[Tensor] = []

    def quietly() -> None:
        outputs.clear()
        if type(model).eval is Module.eval and type(model).train is Module.train:
            for module in modules_of(model):
                module.training = False
        else:
            model.eval()
        for piece in torch.split(x, batch_size or max(1, min(ROWS, ELEMENTS // x[0].numel()))):
            output = model(wrap(piece, None)) if run is None else run(piece)
            if not isinstance(output, (Variable, Tensor)):
                raise OperandError(f"the model must give a Variable; got {type(output).__name__} ({output!r:.60})")
            data = output.data.detach() if isinstance(output, Variable) else output
            check_rows(data, len(piece), "the model's output")
            outputs.append(data)

    keeping_modes(model, lambda: unrecorded(quietly))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def scalar_loss(loss: Callable[..., Any], output: Tensor, y: Tensor, weights: Tensor | None = None) -> float:
    """The loss of given outputs, as a float, unrecorded."""
    call = row_loss(loss, weights is not None)
    return float(unrecorded(lambda: call(wrap(output, None), y, weights)))


def row_loss(loss: Callable[..., Any], weighted: bool) -> Callable[[Any, Tensor, Tensor | None], Variable]:
    """`loss` as a function of (output, target, weights). With `weighted` it is taken row by row (`reduction="none"`), each
    row times its weight, then averaged, or summed if the loss sums. Raises OperandError for a loss that has no `reduction`.
    """
    if not weighted:

        @forward_pass
        def plain(output: Any, y: Tensor, weights: Any) -> Any:
            return loss(output, y)

        return plain
    reduction = getattr(loss, "reduction", None)
    if reduction not in ("mean", "sum"):
        raise OperandError(
            f"weights need a loss with a `reduction` of 'mean' or 'sum', such as those of hotgrad.nn, so that rows can be weighted; got {loss!r:.80}"
        )
    each = copy.copy(loss)
    each.reduction = "none"  # type: ignore[attr-defined]

    @forward_pass
    def call(output: Any, y: Tensor, weights: Any) -> Variable:
        values = each(output, y)
        rows = values if values.ndim == 1 else values.reshape((len(y), -1))
        if rows.ndim == 2:
            rows = rows.mean(1) if reduction == "mean" else rows.sum(1)
        rows = rows * (weights if isinstance(weights, Variable) else wrap(weights, None))
        return rows.mean() if reduction == "mean" else rows.sum()  # type: ignore[no-any-return]

    return call


def accuracy(output: Tensor, labels: Tensor, threshold: float) -> float:
    """The share of rows whose chosen label is right."""
    return float((chosen(output, threshold) == labels).double().mean())


def score(output: Tensor, y: Tensor, threshold: float) -> float:
    """Accuracy where the targets `y` are labels, one-hot or -1/+1, else R2. Raises RangeError for labels that no output stands for."""
    columns = columns_of(output) if output.ndim <= 2 else 0
    labels = labels_of(y, columns) if columns else None
    if columns > 1 and y.ndim == 1 and not y.is_floating_point():
        check_labels(y, columns, "score")
    return r2(output, y) if labels is None else accuracy(output, labels, threshold)
