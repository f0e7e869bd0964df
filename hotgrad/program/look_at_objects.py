"""Looks at what objects hold: attributes, slots, items, memory, the state of generators; `LOOKS` says by type which look it takes."""

from __future__ import annotations

import array
import collections
import contextvars
import ctypes
import decimal
import functools
import random
import types
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from hotgrad.core.variable import Variable
from hotgrad.errors import CaptureError
from hotgrad.modules import Module
from hotgrad.modules.parameters import LazyParameter
from hotgrad.optim import Optimizer, Schedule
from hotgrad.program.kinds import CONTAINERS, PARTIALS, attributes_of, foreign, has_usual_attributes, taken_as_is, top
from hotgrad.program.look_at_code import (
    UNWATCHED_IN_CLASSES,
    look_at_builtin,
    look_at_class,
    look_at_function,
    look_at_method,
    look_at_module_at_hand,
    look_at_partial,
)  # fmt: skip
from hotgrad.program.reached import Reached
from hotgrad.program.watched import MISSING, Written, generator_of

_BYTES = (array.array, bytearray, memoryview, ctypes._SimpleCData, ctypes.Structure, ctypes.Array, ctypes.Union)
_LARGEST = 1_000_000  # bytes of a buffer
_RUN_OUTSIDE = frozenset("__init__ at step_end epoch_end restart state_dict load_state_dict settings fresh __repr__".split())


def look_at_object(reached: Reached, path: str, thing: Any) -> None:
    """An object that is its attributes."""
    if issubclass(type(thing), BaseException):
        for part in reached.watch(path, lambda: [thing.args, thing.__cause__, thing.__context__], lambda i: path):
            reached.visit(path, part)
    look_at_attributes(reached, path, thing)
    look_at_class(reached, type(thing).__name__, type(thing))


def look_at_module(reached: Reached, path: str, module: Module) -> None:
    look_at_object(reached, path, module)
    for name in module._buffers:
        buffer = getattr(module, name)
        reached.buffers[id(buffer)] = buffer
        reached.names[id(buffer)] = f"{path}.{name}" if path else name


def look_at_tensor(reached: Reached, path: str, tensor: Any) -> None:
    """What may be asked of it: what it holds is compared where it is used; see `constants`."""
    asked, shape = ("shape", "dtype", "requires_grad"), tuple(tensor.shape)

    def parts() -> list[Any]:  # the same objects as long as nothing changes
        return [shape if tensor.shape == shape else tuple(tensor.shape), tensor.dtype, tensor.requires_grad]

    reached.watch(path, parts, lambda i: f"{path}.{asked[i]}")
    if type(tensor) is not Tensor:
        look_at_class(reached, type(tensor).__name__, type(tensor))
    if attributes_of(tensor):
        look_at_attributes(reached, path, tensor)


def look_at_variable(reached: Reached, path: str, variable: Variable) -> None:
    if isinstance(variable, LazyParameter):
        raise CaptureError(f"the parameter {path!r} is not sized yet; call the model on an input first")
    reached.variables.append(variable)
    reached.names.setdefault(id(variable), variable.name or path)
    asked = ("data", "requires_grad", "hooks")
    reached.watch(path, lambda: [variable._data, variable._link is None, variable._accumulator.hooks], lambda i: f"{path}.{asked[i]}")
    for i, hook in enumerate((variable._accumulator.hooks or {}).values()):
        reached.visit(f"{path}.hooks[{i}]", hook)
    if attributes_of(variable) is not None:
        look_at_attributes(reached, path, variable)
    look_at_class(reached, type(variable).__name__, type(variable))


def look_at_optimizer(reached: Reached, path: str, optimizer: Optimizer) -> None:
    reached.optimizers.append(optimizer)
    reached.watch(path, lambda: _fixed(optimizer), lambda i: f"a setting of {type(optimizer).__name__}")
    look_at_attributes(reached, path, optimizer, frozenset(("groups", "_defaults", "_memory")))
    look_at_class(reached, type(optimizer).__name__, type(optimizer))
    for group in optimizer.groups:
        for name, value in vars(group.settings).items():
            reached.visit(f"{path}.{name}", value)
        reached.visit(f"{path}.lr", group.rate)


def look_at_schedule(reached: Reached, path: str, schedule: Schedule) -> None:
    """`lr` and `count` are read as they are at each step: see `core.moving`. What computes them runs then, outside of programs."""
    moved = frozenset(vars(schedule)) if type(schedule).step_end is not Schedule.step_end else frozenset(("_count",))
    look_at_attributes(reached, path, schedule, moved)
    reached.moved |= moved - {"_count", "base", "per"}
    for cls in type(schedule).__mro__:
        if not foreign(cls.__module__):
            for name in vars(cls).keys() - _RUN_OUTSIDE - UNWATCHED_IN_CLASSES:
                reached.visit(f"{path}.{name}", getattr(vars(cls)[name], "fget", vars(cls)[name]))


def look_at_container(reached: Reached, path: str, thing: Any) -> None:
    kind = type(thing)
    if issubclass(kind, dict):
        of: Any = collections.OrderedDict if issubclass(kind, collections.OrderedDict) else dict  # which keep their orders each
        keys = reached.watch(path, lambda: list(of.keys(thing)), lambda i: f"a key of {path}")
        values = reached.watch(
            path, lambda: list(of.values(thing)), lambda i: f"{path}[{keys[i]!r}]", lambda then: _fill(thing, zip(keys, then))
        )
        for key, value in zip(keys, values):
            reached.visit(f"a key of {path}", key)
            reached.visit(f"{path}[{key!r}]", value)
    else:
        items = next(cls for cls in CONTAINERS[1:] if issubclass(kind, cls)).__iter__
        put = _refill(thing) if issubclass(kind, (list, collections.deque)) else None
        fixed = kind in (tuple, frozenset)
        for i, value in enumerate(thing if fixed else reached.watch(path, lambda: list(items(thing)), lambda i: f"{path}[{i}]", put)):
            reached.visit(f"{path}[{i}]", value)
    if issubclass(kind, collections.defaultdict):
        reached.visit(f"{path}.default_factory", thing.default_factory)
    if kind not in CONTAINERS:
        if attributes_of(thing) is not None:
            look_at_attributes(reached, path, thing)
        look_at_class(reached, kind.__name__, kind)


def look_at_mapping(reached: Reached, path: str, thing: Any) -> None:
    for key, value in zip(list(thing), reached.watch(path, lambda: list(thing.values()), lambda i: f"{path}[{list(thing)[i]!r}]")):
        reached.visit(f"{path}[{key!r}]", value)


def look_at_view(reached: Reached, path: str, thing: Any) -> None:
    look_at_mapping(reached, path, thing.mapping)


def look_at_bytes(reached: Reached, path: str, thing: Any) -> None:
    try:
        view = memoryview(thing)
    except (TypeError, ValueError, BufferError):
        return reached.cannot(path, f"a {type(thing).__name__}, cannot be watched")
    if view.nbytes > _LARGEST or getattr(thing, "_objects", None):
        return reached.cannot(path, f"a {type(thing).__name__} of {view.nbytes:,} bytes, is too large to be watched, or points elsewhere")
    reached.watch(path, lambda: [Written(memoryview(thing).tobytes())], lambda i: path)
    return None


def look_at_attributes(reached: Reached, path: str, thing: Any, skip: frozenset[str] = frozenset()) -> None:
    """Its class, and what stands in its `__dict__` and slots."""
    skip = skip | getattr(type(thing), "_unwatched", frozenset())
    prefix = f"{path}." if path else ""
    attributes = attributes_of(thing)
    if attributes is not None:
        keys = ["__class__", *(key for key in attributes if key not in skip)]
        get = functools.partial(attributes_of, thing)
        usual = not skip and has_usual_attributes(type(thing))
        now = reached.watch(
            path,
            (lambda: [type(thing), *thing.__dict__.values()])
            if usual
            else (lambda: [type(thing), *(v for k, v in get().items() if k not in skip)]),
            lambda i: prefix + keys[i] if i < len(keys) else path,
            lambda then: _fill(get(), zip(keys[1:], then[1:]), skip),
        )
        for key, value in zip(keys[1:], now[1:]):
            if not taken_as_is(thing, value):
                reached.visit(prefix + key, value)
    slots = [(name, vars(cls)[name]) for cls in type(thing).__mro__ if top(cls.__module__) != "hotgrad" for name in _slots(cls)]
    if slots:
        now = reached.watch(path, lambda: [_slot(slot, thing) for _, slot in slots], lambda i: prefix + slots[i][0])
        for (key, _), value in zip(slots, now):
            reached.visit(prefix + key, value)


def look_at_generator(reached: Reached, path: str, thing: Any) -> None:
    if isinstance(thing, random.SystemRandom):
        raise CaptureError(f"the function uses {path!r}, which draws random numbers from the operating system; make them an argument")
    found = generator_of(thing)
    if found is not None:
        get, put = found
        reached.watch(path, lambda: [get()], lambda i: path, put)


def look_at_context_variable(reached: Reached, path: str, thing: contextvars.ContextVar[Any]) -> None:
    for value in reached.watch(path, lambda: [thing.get(MISSING)], lambda i: path):
        reached.visit(path, value)


def look_at_decimals(reached: Reached) -> None:
    """The context by which Decimals are rounded."""
    parts = ("prec", "rounding", "Emin", "Emax", "clamp")
    reached.watch("decimal", lambda: [getattr(decimal.getcontext(), part) for part in parts], lambda i: f"decimal.getcontext().{parts[i]}")


def look_at_numpy(reached: Reached, path: str, thing: Any) -> bool:
    """Whether this is an array, a number or a generator of numpy's, and watched."""
    if hasattr(type(thing), "tobytes"):
        if thing.dtype.hasobject and thing.dtype.names is None:
            for i, value in enumerate(reached.watch(path, lambda: thing.flatten().tolist(), lambda i: f"{path}[{i}]")):
                reached.visit(f"{path}[{i}]", value)
        elif thing.dtype.hasobject:
            reached.cannot(path, "a numpy array of objects, cannot be watched")
        elif thing.nbytes > _LARGEST:
            reached.cannot(path, f"a numpy array of {thing.nbytes:,} bytes, is too large to be watched; use a tensor")
        else:
            reached.watch(path, lambda: [Written(thing.tobytes()), thing.shape, thing.dtype.str], lambda i: path)
        if attributes_of(thing):
            look_at_attributes(reached, path, thing)
        return True
    if generator_of(thing) is None:
        return False
    look_at_generator(reached, path, thing)
    return True


def _fixed(optimizer: Optimizer) -> list[Any]:
    """What a captured step of this optimizer takes as given: all settings but the learning rate, and which parameters it trains."""
    fixed: list[Any] = [optimizer.clip_norm]
    for group in optimizer.groups:
        fixed += vars(group.settings).values()
        fixed += [slot.parameter for slot in group.slots]
        fixed += [slot.parameter._link is None for slot in group.slots]
    return fixed


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


def _refill(thing: Any) -> Callable[[list[Any]], None]:
    def put(then: list[Any]) -> None:
        thing.clear()
        thing.extend(then)

    return put


LOOKS: list[tuple[Any, Any]] = [
    (Tensor, look_at_tensor),
    (types.ModuleType, look_at_module_at_hand),
    (Variable, look_at_variable),
    (Optimizer, look_at_optimizer),
    (Schedule, look_at_schedule),
    (Module, look_at_module),
    (type, look_at_class),
    (types.FunctionType, look_at_function),
    (types.MethodType, look_at_method),
    ((types.BuiltinFunctionType, types.MethodWrapperType), look_at_builtin),
    (PARTIALS, look_at_partial),
    (CONTAINERS, look_at_container),
    (types.MappingProxyType, look_at_mapping),
    ((type({}.keys()), type({}.values()), type({}.items())), look_at_view),
    (_BYTES, look_at_bytes),
    (random.Random, look_at_generator),
    (contextvars.ContextVar, look_at_context_variable),
]
