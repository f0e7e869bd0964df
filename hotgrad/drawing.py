"""Random numbers in a forward: plain tensors, drawn anew at each step, in captured programs too, and the same ones on every engine.

They come from `generator` if one is given; else inside `fit` from the model's, in the order of the steps, so that a seed repeats them; while a
model is evaluated, by validation, `predict`, `evaluate` and their like, from a generator of that evaluation alone, started anew each time, so
that it gives the same twice and never moves the training's; elsewhere from torch's global one. They are drawn on the host, in float32.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from hotgrad.core.drawing import uniform
from hotgrad.core.modes import state
from hotgrad.errors import DtypeError, OperandError, RangeError, ShapeError
from hotgrad.ops.arithmetic import Where
from hotgrad.ops.axes import array
from hotgrad.ops.rearranging import whole_sizes

__all__ = ["bernoulli", "rand", "rand_like", "randn", "randn_like"]


def _sizes(name: str, given: tuple[Any, ...]) -> tuple[int, ...]:
    sizes = whole_sizes(name, given)
    if any(n < 0 for n in sizes):
        raise ShapeError(f"{name}: sizes must be 0 or more; got {sizes}")
    return sizes


def _drawn(shape: tuple[int, ...], dtype: torch.dtype | None, device: Any, generator: torch.Generator | None) -> Any:
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not dtype.is_floating_point:
        raise DtypeError(f"random numbers are floats; got dtype {dtype}")
    numbers = uniform(shape, generator)
    return numbers if dtype is torch.float32 and device is None else numbers.to(dtype=dtype, device=device)


def rand(*shape: Any, generator: torch.Generator | None = None, dtype: torch.dtype | None = None, device: Any = None) -> Any:
    """Numbers from 0 up to 1, each as likely.

    >>> hg.rand(2, 3).shape
    torch.Size([2, 3])
    """
    return _drawn(_sizes("rand", shape), dtype, device, generator)


def rand_like(a: Any, *, generator: torch.Generator | None = None) -> Any:
    """Numbers from 0 up to 1, each as likely, in the shape and dtype of `a`.

    >>> hg.rand_like(hg.Variable([1.0, 2.0])).shape
    torch.Size([2])
    """
    a = array(a)
    return _drawn(tuple(a.shape), a.dtype, a.device, generator)


def randn(*shape: Any, generator: torch.Generator | None = None, dtype: torch.dtype | None = None, device: Any = None) -> Any:
    """Numbers of the normal distribution of mean 0 and deviation 1 (Box and Muller 1958), at most 5.8 from 0 as they are made of 24 bits.

    >>> hg.randn(2, 3).shape
    torch.Size([2, 3])
    """
    pairs = _drawn((2, *_sizes("randn", shape)), dtype, device, generator)
    return ((1 - pairs[0]).log() * -2).sqrt() * (pairs[1] * (2 * math.pi)).cos()


def randn_like(a: Any, *, generator: torch.Generator | None = None) -> Any:
    """Numbers of the normal distribution of mean 0 and deviation 1, in the shape and dtype of `a`; see `randn`.

    >>> mu = hg.Variable([1.0, 2.0])
    >>> (mu + 0.1 * hg.randn_like(mu)).shape
    torch.Size([2])
    """
    a = array(a)
    return randn(*a.shape, generator=generator, dtype=a.dtype, device=a.device)


def bernoulli(p: Any, *, generator: torch.Generator | None = None) -> Any:
    """1 with the probability that each element of `p` gives, else 0, in its shape and dtype; no gradient flows to `p`.

    Raises RangeError for what is no probability; a captured program, in which `p` has no values yet, has NaN there.

    >>> hg.bernoulli(torch.tensor([0.0, 1.0]))
    tensor([0., 1.])
    """
    p = array(p)
    if not p.dtype.is_floating_point:
        raise OperandError(f"bernoulli: p must be float probabilities; got {p.dtype}")
    valid = (p >= 0) & (p <= 1)
    if state.trace is None and not bool(valid.all()):
        wrong = p.detach()[~valid].flatten()[0]
        raise RangeError(f"bernoulli: p must hold probabilities, from 0 to 1; got {float(wrong):g} in shape {tuple(p.shape)}")
    ones = (_drawn(tuple(p.shape), torch.float32, None, generator).to(p.device) < p).to(p.dtype)
    return ones if state.trace is None else Where.apply(valid, ones, math.nan)
