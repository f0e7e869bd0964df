"""Looks at what code is and names: functions, classes, and modules, of which only what is named is watched."""

from __future__ import annotations

import abc
import builtins
import functools
import importlib.util
import sys
import types
from collections.abc import Sequence
from typing import Any

from hotgrad.core.primitive import Primitive
from hotgrad.errors import CaptureError
from hotgrad.program.kinds import OURS, foreign, impure_builtin, pure, reads_settings, taken_as_is, top
from hotgrad.program.names import Names, names_of
from hotgrad.program.reached import Reached
from hotgrad.program.watched import MISSING, cell_content

_BUILTINS = vars(builtins)
# What code should not name: what it makes may differ at each run, or runs elsewhere.
_UNCAPTURABLE = {
    **dict.fromkeys(("Thread", "ThreadPoolExecutor"), "starts threads ({}), which cannot be watched; start them outside of it"),
    **dict.fromkeys(
        ("default_rng", "RandomState", "SystemRandom", "urandom"),
        "makes a source of random numbers ({}); make the numbers an argument, or use Dropout",
    ),
}
_REFLECTION = frozenset(
    "__subclasses__ __globals__ __closure__ __builtins__ _getframe currentframe get_objects get_referrers __import__".split()
)
TOLD = frozenset("__name__ __qualname__ __doc__ __module__ __annotations__".split())
BY_NAME = frozenset("getattr vars dir attrgetter __dict__ __getattribute__ getattr_static getmembers".split())
UNWATCHED_IN_CLASSES = frozenset("__dict__ __weakref__ __doc__ __module__ __annotations__ __slots__ __abstractmethods__ _abc_impl".split())


def look_at_class(reached: Reached, path: str, cls: type) -> None:
    """The attributes and methods of a class and of those that it derives from; of foreign ones, those that code names."""
    if type(cls) is not type and not foreign(type(cls).__module__):
        look_at_class(reached, type(cls).__name__, type(cls))
    if issubclass(type(cls), abc.ABCMeta):  # of which any class may become a subclass
        reached.watch(path, lambda: [abc.get_cache_token()], lambda i: f"the classes registered with {path}")
    for base in cls.__mro__:
        if foreign(base.__module__):
            if base is not object:
                reached.classes.setdefault(id(base), (path, base, set()))
            if top(base.__module__) == "hotgrad":
                for name, value in vars(base).items():
                    if type(value) is types.FunctionType and not foreign(value.__module__):  # which a user has put there
                        reached.visit(f"{path}.{name}", value)
            continue
        if base is not cls and id(base) in reached.seen:
            continue
        reached.seen[id(base)] = base
        reached.trusted = False
        reached.defined.append((path, base))
        keys = ["__bases__", *(key for key in vars(base) if key not in UNWATCHED_IN_CLASSES)]
        name_of = functools.partial(_attribute_name, base.__name__, keys)
        values = reached.watch(path, functools.partial(_class_items, base), name_of)
        for key, value in zip(keys[1:], values[1:]):
            for inner in _behind(value):
                reached.visit(f"{path}.{key}", inner)


_BUILTIN_CALLABLES = (types.BuiltinFunctionType, types.MethodWrapperType)


def look_at_function(reached: Reached, path: str, function: types.FunctionType) -> None:
    home = function.__globals__.get("__name__")  # `__module__` is copied to wrappers
    if foreign(home) and top(home) not in OURS:  # the standard library's; it may stand around a user's, as singledispatch does
        for cell in function.__closure__ or ():
            if type(cell_content(cell)).__module__ != "weakref":  # a cache of its own
                reached.visit(function.__name__, cell_content(cell))
        reached.visit(function.__name__, vars(function).get("__wrapped__", MISSING))
        if not foreign(function.__module__):
            return
    for part in (function.__defaults__, function.__kwdefaults__, vars(function)):
        if part:
            reached.visit(function.__name__, part)
    ours = top(home) == "hotgrad"  # though it may bear the name of the user's function that it was made from
    if ours or foreign(function.__module__):
        for cell in function.__closure__ or ():  # `apply` of a user's op; and the function that a transform was made from
            made_from = cell_content(cell)
            if isinstance(made_from, type) and issubclass(made_from, Primitive):
                reached.visit(made_from.__name__, made_from)
            elif ours and callable(made_from) and not isinstance(made_from, (type, *_BUILTIN_CALLABLES)):
                reached.visit(getattr(made_from, "__name__", path), made_from)
        if ours:
            return
        if not pure(function.__module__) or reads_settings(function.__module__, function.__name__):
            reached.cannot(path, f"{function.__module__}.{function.__name__}(), may give something else at each call")
        return
    reached.trusted = False
    reached.defined.append((path, function))
    parts = ("__code__", "__defaults__", "__kwdefaults__")
    reached.watch(path, lambda: [getattr(function, part) for part in parts], lambda i: f"{function.__name__}.{parts[i]}")
    try:
        names = names_of(function.__code__)
    except Exception as error:  # of code that no compiler has made
        reached.cannot(function.__name__, f"whose code cannot be read ({type(error).__name__}: {error})")
        return
    file = function.__code__.co_filename
    reached.lines.setdefault(function.__name__, f" ({file}, line {function.__code__.co_firstlineno})")
    for name, line in names.lines.items():
        reached.lines.setdefault(name, f" ({file}, line {line})")
    reached.named |= names.attributes | (names.variables & BY_NAME)
    _check_names(reached, function, names)
    prefix = f"{path}: " if "." in path else ""
    cells = function.__closure__ or ()
    free = function.__code__.co_freevars
    for name, value in zip(free, reached.watch(path, lambda: [cell_content(cell) for cell in cells], lambda i: prefix + free[i])):
        _look_at_variable_named(reached, name, value, names)
    everywhere = function.__globals__
    variables = sorted(names.variables)

    def values() -> list[Any]:
        return [everywhere.get(name, _BUILTINS.get(name, MISSING)) for name in variables]

    put = functools.partial(_fill_known, everywhere, variables)
    for name, value in zip(variables, reached.watch(path, values, lambda i: prefix + variables[i], put)):
        _look_at_variable_named(reached, name, value, names)
    _look_at_imports(reached, function, names)


def _check_names(reached: Reached, function: types.FunctionType, names: Names) -> None:
    loaded = {*names.variables, *names.attributes}
    for name in sorted(_UNCAPTURABLE.keys() & loaded):
        why = _UNCAPTURABLE[name].format(name)
        if (
            why.startswith("starts threads") and "site-packages" not in function.__code__.co_filename
        ):  # a library may name what it does not use
            raise CaptureError(f"the function {function.__name__!r} {why}")
        reached.cannot(function.__name__, why)
    for name in sorted(_REFLECTION & loaded):
        reached.cannot(function.__name__, f"names {name}, by which it may depend on anything")
    for name in sorted(names.variables):
        why = impure_builtin(name)
        if why and function.__globals__.get(name, _BUILTINS.get(name)) is _BUILTINS.get(name):
            reached.cannot(function.__name__, why)


def _look_at_imports(reached: Reached, function: types.FunctionType, names: Names) -> None:
    for name, level in names.imported:
        try:
            path = importlib.util.resolve_name("." * level + name, function.__globals__.get("__package__")) if level else name
        except (ImportError, TypeError):
            path = name
        module = sys.modules.get(path)
        if module is None:
            reached.cannot(function.__name__, f"imports {path} when it is called; import it before")
            continue
        reached.visit(path, sys.modules.get(top(path)))
        reached.visit(path, module)


def look_at_what_is_told(reached: Reached, path: str, thing: Any) -> None:
    """What a function or class tells of itself, where code asks."""
    names = sorted(TOLD & reached.named)
    for told in reached.watch(path, lambda: [getattr(thing, name, MISSING) for name in names], lambda i: f"{path}.{names[i]}"):
        reached.visit(path, told)


def look_at_method(reached: Reached, path: str, method: Any) -> None:
    reached.visit(path, method.__self__)
    reached.visit(path, method.__func__)


def look_at_builtin(reached: Reached, path: str, function: Any) -> None:
    owner = function.__self__
    if owner is None or isinstance(owner, (types.ModuleType, type)):
        module = owner.__name__ if isinstance(owner, types.ModuleType) else getattr(owner, "__module__", None) or function.__module__
        if top(module) == "builtins":
            why = impure_builtin(function.__name__)
            if why:
                reached.cannot(path, why)
        elif not pure(module) or reads_settings(module, function.__name__):
            reached.cannot(path, f"{module}.{function.__name__}(), may give something else at each call")
    else:
        reached.visit(path, owner)


def look_at_partial(reached: Reached, path: str, thing: Any) -> None:
    if isinstance(thing, functools._lru_cache_wrapper) and thing.cache_info().maxsize != 0:
        reached.watch(path, lambda: [thing.cache_info()[i] for i in (1, 3)], lambda i: f"the cache of {path}")  # misses and size
    if isinstance(thing, functools.partial):
        reached.watch(path, lambda: [thing.func, thing.args, thing.keywords], lambda i: path)
    for name in ("func", "args", "keywords", "__wrapped__"):
        reached.visit(f"{path}.{name}", getattr(thing, name, None))


def _look_at_variable_named(reached: Reached, name: str, value: Any, names: Names) -> None:
    """What stands in a variable that code names; of a module, what the code takes from it."""
    chains = names.chains.get(name, frozenset([()]))
    if type(value) is not types.ModuleType or any(not chain or chain[0].startswith("__") for chain in chains):
        reached.visit(name, value)
        return
    for chain in chains:
        path, at = name, value
        for attribute in chain:
            at = _look_at_name(reached, path, at, attribute)
            path = f"{path}.{attribute}"
            if not isinstance(at, types.ModuleType):
                break
        reached.visit(path, at)


def _look_at_name(reached: Reached, path: str, module: Any, name: str) -> Any:
    if module is sys and name == "modules":
        reached.cannot(path, "sys.modules, which holds anything")
        return MISSING
    (value,) = reached.watch(path, lambda: [vars(module).get(name, MISSING)], lambda i: f"{path}.{name}")
    if value is MISSING and "__getattr__" in vars(module):
        reached.visit(path, vars(module)["__getattr__"])
    return value


def look_at_module_at_hand(reached: Reached, path: str, module: Any) -> None:
    """A module that code has in hand: every name after a dot, in any code, may be one of its."""
    reached.modules[id(module)] = (path, module, set())
    if module is sys:
        reached.cannot(path, "the module sys, in which anything may change")
    elif not foreign(module.__name__):
        reached.own_modules.append((path, module))


def look_at_all_of(reached: Reached, path: str, module: Any) -> None:
    """A module of the user's that code may ask for any name."""
    keys = [key for key in vars(module) if not key.startswith("__")]
    reached.watch(path, lambda: [v for k, v in vars(module).items() if not k.startswith("__")], lambda i: f"{path}.{keys[i]}")
    for key in keys:
        value = vars(module)[key]
        if not isinstance(value, types.ModuleType) and not taken_as_is(None, value):
            reached.visit(f"{path}.{key}", value)


def look_at_names_in(reached: Reached, path: str, owner: Any, there: Any, done: set[str]) -> None:
    for name in sorted(reached.named - done):
        done.add(name)
        if isinstance(owner, types.ModuleType):
            reached.visit(f"{path}.{name}", _look_at_name(reached, path, owner, name))
        elif name in there and not hasattr(type(there[name]), "__get__") and not isinstance(there[name], type):
            (value,) = reached.watch(path, lambda name=name: [vars(owner).get(name, MISSING)], lambda i, name=name: f"{path}.{name}")  # type: ignore[misc]
            reached.visit(f"{path}.{name}", value)


def _class_items(cls: type) -> list[Any]:
    return [cls.__bases__, *(value for key, value in vars(cls).items() if key not in UNWATCHED_IN_CLASSES)]


def _attribute_name(path: str, keys: list[str], i: int) -> str:
    return f"{path}.{keys[i]}"


def _behind(attribute: Any) -> list[Any]:
    """What an attribute of a class runs or holds."""
    if isinstance(attribute, property):
        return [attribute.fget, attribute.fset]
    if isinstance(attribute, (staticmethod, classmethod)):
        return [attribute.__func__]
    if isinstance(attribute, functools.cached_property):
        return [attribute.func]
    return [] if isinstance(attribute, (types.MemberDescriptorType, types.GetSetDescriptorType)) else [attribute]


def _fill_known(there: dict[str, Any], names: Sequence[str], then: Sequence[Any]) -> None:
    """Variables of a module: those that are new since stay, as do those of Python's own that were never set."""
    for name, value in zip(names, then):
        if name in there and value is not MISSING and there[name] is not value:
            there[name] = value
