"""From where tests draw an operand of an op."""

from __future__ import annotations

import math
from typing import NamedTuple


class Interval(NamedTuple):
    """The closed interval of real numbers from `low` to `high`; either end may be infinite."""

    low: float = -math.inf
    high: float = math.inf


class Integers(NamedTuple):
    """Whole numbers from `low` to `high`, both included; a domain without gradient."""

    low: int
    high: int


class Booleans(NamedTuple):
    """True and False; a domain without gradient."""


Domain = Interval | Integers | Booleans
