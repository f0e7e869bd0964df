"""Losses as modules: `loss(output, target)` gives a scalar Variable. What they compute stands in `functional`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from hotgrad import functional
from hotgrad.checks import finite_number
from hotgrad.core.arrays import as_tensor
from hotgrad.core.variable import Variable
from hotgrad.errors import DataError
from hotgrad.modules.module import Module

__all__ = ["L1", "MSE", "NLL", "BCEWithLogits", "CrossEntropy", "Hinge", "Huber", "Loss", "SmoothL1"]


class Loss(Module):
    """Base of the losses. `reduction`: "mean", "sum", or "none" for the values themselves.

    A subclass sets `function(output, target, reduction)`, and `reaches_target` if its least is where the output equals the target,
    so that labels 0 and 1 are told apart at 0.5. Any other callable that gives a scalar Variable serves as a loss, too.

    >>> class Cubic(hg.nn.Loss):
    ...     function = staticmethod(lambda output, target, reduction: (abs(output - target) ** 3).mean())
    >>> Cubic()(hg.Variable([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    Variable(4.)
    """

    function: ClassVar[Callable[..., Any]]
    reaches_target: ClassVar[bool] = False

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = functional.check_reduction(reduction)

    def forward(self, output: Any, target: Any) -> Any:
        return type(self).function(output, target, self.reduction)

    def check(self, output: Any, target: Any) -> None:
        """Raise what fits for targets of the right shape that hold wrong values; calls do not look, for it costs too much at each step."""

    def extra_repr(self) -> str:
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"


class MSE(Loss):
    """Mean of the squared differences; see `functional.mse`.

    >>> hg.MSE()(hg.Variable([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    Variable(2.)
    """

    function = staticmethod(functional.mse)
    reaches_target = True

    def residuals(self, output: Any, target: Any, weights: Any = None) -> Any:
        """What the loss is the sum of squares of, of the output's shape; `weights`: one for each row, as `fit` weighs them.

        >>> hg.MSE().residuals(hg.Variable([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        Variable([ 0.0000, -1.4142])
        """
        return functional.mse_residuals(output, target, self.reduction, weights)


class L1(Loss):
    """Mean of the absolute differences; see `functional.l1`.

    >>> hg.nn.L1()(hg.Variable([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    Variable(1.)
    """

    function = staticmethod(functional.l1)
    reaches_target = True


class Huber(Loss):
    """Half the squared differences up to `delta`, linear beyond; see `functional.huber`. Raises SettingError unless delta is positive.

    >>> hg.nn.Huber()(hg.Variable([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    Variable(0.7500)
    """

    function = staticmethod(functional.huber)
    reaches_target = True

    def __init__(self, delta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.delta = finite_number("Huber: delta", delta, above=True)

    def forward(self, output: Any, target: Any) -> Any:
        return functional.huber(output, target, self.reduction, self.delta)

    def extra_repr(self) -> str:
        return ", ".join(filter(None, ("" if self.delta == 1 else f"delta={self.delta}", super().extra_repr())))


class SmoothL1(Loss):
    """Half the squared differences over `beta` up to `beta`, linear beyond; see `functional.smooth_l1`.

    >>> hg.nn.SmoothL1()(hg.Variable([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    Variable(0.7500)
    """

    function = staticmethod(functional.smooth_l1)
    reaches_target = True

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = finite_number("SmoothL1: beta", beta, 0)

    def forward(self, output: Any, target: Any) -> Any:
        return functional.smooth_l1(output, target, self.reduction, self.beta)

    def extra_repr(self) -> str:
        return ", ".join(filter(None, ("" if self.beta == 1 else f"beta={self.beta}", super().extra_repr())))


class Hinge(Loss):
    """Mean of what 1 - output * target is above 0, for targets -1 and 1; see `functional.hinge`.

    >>> hg.nn.Hinge()(hg.Variable([0.5, 2.0]), torch.tensor([1.0, 1.0]))
    Variable(0.2500)
    """

    function = staticmethod(functional.hinge)


class NLL(Loss):
    """Minus the log-probabilities (n, classes) of integer labels (n,), behind a LogSoftmax; see `functional.nll`.

    >>> hg.nn.NLL()(torch.tensor([[-1.0, -2.0]]), torch.tensor([1]))
    tensor(2.)
    """

    function = staticmethod(functional.nll)

    def check(self, output: Any, target: Any) -> None:
        """Raises DataError for labels out of range."""
        values = target.data if isinstance(target, Variable) else target
        functional.check_labels(values, output.shape[-1], "nll")


class CrossEntropy(Loss):
    """Cross-entropy of logits (n, classes) with integer labels (n,) or float probabilities; see `functional.cross_entropy`.

    Also there: `weight` (classes,), `ignore_index`, `label_smoothing`, and further axes behind the classes.

    >>> hg.CrossEntropy()(hg.Variable([[0.0, 1000.0]]), torch.tensor([1]))
    Variable(-0.)
    """

    function = staticmethod(functional.cross_entropy)

    def __init__(
        self, reduction: str = "mean", *, weight: Any = None, ignore_index: int | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(reduction)
        self.weight = None if weight is None else as_tensor(weight)
        self.ignore_index, self.label_smoothing = ignore_index, finite_number("CrossEntropy: label_smoothing", label_smoothing, 0, 1)

    def forward(self, output: Any, target: Any) -> Any:
        return functional.cross_entropy(
            output, target, self.reduction, weight=self.weight, ignore_index=self.ignore_index, label_smoothing=self.label_smoothing
        )

    def extra_repr(self) -> str:
        usual = {"ignore_index": None, "label_smoothing": 0.0}
        shown = [f"{name}={value}" for name, usual_value in usual.items() if (value := getattr(self, name)) != usual_value]
        weight = [] if self.weight is None else [f"weight={self.weight.tolist()}"]
        return ", ".join(filter(None, [*weight, *shown, super().extra_repr()]))

    def check(self, output: Any, target: Any) -> None:
        """Raises DataError for labels out of range, and for probabilities that are negative or do not sum to 1."""
        values = target.data if isinstance(target, Variable) else target
        if not values.dtype.is_floating_point:
            kept = values.reshape(-1)
            functional.check_labels(
                kept if self.ignore_index is None else kept[kept != self.ignore_index], output.shape[min(1, output.ndim - 1)]
            )
            return
        if values.ndim != 2:
            return
        wrong = (values < 0).any(1) | ((values.sum(1) - 1).abs() > 1e-3)
        if wrong.any():
            first = int(wrong.nonzero()[0])
            raise DataError(
                f"cross_entropy: each row of target probabilities must be at least 0 and sum to 1; row {first} is {values[first].tolist()}"
            )


class BCEWithLogits(Loss):
    """Binary cross-entropy of logits with targets 0 or 1, of equal shape; see `functional.bce_with_logits`. A target of 1 counts
    `pos_weight` times, a number or a tensor that broadcasts.

    >>> hg.nn.BCEWithLogits()(hg.Variable([0.0]), torch.tensor([1.0]))
    Variable(0.6931)
    """

    function = staticmethod(functional.bce_with_logits)

    def __init__(self, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(reduction)
        self.pos_weight = pos_weight if pos_weight is None or isinstance(pos_weight, (int, float)) else as_tensor(pos_weight)

    def forward(self, output: Any, target: Any) -> Any:
        return functional.bce_with_logits(output, target, self.reduction, pos_weight=self.pos_weight)

    def extra_repr(self) -> str:
        weight = "" if self.pos_weight is None else f"pos_weight={self.pos_weight}"
        return ", ".join(filter(None, (weight, super().extra_repr())))

    def check(self, output: Any, target: Any) -> None:
        """Raises DataError for targets outside of 0 to 1."""
        values = target.data if isinstance(target, Variable) else target
        wrong = (values < 0) | (values > 1)
        if wrong.any():
            raise DataError(f"bce_with_logits: targets must be from 0 to 1; got {float(values[wrong][0])} ({int(wrong.sum())} are wrong)")
