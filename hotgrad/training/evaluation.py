"""Running a model without training it: predictions in pieces, and what they are worth."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from hotgrad.core.in_place import forward_pass
from hotgrad.core.modes import no_grad, surely
from hotgrad.core.variable import Variable, wrap
from hotgrad.errors import OperandError
from hotgrad.functional import check_labels
from hotgrad.modules import Module
from hotgrad.training.claims import modules_of
from hotgrad.training.inputs import check_rows
from hotgrad.training.metrics import chosen, columns_of, labels_of, r2

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


def forward(model: Module, x: Tensor, batch_size: int | None = None, run: Callable[[Tensor], Any] | None = None) -> Tensor:
    """The model's output for all rows of `x`, in eval mode, unrecorded, computed in pieces of `batch_size` rows.

    `run` computes a piece in place of the model. Raises OperandError unless the model gives a Variable or tensor, ShapeError unless that has one row per row of `x`.
    """
    outputs = []

    def quietly() -> None:
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

    keeping_modes(model, lambda: no_grad.run(quietly))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def scalar_loss(loss: Callable[..., Any], output: Tensor, y: Tensor, weights: Tensor | None = None) -> float:
    """The loss of given outputs, as a float, unrecorded."""
    return float(no_grad.run(row_loss(loss, weights is not None), wrap(output, None), y, weights))


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
