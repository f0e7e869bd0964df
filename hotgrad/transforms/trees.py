"""Nested tuples, lists and dicts of arrays: what functions take and return. Everything else is a leaf."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def mapped(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """The tree with `function` of each leaf, and of those of `others`, of the same structure, in its place. None stays.

    >>> mapped(lambda a, b: a + b, {"w": [1, 2], "b": None}, {"w": [10, 20], "b": None})
    {'w': [11, 22], 'b': None}
    """
    if isinstance(tree, dict):
        made = [(key, mapped(function, value, *(other[key] for other in others))) for key, value in tree.items()]
        return dict(made) if type(tree) is dict else _like(tree, made)
    if isinstance(tree, (tuple, list)):
        items = [mapped(function, value, *at) for value, *at in zip(tree, *others)]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return None if tree is None else function(tree, *others)


def _like(tree: Any, items: list[tuple[Any, Any]]) -> Any:
    """A dict of another class: an OrderedDict, say, or a defaultdict, which keeps its factory."""
    made = tree.copy()
    made.update(items)
    return made


def leaves(tree: Any) -> list[Any]:
    """The leaves in order, without None.

    >>> leaves((1, [2, None], {"c": 3}))
    [1, 2, 3]
    """
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (tuple, list)):
        return [leaf for value in tree for leaf in leaves(value)]
    return [] if tree is None else [tree]


def paths(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves in order, each with where it stands.

    >>> list(paths({"w": [1, 2]}))
    [("['w'][0]", 1), ("['w'][1]", 2)]
    """
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from paths(value, f"{path}[{key!r}]")
    elif isinstance(tree, (tuple, list)):
        for i, value in enumerate(tree):
            yield from paths(value, f"{path}[{i}]")
    elif tree is not None:
        yield path, tree


def differs(tree: Any, other: Any, path: str = "") -> str:
    """Where the structure of two trees is not the same, in words; "" if it is.

    >>> differs({"w": 1}, {"b": 1})
    "keys ['w'] against ['b']"
    """
    at = f" at {path}" if path else ""
    for kind in (dict, (tuple, list)):
        if isinstance(tree, kind) != isinstance(other, kind):
            return f"{type(tree).__name__} against {type(other).__name__}{at}"
    if isinstance(tree, dict):
        if list(tree) != list(other) and set(tree) != set(other):
            return f"keys {list(tree)} against {list(other)}{at}"
        found = (differs(value, other[key], f"{path}[{key!r}]") for key, value in tree.items())
        return next((how for how in found if how), "")
    if isinstance(tree, (tuple, list)):
        if len(tree) != len(other):
            return f"{len(tree)} items against {len(other)}{at}"
        found = (differs(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(tree, other)))
        return next((how for how in found if how), "")
    return f"None against {type(other).__name__}{at}" if (tree is None) != (other is None) else ""
