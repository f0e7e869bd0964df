"""The update rules. Names, defaults and results are those of torch.optim."""

from __future__ import annotations

import math
from typing import Any

from hotgrad.checks import finite_number
from hotgrad.errors import SettingError
from hotgrad.optim.optimizer import Optimizer
from hotgrad.optim.schedules import Schedule

__all__ = ["SGD", "Adam", "AdamW", "RMSprop"]


class SGD(Optimizer):
    """Gradient descent, with momentum (Polyak 1964; `nesterov`: Sutskever et al. 2013) and weight decay.

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
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(params, lr, clip_norm=clip_norm, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)

    def check(self, s: Any) -> None:
        finite_number("momentum", s.momentum)
        finite_number("weight_decay", s.weight_decay)
        if s.nesterov and not s.momentum:
            raise SettingError("nesterov needs a momentum, for example momentum=0.9")

    def keeps(self, s: Any) -> tuple[str, ...]:
        return ("velocity",) if s.momentum else ()

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        if s.weight_decay:
            g = g + s.weight_decay * p
        if s.momentum:
            v = state["velocity"] = s.momentum * state["velocity"] + g
            g = g + s.momentum * v if s.nesterov else v
        return p - s.lr * g


def _check_adam(s: Any) -> None:
    finite_number("eps", s.eps)
    finite_number("weight_decay", s.weight_decay)
    if len(s.betas) != 2 or not all(0 <= beta < 1 for beta in s.betas):
        raise SettingError(f"betas must be two numbers from 0 up to, not including, 1; got {s.betas!r}")


class Adam(Optimizer):
    """Steps scaled by running means of the gradient and of its square (Kingma and Ba 2015, algorithm 1).

    `weight_decay` is added to the gradient. The correction for the means' start at 0 counts each parameter's own steps.

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
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(params, lr, clip_norm=clip_norm, betas=betas, eps=eps, weight_decay=weight_decay)

    def check(self, s: Any) -> None:
        _check_adam(s)

    def keeps(self, s: Any) -> tuple[str, ...]:
        return ("mean", "square")

    def scalars(self, s: Any, count: int) -> dict[str, float]:
        return {"rate": s.lr / (1 - s.betas[0] ** count), "root": math.sqrt(1 - s.betas[1] ** count)}

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        if s.weight_decay:
            g = g + s.weight_decay * p
        m = state["mean"] = s.betas[0] * state["mean"] + (1 - s.betas[0]) * g
        v = state["square"] = s.betas[1] * state["square"] + (1 - s.betas[1]) * (g * g)
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
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, clip_norm=clip_norm)

    def scalars(self, s: Any, count: int) -> dict[str, float]:
        return {**super().scalars(s, count), "shrink": 1 - s.lr * s.weight_decay}

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        m = state["mean"] = s.betas[0] * state["mean"] + (1 - s.betas[0]) * g
        v = state["square"] = s.betas[1] * state["square"] + (1 - s.betas[1]) * (g * g)
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
        clip_norm: float | None = None,
    ) -> None:
        settings = {"alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum, "centered": centered}
        super().__init__(params, lr, clip_norm=clip_norm, **settings)

    def check(self, s: Any) -> None:
        for name in ("eps", "weight_decay", "momentum"):
            finite_number(name, getattr(s, name))
        if not 0 <= s.alpha < 1:
            raise SettingError(f"alpha must be from 0 up to, not including, 1; got {s.alpha!r}")

    def keeps(self, s: Any) -> tuple[str, ...]:
        return ("square",) + ("mean",) * bool(s.centered) + ("velocity",) * bool(s.momentum)

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
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
