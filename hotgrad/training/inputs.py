"""What people have as data, made into tensors and checked: tensors, numpy arrays, pandas objects, nested lists, torch datasets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from hotgrad.errors import DataError, HotgradError, OperandError, SettingError, ShapeError
from hotgrad.variable import Variable, as_tensor


def to_tensor(data: Any, name: str, dtype: torch.dtype) -> Tensor:
    """`data` as a tensor, floats in `dtype`, bools and integers as int64. `name` is what errors call it.

    Tensors of that dtype are shared, everything else is copied once. Raises OperandError or DtypeError for what is no table of
    numbers, DataError for NaN and infinity.

    >>> to_tensor([[1, 2.5]], "x", torch.float64)
    tensor([[1.0000, 2.5000]], dtype=torch.float64)
    """
    try:
        tensor = _read(data, dtype)
    except HotgradError as error:
        raise type(error)(f"{name}: {error}") from None
    except (TypeError, ValueError, RuntimeError) as error:
        kinds = f" with columns {_text_columns(data)} that hold no numbers" if _text_columns(data) else ""
        raise OperandError(
            f"{name} must hold numbers, as a tensor, numpy array, pandas object or nested list of equal lengths; got {type(data).__name__}{kinds} ({error}). "
            "Encode text and categories as numbers first"
        ) from None
    if not tensor.ndim:
        raise ShapeError(f"{name} must have at least one axis, its rows; got a single value")
    tensor = tensor.to(dtype if tensor.is_floating_point() else torch.int64)
    check_finite(tensor, name)
    return tensor


def _read(data: Any, dtype: torch.dtype) -> Tensor:
    if isinstance(data, (Tensor, Variable)):
        return as_tensor(data).detach()
    if hasattr(data, "to_numpy"):
        data = data.to_numpy()
    if type(data).__module__ == "numpy" and hasattr(data, "copy"):
        # a copy, since torch refuses negative strides and foreign byte orders and warns of read-only memory
        return (
            torch.from_numpy(data.astype(data.dtype.newbyteorder("="), order="C", copy=True)) if data.shape else torch.tensor(data.item())
        )
    if isinstance(data, (list, tuple)) and data and hasattr(data[0], "shape") and getattr(data[0], "shape", ()):
        return torch.stack([_read(row, dtype) for row in data])
    tensor = as_tensor(data)
    return torch.tensor(data, dtype=dtype) if tensor.is_floating_point() and tensor.dtype != dtype else tensor


def _text_columns(data: Any) -> list[str]:
    """The columns of a data frame that hold no numbers."""
    dtypes = getattr(data, "dtypes", None)
    if not hasattr(data, "columns") or dtypes is None:
        return []
    return [str(column) for column, dtype in zip(data.columns, dtypes) if getattr(dtype, "kind", "O") not in "biuf"]


def check_finite(tensor: Tensor, name: str) -> None:
    """Raises DataError if `tensor` holds NaN or infinity; says how many and where the first is."""
    if not tensor.is_floating_point():
        return
    finite = tensor.isfinite()
    if finite.all():
        return
    first = (~finite).nonzero()[0].tolist()
    raise DataError(
        f"{name} holds {int((~finite).sum())} values that are NaN or infinite, the first at {first}; remove those rows or fill the values in"
    )


def pair(x: Any, y: Any, name: str = "") -> tuple[Any, Any, int | None]:
    """Data and targets out of `x` and `y`, and the batch size that a DataLoader brings.

    `x` may be a torch Dataset or DataLoader of (input, target) pairs, with `y` None. It is read once, into memory: a DataLoader
    that shuffles in the order of its Dataset, one with a sampler of its own in the sampler's. Raises DataError without a `y`.
    """
    if not isinstance(x, (Dataset, DataLoader)):
        if y is None:
            raise DataError(f"{name}y is missing; give targets, or a Dataset or DataLoader of (input, target) pairs as {name}x")
        return x, y, None
    if y is not None:
        raise DataError(f"{name}x is a {type(x).__name__}, which brings its own targets; leave {name}y out")
    if not isinstance(x, DataLoader):
        items = x if isinstance(x, IterableDataset) else (x[i] for i in range(len(x)))  # type: ignore[arg-type]
        return *_joined([_two(item, name) for item in items], torch.stack, name), None
    loader = x
    if type(x.sampler) is RandomSampler and not x.sampler.replacement and x.batch_size is not None:
        loader = DataLoader(x.dataset, x.batch_size, collate_fn=x.collate_fn, num_workers=x.num_workers)
    state = torch.get_rng_state()
    try:
        pairs = [_two(item, name) for item in loader]
    finally:
        torch.set_rng_state(state)
    return *_joined(pairs, torch.stack if x.batch_sampler is None else torch.cat, name), x.batch_size


def _two(item: Any, name: str) -> tuple[Any, Any]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(f"{name}x must give (input, target) pairs; got {type(item).__name__} ({item!r:.60})")
    return item[0], item[1]


def _joined(pairs: list[tuple[Any, Any]], join: Callable[[list[Tensor]], Tensor], name: str) -> tuple[Tensor, Tensor]:
    if not pairs:
        raise DataError(f"{name}x is empty: it gave no (input, target) pair")
    try:
        inputs, outputs = (join([torch.as_tensor(value) for value in column]) for column in zip(*pairs))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ShapeError(f"the items of {name}x must be numbers of equal shapes ({error})") from None
    return inputs, outputs


def check_filled(x: Tensor, name: str) -> None:
    """Raises DataError for no rows or no columns."""
    if not x.numel():
        raise DataError(f"{name} is empty: its shape is {tuple(x.shape)}; at least one row and one column are needed")


def check_lengths(x: Tensor, y: Tensor, name: str = "") -> None:
    """Raises DataError for empty data and for lengths that differ."""
    check_filled(x, f"{name}x")
    if len(x) != len(y):
        raise DataError(f"{name}x has {len(x)} rows and {name}y has {len(y)}; every row of x needs one row of y")


def row_weights(sample_weight: Any, class_weight: Any, y: Tensor, labels: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """One weight per row, scaled to a mean of 1, or None.

    `sample_weight` (n,); `class_weight` a dict from label to weight (1 for labels left out), a sequence with one weight per class, or
    "balanced"; both multiply. `labels` are the rows' labels, None where the targets are no labels. Raises DataError or SettingError.
    """
    if sample_weight is None and class_weight is None:
        return None
    weights = torch.ones(len(y), dtype=dtype, device=y.device)
    if sample_weight is not None:
        given = to_tensor(sample_weight, "sample_weight", dtype).to(weights)
        if given.shape != weights.shape:
            raise ShapeError(f"sample_weight must have shape ({len(y)},), one weight per row; got {tuple(given.shape)}")
        weights = weights * given
    if class_weight is not None:
        if labels is None:
            raise SettingError("class_weight needs targets that are labels, one-hot or -1/+1; use sample_weight for others")
        weights = weights * _per_class(class_weight, labels, dtype).to(weights)[labels]
    if bool((weights < 0).any()) or not bool(weights.sum() > 0):
        raise DataError("weights must not be negative, nor all zero")
    return weights / weights.mean()


def _per_class(class_weight: Any, labels: Tensor, dtype: torch.dtype) -> Tensor:
    counts = labels.bincount()
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise SettingError(f"class_weight must be 'balanced', a dict or a sequence; got {class_weight!r}")
        return (len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1).double())).to(dtype)
    if not isinstance(class_weight, dict):
        table = to_tensor(class_weight, "class_weight", dtype).to(dtype)
        if table.ndim != 1 or len(table) < len(counts):
            raise ShapeError(f"class_weight must have one weight for each of {len(counts)} classes; got shape {tuple(table.shape)}")
        return table
    unknown = [label for label in class_weight if label not in range(len(counts))]
    if unknown:
        raise SettingError(f"class_weight names {unknown}; the labels of y go from 0 to {len(counts) - 1}")
    return to_tensor([float(class_weight.get(label, 1)) for label in range(len(counts))], "class_weight", dtype)


def check_rows(tensor: Tensor, rows: int, what: str) -> None:
    """Raises ShapeError unless `tensor` has one row per row of the input."""
    if not tensor.ndim or tensor.shape[0] != rows:
        raise ShapeError(f"{what} must have one row per row of x; got shape {tuple(tensor.shape)} for {rows} rows")
