"""Everything that is an array as a tensor: exactly, or refused with the remedy. Nothing is cut or unmasked without a word."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.explain import describe
from hotgrad.core.records import Value
from hotgrad.errors import DataError, DtypeError, HotgradError, OperandError

_PLAIN = {bool, int, float}
# What to do about arrays of other kinds than numbers, by numpy's letter for them.
_REMEDIES = {
    "O": "convert it with astype(float), if all of it are numbers",
    "U": "encode text as numbers first",
    "S": "encode text as numbers first",
    "M": "make numbers of it, such as (t - t.min()) / numpy.timedelta64(1, 's')",
    "m": "make numbers of it, such as t / numpy.timedelta64(1, 's')",
    "V": "take its fields apart, with numpy.lib.recfunctions.structured_to_unstructured",
    "f": "convert it with astype(float)",
}


def is_numpy(data: Any) -> bool:
    """Whether `data` is an array of numpy's or one of its scalars; told without importing numpy.

    >>> is_numpy([1.0])
    False
    """
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(data, (numpy.ndarray, numpy.generic))


def check_unmasked(data: Any) -> None:
    """Raises DataError if a masked array, also one within lists, hides elements: as a tensor they would be there again."""
    masked = sys.modules.get("numpy.ma")
    if masked is None:
        return
    if isinstance(data, masked.MaskedArray):
        hidden = int(masked.count_masked(data))
        if hidden:
            raise DataError(
                f"a masked array of shape {data.shape} hides {hidden} of its elements, which tensors cannot; fill them in with "
                "filled(value), or leave their rows out"
            )
    elif isinstance(data, (list, tuple)) and not set(map(type, data)) <= _PLAIN:
        for item in data:
            check_unmasked(item)


def number_in(array: Any) -> Any:
    """The Python number in a 0-d numpy array. Raises OperandError where there is none, DataError for a masked one."""
    check_unmasked(array)
    number = array.item()
    if not isinstance(number, (bool, int, float, complex)):
        raise OperandError(f"expected a number; got {array.dtype} ({array!r:.60}); {_remedy(array)}")
    return number


def read(data: Any) -> Tensor:
    """A new tensor of a number, a nested list or a numpy array; lists of arrays are stacked.

    Raises DataError for masked elements, OperandError for what is no array of numbers.

    >>> read([1, 2.5])
    tensor([1.0000, 2.5000])
    """
    check_unmasked(data)
    try:
        if is_numpy(data):
            # a copy, since torch refuses negative strides and foreign byte orders and warns of read-only memory
            plain = data.reshape(data.shape or (1,)).astype(data.dtype.newbyteorder("="), order="C", copy=True)
            return torch.from_numpy(plain).reshape(data.shape)
        if isinstance(data, (list, tuple)) and data and all(is_numpy(row) and row.shape for row in data):
            return torch.stack([read(row) for row in data])
        return torch.tensor(data)
    except HotgradError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        kind = f" of {data.dtype}; {_remedy(data)}" if is_numpy(data) else ""
        raise OperandError(
            f"expected a tensor, a number, a nested list or a numpy array; got {type(data).__name__}{kind} ({error})"
        ) from None


def as_tensor(data: Any) -> Tensor:
    """`data` as a tensor that belongs to no torch graph. Tensors share their memory, everything else is copied."""
    if isinstance(data, Value):
        if data._link is not None:
            raise OperandError("a Variable that requires a gradient cannot be wrapped again, the graph would be lost; use detach()")
        return data._data
    tensor = data if isinstance(data, Tensor) else read(data)
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.is_complex():
        raise DtypeError(f"complex data is not supported; got {describe(tensor)}. Use its real and imaginary parts")
    if tensor.layout is not torch.strided:
        raise OperandError(f"only dense tensors are supported; got layout {tensor.layout}. Convert it with to_dense()")
    if tensor.is_inference():
        raise OperandError(
            "inference-mode tensors have no version counter, so writes to them would go unnoticed; clone() it outside torch.inference_mode"
        )
    return tensor


def _remedy(array: Any) -> str:
    return _REMEDIES.get(array.dtype.kind, "convert it to numbers")
