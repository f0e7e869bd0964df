"""What captured functions return: arrays in nested tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from hotgrad.core.variable import Variable
from hotgrad.errors import CaptureError


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """The arrays in `tree`, in order, and its structure: the same with a number in place of each. None may stand anywhere.

    >>> arrays, structure = flatten({"loss": torch.ones(()), "more": [torch.zeros(1), None]})
    >>> len(arrays), structure
    (2, {'loss': 0, 'more': [1, None]})
    """
    arrays: list[Any] = []
    return arrays, _numbered(tree, arrays)


def _numbered(tree: Any, arrays: list[Any]) -> Any:
    if isinstance(tree, (Tensor, Variable)):
        arrays.append(tree)
        return len(arrays) - 1
    if isinstance(tree, dict):
        return {key: _numbered(value, arrays) for key, value in tree.items()}
    if type(tree) in (tuple, list):
        return type(tree)(_numbered(value, arrays) for value in tree)
    if tree is None:
        return None
    raise CaptureError(
        f"a captured function returns Variables, in tuples, lists and dicts if there are several; got {type(tree).__name__} ({tree!r:.60}), "
        "which would be the same at each run"
    )


def rebuilt(structure: Any, arrays: list[Any]) -> Any:
    """The arrays in the structure that `flatten` gave.

    >>> rebuilt({"loss": 0, "more": [1, None]}, ["a", "b"])
    {'loss': 'a', 'more': ['b', None]}
    """
    if isinstance(structure, int):
        return arrays[structure]
    if isinstance(structure, dict):
        return {key: rebuilt(value, arrays) for key, value in structure.items()}
    return None if structure is None else type(structure)(rebuilt(value, arrays) for value in structure)


def shown(structure: Any) -> str:
    """A structure as text, for messages: arrays as "array".

    >>> shown((0, {"a": 1}))
    "(array, {'a': array})"
    """

    def parts(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            yield "{" + ", ".join(f"{key!r}: {shown(value)}" for key, value in node.items()) + "}"
        elif isinstance(node, (tuple, list)):
            ends = "()" if isinstance(node, tuple) else "[]"
            yield ends[0] + ", ".join(map(shown, node)) + ("," if isinstance(node, tuple) and len(node) == 1 else "") + ends[1]
        else:
            yield "None" if node is None else "array"

    return "".join(parts(structure))
