"""Functions made of functions, as objects: what holds one can be copied with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hotgrad.errors import OperandError


class Made:
    """A function that a transform made of `f`: calling it calls `make(f)`.

    A deep copy is made of a copy of `f`: a copied model that holds the gradient of one of its layers has that of the copied layer.
    """

    def __init__(self, f: Callable[..., Any], what: str, make: Callable[[Any], Callable[..., Any]]) -> None:
        if not callable(f):
            raise OperandError(f"{what} takes a function; got {f!r:.60}")
        self.f, self._what, self._make, self._call = f, what, make, make(f)
        self.__name__ = self.__qualname__ = f"{what}_of_{name_of(f)}"
        self.__doc__ = getattr(f, "__doc__", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """In a class it is a method, as a function is."""
        return self if instance is None else self.__class__(self.f.__get__(instance, owner), self._what, self._make)

    def __deepcopy__(self, memo: dict[int, Any]) -> Made:
        return Made(copy.deepcopy(self.f, memo), self._what, self._make)

    def __repr__(self) -> str:
        return f"<{self.__name__}>"


def name_of(f: Any) -> str:
    return getattr(f, "__name__", None) or type(f).__name__
