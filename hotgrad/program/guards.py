"""What a captured function depended on besides its arguments, and whether that is still so.

A program holds the numbers, branches and objects that stood in closures, globals and modules while it was captured. A Watch
remembers them, by identity, and tells when one has been exchanged. Reading values out of arrays is refused while capturing, so
the contents of arrays need no watching, but for constants, whose versions are compared.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor

from hotgrad.modules import Module
from hotgrad.optim import Optimizer
from hotgrad.variable import Variable

_PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, type, range, slice)
_SKIPPED = (types.ModuleType, types.BuiltinFunctionType, torch.Generator)
_LIMIT = 10_000  # objects looked at


class Watch:
    """Everything that `roots` reach: closure cells, globals that their code names, attributes, and items of lists, tuples and dicts.

    hotgrad, torch and the standard library are taken as they are.

    >>> scale = [2.0]
    >>> watch = Watch([lambda x: x * scale[0]])
    >>> scale[0] = 3.0
    >>> watch.changed()
    "'scale[0]' was 2.0 and is 3.0"
    """

    def __init__(self, roots: Sequence[Any]) -> None:
        # per container: its path, a function that gives its items now, the items then, and how to name them
        self._containers: list[tuple[str, Callable[[], list[Any]], list[Any], Callable[[int], str]]] = []
        self._seen: dict[int, Any] = {}
        self.names: dict[int, str] = {}  # of Variables and buffers, by id
        self.buffers: dict[int, Tensor] = {}
        self.variables: list[Variable] = []
        self.optimizers: list[Optimizer] = []
        for root in roots:
            self._visit("", root)

    def changed(self) -> str:
        """What is no longer as it was, in words; "" if all is."""
        for path, items, then, name in self._containers:
            now = items()
            if len(now) == len(then) and all(map(is_, now, then)):
                continue
            if len(now) != len(then):
                return f"{path or 'it'!r} had {len(then)} items and has {len(now)}"
            for i, (a, b) in enumerate(zip(then, now)):
                if a is not b and not _equal(a, b):
                    return f"{name(i)!r} was {_short(a)} and is {_short(b)}" if isinstance(a, _PLAIN) else f"{name(i)!r} is another object"
        return ""

    def _visit(self, path: str, thing: Any) -> None:
        if isinstance(thing, (*_PLAIN, *_SKIPPED)) or id(thing) in self._seen or len(self._seen) > _LIMIT:
            return
        self._seen[id(thing)] = thing
        if isinstance(thing, Tensor):
            return
        if isinstance(thing, Variable):
            self.variables.append(thing)
            self.names.setdefault(id(thing), thing.name or path)
            self._watch(path, lambda: [thing._data, thing._link is None], lambda i: f"{path}.data" if i == 0 else f"{path}.requires_grad")
        elif isinstance(thing, Optimizer):
            self.optimizers.append(thing)
            # the length differs from the start only when parameters are bound
            self._watch(path, lambda: _fixed(thing), lambda i: f"a setting of {type(thing).__name__}")
        elif isinstance(thing, types.FunctionType):
            self._function(path, thing)
        elif isinstance(thing, types.MethodType):
            self._visit(path, thing.__self__)
            self._function(path, thing.__func__)
        elif isinstance(thing, functools.partial):
            self._visit(path, thing.func)
            self._items(f"{path}.args", thing.args)
            self._items(f"{path}.keywords", thing.keywords)
        elif isinstance(thing, (list, tuple, dict, set, frozenset)):
            self._items(path, thing)
        elif isinstance(thing, Module) or (hasattr(thing, "__dict__") and not _foreign(type(thing).__module__)):
            self._attributes(path, thing)
            if not isinstance(thing, Module) and callable(thing):
                self._function(path, type(thing).__call__)
        if isinstance(thing, Module):
            self._function(path, type(thing).forward)
            for name in thing._buffers:
                buffer = getattr(thing, name)
                self.buffers[id(buffer)] = buffer
                self.names[id(buffer)] = f"{path}.{name}" if path else name

    def _watch(self, path: str, items: Callable[[], list[Any]], name: Callable[[int], str]) -> list[Any]:
        then = items()
        self._containers.append((path, items, then, name))
        return then

    def _items(self, path: str, thing: Any) -> None:
        if isinstance(thing, dict):
            keys = list(thing)
            values = self._watch(path, lambda: list(thing.values()), lambda i: f"{path}[{keys[i]!r}]")
            for key, value in zip(keys, values):
                self._visit(f"{path}[{key!r}]", value)
        else:
            for i, value in enumerate(self._watch(path, lambda: list(thing), lambda i: f"{path}[{i}]")):
                self._visit(f"{path}[{i}]", value)

    def _attributes(self, path: str, thing: Any) -> None:
        skip: frozenset[str] = getattr(type(thing), "_unwatched", frozenset())
        attributes = vars(thing)
        keys = [key for key in attributes if key not in skip]
        prefix = f"{path}." if path else ""
        values = self._watch(
            path, lambda: [v for k, v in attributes.items() if k not in skip], lambda i: prefix + keys[i] if i < len(keys) else path
        )
        for key, value in zip(keys, values):
            self._visit(prefix + key, value)

    def _function(self, path: str, function: Any) -> None:
        if not isinstance(function, types.FunctionType) or _foreign(function.__module__):
            return
        self._visit(path, function.__defaults__)
        self._visit(path, function.__kwdefaults__)
        prefix = f"{path}: " if path and "." in path else ""
        cells = function.__closure__ or ()
        free = function.__code__.co_freevars
        for name, value in zip(free, self._watch(path, lambda: [_content(cell) for cell in cells], lambda i: prefix + free[i])):
            self._visit(name, value)
        names = sorted(name for name in _names(function.__code__) if name in function.__globals__)
        values = self._watch(path, lambda: [function.__globals__.get(name) for name in names], lambda i: prefix + names[i])
        for name, value in zip(names, values):
            self._visit(name, value)
            if isinstance(value, types.ModuleType) and not _foreign(value.__name__):
                self._module(name, value, [n for n in _names(function.__code__) if hasattr(value, n)])

    def _module(self, path: str, module: Any, names: list[str]) -> None:
        for name, value in zip(names, self._watch(path, lambda: [getattr(module, n, None) for n in names], lambda i: f"{path}.{names[i]}")):
            self._visit(f"{path}.{name}", value)


def _fixed(optimizer: Optimizer) -> list[Any]:
    """What a captured step of this optimizer takes as given: all settings but the learning rate, and the parameters."""
    fixed: list[Any] = [optimizer.clip_norm]
    for group in optimizer.groups:
        fixed += [value for name, value in vars(group.settings).items() if name != "lr"]
        fixed += [slot.parameter._link is None for slot in group.slots]
    return fixed


def _names(code: types.CodeType) -> set[str]:
    """The global and attribute names that code uses, that of functions inside it included."""
    return {*code.co_names, *(name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const))}


def _foreign(module: str | None) -> bool:
    """Whether this is code that programs take as it is."""
    top = (module or "").split(".")[0]
    return top in ("hotgrad", "torch", "numpy", "builtins") or (top in sys.stdlib_module_names and top != "__main__")


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _equal(a: Any, b: Any) -> bool:
    return isinstance(a, _PLAIN) and type(a) is type(b) and (a == b or (a != a and b != b))


def _short(thing: Any) -> str:
    return f"{thing!r:.60}"


# C functions whose results differ from call to call, by the module or the type that they belong to.
_VARYING = ("time", "random", "_random", "datetime", "uuid", "secrets", "numpy.random")


class Unsteady:
    """Notices calls of functions whose results differ from call to call: clocks and random numbers. Use as a context manager."""

    def __init__(self) -> None:
        self.called = ""

    def _look(self, frame: Any, event: str, function: Any) -> None:
        if event != "c_call" or self.called:
            return
        owner = getattr(function, "__self__", None)
        kind = owner if isinstance(owner, type) else type(owner)
        module = getattr(function, "__module__", None) or (owner.__name__ if isinstance(owner, types.ModuleType) else kind.__module__)
        caller = frame.f_globals.get("__name__", "").split(".")[0]
        if module.startswith(_VARYING) and function.__name__ in _CLOCKS_AND_DICE and caller not in ("hotgrad", "torch"):
            self.called = f"{module}.{function.__name__}"

    def __enter__(self) -> Unsteady:
        self._before = sys.getprofile()
        sys.setprofile(self._look)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(self._before)


_CLOCKS_AND_DICE = frozenset(
    """time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time process_time_ns localtime gmtime strftime ctime
    now utcnow today random getrandbits rand randn uniform normal integers choice standard_normal permutation shuffle""".split()
)
