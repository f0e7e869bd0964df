"""Checks of settings that many places share."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor

from hotgrad.errors import SettingError


def whole_number(name: str, value: Any, least: int = 1, most: int = 2**63 - 1) -> int:
    """`value` as an int from `least` to `most`, by default all that torch can count. Raises SettingError for anything else, True and 2.0 included.

    >>> whole_number("epochs", 3)
    3
    """
    try:
        number = operator.index(value)
    except (TypeError, RuntimeError):
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise SettingError(f"{name} must be a whole number of at least {least}; got {shown(value)}")
    if number > most:
        raise SettingError(f"{name} must be from {least} to 2**{most.bit_length()} - 1; got {shown(value)}")
    return number


def seed_number(name: str, value: Any) -> int:
    """`value` as a seed of torch's generators, an int from 0 to 2**64 - 1. Raises SettingError for anything else.

    >>> seed_number("seed", 3)
    3
    """
    return whole_number(name, value, 0, 2**64 - 1)


def flag(name: str, value: Any) -> bool:
    """`value` as a bool. Raises SettingError unless it is True or False, Python's or numpy's: "no" and 0 are neither.

    >>> flag("shuffle", False)
    False
    """
    if type(value).__name__ not in ("bool", "bool_"):  # as numpy calls its own
        raise SettingError(f"{name} must be True or False; got {shown(value)}")
    return bool(value)


def finite_number(name: str, value: Any, low: float = 0.0, high: float = math.inf, *, above: bool = False) -> float:
    """`value` if it is a finite number from `low`, or `above` it, to `high`. Raises SettingError for anything else.

    >>> finite_number("momentum", 0.9)
    0.9
    """
    try:
        fine = not isinstance(value, (bool, str)) and math.isfinite(value) and (value > low if above else value >= low) and value <= high
    except (TypeError, ValueError, RuntimeError, OverflowError):  # of an array, or of an int that no float can hold
        fine = False
    if not fine:
        limits = f"{'above' if above else 'of at least'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
        raise SettingError(f"{name} must be a finite number {limits}; got {shown(value)}")
    return value  # type: ignore[no-any-return]


def span(tensor: Tensor) -> tuple[str, int, int]:
    """The kind of device that `tensor` is on, and the range of bytes there that its elements lie in; an empty one if it has none."""
    if not tensor.numel() or tensor.is_meta:
        return tensor.device.type, 0, 0
    start, size = tensor.data_ptr(), tensor.element_size()
    return tensor.device.type, start, start + size * (sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride())) + 1)


def shown(value: Any) -> str:
    """`value` as it stands in the message of an error: in short, and whatever its own `repr` does.

    >>> shown(10**5000)
    'an int of 16610 bits'
    """
    try:
        return f"{value!r:.60}"
    except Exception:
        return f"an int of {value.bit_length()} bits" if isinstance(value, int) else f"an object of {type(value).__name__}"


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether two elements of a tensor are one in memory.

    >>> a = torch.arange(4.0)
    >>> overlaps_itself(a.as_strided((2, 2), (1, 1))), overlaps_itself(a.as_strided((2, 2), (1, 2)))
    (True, False)
    """
    reach = 0  # of the axes with smaller strides
    for stride, count in sorted((stride, count) for stride, count in zip(tensor.stride(), tensor.shape) if count != 1):
        if stride <= reach:
            return bool(tensor.numel()) and (not stride or len(torch.unique(_addresses(tensor, tensor.element_size()))) < tensor.numel())
        reach += stride * (count - 1)
    return False


def overlapping(tensors: Iterable[tuple[str, Tensor, bool]]) -> tuple[str, str] | None:
    """The names of two tensors, of which one is written to, that have an element in common; the same name twice for one that
    overlaps itself. `tensors`: name, tensor, and whether it is written to.

    >>> a = torch.zeros(2, 3)
    >>> overlapping([("left", a[:, :2], True), ("right", a[:, 2:], True)])
    >>> overlapping([("left", a[:, :2], True), ("all", a, False)])
    ('left', 'all')
    """
    spans = []
    for name, tensor, written in tensors:
        device, start, end = span(tensor)
        if start < end:
            if written and overlaps_itself(tensor):
                return name, name
            spans.append((device, start, end, name, tensor, written))
    spans.sort(key=lambda entry: entry[:2])
    for i, (device, _, end, name, tensor, written) in enumerate(spans):
        for other_device, other_start, _, other_name, other, other_written in spans[i + 1 :]:
            if other_device != device or other_start >= end:
                break
            if written or other_written:
                step = min(tensor.element_size(), other.element_size())
                if bool(torch.isin(_addresses(tensor, step), _addresses(other, step)).any()):
                    return name, other_name
    return None


def _addresses(tensor: Tensor, step: int) -> Tensor:
    """Those of all elements, of every `step`-th byte of them."""
    found = tensor.data_ptr() + torch.arange(0, tensor.element_size(), step, device="cpu")
    for count, stride in zip(tensor.shape, tensor.stride()):
        found = found[..., None] + torch.arange(count, device="cpu") * (stride * tensor.element_size())
    return found.flatten()


def nearest(name: Any, known: Iterable[str], closeness: float = 0.6) -> str:
    """The end of a message about an unknown name: the known one that looks like it, or nothing.

    >>> nearest("adan", ["sgd", "adam"])
    "; did you mean 'adam'?"
    """
    lowered = {one.lower(): one for one in known}
    given = str(name).lower()
    found = difflib.get_close_matches(given, list(lowered), 1, closeness) or [one for one in lowered if given and one.startswith(given)]
    return f"; did you mean {lowered[found[0]]!r}?" if found else ""


def one_of(what: str, name: Any, known: Collection[str], otherwise: str = "") -> str:
    """`name` if it is one of those that are known. Raises SettingError, which lists them and names the one that was meant.

    >>> one_of("engine", "reply", ("eager", "replay"))
    Traceback (most recent call last):
    hotgrad.errors.SettingError: unknown engine 'reply'; known are 'eager', 'replay'; did you mean 'replay'?
    """
    if isinstance(name, str) and name in known:
        return name
    listed = ", ".join(map(repr, known))
    raise SettingError(f"unknown {what} {shown(name)}; known are {listed}{otherwise}{nearest(name, known)}")
