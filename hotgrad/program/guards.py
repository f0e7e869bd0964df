"""What a captured function depended on besides its arguments, and whether that is still so.

A program holds the numbers, branches and objects that stood in closures, globals, attributes and classes while it was captured.
A Watch remembers them and tells when one has changed. What it reaches and cannot watch it lists in `open`. Reading values out of
arrays is refused while capturing, so the contents of tensors need no watching here; constants are compared by `constants`.
"""

from __future__ import annotations

import array
import builtins
import collections
import contextvars
import ctypes
import functools
import importlib.util
import random
import re
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Sequence
from operator import is_
from typing import Any

from torch import Tensor

from hotgrad.core.primitive import Primitive
from hotgrad.core.variable import Variable
from hotgrad.errors import CaptureError
from hotgrad.modules import Module
from hotgrad.modules.parameters import LazyParameter
from hotgrad.optim import Optimizer, Schedule
from hotgrad.program.kinds import (
    CONTAINERS,
    PARTIALS,
    PLAIN,
    attributes_of,
    foreign,
    impure_builtin,
    pure,
    skipped,
    strings_of,
    taken_as_is,
    top,
    whole,
)  # fmt: skip
from hotgrad.program.names import Names, names_of
from hotgrad.program.watched import MISSING, Items, Written, cell_content, generator_of

_BYTES = (array.array, bytearray, memoryview, ctypes._SimpleCData, ctypes.Structure, ctypes.Array, ctypes.Union)
_LIMIT = 10_000  # objects that a function may depend on
_LARGEST = 1_000_000  # bytes of a buffer
# What code may not name: what it makes differs at each run, or runs elsewhere.
_UNCAPTURABLE = {
    **dict.fromkeys(("Thread", "ThreadPoolExecutor"), "starts threads ({}), which cannot be watched; start them outside of it"),
    **dict.fromkeys(
        ("default_rng", "RandomState", "SystemRandom", "urandom"),
        "makes a source of random numbers ({}), which would give the same at each run of the program; make the numbers an argument, or use Dropout",
    ),
}
_RUN_OUTSIDE = frozenset("__init__ at step_end epoch_end restart state_dict load_state_dict settings fresh __repr__".split())
_REFLECTION = frozenset(
    "__subclasses__ __globals__ __closure__ __builtins__ _getframe currentframe get_objects get_referrers __import__".split()
)
_BY_NAME = frozenset("getattr vars dir attrgetter __dict__ __getattribute__ getattr_static getmembers".split())
_UNWATCHED_IN_CLASSES = frozenset("__dict__ __weakref__ __doc__ __module__ __annotations__ __slots__ __abstractmethods__ _abc_impl".split())


class Watch:
    """Everything that `roots` reach: closure cells, globals that their code names, attributes, classes, items of containers.

    hotgrad, torch, numpy and the standard library's pure functions are taken as they are. `open`: by path, why something cannot be
    watched. Raises CaptureError for what no program can stand for, such as an iterator that each call would move on.

    >>> scale = [2.0]
    >>> watch = Watch([lambda x: x * scale[0]])
    >>> scale[0] = 3.0
    >>> watch.changed()
    "'scale[0]' was 2.0 and is 3.0"
    """

    def __init__(self, roots: Sequence[Any]) -> None:
        self.roots = roots
        self.open: dict[str, str] = {}
        self.seen: dict[int, Any] = {}  # by id: all that is reached
        self.names: dict[int, str] = {}  # of Variables and buffers, by id
        self.buffers: dict[int, Tensor] = {}
        self.variables: list[Variable] = []
        self.optimizers: list[Optimizer] = []
        self.trusted = True  # whether no code but hotgrad's, torch's and the standard library's is reached
        self._items: list[Items] = []
        self._found: list[tuple[str, Any]] = []  # by the last look, to be looked at
        self._named: set[str] = set()  # after a dot, in all code that is reached
        self._modules: dict[int, tuple[str, Any, set[str]]] = {}  # those in whose place any name may stand, with the names watched so far
        self._moved: set[str] = set()  # attributes of schedules that move by rules of their own
        self._modules_at_hand: list[tuple[str, Any]] = []  # of the user's
        self._lines: dict[str, str] = {}  # where code names a variable
        self._classes: dict[int, tuple[str, type, set[str]]] = {}  # foreign ones, likewise
        for root in roots:
            self._visit("", root)
        self._look_around()

    def changed(self) -> str:
        """What is no longer as it was, in words; "" if all is."""
        for items in self._items:
            now, then = items.get(), items.then
            if len(now) != len(then) or not all(map(is_, now, then)):
                how = items.changed()
                if how:
                    return how
        return ""

    def renewed(self) -> Watch:
        """What watches the same for further changes: itself, where only numbers and texts have changed."""
        settled = [items.settled() for items in self._items]
        return self if all(settled) else Watch(self.roots)

    def restore(self) -> None:
        """Bring back what stood there, as far as it stands in Python's own containers and attributes."""
        for items in self._items:
            items.restore()

    def all_variables(self) -> list[Variable]:
        """Those that are reached, and those that an optimizer which is reached has."""
        return [*self.variables, *(parameter for optimizer in self.optimizers for parameter in optimizer.parameters)]

    def first_open(self) -> str:
        """What cannot be watched, in words; "" if all can."""
        for path, why in self.open.items():
            head = re.split(r"[.\[:(]", path)[0]
            return f"{path!r}{self._lines.get(head, '')}, {why}"
        return ""

    # ---- looking around

    def _look_around(self) -> None:
        ahead: list[tuple[str, Any]] = []  # a stack rather than recursion: nesting may be deep
        while True:
            while self._found or ahead:
                ahead += reversed(self._found)
                self._found.clear()
                path, thing = ahead.pop()
                if id(thing) in self.seen:
                    continue
                if len(self.seen) > _LIMIT:
                    self._open(path, f"an object more than the {_LIMIT:,} that are watched")
                    return
                self._look(path, thing)
            for path, module, done in list(self._modules.values()):
                self._names_in(path, module, vars(module), done)
            for path, cls, done in list(self._classes.values()):
                self._names_in(path, cls, vars(cls), done)
            if self._modules_at_hand and self._named & _BY_NAME:
                for path, module in self._modules_at_hand:
                    self._all_of(path, module)
                self._modules_at_hand.clear()
            if not self._found:
                break
        moved = sorted(self._moved & self._named)
        if moved:
            raise CaptureError(f"the function reads {moved[0]!r} of a schedule, which may differ from step to step; read its lr or count")

    def _visit(self, path: str, thing: Any) -> None:
        """Look at `thing` next, with what it holds, before what comes after it."""
        if thing is not MISSING and id(thing) not in self.seen and type(thing) not in PLAIN:
            self._found.append((path, thing))

    def _open(self, path: str, why: str) -> None:
        self.open.setdefault(path, why)

    def _look(self, path: str, thing: Any) -> None:
        self.seen[id(thing)] = thing
        kind = type(thing)
        if not foreign(kind.__module__):
            self.trusted = False
        if skipped(thing):
            return
        for cls, look in _LOOKS:
            if issubclass(kind, cls):
                look(self, path, thing)
                return
        module = top(kind.__module__)
        if module == "numpy" and self._numpy(path, thing):
            return
        if issubclass(kind, weakref.ReferenceType) or kind in weakref.ProxyTypes:
            self._open(path, "a weak reference, cannot be watched: to do so would keep alive what it refers to")
            return
        if hasattr(kind, "__next__") and not whole(thing):
            raise CaptureError(f"the function uses {path!r}, a {kind.__name__}, which each call moves on; make what it gives an argument")
        if whole(thing):
            self._object(path, thing)
        elif strings_of(thing):
            self._named.update(string for string in strings_of(thing) if isinstance(string, str))
        elif not (module in ("torch", "numpy") and callable(thing)):
            self._open(path, f"a {kind.__module__}.{kind.__qualname__}, cannot be watched")

    def _watch(self, path: str, get: Callable[[], list[Any]], name: Callable[[int], str], put: Any = None) -> list[Any]:
        self._items.append(Items(path, get, name, put))
        return self._items[-1].then

    # ---- one kind of thing

    def _object(self, path: str, thing: Any) -> None:
        """An object that is its attributes."""
        self._attributes(path, thing)
        if not foreign(type(thing).__module__):  # which may be another one; and it has others in its place
            self._watch(path, lambda: [type(thing)], lambda i: f"{path}.__class__")
        self._class(type(thing).__name__, type(thing))

    def _module_object(self, path: str, module: Module) -> None:
        self._object(path, module)
        for name in module._buffers:
            buffer = getattr(module, name)
            self.buffers[id(buffer)] = buffer
            self.names[id(buffer)] = f"{path}.{name}" if path else name

    def _tensor(self, path: str, tensor: Any) -> None:
        if type(tensor) is not Tensor:
            self._class(type(tensor).__name__, type(tensor))
        if attributes_of(tensor):
            self._attributes(path, tensor)

    def _variable(self, path: str, variable: Variable) -> None:
        if isinstance(variable, LazyParameter):
            raise CaptureError(f"the parameter {path!r} is not sized yet; call the model on an input first")
        self.variables.append(variable)
        self.names.setdefault(id(variable), variable.name or path)
        self._watch(path, lambda: [variable._data, variable._link is None], lambda i: f"{path}.{('data', 'requires_grad')[i]}")
        if attributes_of(variable) is not None:
            self._attributes(path, variable)
        self._class(type(variable).__name__, type(variable))

    def _optimizer(self, path: str, optimizer: Optimizer) -> None:
        self.optimizers.append(optimizer)
        self._watch(path, lambda: _fixed(optimizer), lambda i: f"a setting of {type(optimizer).__name__}")
        self._attributes(path, optimizer, frozenset(("groups", "_defaults", "_memory")))
        self._class(type(optimizer).__name__, type(optimizer))
        for group in optimizer.groups:
            self._visit(f"{path}.groups", vars(group.settings))
            self._visit(f"{path}.lr", group.rate)

    def _schedule(self, path: str, schedule: Schedule) -> None:
        """`lr` and `count` are read as they are at each step: see `core.moving`. What computes them runs then, outside of programs."""
        moved = frozenset(vars(schedule)) if type(schedule).step_end is not Schedule.step_end else frozenset(("_count",))
        self._attributes(path, schedule, moved)
        self._moved |= moved - {"_count", "base", "per"}
        for cls in type(schedule).__mro__:
            if not foreign(cls.__module__):
                for name in vars(cls).keys() - _RUN_OUTSIDE - _UNWATCHED_IN_CLASSES:
                    self._visit(f"{path}.{name}", getattr(vars(cls)[name], "fget", vars(cls)[name]))

    def _container(self, path: str, thing: Any) -> None:
        kind = type(thing)
        if issubclass(kind, dict):
            keys = self._watch(path, lambda: list(dict.keys(thing)), lambda i: f"a key of {path}")
            values = self._watch(
                path, lambda: list(dict.values(thing)), lambda i: f"{path}[{keys[i]!r}]", lambda then: _fill(thing, zip(keys, then))
            )
            for key, value in zip(keys, values):
                self._visit(f"a key of {path}", key)
                self._visit(f"{path}[{key!r}]", value)
        else:
            items = next(cls for cls in CONTAINERS[1:] if issubclass(kind, cls)).__iter__
            put = _refill(thing) if issubclass(kind, (list, collections.deque)) else None
            for i, value in enumerate(self._watch(path, lambda: list(items(thing)), lambda i: f"{path}[{i}]", put)):
                self._visit(f"{path}[{i}]", value)
        if issubclass(kind, collections.defaultdict):
            self._visit(f"{path}.default_factory", thing.default_factory)
        if kind not in CONTAINERS:
            if attributes_of(thing) is not None:
                self._attributes(path, thing)
            self._class(kind.__name__, kind)

    def _mapping(self, path: str, thing: Any) -> None:
        for key, value in zip(list(thing), self._watch(path, lambda: list(thing.values()), lambda i: f"{path}[{list(thing)[i]!r}]")):
            self._visit(f"{path}[{key!r}]", value)

    def _view(self, path: str, thing: Any) -> None:
        self._mapping(path, thing.mapping)

    def _bytes(self, path: str, thing: Any) -> None:
        try:
            view = memoryview(thing)
        except (TypeError, ValueError, BufferError):
            return self._open(path, f"a {type(thing).__name__}, cannot be watched")
        if view.nbytes > _LARGEST or getattr(thing, "_objects", None):
            return self._open(path, f"a {type(thing).__name__} of {view.nbytes:,} bytes, is too large to be watched, or points elsewhere")
        self._watch(path, lambda: [Written(memoryview(thing).tobytes())], lambda i: path)
        return None

    def _attributes(self, path: str, thing: Any, skip: frozenset[str] = frozenset()) -> None:
        skip = skip | getattr(type(thing), "_unwatched", frozenset())
        prefix = f"{path}." if path else ""
        attributes = attributes_of(thing)
        if attributes is not None:
            keys = [key for key in attributes if key not in skip]
            get = functools.partial(attributes_of, thing)
            usual = type(thing).__getattribute__ is object.__getattribute__ and not skip
            now = self._watch(
                path,
                (lambda: [*thing.__dict__.values()]) if usual else (lambda: [v for k, v in get().items() if k not in skip]),
                lambda i: prefix + keys[i] if i < len(keys) else path,
                lambda then: _fill(get(), zip(keys, then), skip),
            )
            for key, value in zip(keys, now):
                if not taken_as_is(thing, value):
                    self._visit(prefix + key, value)
        slots = [(name, vars(cls)[name]) for cls in type(thing).__mro__ if not foreign(cls.__module__) for name in _slots(cls)]
        if slots:
            now = self._watch(path, lambda: [_slot(slot, thing) for _, slot in slots], lambda i: prefix + slots[i][0])
            for (key, _), value in zip(slots, now):
                self._visit(prefix + key, value)

    def _class(self, path: str, cls: type) -> None:
        """The attributes and methods of a class and of those that it derives from; of foreign ones, those that code names."""
        if type(cls) is not type and not foreign(type(cls).__module__):
            self._class(type(cls).__name__, type(cls))
        for base in cls.__mro__:
            if foreign(base.__module__):
                if base is not object:
                    self._classes.setdefault(id(base), (path, base, set()))
                continue
            if base is not cls and id(base) in self.seen:
                continue
            self.seen[id(base)] = base
            self.trusted = False
            keys = [key for key in vars(base) if key not in _UNWATCHED_IN_CLASSES]
            values = self._watch(path, functools.partial(_class_items, base), functools.partial("{}, attribute {}".format, path))
            for key, value in zip(keys, values):
                for inner in _behind(value):
                    self._visit(f"{path}.{key}", inner)

    def _method(self, path: str, method: Any) -> None:
        self._visit(path, method.__self__)
        self._visit(path, method.__func__)

    def _builtin(self, path: str, function: Any) -> None:
        owner = function.__self__
        if owner is None or isinstance(owner, (types.ModuleType, type)):
            module = owner.__name__ if isinstance(owner, types.ModuleType) else getattr(owner, "__module__", None) or function.__module__
            if top(module) == "builtins":
                why = impure_builtin(function.__name__)
                if why:
                    self._open(path, why)
            elif not pure(module):
                self._open(path, f"{module}.{function.__name__}(), may give something else at each call")
        else:
            self._visit(path, owner)

    def _partial(self, path: str, thing: Any) -> None:
        for name in ("func", "args", "keywords", "__wrapped__"):
            self._visit(f"{path}.{name}", getattr(thing, name, None))

    def _function(self, path: str, function: types.FunctionType) -> None:
        for part in (function.__defaults__, function.__kwdefaults__, vars(function)):
            if part:
                self._visit(function.__name__, part)
        if foreign(function.__module__):
            for cell in function.__closure__ or ():  # `apply` of a user's op
                if isinstance(op := cell_content(cell), type) and issubclass(op, Primitive):
                    self._visit(op.__name__, op)
            if not pure(function.__module__):
                self._open(path, f"{function.__module__}.{function.__name__}(), may give something else at each call")
            return
        self.trusted = False
        parts = ("__code__", "__defaults__", "__kwdefaults__")
        self._watch(path, lambda: [getattr(function, part) for part in parts], lambda i: f"{function.__name__}.{parts[i]}")
        names = names_of(function.__code__)
        file = function.__code__.co_filename
        self._lines.setdefault(function.__name__, f" ({file}, line {function.__code__.co_firstlineno})")
        for name, line in names.lines.items():
            self._lines.setdefault(name, f" ({file}, line {line})")
        self._named |= names.attributes | (names.variables & _BY_NAME)
        self._check_names(function, names)
        prefix = f"{path}: " if "." in path else ""
        cells = function.__closure__ or ()
        free = function.__code__.co_freevars
        for name, value in zip(free, self._watch(path, lambda: [cell_content(cell) for cell in cells], lambda i: prefix + free[i])):
            self._reach(name, value, names)
        everywhere = function.__globals__
        variables = sorted(names.variables)

        def values() -> list[Any]:
            return [everywhere.get(name, _BUILTINS.get(name, MISSING)) for name in variables]

        put = functools.partial(_fill_known, everywhere, variables)
        for name, value in zip(variables, self._watch(path, values, lambda i: prefix + variables[i], put)):
            self._reach(name, value, names)
        self._imports(function, names)

    def _check_names(self, function: types.FunctionType, names: Names) -> None:
        loaded = {*names.variables, *names.attributes}
        for name in _UNCAPTURABLE.keys() & loaded:
            raise CaptureError(f"the function {function.__name__!r} {_UNCAPTURABLE[name].format(name)}")
        for name in sorted(_REFLECTION & loaded):
            self._open(function.__name__, f"names {name}, by which it may depend on anything")
        for name in sorted(names.variables):
            why = impure_builtin(name)
            if why and function.__globals__.get(name, _BUILTINS.get(name)) is _BUILTINS.get(name):
                self._open(function.__name__, why)

    def _imports(self, function: types.FunctionType, names: Names) -> None:
        for name, level in names.imported:
            try:
                path = importlib.util.resolve_name("." * level + name, function.__globals__.get("__package__")) if level else name
            except (ImportError, TypeError):
                path = name
            module = sys.modules.get(path)
            if module is None:
                self._open(function.__name__, f"imports {path} when it is called; import it before")
                continue
            self._visit(path, sys.modules.get(top(path)))
            self._visit(path, module)

    # ---- modules and foreign classes, of which only what code names is watched

    def _reach(self, name: str, value: Any, names: Names) -> None:
        """What stands in a variable that code names; of a module, what the code takes from it."""
        chains = names.chains.get(name, frozenset([()]))
        if type(value) is not types.ModuleType or any(not chain or chain[0].startswith("__") for chain in chains):
            self._visit(name, value)
            return
        for chain in chains:
            path, at = name, value
            for attribute in chain:
                at = self._attribute(path, at, attribute)
                path = f"{path}.{attribute}"
                if not isinstance(at, types.ModuleType):
                    break
            self._visit(path, at)

    def _attribute(self, path: str, module: Any, name: str) -> Any:
        if module is sys and name == "modules":
            self._open(path, "sys.modules, which holds anything")
            return MISSING
        (value,) = self._watch(path, lambda: [vars(module).get(name, MISSING)], lambda i: f"{path}.{name}")
        if value is MISSING and "__getattr__" in vars(module):
            self._visit(path, vars(module)["__getattr__"])
        return value

    def _whole_module(self, path: str, module: Any) -> None:
        """A module that code has in hand: every name after a dot, in any code, may be one of its."""
        self._modules[id(module)] = (path, module, set())
        if module is sys:
            self._open(path, "the module sys, in which anything may change")
        elif not foreign(module.__name__):
            self._modules_at_hand.append((path, module))

    def _all_of(self, path: str, module: Any) -> None:
        """A module of the user's that code may ask for any name."""
        keys = [key for key in vars(module) if not key.startswith("__")]
        self._watch(path, lambda: [v for k, v in vars(module).items() if not k.startswith("__")], lambda i: f"{path}.{keys[i]}")
        for key in keys:
            value = vars(module)[key]
            if not isinstance(value, types.ModuleType) and not taken_as_is(None, value):
                self._visit(f"{path}.{key}", value)

    def _names_in(self, path: str, owner: Any, there: Any, done: set[str]) -> None:
        for name in sorted(self._named - done):
            done.add(name)
            if isinstance(owner, types.ModuleType):
                self._visit(f"{path}.{name}", self._attribute(path, owner, name))
            elif name in there and type(there[name]) in (*PLAIN, *CONTAINERS):
                (value,) = self._watch(path, lambda name=name: [vars(owner).get(name, MISSING)], lambda i, name=name: f"{path}.{name}")  # type: ignore[misc]
                self._visit(f"{path}.{name}", value)

    # ---- random numbers and numpy

    def _generator(self, path: str, thing: Any) -> None:
        if isinstance(thing, random.SystemRandom):
            raise CaptureError(f"the function uses {path!r}, which draws random numbers from the operating system; make them an argument")
        found = generator_of(thing)
        if found is not None:
            get, put = found
            self._watch(path, lambda: [get()], lambda i: path, put)

    def _context_variable(self, path: str, thing: contextvars.ContextVar[Any]) -> None:
        for value in self._watch(path, lambda: [thing.get(MISSING)], lambda i: path):
            self._visit(path, value)

    def _numpy(self, path: str, thing: Any) -> bool:
        """Whether this is an array, a number or a generator of numpy's, and watched."""
        if hasattr(type(thing), "tobytes"):
            if thing.dtype.hasobject and thing.dtype.names is None:
                for i, value in enumerate(self._watch(path, lambda: thing.flatten().tolist(), lambda i: f"{path}[{i}]")):
                    self._visit(f"{path}[{i}]", value)
            elif thing.dtype.hasobject:
                self._open(path, "a numpy array of objects, cannot be watched")
            elif thing.nbytes > _LARGEST:
                self._open(path, f"a numpy array of {thing.nbytes:,} bytes, is too large to be watched; use a tensor")
            else:
                self._watch(path, lambda: [Written(thing.tobytes()), thing.shape], lambda i: path)
            if attributes_of(thing):
                self._attributes(path, thing)
            return True
        if generator_of(thing) is None:
            return False
        self._generator(path, thing)
        return True


_BUILTINS = vars(builtins)
_LOOKS: list[tuple[Any, Any]] = [
    (Tensor, Watch._tensor),
    (types.ModuleType, Watch._whole_module),
    (Variable, Watch._variable),
    (Optimizer, Watch._optimizer),
    (Schedule, Watch._schedule),
    (Module, Watch._module_object),
    (type, Watch._class),
    (types.FunctionType, Watch._function),
    (types.MethodType, Watch._method),
    ((types.BuiltinFunctionType, types.MethodWrapperType), Watch._builtin),
    (PARTIALS, Watch._partial),
    (CONTAINERS, Watch._container),
    (types.MappingProxyType, Watch._mapping),
    ((type({}.keys()), type({}.values()), type({}.items())), Watch._view),
    (_BYTES, Watch._bytes),
    (random.Random, Watch._generator),
    (contextvars.ContextVar, Watch._context_variable),
]


def _fixed(optimizer: Optimizer) -> list[Any]:
    """What a captured step of this optimizer takes as given: all settings but the learning rate, and which parameters it trains."""
    fixed: list[Any] = [optimizer.clip_norm]
    for group in optimizer.groups:
        fixed += vars(group.settings).values()
        fixed += [slot.parameter for slot in group.slots]
        fixed += [slot.parameter._link is None for slot in group.slots]
    return fixed


def _class_items(cls: type) -> list[Any]:
    return [value for key, value in vars(cls).items() if key not in _UNWATCHED_IN_CLASSES]


def _behind(attribute: Any) -> list[Any]:
    """What an attribute of a class runs or holds."""
    if isinstance(attribute, property):
        return [attribute.fget, attribute.fset]
    if isinstance(attribute, (staticmethod, classmethod)):
        return [attribute.__func__]
    if isinstance(attribute, functools.cached_property):
        return [attribute.func]
    return [] if isinstance(attribute, (types.MemberDescriptorType, types.GetSetDescriptorType)) else [attribute]


def _slots(cls: type) -> list[str]:
    slots = vars(cls).get("__slots__", ())
    found = [
        (f"_{cls.__name__.lstrip('_')}{n}" if n.startswith("__") and not n.endswith("__") else n)
        for n in ((slots,) if isinstance(slots, str) else slots)
    ]
    return [name for name in found if name not in ("__dict__", "__weakref__") and name in vars(cls)]


def _slot(slot: Any, thing: Any) -> Any:
    try:
        return slot.__get__(thing)
    except AttributeError:
        return MISSING


def _fill(there: dict[Any, Any], items: Iterable[tuple[Any, Any]], skip: frozenset[str] = frozenset()) -> None:
    kept = {key: value for key, value in there.items() if key in skip}
    there.clear()
    there.update(items)
    there.update(kept)


def _fill_known(there: dict[str, Any], names: Sequence[str], then: Sequence[Any]) -> None:
    """Variables of a module: those that are new since stay, as do those of Python's own that were never set."""
    for name, value in zip(names, then):
        if name in there and value is not MISSING and there[name] is not value:
            there[name] = value


def _refill(thing: Any) -> Callable[[list[Any]], None]:
    def put(then: list[Any]) -> None:
        thing.clear()
        thing.extend(then)

    return put
