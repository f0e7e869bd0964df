"""What a Watch makes of an object by its type: nothing to watch, something that it can watch whole, or something that it cannot."""

from __future__ import annotations

import abc
import collections
import datetime
import decimal
import functools
import io
import logging
import operator
import re
import sys
import threading
import types
import typing
from typing import Any

import torch

# Numbers, texts and the like, of exactly these types: two that are equal are the same.
PLAIN = frozenset(
    (int, float, complex, str, bytes, bool, type(None), type(...), type(NotImplemented), range, slice, torch.dtype, torch.device)
)
# Never changed, or of no account: what is written to a log or a file is not looked at.
_SKIPPED: tuple[type, ...] = (
    re.Pattern, re.Match, decimal.Decimal, datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo,
    types.CodeType, types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType, types.GetSetDescriptorType,
    types.MemberDescriptorType, types.GenericAlias, type(vars(collections.namedtuple("_", "a"))["a"]), type(threading.Lock()), type(threading.RLock()),
    io.IOBase, logging.Logger, logging.Handler, torch.Generator, torch.layout, torch.memory_format, torch.finfo, torch.iinfo,
)  # fmt: skip
CONTAINERS = (dict, list, tuple, set, frozenset, collections.deque)
# C types that Python classes may derive from: what they hold is looked at.
_BASES = (object, BaseException, int, float, complex, str, bytes, types.SimpleNamespace, threading.local, typing.Generic, abc.ABC)
# Modules whose functions give the same for the same, or write somewhere.
_PURE = frozenset(
    """abc bisect cmath collections contextlib copy dataclasses decimal enum fractions functools heapq itertools logging math numbers operator re
    reprlib statistics string textwrap types typing warnings _thread _bisect _collections _functools _heapq _operator _decimal _statistics""".split()
)
OURS = ("hotgrad", "torch", "numpy")
_SETTINGS = (
    "get_",
    "geterr",
    "is_grad",
    "is_inference",
    "is_anomaly",
    "is_deterministic",
    "are_deterministic",
    "initial_seed",
    "is_available",
)
_IMPURE_BUILTINS = {
    **dict.fromkeys(("globals", "locals", "eval", "exec", "compile"), "calls {}(), by which it may depend on anything; name what it uses"),
    **dict.fromkeys(("open", "input"), "calls {}(), which may give something else at each run; read it outside"),
}
# What their objects hold is changed by other threads and processes, and by using them.
_SHARED = frozenset("_io asyncio concurrent multiprocessing queue selectors socket sqlite3 subprocess threading".split())
_HEAP_TYPE = 1 << 9  # a flag of types that are not compiled into Python


def top(module: Any) -> str:
    """The package of a module's name."""
    return module.split(".")[0] if isinstance(module, str) else ""


def foreign(module: Any) -> bool:
    """Whether this is code that programs take as it is: hotgrad's, torch's, numpy's or the standard library's."""
    name = top(module)
    return name in OURS or name == "builtins" or (name in sys.stdlib_module_names and name != "__main__")


def pure(module: Any) -> bool:
    """Whether functions of this module are taken as they are because they read nothing but their arguments."""
    return top(module) in _PURE or top(module) in OURS


def reads_settings(module: Any, name: str) -> bool:
    """Whether this function of torch's or numpy's tells how they are set."""
    return top(module) in ("torch", "numpy") and name.startswith(_SETTINGS) and name != "get_default_dtype"


def impure_builtin(name: str) -> str:
    """Why code must not call the builtin of this name, "" if it may."""
    return _IMPURE_BUILTINS[name].format(name) if name in _IMPURE_BUILTINS else ""


def skipped(thing: Any) -> bool:
    """Whether there is nothing in it to watch."""
    kind = type(thing)
    if issubclass(kind, (io.StringIO, io.BytesIO)):  # files in memory
        return False
    return (
        kind in PLAIN
        or kind is object
        or issubclass(kind, _SKIPPED)
        or kind.__module__ in ("typing", "torch._C")
        or kind.__name__ in ("ufunc", "dtype")
    )


def native_base(kind: type) -> type:
    """The first type that it derives from which is not written in Python.

    >>> native_base(collections.OrderedDict) is dict, native_base(collections.UserDict)
    (False, <class 'object'>)
    """
    for base in kind.__mro__:
        new = base.__new__
        if not base.__flags__ & _HEAP_TYPE or (isinstance(new, types.BuiltinFunctionType) and new.__self__ is base):
            return base
    return object


def whole(thing: Any) -> bool:
    """Whether all that an object holds are attributes, in a `__dict__` or slots, besides what containers hold."""
    kind = type(thing)
    if top(kind.__module__) in _SHARED and kind is not threading.local:
        return False
    base = native_base(kind)
    held = attributes_of(thing) is not None or any("__slots__" in vars(cls) for cls in kind.__mro__)
    return held and (base in _BASES or issubclass(base, (*CONTAINERS, BaseException)) or top(base.__module__) in ("hotgrad", "torch"))


def attributes_of(thing: Any) -> Any:
    """Its `__dict__`, None without; a `__getattr__` of the user's is not asked."""
    get = threading.local.__getattribute__ if issubclass(type(thing), threading.local) else object.__getattribute__
    try:
        return get(thing, "__dict__")
    except AttributeError:
        return None


def has_usual_attributes(kind: Any) -> bool:
    """Whether its objects are asked for attributes as most are."""
    return kind.__getattribute__ is object.__getattribute__


def strings_of(thing: Any) -> tuple[Any, ...]:
    """The arguments of an attrgetter, itemgetter or methodcaller."""
    if type(thing) in (operator.attrgetter, operator.itemgetter, operator.methodcaller):
        return tuple(thing.__reduce__()[1])
    return ()


def taken_as_is(owner: Any, value: Any) -> bool:
    """Whether this is a function of the standard library in an object of it: code that it runs on what it holds."""
    if not foreign(type(owner).__module__) or top(type(owner).__module__) in OURS:
        return False
    while isinstance(value, functools.partial):
        value = value.func
    function = isinstance(value, (types.FunctionType, types.BuiltinFunctionType, types.MethodType))
    return function and foreign(getattr(value, "__module__", None))


PARTIALS = (functools.partial, functools._lru_cache_wrapper)
