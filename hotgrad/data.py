"""Data: the disc problem, normalisation, one-hot targets, batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hotgrad.checks import flag, seed_number, whole_number
from hotgrad.core.arrays import as_tensor
from hotgrad.core.variable import Variable
from hotgrad.errors import DataError, DtypeError, ShapeError


def disc(n: int, seed: int | None = None) -> tuple[Tensor, Tensor]:
    """`n` points uniform in the unit square, and their labels: 1 inside the disc of radius 1/sqrt(2 pi) around (0.5, 0.5), else 0.

    The disc covers half of the square. Returns x (n, 2), in torch's default dtype, and labels (n,), int64. Without a `seed`
    torch's global generator is used. Raises SettingError for a seed that is not from 0 to 2**64 - 1.

    >>> x, labels = hg.data.disc(1000, seed=0)
    >>> x.shape, labels.shape
    (torch.Size([1000, 2]), torch.Size([1000]))
    """
    n = whole_number("n", n)
    generator = None if seed is None else torch.Generator().manual_seed(seed_number("seed", seed))
    x = torch.rand(n, 2, generator=generator)
    return x, ((x - 0.5).square().sum(1) < 1 / (2 * math.pi)).long()


def normalize(train: Any, *others: Any) -> Any:
    """`train` (n, ...) less its column means, over its column deviations; `others` by the same ones. One tensor or a tuple.

    Deviations are those of the rows given (divided by n); a column that does not vary is only centred. Computed in float64, and
    given in each tensor's own dtype. Raises DataError for no rows, ShapeError for other columns, DtypeError for integers.

    >>> hg.data.normalize(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    tensor([[-1.,  0.],
            [ 1.,  0.]])
    """
    tensors = [as_tensor(data) for data in (train, *others)]
    first = tensors[0]
    for i, tensor in enumerate(tensors):
        if not tensor.is_floating_point():
            raise DtypeError(f"normalize takes floats; argument {i} is {tensor.dtype}. Convert it with float()")
        if not tensor.ndim or tensor.shape[1:] != first.shape[1:]:
            raise ShapeError(
                f"normalize: all must have the columns of the first, {tuple(first.shape[1:])}; argument {i} has {tuple(tensor.shape)}"
            )
    if not len(first):
        raise DataError("normalize: there are no rows to take means of")
    mean, deviation = moments(first)
    scaled = tuple(((tensor.double() - mean) / deviation).to(tensor.dtype) for tensor in tensors)
    return scaled if others else scaled[0]


def moments(train: Tensor) -> tuple[Tensor, Tensor]:
    """Means and deviations of the columns of `train` (n, ...), float64; the deviation of a column that does not vary counts 1.

    In float32 they would lose what is small beside an offset, such as the differences of unix times.

    >>> moments(torch.tensor([[1e8, 5.0], [1e8 + 16, 5.0]]))
    (tensor([1.0000e+08, 5.0000e+00], dtype=torch.float64), tensor([8., 1.], dtype=torch.float64))
    """
    wide = train.double()
    largest = wide.abs().amax(0)
    unit = torch.where(
        largest > 0, largest / (2 * torch.frexp(largest).mantissa), 1.0
    )  # a power of 2, so that no square over- or underflows
    scaled = wide / unit
    deviation = (scaled.std(0, correction=0) * unit).clamp_min(5e-324)
    return scaled.mean(0) * unit, torch.where((wide == wide[0]).all(0), 1.0, deviation)


def one_hot(labels: Any, classes: int | None = None) -> Tensor:
    """Rows of 0s with a 1 at each label: labels (n,), integers from 0 on, give (n, classes), in torch's default dtype.

    `classes`: how many columns, default the largest label and one. Raises DtypeError for labels that are no integers, ShapeError
    unless they are (n,), DataError for labels out of range, SettingError for `classes` that is no whole number of at least 1.

    >>> hg.data.one_hot([0, 2])
    tensor([[1., 0., 0.],
            [0., 0., 1.]])
    """
    tensor = as_tensor(labels)
    if tensor.is_floating_point() or tensor.dtype is torch.bool:
        raise DtypeError(f"one_hot: labels must be integers; got {tensor.dtype}. Convert them with long()")
    if tensor.ndim != 1:
        raise ShapeError(f"one_hot takes labels of shape (n,); got {tuple(tensor.shape)}")
    if not len(tensor) and classes is None:
        raise DataError("one_hot: no labels; give the number of classes")
    columns = int(tensor.max()) + 1 if classes is None else whole_number("one_hot: classes", classes)
    if len(tensor) and (int(tensor.min()) < 0 or int(tensor.max()) >= columns):
        raise DataError(f"one_hot: labels must be from 0 to {columns - 1}; got {int(tensor.min())} to {int(tensor.max())}")
    return (tensor.unsqueeze(1) == torch.arange(columns, device=tensor.device)).to(torch.get_default_dtype())


def batches(
    *tensors: Tensor, batch_size: int, shuffle: bool = False, generator: torch.Generator | None = None
) -> Iterator[tuple[Tensor, ...]]:
    """The rows of all `tensors` together, `batch_size` at a time; the last batch may be smaller.

    `shuffle`: in an order drawn from `generator`, None for torch's global one. Raises DataError for lengths that differ,
    SettingError for a batch_size that is no whole number of at least 1, or a shuffle that is no bool.

    >>> [len(x) for x, y in hg.data.batches(torch.zeros(5, 2), torch.zeros(5), batch_size=2)]
    [2, 2, 1]
    """
    batch_size = whole_number("batch_size", batch_size)
    tensors = tuple(tensor if isinstance(tensor, (Tensor, Variable)) else as_tensor(tensor) for tensor in tensors)
    lengths = [len(tensor) for tensor in tensors]
    if len(set(lengths)) != 1:
        raise DataError(f"batches takes tensors with equally many rows; got {lengths}")
    return _batches(tensors, batch_size, flag("shuffle", shuffle), generator)


def _batches(tensors: tuple[Tensor, ...], size: int, shuffle: bool, generator: torch.Generator | None) -> Iterator[tuple[Tensor, ...]]:
    rows = len(tensors[0])
    order = torch.randperm(rows, generator=generator).to(tensors[0].device) if shuffle else None
    for start in range(0, rows, size):
        part = slice(start, start + size) if order is None else order[start : start + size]
        yield tuple(tensor[part] for tensor in tensors)
