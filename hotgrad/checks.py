"""Checks of settings that many places share."""

from __future__ import annotations

import math
import operator
from typing import Any

from hotgrad.errors import SettingError


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int of at least `least`. Raises SettingError for anything else, True and 2.0 included.

    >>> whole_number("epochs", 3)
    3
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise SettingError(f"{name} must be a whole number of at least {least}; got {value!r:.60}")
    return number


def seed_number(name: str, value: Any) -> int:
    """`value` as a seed of torch's generators, an int from 0 to 2**64 - 1. Raises SettingError for anything else.

    >>> seed_number("seed", 3)
    3
    """
    number = whole_number(name, value, 0)
    if number >= 2**64:
        raise SettingError(f"{name} must be from 0 to 2**64 - 1; got {value!r:.60}")
    return number


def finite_number(name: str, value: Any, low: float = 0.0, high: float = math.inf, *, above: bool = False) -> float:
    """`value` if it is a finite number from `low`, or `above` it, to `high`. Raises SettingError for anything else.

    >>> finite_number("momentum", 0.9)
    0.9
    """
    try:
        fine = not isinstance(value, (bool, str)) and math.isfinite(value) and (value > low if above else value >= low) and value <= high
    except TypeError:
        fine = False
    if not fine:
        limits = f"{'above' if above else 'of at least'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
        raise SettingError(f"{name} must be a finite number {limits}; got {value!r:.60}")
    return value  # type: ignore[no-any-return]
