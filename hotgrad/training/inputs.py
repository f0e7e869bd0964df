"""What people have as data, made into tensors and checked: tensors, numpy arrays, pandas objects, nested lists, torch datasets."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, default_collate, default_convert

from hotgrad.core.arrays import as_tensor, check_unmasked
from hotgrad.errors import DataError, DtypeError, HotgradError, OperandError, SettingError, ShapeError

_NUMPY = {"b": "bool", "i": "int64", "u": "uint64", "f": "float64"}  # what nullable dtypes and categories become, by numpy's letter


def is_frame(data: Any) -> bool:
    """Whether `data` is a frame, a series or an array of pandas' kind."""
    return hasattr(data, "to_numpy")


def column_names(data: Any) -> list[str] | None:
    """The names of a frame's columns; None for anything else, and for columns that are only numbered."""
    if not is_frame(data) or not hasattr(data, "columns"):
        return None
    names = list(data.columns)
    return names if all(isinstance(name, str) for name in names) else None


def from_frame(data: Any) -> Tensor:
    """A frame as a tensor (rows, columns), a series as (rows,). Bools, integers, floats, their nullable forms and categories of
    numbers are read; several dtypes meet in int64 if all are integers or bools, else in float64.

    Raises OperandError that names the columns without numbers, DataError that names those with missing or infinite elements.
    """
    if not hasattr(data, "columns"):
        return _column(data)
    names = [str(name) for name in data.columns]
    columns = [data.iloc[:, i] if hasattr(data, "iloc") else data[name] for i, name in enumerate(data.columns)]
    wrong = [f"{name!r} ({column.dtype})" for name, column in zip(names, columns) if _kind(column.dtype) not in "biufc?"]
    if wrong:
        raise OperandError(f"it has columns that hold no numbers: {', '.join(wrong)}. {_REMEDY}, or leave them out")
    tensors = []
    for name, column in zip(names, columns):
        try:
            tensors.append(_column(column))
        except HotgradError as error:
            raise type(error)(f"column {name!r}: {error}") from None
    if not tensors:
        return torch.empty(len(data), 0)
    kinds = {tensor.dtype for tensor in tensors}
    if len(kinds) > 1:
        whole = not any(kind.is_floating_point or kind is torch.uint64 for kind in kinds)
        tensors = [tensor.to(torch.int64 if whole else torch.float64) for tensor in tensors]
    return torch.stack(tensors, 1)


_REMEDY = "Encode text and categories first, for example with pandas.get_dummies(frame), and times as seconds"


def _kind(dtype: Any) -> str:
    """numpy's letter for the numbers that a column holds, also where they are categories; "?" for dtypes of other libraries."""
    inner = getattr(getattr(dtype, "categories", None), "dtype", dtype)
    return str(getattr(inner, "kind", "?"))


def _column(series: Any) -> Tensor:
    dtype = getattr(series, "dtype", None)
    kind = _kind(dtype)
    if kind not in "biufc?":
        raise OperandError(f"it holds {dtype}, no numbers. {_REMEDY}")
    missing = int(series.isna().sum()) if hasattr(series, "isna") else 0
    if missing:
        raise DataError(f"{missing} of its elements are missing; remove those rows or fill them in")
    plain = kind not in _NUMPY or not (hasattr(dtype, "categories") or hasattr(dtype, "na_value"))
    tensor = as_tensor(series.to_numpy() if plain else series.to_numpy(dtype=_NUMPY[kind]))
    infinite = int((~tensor.isfinite()).sum()) if tensor.is_floating_point() else 0
    if infinite:
        raise DataError(f"{infinite} of its elements are NaN or infinite; remove those rows or fill them in")
    return tensor


NOTHING = 1e-12  # the part of a column's largest magnitude that is rounding
JUDGED = 2**18  # elements of a table that are looked at to tell whether a cast loses their differences


def to_tensor(data: Any, name: str, dtype: torch.dtype, resolved: int = 0) -> Tensor:
    """`data` as a tensor, floats in `dtype`, bools and integers as int64. `name` is what errors call it.

    Tensors of that dtype are shared, everything else is copied once. Raises OperandError or DtypeError for what is no table of real
    numbers, DataError for NaN, infinity, masked and missing elements, for numbers that `dtype` or int64 cannot hold and, where
    there are `resolved` rows or more, for columns whose differences are lost in `dtype`; 0: not looked at.

    >>> to_tensor([[1, 2.5]], "x", torch.float64)
    tensor([[1.0000, 2.5000]], dtype=torch.float64)
    """
    try:
        tensor = _read(data)
    except HotgradError as error:
        raise type(error)(f"{name}: {error}") from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise OperandError(
            f"{name} must hold numbers, as a tensor, numpy array, pandas object or nested list of equal lengths; got {type(data).__name__} ({error})"
        ) from None
    if not tensor.ndim:
        raise ShapeError(f"{name} must have at least one axis, its rows; got a single value")
    if tensor.dtype is torch.uint64 and bool((tensor.view(torch.int64) < 0).any()):
        raise DataError(f"{name} holds integers of 2**63 and more; convert it to floats, or subtract an offset")
    cast = tensor.to(dtype if tensor.is_floating_point() else torch.int64)
    if cast.dtype != tensor.dtype and not cast.isfinite().all() and tensor.isfinite().all():
        raise DataError(f"{name} holds values of up to {float(tensor.abs().max()):.3g}, which {dtype} cannot; scale them first")
    check_finite(cast, name)
    if resolved:
        check_resolved(tensor, cast, name, resolved)
    return cast


def check_resolved(exact: Tensor, cast: Tensor, name: str, rows: int = 0) -> None:
    """Raises DataError if casting lost the differences between the rows of a column, as float32 does with those of unix times.

    Fewer than `rows` rows are not judged: alike though they are, the column may vary. Of very many, a part is looked at.
    """
    if cast.dtype == exact.dtype or not cast.is_floating_point() or len(exact) < max(2, rows):
        return
    exact, cast = exact.reshape(len(exact), -1), cast.reshape(len(cast), -1)
    most = max(256, JUDGED // max(1, exact.shape[1]))
    if len(exact) > most:
        part = torch.linspace(0, len(exact) - 1, most, dtype=torch.float64, device=exact.device).long()
        exact, cast = exact[part], cast[part]
    columns = exact.double()
    low, high = columns.aminmax(dim=0)
    largest, spread = torch.maximum(low.abs(), high.abs()), columns.std(0, correction=0)

    def lost(column: int, how: str) -> DataError:
        where = f"column {column} of {name}" if columns.shape[1] > 1 else name
        return DataError(
            f"{where} {how}, which {cast.dtype} does not resolve; subtract an offset before, or scale it, as hotgrad.data.normalize "
            f"does{'' if cast.dtype is torch.float64 else ', or use float64, with model.to(torch.float64)'}"
        )

    # what varies by less than that is rounding itself
    doubtful = ((largest * torch.finfo(cast.dtype).eps > 0.1 * spread) & (spread > NOTHING * largest)).nonzero().flatten()
    for column in doubtful.tolist():
        if (columns[:, column] - cast[:, column].double()).abs().max() > 0.1 * spread[column]:
            raise lost(column, f"varies by {float(spread[column]):.3g} around {float(columns[:, column].mean()):.10g}")
    before, after = _distinct(exact, cast, NOTHING * largest)
    # in a dtype of few digits much falls together that is near enough
    least = 0.6 * before if torch.finfo(cast.dtype).eps < 1e-6 else 1.0 * (before > 1)
    for column in (after <= least).logical_and(before > 1).nonzero().flatten().tolist():
        raise lost(
            column, f"holds {before[column]} different values of up to {float(largest[column]):.10g}, {after[column]} after the cast"
        )


def _distinct(columns: Tensor, cast: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """How many values each column has before and after a cast, floats being one that differ by no more than its entry in `same`.

    0 for columns that the cast leaves as they are.
    """
    before = torch.zeros(columns.shape[1], dtype=torch.int64, device=columns.device)
    after, changed = before.clone(), (columns != cast.to(columns.dtype)).any(0)
    if not changed.any():
        return before, after
    ordered = columns[:, changed].sort(0).values
    steps = ordered.diff(dim=0) > (same[changed] if columns.is_floating_point() else 0)
    before[changed] = 1 + steps.sum(0)
    after[changed] = 1 + (steps & (ordered.to(cast.dtype).diff(dim=0) > 0)).sum(0)
    return before, after


def _read(data: Any) -> Tensor:
    """A tensor of the numbers as they are, floats of lists in float64."""
    if is_frame(data):
        return from_frame(data)
    if isinstance(data, (Dataset, DataLoader)):
        raise OperandError(
            f"a {type(data).__name__} of (input, target) pairs is read by fit, score and evaluate; here give the inputs alone, for example "
            + ("torch.cat([x for x, y in loader])" if isinstance(data, DataLoader) else "torch.stack([x for x, y in dataset])")
        )
    if hasattr(data, "toarray"):
        raise OperandError(f"{type(data).__name__} is a sparse matrix; convert it with toarray()")
    if isinstance(data, (list, tuple)) and data and getattr(data[0], "shape", ()):
        return torch.stack([_read(row) for row in data])
    tensor = as_tensor(data).detach()
    if tensor.is_quantized or tensor.is_nested or tensor.is_meta:
        raise OperandError("only plain tensors with values can be read, no quantized, nested or meta ones")
    again = isinstance(data, (list, tuple)) and tensor.is_floating_point()
    return torch.tensor(data, dtype=torch.float64) if again else tensor


def check_finite(tensor: Tensor, name: str) -> None:
    """Raises DataError if `tensor` holds NaN or infinity; says how many and where the first is."""
    if not tensor.is_floating_point() or math.isfinite(float(tensor.sum())):  # which is quick, and tells in all but huge cases
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
    loader = copy.copy(x)
    if x.collate_fn in (default_collate, default_convert):
        loader.collate_fn = partial(_unmasked, x.collate_fn)
    if type(x.sampler) is RandomSampler and not x.sampler.replacement and x.batch_size is not None:
        loader = DataLoader(x.dataset, x.batch_size, collate_fn=loader.collate_fn, num_workers=x.num_workers)
    state = torch.get_rng_state()
    try:
        pairs = [_two(item, name) for item in loader]
    finally:
        torch.set_rng_state(state)
    return *_joined(pairs, torch.stack if x.batch_sampler is None else torch.cat, name), x.batch_size


def _unmasked(collate: Callable[[Any], Any], items: Any) -> Any:
    """What torch's own collate functions do, which would lose a mask."""
    check_unmasked(items)
    return collate(items)


def _two(item: Any, name: str) -> tuple[Any, Any]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(f"{name}x must give (input, target) pairs; got {type(item).__name__} ({item!r:.60})")
    return item[0], item[1]


def _joined(pairs: list[tuple[Any, Any]], join: Callable[[list[Tensor]], Tensor], name: str) -> tuple[Tensor, Tensor]:
    if not pairs:
        raise DataError(f"{name}x is empty: it gave no (input, target) pair")
    try:
        inputs, outputs = (join([value if isinstance(value, Tensor) else as_tensor(value) for value in column]) for column in zip(*pairs))
    except (DataError, DtypeError) as error:
        raise type(error)(f"the items of {name}x: {error}") from None
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


def row_weights(sample_weight: Any, class_weight: Any, y: Tensor, labels: Tensor | None, classes: int, dtype: torch.dtype) -> Tensor | None:
    """One weight per row, scaled to a mean of 1, or None.

    `sample_weight` (n,); `class_weight` a dict from label to weight (1 for labels left out), a sequence with one weight per class, or
    "balanced"; both multiply. `labels` are the rows' labels, None where the targets are no labels; the model tells `classes` apart.
    Raises DataError or SettingError, also for the weight of a label that no row has.
    """
    if sample_weight is None and class_weight is None:
        return None
    weights = torch.ones(len(y), dtype=torch.float64, device=y.device)
    if sample_weight is not None:
        given = to_tensor(sample_weight, "sample_weight", torch.float64).to(weights)
        if given.shape != weights.shape:
            raise ShapeError(f"sample_weight must have shape ({len(y)},), one weight per row; got {tuple(given.shape)}")
        weights = weights * given
    if class_weight is not None:
        if labels is None:
            raise SettingError("class_weight needs targets that are labels, one-hot or -1/+1; use sample_weight for others")
        weights = weights * _per_class(class_weight, labels, classes).to(weights)[labels]
    if bool((weights < 0).any()) or not bool(weights.sum() > 0):
        raise DataError("weights must not be negative, nor all zero")
    return (weights / weights.mean()).to(dtype)


def by_class(class_weight: Any) -> Any:
    """Mappings, and a Series by its index, as a dict from class to weight; anything else as it is."""
    if hasattr(class_weight, "to_dict"):
        return class_weight.to_dict()
    return dict(class_weight) if isinstance(class_weight, Mapping) else class_weight


def _per_class(class_weight: Any, labels: Tensor, classes: int) -> Tensor:
    counts, class_weight = labels.bincount(), by_class(class_weight)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise SettingError(f"class_weight must be 'balanced', a dict or a sequence; got {class_weight!r}")
        return len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1).double())
    if isinstance(class_weight, dict):
        had = {label for label in range(len(counts)) if counts[label]}
        unknown = [label for label in class_weight if not isinstance(label, (int, float, Integral)) or label not in had]
        if unknown:
            raise SettingError(f"class_weight names {unknown}, but y has only the labels {sorted(had)}")
        class_weight = [class_weight.get(label, 1) for label in range(len(counts))]
    table = to_tensor(class_weight, "class_weight", torch.float64)
    if table.ndim != 1 or not len(counts) <= len(table) <= max(classes, len(counts)):
        raise ShapeError(f"class_weight must have one weight for each of {classes} classes; got shape {tuple(table.shape)}")
    return table


def check_rows(tensor: Tensor, rows: int, what: str) -> None:
    """Raises ShapeError unless `tensor` has one row per row of the input."""
    if not tensor.ndim or tensor.shape[0] != rows:
        raise ShapeError(f"{what} must have one row per row of x; got shape {tuple(tensor.shape)} for {rows} rows")
