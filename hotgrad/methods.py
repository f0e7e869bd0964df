"""What ops publish: the operators and methods of Variable, and the functions by name. The ops fill both; stubs list them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# The function of each op by its public name, which is torch's; `torch.exp(v)` is looked up here.
FUNCTIONS: dict[str, Callable[..., Any]] = {}


class Methods:
    """Base of Variable that carries one method per op."""

    __slots__ = ()
