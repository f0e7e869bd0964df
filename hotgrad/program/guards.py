"""What a captured function depended on besides its arguments, and whether that is still so.

A program holds the numbers, branches and objects that stood in closures, globals, attributes and classes while it was captured.
A Watch remembers them and tells when one has changed. Reading values out of arrays is refused while capturing, so the contents
of tensors need no watching, but for constants, whose versions are compared.
"""

from __future__ import annotations

import array
import builtins
import collections
import contextvars
import dis
import functools
import math
import random
import sys
import types
from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.primitive import Primitive
from hotgrad.core.variable import Variable
from hotgrad.errors import CaptureError
from hotgrad.modules import Module
from hotgrad.modules.parameters import LazyParameter
from hotgrad.optim import Optimizer

_PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, range, slice)
_SKIPPED = (types.BuiltinFunctionType, torch.Generator)
_ITEMS = (list, tuple, set, frozenset, collections.deque)
_BYTES = (array.array, bytearray)
_LIMIT = 10_000  # objects that a function may depend on
_LARGEST = 1_000_000  # bytes of a numpy array
_MISSING = object()


class Watch:
    """Everything that `roots` reach: closure cells, globals that their code names, attributes, classes, items of containers.

    hotgrad, torch and the standard library are taken as they are. Raises CaptureError for what cannot be watched, such as an
    iterator, or more than 10,000 objects.

    >>> scale = [2.0]
    >>> watch = Watch([lambda x: x * scale[0]])
    >>> scale[0] = 3.0
    >>> watch.changed()
    "'scale[0]' was 2.0 and is 3.0"
    """

    def __init__(self, roots: Sequence[Any]) -> None:
        # per container: its path, a function that gives its items now, the items then, and how to name them
        self._containers: list[tuple[str, Callable[[], list[Any]], list[Any], Callable[[int], str]]] = []
        self.seen: dict[int, Any] = {}  # by id: all that is reached
        self.names: dict[int, str] = {}  # of Variables and buffers, by id
        self.buffers: dict[int, Tensor] = {}
        self.variables: list[Variable] = []
        self.optimizers: list[Optimizer] = []
        self.trusted = True  # whether no code but hotgrad's, torch's and the standard library's is reached
        self._found: list[tuple[str, Any]] = []  # by the last look, to be looked at
        for root in roots:
            self._visit("", root)
        ahead: list[tuple[str, Any]] = []  # a stack rather than recursion: nesting may be deep
        while self._found or ahead:
            ahead += reversed(self._found)
            self._found.clear()
            self._look(*ahead.pop())

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
                    if isinstance(a, _Contents):
                        return f"{name(i)!r} {a.change}"
                    return f"{name(i)!r} was {a!r:.60} and is {b!r:.60}" if isinstance(a, _PLAIN) else f"{name(i)!r} is another object"
        return ""

    # ---- looking around

    def _visit(self, path: str, thing: Any) -> None:
        """Look at `thing` next, with what it holds, before what comes after it."""
        if not isinstance(thing, (*_PLAIN, *_SKIPPED)) and thing is not _MISSING and id(thing) not in self.seen:
            self._found.append((path, thing))

    def _look(self, path: str, thing: Any) -> None:
        if id(thing) in self.seen:
            return
        if len(self.seen) > _LIMIT:
            raise CaptureError(f"the function depends on more than {_LIMIT:,} objects (at {path!r}), which are too many to watch")
        self.seen[id(thing)] = thing
        if not _foreign(type(thing).__module__):
            self.trusted = False
        if isinstance(thing, (Tensor, types.ModuleType)):
            return
        if isinstance(thing, Variable):
            self._variable(path, thing)
        elif isinstance(thing, Optimizer):
            self._optimizer(path, thing)
        elif isinstance(thing, type):
            self._class(path, thing)
        elif isinstance(thing, types.FunctionType):
            self._function(path, thing)
        elif isinstance(thing, types.MethodType):
            self._visit(path, thing.__self__)
            self._function(path, thing.__func__)
        elif isinstance(thing, (functools.partial, functools._lru_cache_wrapper)):
            for name in ("func", "args", "keywords", "__wrapped__"):
                self._visit(f"{path}.{name}", getattr(thing, name, None))
        elif isinstance(thing, (dict, *_ITEMS)):
            self._items(path, thing)
        elif isinstance(thing, _BYTES):
            self._watch(path, lambda: [_Written(thing)], lambda i: path)
        elif type(thing).__module__.split(".")[0] == "numpy":
            self._numpy(path, thing)
        elif isinstance(thing, random.Random):
            if isinstance(thing, random.SystemRandom):
                raise CaptureError(
                    f"the function uses {path!r}, which draws random numbers from the operating system; make them an argument"
                )
            self._watch(path, lambda: [_Drawn(str(hash(thing.getstate())).encode())], lambda i: path)
        elif hasattr(thing, "__next__") or isinstance(thing, contextvars.ContextVar):
            raise CaptureError(
                f"the function uses {path!r}, a {type(thing).__name__}, which cannot be watched; make what it gives an argument"
            )
        elif isinstance(thing, Module) or _watchable(thing):
            self._watch(path, lambda: [type(thing), getattr(thing, "training", None)], lambda i: f"{path}.{('__class__', 'training')[i]}")
            self._attributes(path, thing)
            self._class(type(thing).__name__, type(thing))
        if isinstance(thing, Module):
            for name in thing._buffers:
                buffer = getattr(thing, name)
                self.buffers[id(buffer)] = buffer
                self.names[id(buffer)] = f"{path}.{name}" if path else name

    def _watch(self, path: str, items: Callable[[], list[Any]], name: Callable[[int], str]) -> list[Any]:
        then = items()
        self._containers.append((path, items, then, name))
        return then

    def _variable(self, path: str, variable: Variable) -> None:
        if isinstance(variable, LazyParameter):
            raise CaptureError(f"the parameter {path!r} is not sized yet; call the model on an input first")
        self.variables.append(variable)
        self.names.setdefault(id(variable), variable.name or path)
        self._watch(path, lambda: [variable._data, variable._link is None], lambda i: f"{path}.{('data', 'requires_grad')[i]}")

    def _optimizer(self, path: str, optimizer: Optimizer) -> None:
        self.optimizers.append(optimizer)
        self._watch(path, lambda: _fixed(optimizer), lambda i: f"a setting of {type(optimizer).__name__}")
        if not _foreign(type(optimizer).__module__):
            self._attributes(path, optimizer, frozenset(("groups", "_defaults")))
            self._class(type(optimizer).__name__, type(optimizer))

    def _items(self, path: str, thing: Any) -> None:
        if isinstance(thing, dict):
            keys = self._watch(path, lambda: list(thing), lambda i: f"a key of {path}")
            values = self._watch(path, lambda: list(thing.values()), lambda i: f"{path}[{keys[i]!r}]")
            for key, value in zip(keys, values):
                self._visit(f"{path}[{key!r}]", value)
        else:
            for i, value in enumerate(self._watch(path, lambda: list(thing), lambda i: f"{path}[{i}]")):
                self._visit(f"{path}[{i}]", value)

    def _attributes(self, path: str, thing: Any, skipped: frozenset[str] = frozenset()) -> None:
        skip: frozenset[str] = skipped | getattr(type(thing), "_unwatched", frozenset())
        attributes = getattr(thing, "__dict__", {})
        keys = [key for key in attributes if key not in skip]
        prefix = f"{path}." if path else ""
        now = self._watch(
            path, lambda: [v for k, v in attributes.items() if k not in skip], lambda i: prefix + keys[i] if i < len(keys) else path
        )
        for key, value in zip(keys, now):
            self._visit(prefix + key, value)
        slots = [name for cls in type(thing).__mro__ if not _foreign(cls.__module__) for name in _slots(cls)]
        if slots:
            now = self._watch(path, lambda: [getattr(thing, name, _MISSING) for name in slots], lambda i: prefix + slots[i])
            for key, value in zip(slots, now):
                self._visit(prefix + key, value)

    def _class(self, path: str, cls: type) -> None:
        """The attributes and methods of a user's class and of those it derives from."""
        for base in cls.__mro__:
            if _foreign(base.__module__) or (base is not cls and id(base) in self.seen):
                continue
            self.seen[id(base)] = base
            self.trusted = False
            keys = [key for key in vars(base) if key not in _UNWATCHED_IN_CLASSES]
            values = self._watch(path, functools.partial(_class_items, base), functools.partial("{}, attribute {}".format, path))
            for key, value in zip(keys, values):
                for inner in _behind(value):
                    self._visit(f"{path}.{key}", inner)

    def _function(self, path: str, function: Any) -> None:
        if not isinstance(function, types.FunctionType):
            return
        if _foreign(function.__module__):
            for cell in function.__closure__ or ():  # `apply` of a user's op
                if isinstance(op := _content(cell), type) and issubclass(op, Primitive):
                    self._visit(op.__name__, op)
            return
        self.trusted = False
        parts = ("__code__", "__defaults__", "__kwdefaults__")
        self._watch(path, lambda: [getattr(function, part) for part in parts], lambda i: f"{function.__name__}.{parts[i]}")
        for part in (function.__defaults__, function.__kwdefaults__, vars(function)):
            self._visit(function.__name__, part)
        prefix = f"{path}: " if "." in path else ""
        cells = function.__closure__ or ()
        free = function.__code__.co_freevars
        for name, value in zip(free, self._watch(path, lambda: [_content(cell) for cell in cells], lambda i: prefix + free[i])):
            self._visit(name, value)
        names = sorted(_names(function.__code__))
        for name in _UNWATCHABLE.keys() & names:
            if name not in vars(builtins) or name in _globals(function.__code__):  # `model.eval()` is something else
                raise CaptureError(f"the function {function.__name__!r} {_UNWATCHABLE[name].format(name)}")
        everywhere = function.__globals__
        for name, value in zip(names, self._watch(path, lambda: [everywhere.get(n, _MISSING) for n in names], lambda i: prefix + names[i])):
            self._visit(name, value)
            if isinstance(value, types.ModuleType) and not _foreign(value.__name__):
                self._module(name, value, [n for n in names if hasattr(value, n)])

    def _module(self, path: str, module: Any, names: list[str]) -> None:
        for name, value in zip(names, self._watch(path, lambda: [getattr(module, n, None) for n in names], lambda i: f"{path}.{names[i]}")):
            self._visit(f"{path}.{name}", value)

    def _numpy(self, path: str, thing: Any) -> None:
        if hasattr(thing, "nbytes") and hasattr(thing, "tobytes"):
            if thing.nbytes > _LARGEST:
                raise CaptureError(
                    f"the function uses the numpy array {path!r}, whose {thing.nbytes:,} bytes are too many to watch; use a tensor"
                )
            self._watch(path, lambda: [_Written(thing.tobytes())], lambda i: path)
        elif hasattr(thing, "bit_generator"):
            self._watch(path, lambda: [_Drawn(str(thing.bit_generator.state).encode())], lambda i: path)
        elif hasattr(thing, "get_state"):
            self._watch(path, lambda: [_Drawn(str(thing.get_state()).encode())], lambda i: path)


def _fixed(optimizer: Optimizer) -> list[Any]:
    """What a captured step of this optimizer takes as given: all settings but the learning rate, and which parameters it trains."""
    fixed: list[Any] = [optimizer.clip_norm]
    for group in optimizer.groups:
        fixed += [value for name, value in vars(group.settings).items() if name != "lr"]
        fixed += [slot.parameter for slot in group.slots]
        fixed += [slot.parameter._link is None for slot in group.slots]
    return fixed


# What code may not name: what it reads, or when, would not be seen.
_UNWATCHABLE = {
    **dict.fromkeys(
        ("globals", "locals", "eval", "exec"),
        "calls {}(), by which it may depend on anything; name what it uses, so that it can be watched",
    ),
    **dict.fromkeys(("Thread", "ThreadPoolExecutor"), "starts threads ({}), which cannot be watched; start them outside of it"),
    **dict.fromkeys(
        ("default_rng", "RandomState", "SystemRandom", "urandom"),
        "makes a source of random numbers ({}), which would give the same at each run of the program; make the numbers an argument, or use Dropout",
    ),
}
_UNWATCHED_IN_CLASSES = frozenset("__dict__ __weakref__ __doc__ __module__ __annotations__ __slots__ __abstractmethods__ _abc_impl".split())


def _class_items(cls: type) -> list[Any]:
    return [value for key, value in vars(cls).items() if key not in _UNWATCHED_IN_CLASSES]


def _behind(attribute: Any) -> list[Any]:
    """What an attribute of a class runs or holds."""
    if isinstance(attribute, property):
        return [attribute.fget, attribute.fset]
    if isinstance(attribute, (staticmethod, classmethod)):
        return [attribute.__func__]
    return [] if isinstance(attribute, (types.MemberDescriptorType, types.GetSetDescriptorType)) else [attribute]


def _slots(cls: type) -> list[str]:
    slots = vars(cls).get("__slots__", ())
    return [name for name in ((slots,) if isinstance(slots, str) else slots) if name not in ("__dict__", "__weakref__")]


def _watchable(thing: Any) -> bool:
    """Whether this is an object of a user's class, or a plain holder of attributes."""
    module = type(thing).__module__
    return not _foreign(module) or isinstance(thing, types.SimpleNamespace) or module in ("collections", "_thread", "_threading_local")


def _names(code: types.CodeType) -> set[str]:
    """The global and attribute names that code uses, that of functions inside it included."""
    return {*code.co_names, *(name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const))}


def _globals(code: types.CodeType) -> set[str]:
    """Those names that are no attributes."""
    loaded = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return loaded.union(*(_globals(const) for const in code.co_consts if isinstance(const, types.CodeType)))


def _foreign(module: str | None) -> bool:
    """Whether this is code that programs take as it is."""
    top = (module or "").split(".")[0]
    return top in ("hotgrad", "torch", "numpy", "builtins") or (top in sys.stdlib_module_names and top != "__main__")


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return _MISSING


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)
    if type(a) is tuple and type(b) is tuple:
        return len(a) == len(b) and all(x is y or _equal(x, y) for x, y in zip(a, b))
    return isinstance(a, _PLAIN) and type(a) is type(b) and bool(a == b)


class _Contents(bytes):
    """What stood in memory that the function reads; `change`: what a change of it is, in words."""

    change = ""


class _Written(_Contents):
    change = "has other contents"


class _Drawn(_Contents):
    change = "was drawn from, or seeded"
