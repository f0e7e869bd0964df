"""What a checkpoint belongs to: everything that a training depends on, as text that is the same in every process.

A fingerprint is sections ("loss", "layers", "optimizer", ...) of entries: what stands where, such as "k": "0.1". Code counts by its
bytecode, closures, defaults and globals by what they hold, objects by those attributes that code names or that can be called, and
tensors by a digest. Addresses, file names, line numbers and the order of sets do not enter. hotgrad, torch, the standard library
and what is installed count by name.
"""

from __future__ import annotations

import array
import collections
import contextlib
import datetime
import decimal
import dis
import enum
import fractions
import functools
import hashlib
import importlib.util
import io
import logging
import pathlib
import re
import sys
import sysconfig
import threading
import types
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.variable import Variable
from hotgrad.files import digest
from hotgrad.modules import Module
from hotgrad.modules.parameters import LazyParameter, pattern
from hotgrad.optim.schedules import Schedule

Section = dict[str, str]
Fingerprint = dict[str, Section]

# Bytecode is that of one version of Python, and with -O or without.
PYTHON = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}" + " -O" * bool(sys.flags.optimize)
CODE = "code "  # how the text of an entry for bytecode begins
_ITEMS = 50  # of a container, beyond which they become one entry
_VISITS = 20_000  # objects of one section
_DEPTH = 60
_ATOMS = (int, float, str, bool, type(None))
_PLAIN: tuple[type, ...] = (*_ATOMS, complex, bytes, range, slice, type(...), torch.dtype, torch.device, torch.Size)
_PLAIN += (pathlib.PurePath, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, fractions.Fraction, uuid.UUID, re.Pattern)
_SILENT = (logging.Logger, logging.LoggerAdapter, io.IOBase, type(threading.Lock()), type(threading.RLock()))  # change no result
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")})
# Code that reads attributes whose names it does not write down: then all attributes count.
_DYNAMIC = frozenset("getattr vars dir __dict__ __slots__ __getattribute__ asdict astuple attrgetter eval exec locals globals".split())
# Methods that a training does not run, or that say nothing which their results do not.
_ASIDE = frozenset(
    """__init__ __new__ __post_init__ __init_subclass__ __set_name__ __setattr__ __delattr__ __del__ __repr__ __str__ __format__ __eq__ __ne__
    __hash__ __reduce__ __reduce_ex__ __getstate__ __setstate__ __copy__ __deepcopy__ __sizeof__ __dir__ __replace__ extra_repr state_dict
    load_state_dict""".split()
)


class Subject:
    """What a training runs: model, loss, optimizer and the callbacks that have a state. `found`: how they looked at first.

    `unknown`: what in them cannot be compared, one line each.
    """

    def __init__(self, model: Any, loss: Any, optimizer: Any, callbacks: Sequence[Any]) -> None:
        self.model, self.loss, self.optimizer, self.callbacks = model, loss, optimizer, callbacks
        self.unknown: list[str] = []
        self.found = self.look()

    def look(self) -> Fingerprint:
        """The sections as they are now."""
        known = _known(self.model, self.optimizer)
        roots: dict[str, Callable[[_Walk], None]] = {
            "layers": lambda walk: walk.layers(self.model),
            "loss": lambda walk: walk.visit("", self.loss),
            "optimizer": lambda walk: walk.optimizer("", self.optimizer, self.model),
            "callbacks": lambda walk: walk.callbacks(self.callbacks),
        }
        found: Fingerprint = {}
        self.unknown = []
        for section, root in roots.items():
            names: set[str] = set()
            while True:  # the names that code mentions decide which attributes count, and these may lead to more code
                before = len(names)
                walk = _Walk(known, names)
                root(walk)
                if len(names) == before:
                    break
            found[section] = walk.entries
            self.unknown += [f"{section}: {line}" for line in walk.unknown]
        return found


def _known(model: Any, optimizer: Any) -> dict[int, str]:
    """What a checkpoint holds or another section tells, by id: code may refer to it, and its values do not count."""
    known = {id(model): "the model", id(optimizer): "the optimizer"}
    for name, module in model.named_modules():
        known.setdefault(id(module), f"layer {name}")
        if module.generator is not None:
            known[id(module.generator)] = "the model's generator"
    for name, parameter in model.named_parameters():
        known[id(parameter)] = f"parameter {name}"
        if not isinstance(parameter, LazyParameter):
            known[id(parameter._data)] = f"parameter {name}"
    for name, buffer in model.named_buffers():
        known[id(buffer)] = f"buffer {name}"
    return known


class _Walk:
    """One section in the making. `names`: the attributes that code met so far mentions; the walk adds to it."""

    def __init__(self, known: dict[int, str], names: set[str]) -> None:
        self.known, self.names = known, names
        self.entries: Section = {}
        self.unknown: list[str] = []
        self._seen: dict[int, tuple[str, Any]] = {}  # where, and the object, so that its id stays its own
        self._depth = 0

    # ---- roots

    def layers(self, model: Any) -> None:
        for name, module in model.named_modules():
            self._seen[id(module)] = name, module
            self._object(name, module, ("_names",))
            if hasattr(module, "named_layers"):
                self.entries[f"the order in {name}" if name else "the order"] = ", ".join(inner for inner, _ in module.named_layers())

    def optimizer(self, path: str, optimizer: Any, model: Any) -> None:
        self._seen[id(optimizer)] = path, optimizer
        self.entries[path] = type(optimizer).__qualname__
        self.visit(_joined(path, "clip_norm"), optimizer.clip_norm)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = optimizer.groups or [None]
        for number, group in enumerate(groups):
            prefix = _joined(path, f"group {number}") if len(groups) > 1 else path
            settings = dict(optimizer._defaults) if group is None else {**vars(group.settings), "lr": group.rate}
            if group is not None and (len(groups) > 1 or len(group.slots) < len(names)):
                self.visit(_joined(prefix, "parameters"), [names.get(id(slot.parameter), "?") for slot in group.slots])
            for name, value in settings.items():
                self.visit(_joined(prefix, name), value)
        self._class(path, type(optimizer))
        self._attributes(path, optimizer, {"groups", "clip_norm", "_defaults", "_memory", "_given"})

    def callbacks(self, callbacks: Sequence[Any]) -> None:
        numbers: collections.Counter[str] = collections.Counter()
        for callback in callbacks:
            if hasattr(callback, "state_dict"):
                name = getattr(callback, "__qualname__", type(callback).__qualname__)
                numbers[name] += 1
                state: set[str] = set()
                with contextlib.suppress(Exception):  # of one that has none before it begins
                    state = {str(key) for key in callback.state_dict()}
                path = name if numbers[name] == 1 else f"{name} {numbers[name]}"
                self.visit(path, callback, state | {f"_{key}" for key in state})

    # ---- one thing

    def visit(self, path: str, thing: Any, skipped: Iterable[str] = ()) -> None:
        """Add what stands at `path`, and all that it depends on. Attributes named in `skipped` are state."""
        text = _text(thing)
        if text is None and id(thing) in self.known:
            text = self.known[id(thing)]
        if text is not None:
            self.entries[path] = text
            return
        if id(thing) in self._seen:
            self.entries[path] = f"the same as {self._seen[id(thing)][0] or 'the whole'}"
            return
        if self._depth >= _DEPTH or len(self._seen) >= _VISITS:
            self._not_compared(path, thing, "too large or too deep")
            return
        self._seen[id(thing)] = path, thing
        self._depth += 1
        try:
            self._visit(path, thing, skipped)
        except Exception as error:  # an object of others that does not bear being looked at
            self._not_compared(path, thing, type(error).__name__)
        finally:
            self._depth -= 1

    def _visit(self, path: str, thing: Any, skipped: Iterable[str]) -> None:
        if isinstance(thing, (Tensor, Variable)):
            self.entries[path] = _tensor(thing)
        elif isinstance(thing, type):
            self.entries[path] = f"class {thing.__qualname__}" if _own(thing.__module__) else f"{thing.__module__}.{thing.__qualname__}"
            self._class(path, thing)
        elif isinstance(thing, types.FunctionType):
            self._function(path, thing)
        elif isinstance(thing, types.MethodType):
            self.visit(path, thing.__self__)
            self.visit(_joined(path, thing.__func__.__name__), thing.__func__)
        elif isinstance(thing, (functools.partial, functools.partialmethod)):
            self.entries[path] = type(thing).__name__
            self.visit(_joined(path, "func"), thing.func)
            self._items(path, thing.args, lambda number: f"{path}[{number}]")
            for name, value in thing.keywords.items():
                self.visit(_joined(path, name), value)
        elif isinstance(thing, (types.BuiltinFunctionType, types.MethodWrapperType)):
            owner = thing.__self__
            self.entries[path] = thing.__qualname__
            if owner is not None and not isinstance(owner, (types.ModuleType, type)):
                self.visit(_joined(path, "__self__"), owner)
        elif isinstance(thing, types.ModuleType):
            self.entries[path] = f"module {thing.__name__}"
        elif _behind(thing):
            self.entries[path] = type(thing).__name__
            for inner in _behind(thing):
                self.visit(_joined(path, "func"), inner)
        else:
            self._object(path, thing, skipped)

    def _object(self, path: str, thing: Any, skipped: Iterable[str] = ()) -> None:
        kind = type(thing)
        own = _own(kind.__module__) or isinstance(thing, types.SimpleNamespace) or kind.__module__ == "argparse"
        ours = kind.__module__.split(".")[0] == "hotgrad"
        self.entries[path] = kind.__qualname__
        if isinstance(thing, (dict, types.MappingProxyType)):
            self._items(path, dict(thing), lambda key: f"{path}[{_text(key) or self._key(key)}]")
        elif isinstance(thing, (list, tuple, collections.deque)):
            self._items(path, thing, lambda number: f"{path}[{number}]")
        elif isinstance(thing, _ATOMS):
            self.entries[path] += f" {_bare(thing)!r}"
        elif isinstance(thing, (set, frozenset)):
            self._fold(path, [self._apart(item) for item in thing], self.entries, len(thing))
        elif isinstance(thing, (bytearray, memoryview, array.array)):
            self.entries[path] += f" {_digest(bytes(thing))}"
        elif hasattr(kind, "__array__") and not own:
            self._array(path, thing)
        elif not own and not ours:
            if callable(getattr(thing, "__wrapped__", None)):
                self.visit(path, thing.__wrapped__)
            elif callable(thing) and hasattr(thing, "__qualname__"):  # of an extension module
                self.entries[path] = f"{getattr(thing, '__module__', None)}.{thing.__qualname__}"
            elif kind.__module__ == "operator":
                self.entries[path] = repr(thing)
            elif callable(thing) and hasattr(thing, "__dict__") and kind.__module__.split(".")[0] not in sys.stdlib_module_names:
                self._attributes(path, thing, frozenset(skipped), everything=True)  # whose code counts by name
            else:
                self._not_compared(path, thing)
            return
        self._class(path, kind, frozenset(skipped))
        self._attributes(path, thing, frozenset(skipped), everything=ours)

    def _attributes(self, path: str, thing: Any, skipped: Iterable[str], everything: bool = False) -> None:
        """Those attributes of an object that code names or could call, or all; without what a checkpoint holds."""
        aside = {*skipped, *getattr(type(thing), "_unwatched", ())}
        if isinstance(thing, Module):
            aside |= {"training", "generator", "_buffers", *thing._buffers}
        if isinstance(thing, Schedule):
            aside |= set(thing.state_dict())
        everything = everything or not _DYNAMIC.isdisjoint(self.names)
        for name, value in _attributes(thing):
            if name not in aside and (everything or name in self.names or callable(value)):
                self.visit(_joined(path, name), value)

    def _class(self, path: str, kind: type, skipped: Iterable[str] = ()) -> None:
        """What the user's classes among the bases of `kind` define."""
        taken = set(skipped)
        for base in kind.__mro__:
            if not _own(base.__module__):
                for value in vars(base).values():  # whose methods read attributes, too
                    for inner in _behind(value):
                        if isinstance(inner, types.FunctionType):
                            self.names.update(_mentioned(inner.__code__) - _DYNAMIC)
                continue
            for name, value in vars(base).items():
                inner = _behind(value)
                dunder = name.startswith("__") and name.endswith("__")
                slot = not inner and not isinstance(value, type) and hasattr(type(value), "__get__") and not _own(type(value).__module__)
                if name in taken or name in _ASIDE or (dunder and not inner) or slot:
                    continue
                taken.add(name)
                if inner:
                    for function in inner:
                        self.visit(_joined(path, name), function)
                elif name in self.names or callable(value) or not _DYNAMIC.isdisjoint(self.names):
                    self.visit(_joined(path, name), value)

    def _function(self, path: str, function: types.FunctionType) -> None:
        if not _own(function.__globals__.get("__name__", "__main__")):
            self.entries[path] = f"{function.__module__}.{function.__qualname__}"
            inner = getattr(function, "__wrapped__", None)
            ours = str(function.__globals__.get("__name__")).startswith("hotgrad.")  # whose closures hold nothing of the user's
            for name, value in [("__wrapped__", inner)] if inner is not None else [] if ours else _cells(function):
                self.visit(_joined(path, name), value)
            return
        code = function.__code__
        self.entries[path] = f"function {function.__qualname__}"
        self.entries[f"code of {path}" if path else "code"] = CODE + _code(code)
        mentioned = _mentioned(code)
        self.names |= mentioned
        defaults = list(zip(code.co_varnames[: code.co_argcount][::-1], (function.__defaults__ or ())[::-1]))[::-1]
        for name, value in [*defaults, *(function.__kwdefaults__ or {}).items(), *_cells(function)]:
            self.visit(_joined(path, name), value)
        for name in sorted(_globals(code)):
            value = function.__globals__.get(name)
            if isinstance(value, types.ModuleType):
                self._module(_joined(path, name), value, mentioned, 0)
            elif name in function.__globals__ and not name.startswith("__"):
                self.visit(_joined(path, name), value)
        for name, parts in _imports(code, function.__globals__):
            self._imported(path, name, parts, mentioned)
        for how in sorted(mentioned & {"import_module", "__import__"}):
            self.unknown.append(f"{path[:60] or 'the whole'} (what it imports by {how})")
        for name, value in vars(function).items():
            if name in self.names and name != "__wrapped__":
                self.visit(_joined(path, name), value)

    def _imported(self, path: str, name: str, parts: Sequence[str], mentioned: set[str]) -> None:
        """What code reads of a module that it imports. One of the user's is imported now, as the code does when it is run."""
        path = _joined(path, name)
        try:
            if not _installed(name):
                module = importlib.import_module(name)
                for part in set(parts) - set(vars(module)):
                    with contextlib.suppress(ModuleNotFoundError):
                        importlib.import_module(f"{name}.{part}")
                self._module(path, module, mentioned, 0)
        except ImportError as error:
            self.entries[path] = f"{error}"
        except (Exception, SystemExit) as error:
            self._not_compared(path, sys, type(error).__name__)

    def _module(self, path: str, module: types.ModuleType, mentioned: set[str], depth: int) -> None:
        """What code reads of the user's modules, and of those in them."""
        if not _own(module.__name__) or depth > 5:
            return
        for name in sorted(mentioned.intersection(vars(module))):
            value = vars(module)[name]
            if isinstance(value, types.ModuleType):
                self._module(_joined(path, name), value, mentioned, depth + 1)
            elif not name.startswith("__"):
                self.visit(_joined(path, name), value)

    def _items(self, path: str, items: Any, name: Callable[[Any], str]) -> None:
        """The items of a container, one entry each, or one for all if they are many."""
        many = len(items) > _ITEMS
        if many and not isinstance(items, dict) and all(type(item) in _ATOMS for item in items):
            self.entries[path] += f" of {len(items)}, {_digest(repr(list(items)))}"
            return
        outside, self.entries = self.entries, {}
        for key, value in items.items() if isinstance(items, dict) else enumerate(items):
            self.visit(name(key), value)
        if many:
            self._fold(path, [self.entries], outside, len(items))
        else:
            outside.update(self.entries)
        self.entries = outside

    def _apart(self, thing: Any) -> Section:
        """An item of a set, or a key, as entries of its own, so that the order of sets does not count."""
        walk = _Walk(self.known, self.names)
        walk._depth = self._depth
        walk.visit("", thing)
        self.unknown += walk.unknown
        return walk.entries

    def _key(self, key: Any) -> str:
        """A key that is no plain value, as a name."""
        entries = {"": "key"}
        self._fold("", [self._apart(key)], entries, 1)
        return entries[""]

    def _fold(self, path: str, parts: list[Section], into: Section, size: int) -> None:
        """Make one entry of many, in any order, and one of the bytecode in them."""
        plain = [repr({name: text for name, text in part.items() if not text.startswith(CODE)}) for part in parts]
        code = [repr({name: text for name, text in part.items() if text.startswith(CODE)}) for part in parts]
        into[path] += f" of {size}, {_digest(*sorted(plain))}"
        if any(text != "{}" for text in code):
            into[f"code of {path}" if path else "code"] = CODE + _digest(*sorted(code))

    def _array(self, path: str, thing: Any) -> None:
        """numpy's arrays and numbers, and what others turn into one."""
        values = thing if hasattr(thing, "tobytes") and hasattr(thing, "dtype") else thing.__array__()
        if values.dtype.hasobject:
            self.visit(path, values.tolist())
        elif values.size <= 4:
            self.entries[path] = f"{values.dtype}{values.shape} {values.tolist()!r}"
        else:
            self.entries[path] = f"{values.dtype}{values.shape} {_digest(values.tobytes())}"

    def _not_compared(self, path: str, thing: Any, why: str = "") -> None:
        kind = type(thing)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        self.entries[path] = f"{name}, not compared"
        if not isinstance(thing, _SILENT):
            self.unknown.append(f"{path[:60] or 'the whole'} ({name}{', ' + why if why else ''})")


# ---------------------------------------------------------------------------------------------------------- as text


def _text(thing: Any) -> str | None:
    """A plain value as text, short and exact; None for anything else."""
    if isinstance(thing, enum.Enum):
        name = "" if isinstance(thing, enum.Flag) else f".{thing.name}"  # several at once are named by each Python in its own way
        return f"{type(thing).__qualname__}{name} = {_text(thing.value) or type(thing.value).__qualname__}"
    if not isinstance(thing, _PLAIN):
        return None
    kind = type(thing)
    if kind not in _PLAIN and isinstance(thing, _ATOMS) and _own(kind.__module__):
        return None  # with attributes of its own
    if isinstance(thing, _ATOMS) and kind not in _ATOMS:  # as numpy's float64, whose repr is not that of a float
        return f"{kind.__qualname__} {_text(_bare(thing))}"
    text = repr((thing.pattern, thing.flags) if isinstance(thing, re.Pattern) else thing)
    return text if len(text) <= 100 else f"{text[:40]}... ({len(text)} characters, {_digest(text)})"


def _bare(thing: Any) -> Any:
    """A number or text of a class derived from Python's, without that class."""
    return next(base(thing) for base in (int, float, str) if isinstance(thing, base))


def _tensor(thing: Any) -> str:
    if isinstance(thing, LazyParameter):
        return f"Parameter {pattern(thing)}"
    data = thing._data if isinstance(thing, Variable) else thing
    looks = f"{str(data.dtype).removeprefix('torch.')}{tuple(data.shape)}"
    if data.numel() <= 4:
        return f"{looks} {data.tolist()!r}"
    return f"{looks} {digest(data.resolve_conj().resolve_neg())}"


def _digest(*parts: str | bytes) -> str:
    hashed = hashlib.blake2b(digest_size=8)
    for part in parts:
        content = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        hashed.update(str(len(content)).encode() + b":" + content)
    return hashed.hexdigest()


def _code(code: types.CodeType) -> str:
    """A digest of what code does, not of where it stands."""
    consts = []
    for const in code.co_consts:
        text = _constant(const)
        if "__static_attributes__" in code.co_names and isinstance(const, tuple):  # a set to the compiler of Python 3.13
            text = repr(sorted(map(_constant, const)))
        consts.append(text)
    shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & 0x2AC)  # *, **, generators, coroutines
    table = getattr(code, "co_exceptiontable", b"")
    return _digest(code.co_code, table, repr(shape), *consts, repr((code.co_names, code.co_freevars, code.co_cellvars)))


def _constant(const: Any) -> str:
    if isinstance(const, types.CodeType):
        return _code(const)
    if isinstance(const, tuple):
        return f"({', '.join(map(_constant, const))})"
    return f"frozenset {sorted(map(_constant, const))}" if isinstance(const, frozenset) else repr(const)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """This code and that of the functions and classes inside it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _nested(const)


def _mentioned(code: types.CodeType) -> set[str]:
    """The names that code uses, for attributes among others, and those that stand in it as text or arguments."""
    found: set[str] = set()
    for each in _nested(code):
        found.update(each.co_names, each.co_varnames, (const for const in each.co_consts if isinstance(const, str)))
    return found


def _globals(code: types.CodeType) -> set[str]:
    """The globals that code reads."""
    reads = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    return {i.argval for each in _nested(code) for i in dis.get_instructions(each) if i.opname in reads}


def _imports(code: types.CodeType, namespace: dict[str, Any]) -> Iterator[tuple[str, Sequence[str]]]:
    """The modules that code imports when it is run, and the names that it takes from each."""
    for each in _nested(code):
        steps = [i for i in dis.get_instructions(each) if i.opname != "EXTENDED_ARG"]
        for level, names, step in zip(steps, steps[1:], steps[2:]):
            if step.opname == "IMPORT_NAME":
                name = "." * level.argval + step.argval
                yield importlib.util.resolve_name(name, namespace.get("__package__") or ""), names.argval or ()


# --------------------------------------------------------------------------------------------------- looking at objects


@functools.lru_cache(maxsize=1024)
def _own(module: str | None) -> bool:
    """Whether a module is the user's: what is installed counts by name."""
    top = (module or "").split(".")[0]
    if top in ("__main__", "__mp_main__"):
        return True
    if not top or top in ("hotgrad", "torch", "numpy", "builtins") or top in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return file is None or not str(file).startswith(_INSTALLED)


def _installed(module: str) -> bool:
    """Whether a module, imported or not, is one of those that count by name."""
    if module in sys.modules:
        return not _own(module)
    spec = importlib.util.find_spec(module.split(".")[0])
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
    return any(place.startswith(("built-in", "frozen", *_INSTALLED)) for place in places)


def _cells(function: types.FunctionType) -> list[tuple[str, Any]]:
    """The variables of a closure that are set."""
    found = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        with contextlib.suppress(ValueError):  # empty
            found.append((name, cell.cell_contents))
    return found


def _attributes(thing: Any) -> list[tuple[str, Any]]:
    """What an object holds, by name; no property is evaluated."""
    found = dict(getattr(thing, "__dict__", {}))
    for base in type(thing).__mro__:
        for name, member in vars(base).items():
            if isinstance(member, types.MemberDescriptorType) and _own(base.__module__):
                with contextlib.suppress(AttributeError):  # not set
                    found[name] = member.__get__(thing)
    return list(found.items())


def _behind(attribute: Any) -> list[Any]:
    """The functions that an attribute of a class runs; none if it is a value."""
    if isinstance(attribute, property):
        return [function for function in (attribute.fget, attribute.fset) if function is not None]
    if isinstance(attribute, functools.cached_property):
        return [attribute.func]
    if isinstance(attribute, (staticmethod, classmethod)):
        return [attribute.__func__]
    if isinstance(attribute, functools._lru_cache_wrapper):
        return [attribute.__wrapped__]
    return [attribute] if isinstance(attribute, types.FunctionType) else []


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
