"""The update rules. Names, defaults and results are those of torch.optim; `maximize` climbs: it turns the gradient's sign first."""

from __future__ import annotations

import math
from typing import Any

from hotgrad.checks import finite_number
from hotgrad.errors import SettingError
from hotgrad.optim.optimizer import Optimizer
from hotgrad.optim.schedules import Schedule

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "NAdam", "RMSprop"]


class SGD(Optimizer):
    """Gradient descent, with momentum (Polyak 1964; `nesterov`: Sutskever et al. 2013) and weight decay.

    From the second step on the velocity takes up 1 - `dampening` of the gradient.

    >>> w = hg.Parameter([1.0])
    >>> (w * w).sum().backward()
    >>> hg.optim.SGD([w], lr=0.25).step()
    >>> w.data
    tensor([0.5000])
    """

    def __init__(
        self,
        params: Any = None,
        lr: float | Schedule = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        dampening: float = 0.0,
        maximize: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        settings = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "dampening": dampening, "maximize": maximize}
        super().__init__(params, lr, clip_norm=clip_norm, **settings)

    def check(self, s: Any) -> None:
        finite_number("momentum", s.momentum)
        finite_number("weight_decay", s.weight_decay)
        finite_number("dampening", s.dampening)
        if s.nesterov and (not s.momentum or s.dampening):
            raise SettingError("nesterov needs a momentum, for example momentum=0.9, and no dampening")

    def keeps(self, s: Any) -> tuple[str, ...]:
        if not s.momentum:
            return ()
        return ("velocity", "started") if s.dampening else ("velocity",)

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        if s.maximize:
            g = -g
        if s.weight_decay:
            g = g + s.weight_decay * p
        if s.momentum:
            v = s.momentum * state["velocity"] + g
            if s.dampening:  # by a state of 0 before the first step and 1 after: a scalar of each step would cost every SGD
                v = v - s.dampening * (state["started"] * g)
                state["started"] = state["started"] * 0.0 + 1.0
            state["velocity"] = v
            g = g + s.momentum * v if s.nesterov else v
        return p - s.lr * g


def _check_adam(s: Any) -> None:
    finite_number("eps", s.eps)
    finite_number("weight_decay", s.weight_decay)
    if len(s.betas) != 2 or not all(0 <= beta < 1 for beta in s.betas):
        raise SettingError(f"betas must be two numbers from 0 up to, not including, 1; got {s.betas!r}")


def _means(g: Any, state: dict[str, Any], s: Any) -> tuple[Any, Any]:
    """The running means of the gradient and of its square, or the largest so far of these."""
    m = state["mean"] = s.betas[0] * state["mean"] + (1 - s.betas[0]) * g
    v = state["square"] = s.betas[1] * state["square"] + (1 - s.betas[1]) * (g * g)
    if s.amsgrad:
        v = state["largest"] = state["largest"].maximum(v)
    return m, v


class Adam(Optimizer):
    """Steps scaled by running means of the gradient and of its square (Kingma and Ba 2015, algorithm 1).

    `weight_decay` is added to the gradient. The correction for the means' start at 0 counts each parameter's own steps. `amsgrad` divides by
    the largest of the square's means so far (Reddi and others 2018).

    >>> w = hg.Parameter([1.0])
    >>> (w * w).sum().backward()
    >>> hg.optim.Adam([w], lr=0.25).step()
    >>> w.data
    tensor([0.7500])
    """

    def __init__(
        self,
        params: Any = None,
        lr: float | Schedule = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        amsgrad: bool = False,
        maximize: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        settings = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad, "maximize": maximize}
        super().__init__(params, lr, clip_norm=clip_norm, **settings)

    def check(self, s: Any) -> None:
        _check_adam(s)

    def keeps(self, s: Any) -> tuple[str, ...]:
        return ("mean", "square", "largest") if s.amsgrad else ("mean", "square")

    def scalars(self, s: Any, count: int) -> dict[str, float]:
        return {"rate": s.lr / (1 - s.betas[0] ** count), "root": math.sqrt(1 - s.betas[1] ** count)}

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        if s.maximize:
            g = -g
        if s.weight_decay:
            g = g + s.weight_decay * p
        m, v = _means(g, state, s)
        return p - s.rate * (m / (v.sqrt() / s.root + s.eps))


class AdamW(Adam):
    """Adam, with weight decay apart from the gradient (Loshchilov and Hutter 2019, algorithm 2).

    >>> w = hg.Parameter([1.0])
    >>> (w * w).sum().backward()
    >>> hg.optim.AdamW([w], lr=0.25, weight_decay=1.0).step()
    >>> w.data
    tensor([0.5000])
    """

    def __init__(
        self,
        params: Any = None,
        lr: float | Schedule = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        amsgrad: bool = False,
        maximize: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad=amsgrad, maximize=maximize, clip_norm=clip_norm)

    def scalars(self, s: Any, count: int) -> dict[str, float]:
        return {**super().scalars(s, count), "shrink": 1 - s.lr * s.weight_decay}

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        m, v = _means(-g if s.maximize else g, state, s)
        return s.shrink * p - s.rate * (m / (v.sqrt() / s.root + s.eps))


class RMSprop(Optimizer):
    """Steps scaled by a running mean of the gradient's square (Tieleman and Hinton 2012, lecture 6.5), or, `centered`, by its
    variance (Graves 2013), with momentum.

    >>> w = hg.Parameter([1.0])
    >>> (w * w).sum().backward()
    >>> hg.optim.RMSprop([w], lr=0.05).step()
    >>> w.data
    tensor([0.5000])
    """

    def __init__(
        self,
        params: Any = None,
        lr: float | Schedule = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        settings = {
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
        }
        super().__init__(params, lr, clip_norm=clip_norm, **settings)

    def check(self, s: Any) -> None:
        for name in ("eps", "weight_decay", "momentum"):
            finite_number(name, getattr(s, name))
        if not 0 <= s.alpha < 1:
            raise SettingError(f"alpha must be from 0 up to, not including, 1; got {s.alpha!r}")

    def keeps(self, s: Any) -> tuple[str, ...]:
        return ("square",) + ("mean",) * bool(s.centered) + ("velocity",) * bool(s.momentum)

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        if s.maximize:
            g = -g
        if s.weight_decay:
            g = g + s.weight_decay * p
        v = state["square"] = s.alpha * state["square"] + (1 - s.alpha) * (g * g)
        if s.centered:
            m = state["mean"] = s.alpha * state["mean"] + (1 - s.alpha) * g
            v = v - m * m
        step = g / (v.sqrt() + s.eps)
        if s.momentum:
            step = state["velocity"] = s.momentum * state["velocity"] + step
        return p - s.lr * step


class Adagrad(Optimizer):
    """Steps divided by the root of the sum of the gradient's squares (Duchi and others 2011), at rates that fall as 1 / (1 + n lr_decay) after n steps.

    `initial_accumulator_value` is what the sums begin with.

    >>> w = hg.Parameter([1.0])
    >>> (w * w).sum().backward()
    >>> hg.optim.Adagrad([w], lr=0.25).step()
    >>> w.data
    tensor([0.7500])
    """

    def __init__(
        self,
        params: Any = None,
        lr: float | Schedule = 0.01,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        settings = {"lr_decay": lr_decay, "weight_decay": weight_decay, "initial_accumulator_value": initial_accumulator_value, "eps": eps}
        super().__init__(params, lr, clip_norm=clip_norm, maximize=maximize, **settings)

    def check(self, s: Any) -> None:
        for name in ("lr_decay", "weight_decay", "initial_accumulator_value", "eps"):
            finite_number(name, getattr(s, name))

    def keeps(self, s: Any) -> tuple[str, ...]:
        return ("square",)

    def scalars(self, s: Any, count: int) -> dict[str, float]:
        return {"rate": s.lr / (1 + (count - 1) * s.lr_decay)}

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        if s.maximize:
            g = -g
        if s.weight_decay:
            g = g + s.weight_decay * p
        v = state["square"] = state["square"] + g * g
        if s.initial_accumulator_value:
            v = v + s.initial_accumulator_value
        return p - s.rate * (g / (v.sqrt() + s.eps))


_PRODUCTS: dict[tuple[float, float], list[float]] = {}


def _momentum(beta: float, decay: float, count: int) -> float:
    """NAdam's momentum of one step."""
    return float(beta * (1 - 0.5 * 0.96 ** (count * decay)))


def _product(beta: float, decay: float, count: int) -> float:
    """The product of the momenta of so many steps."""
    known = _PRODUCTS.setdefault((beta, decay), [1.0])
    while len(known) <= count:
        known.append(known[-1] * _momentum(beta, decay, len(known)))
    return known[count]


class NAdam(Optimizer):
    """Adam with Nesterov's momentum, which grows as `momentum_decay` says (Dozat 2016).

    >>> w = hg.Parameter([1.0])
    >>> (w * w).sum().backward()
    >>> hg.optim.NAdam([w], lr=0.25).step()
    >>> w.data
    tensor([0.7359])
    """

    def __init__(
        self,
        params: Any = None,
        lr: float | Schedule = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 0.004,
        *,
        maximize: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        settings = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum_decay": momentum_decay, "maximize": maximize}
        super().__init__(params, lr, clip_norm=clip_norm, **settings)

    def check(self, s: Any) -> None:
        _check_adam(s)
        finite_number("momentum_decay", s.momentum_decay)

    def keeps(self, s: Any) -> tuple[str, ...]:
        return ("mean", "square")

    def scalars(self, s: Any, count: int) -> dict[str, float]:
        beta, decay = s.betas[0], s.momentum_decay
        now, after, product = _momentum(beta, decay, count), _momentum(beta, decay, count + 1), _product(beta, decay, count)
        fresh, rate = s.lr * (1 - now) / (1 - product), s.lr * after / (1 - product * after)
        return {"fresh": fresh, "rate": rate, "root": math.sqrt(1 - s.betas[1] ** count)}

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        if s.maximize:
            g = -g
        if s.weight_decay:
            g = g + s.weight_decay * p
        m = state["mean"] = s.betas[0] * state["mean"] + (1 - s.betas[0]) * g
        v = state["square"] = s.betas[1] * state["square"] + (1 - s.betas[1]) * (g * g)
        return p - (s.fresh * g + s.rate * m) / (v.sqrt() / s.root + s.eps)
