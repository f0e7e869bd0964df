"""Data frames and series, of pandas and what is like it, as tensors: column by column, so that each may have its own dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotgrad.core.arrays import as_tensor
from hotgrad.errors import DataError, HotgradError, OperandError

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
