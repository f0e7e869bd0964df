"""Ways in which Python code reads a number that something else changes: each gives `read()` and `change(number)`."""

from __future__ import annotations

import abc
import argparse
import array
import collections
import configparser
import contextvars
import ctypes
import dataclasses
import decimal
import enum
import functools
import importlib
import itertools
import operator
import os
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import hotgrad as hg

Reader = tuple[Callable[[], Any], Callable[[float], Any]]
GLOBAL = 1.0
TABLE = {"k": 1.0}


def module(name: str, **values: Any) -> Any:
    made = types.ModuleType(name)
    vars(made).update(values)
    sys.modules[name] = made
    return made


CONFIG = module("stale_config", K=1.0, table={"k": 1.0})
PACKAGE = module("stale_package", config=module("stale_package.config", NUMBER=1.0))
sys.modules["stale_package.config"] = PACKAGE.config


def global_number() -> Reader:
    return lambda: GLOBAL, lambda k: globals().__setitem__("GLOBAL", k)


def global_dict() -> Reader:
    return lambda: TABLE["k"], lambda k: TABLE.__setitem__("k", k)


def cell() -> Reader:
    number = 1.0

    def change(k: float) -> None:
        nonlocal number
        number = k

    return lambda: number, change


def holder(thing: Any, name: str = "k") -> Reader:
    setattr(thing, name, 1.0)
    return lambda: getattr(thing, name), lambda k: setattr(thing, name, k)


def namespace() -> Reader:
    args = argparse.Namespace(k=1.0)
    return lambda: args.k, lambda k: setattr(args, "k", k)


def simple_namespace() -> Reader:
    args = types.SimpleNamespace(k=1.0)
    return lambda: args.k, lambda k: setattr(args, "k", k)


def nested_namespace() -> Reader:
    args = argparse.Namespace(inner=argparse.Namespace(k=[{"deep": 1.0}]))
    return lambda: args.inner.k[0]["deep"], lambda k: args.inner.k[0].__setitem__("deep", k)


def module_global() -> Reader:
    return lambda: CONFIG.K, lambda k: setattr(CONFIG, "K", k)


def module_in_closure() -> Reader:
    config = CONFIG
    return lambda: config.K, lambda k: setattr(CONFIG, "K", k)


def module_in_attribute() -> Reader:
    box = types.SimpleNamespace(config=CONFIG)
    return lambda: box.config.K, lambda k: setattr(CONFIG, "K", k)


def module_in_list() -> Reader:
    modules = [CONFIG]
    return lambda: next(m.K for m in modules), lambda k: setattr(CONFIG, "K", k)


def module_by_getattr() -> Reader:
    return lambda: getattr(CONFIG, "K"), lambda k: setattr(CONFIG, "K", k)  # noqa: B009


def module_by_a_name_made() -> Reader:
    return lambda: getattr(CONFIG, "k".upper()), lambda k: setattr(CONFIG, "K", k)


def module_by_vars() -> Reader:
    return lambda: vars(CONFIG)["K"], lambda k: setattr(CONFIG, "K", k)


def module_by_dict() -> Reader:
    return lambda: CONFIG.__dict__["K"], lambda k: setattr(CONFIG, "K", k)


def module_by_sys() -> Reader:
    return lambda: sys.modules["stale_config"].K, lambda k: setattr(CONFIG, "K", k)


def module_by_importlib() -> Reader:
    return lambda: importlib.import_module("stale_config").K, lambda k: setattr(CONFIG, "K", k)


def module_imported_inside() -> Reader:
    def read() -> Any:
        import stale_config

        return stale_config.K

    return read, lambda k: setattr(CONFIG, "K", k)


def name_imported_inside() -> Reader:
    def read() -> Any:
        from stale_config import K

        return K

    return read, lambda k: setattr(CONFIG, "K", k)


def module_alias_inside() -> Reader:
    def read() -> Any:
        other = CONFIG
        return other.K

    return read, lambda k: setattr(CONFIG, "K", k)


def module_as_argument() -> Reader:
    def of(m: Any) -> Any:
        return m.K

    return lambda: of(CONFIG), lambda k: setattr(CONFIG, "K", k)


def submodule() -> Reader:
    return lambda: PACKAGE.config.NUMBER, lambda k: setattr(PACKAGE.config, "NUMBER", k)


def submodule_imported_inside() -> Reader:
    def read() -> Any:
        import stale_package.config

        return stale_package.config.NUMBER

    return read, lambda k: setattr(PACKAGE.config, "NUMBER", k)


def dict_in_module() -> Reader:
    return lambda: CONFIG.table["k"], lambda k: CONFIG.table.__setitem__("k", k)


class Plain:
    k = 1.0


class Slotted:
    __slots__ = ("k",)

    def __init__(self) -> None:
        self.k = 1.0


class Mangled:
    __slots__ = ("__k",)

    def __init__(self) -> None:
        self.__k = 1.0

    def read(self) -> float:
        return self.__k

    def write(self, k: float) -> None:
        self.__k = k


class Dynamic:
    def __init__(self) -> None:
        self.__dict__["d"] = {"k": 1.0}

    def __getattr__(self, name: str) -> Any:
        return self.d[name]


class Everything:
    def __init__(self) -> None:
        object.__setattr__(self, "k", 1.0)

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, "__dict__")[name]


class Computed:
    def __init__(self) -> None:
        self.halves = [0.5, 0.5]

    @property
    def k(self) -> float:
        return sum(self.halves)


class Called:
    def __init__(self) -> None:
        self.k = 1.0

    def __call__(self) -> float:
        return self.k


class Meta(type):
    k = 1.0


class OfMeta(metaclass=Meta):
    pass


class Dict(dict):  # type: ignore[type-arg]
    k = 1.0


class List(list):  # type: ignore[type-arg]
    pass


class Tuple(tuple):  # type: ignore[type-arg]
    pass


class Float(float):
    pass


class Int(int):
    pass


class Str(str):
    pass


class Weight(hg.Parameter):
    pass


class Color(enum.Enum):
    RED = 1.0


@dataclasses.dataclass
class Data:
    k: float = 1.0


@dataclasses.dataclass(slots=True)
class SlottedData:
    k: float = 1.0


class Descriptor:
    def __init__(self) -> None:
        self.numbers = {"k": 1.0}

    def __get__(self, thing: Any, kind: Any) -> float:
        return self.numbers["k"]


class Described:
    k = Descriptor()


def attribute(make: Callable[[], Any]) -> Callable[[], Reader]:
    def made() -> Reader:
        thing = make()
        with_it = hasattr(type(thing), "k") or hasattr(thing, "k")
        if not with_it:
            thing.k = 1.0
        return lambda: thing.k, lambda k: setattr(thing, "k", k)

    return made


def dynamic() -> Reader:
    thing = Dynamic()
    return lambda: thing.k, lambda k: thing.d.__setitem__("k", k)


def everything() -> Reader:
    thing = Everything()
    return lambda: thing.k, lambda k: object.__setattr__(thing, "k", k)


def computed() -> Reader:
    thing = Computed()
    return lambda: thing.k, lambda k: thing.halves.__setitem__(0, k - 0.5)


def mangled() -> Reader:
    thing = Mangled()
    return thing.read, thing.write


def described() -> Reader:
    thing = Described()
    return lambda: thing.k, lambda k: vars(Described)["k"].numbers.__setitem__("k", k)


def class_attribute() -> Reader:
    class Own:
        k = 1.0

    return lambda: Own.k, lambda k: setattr(Own, "k", k)


def base_attribute() -> Reader:
    class Base:
        k = 1.0

    class Own(Base):
        pass

    thing = Own()
    return lambda: thing.k, lambda k: setattr(Base, "k", k)


def meta_attribute() -> Reader:
    return lambda: OfMeta.k, lambda k: setattr(Meta, "k", k)


def called() -> Reader:
    thing = Called()
    return thing, lambda k: setattr(thing, "k", k)


def function_attribute() -> Reader:
    def read() -> Any:
        return read.k  # type: ignore[attr-defined]

    read.k = 1.0  # type: ignore[attr-defined]
    return read, lambda k: setattr(read, "k", k)


def default_argument() -> Reader:
    def read(k: float = 1.0) -> Any:
        return k

    return read, lambda k: setattr(read, "__defaults__", (k,))


def keyword_default() -> Reader:
    def read(*, k: float = 1.0) -> Any:
        return k

    return read, lambda k: read.__kwdefaults__.__setitem__("k", k)


def replaced_code() -> Reader:
    def read() -> Any:
        return 1.0

    def change(k: float) -> None:
        read.__code__ = eval(f"lambda: {k}").__code__

    return read, change


def replaced_function() -> Reader:
    box = types.SimpleNamespace(read=lambda: 1.0)
    return lambda: box.read(), lambda k: setattr(box, "read", lambda: k)


def partial() -> Reader:
    numbers = [1.0]
    return functools.partial(operator.getitem, numbers, 0), lambda k: numbers.__setitem__(0, k)


def partial_of_own() -> Reader:
    table = {"k": 1.0}
    return functools.partial(lambda table, name: table[name], table, "k"), lambda k: table.__setitem__("k", k)


def cached() -> Reader:
    table = {"k": 1.0}

    @functools.lru_cache
    def number() -> float:
        return table["k"]

    def change(k: float) -> None:
        table["k"] = k
        number.cache_clear()

    return lambda: number(), change


def bound_get() -> Reader:
    table = {"k": 1.0}
    get = table.get
    return lambda: get("k"), lambda k: table.__setitem__("k", k)


def bound_pop_of_a_list() -> Reader:
    numbers = [1.0]
    at = numbers.__getitem__
    return lambda: at(0), lambda k: numbers.__setitem__(0, k)


def bound_count() -> Reader:
    numbers = [5]
    count = numbers.count
    return lambda: float(count(5)), lambda k: numbers.extend([5] * int(k - len(numbers)))


def user_method_bound() -> Reader:
    thing = Called()
    call = thing.__call__
    return lambda: call(), lambda k: setattr(thing, "k", k)


def items(make: Callable[[float], Any], read: Callable[[Any], Any], write: Callable[[Any, float], Any]) -> Callable[[], Reader]:
    def made() -> Reader:
        thing = make(1.0)
        return lambda: read(thing), lambda k: write(thing, k)

    return made


def first(thing: Any) -> Any:
    return thing[0]


def put_first(thing: Any, k: float) -> None:
    thing[0] = k


def put_k(thing: Any, k: float) -> None:
    thing["k"] = k


def by_k(thing: Any) -> Any:
    return thing["k"]


def length_of_a_list() -> Reader:
    done: list[int] = [0]
    return lambda: float(len(done)), lambda k: done.append(0)


def sum_of_a_dict() -> Reader:
    table = {"a": 0.5, "b": 0.5}
    return lambda: sum(table.values()), lambda k: table.__setitem__(f"n{k}", 1.0)


def membership() -> Reader:
    there: set[int] = set()
    return lambda: 1.0 + (1 in there) + (2 in there), lambda k: there.add(int(k) - 1)


def mapping_proxy() -> Reader:
    table = {"k": 1.0}
    view = types.MappingProxyType(table)
    return lambda: view["k"], lambda k: table.__setitem__("k", k)


def dict_view() -> Reader:
    table = {"k": 1.0}
    view = table.values()
    return lambda: sum(view), lambda k: table.__setitem__("k", k)


def weak_reference() -> Reader:
    thing = Plain()
    thing.k = 1.0
    reference = weakref.ref(thing)

    def change(k: float) -> None:
        thing.k = k

    return lambda: reference().k, change  # type: ignore[union-attr]


def weak_proxy() -> Reader:
    thing = Plain()
    proxy = weakref.proxy(thing)
    return lambda: proxy.k, lambda k: setattr(thing, "k", k)


def weak_dict() -> Reader:
    thing = Plain()
    table: Any = weakref.WeakValueDictionary({"a": thing})
    return lambda: table["a"].k, lambda k: setattr(thing, "k", k)


def config_parser() -> Reader:
    parser = configparser.ConfigParser()
    parser["a"] = {"k": "1.0"}
    return lambda: float(parser["a"]["k"]), lambda k: parser["a"].__setitem__("k", str(k))


def config_parser_getfloat() -> Reader:
    parser = configparser.ConfigParser()
    parser["a"] = {"k": "1.0"}
    return lambda: parser.getfloat("a", "k"), lambda k: parser.set("a", "k", str(k))


def environment() -> Reader:
    os.environ["STALE_K"] = "1.0"
    return lambda: float(os.environ["STALE_K"]), lambda k: os.environ.__setitem__("STALE_K", str(k))


def environment_getenv() -> Reader:
    os.environ["STALE_K"] = "1.0"
    return lambda: float(os.getenv("STALE_K", "")), lambda k: os.environ.__setitem__("STALE_K", str(k))


def ctypes_number() -> Reader:
    number = ctypes.c_double(1.0)
    return lambda: number.value, lambda k: setattr(number, "value", k)


class Structure(ctypes.Structure):
    _fields_ = (("k", ctypes.c_double),)


def ctypes_structure() -> Reader:
    number = Structure(1.0)
    return lambda: number.k, lambda k: setattr(number, "k", k)


def ctypes_pointer() -> Reader:
    number = ctypes.c_double(1.0)
    pointer = ctypes.pointer(number)
    return lambda: pointer.contents.value, lambda k: setattr(number, "value", k)


def context_variable() -> Reader:
    variable = contextvars.ContextVar("k", default=1.0)
    return lambda: variable.get(), variable.set


def thread_local() -> Reader:
    local = threading.local()
    local.k = 1.0
    return lambda: local.k, lambda k: setattr(local, "k", k)


def numpy_array() -> Reader:
    numbers = np.ones(3)
    return lambda: float(numbers[1]), lambda k: numbers.__setitem__(1, k)


def numpy_view() -> Reader:
    numbers = np.ones((3, 3))
    row = numbers[1]
    return lambda: row.sum() / 3, lambda k: numbers.fill(k)


def numpy_objects() -> Reader:
    numbers = np.array([[1.0]], dtype=object)
    return lambda: numbers[0, 0], lambda k: numbers.__setitem__((0, 0), k)


def numpy_masked() -> Reader:
    numbers: Any = np.ma.array([1.0, 1.0], mask=[False, True])

    def change(k: float) -> None:
        numbers.mask = [False, False]
        numbers.data[:] = k

    return lambda: float(numbers.sum()), change


def big_numpy_array() -> Reader:
    numbers = np.ones(500_000)
    return lambda: float(numbers[1]), lambda k: numbers.__setitem__(1, k)


def memory_view() -> Reader:
    numbers = array.array("d", [1.0])
    view = memoryview(numbers)
    return lambda: view[0], lambda k: numbers.__setitem__(0, k)


def byte_array() -> Reader:
    numbers = bytearray(b"\x01")
    return lambda: float(numbers[0]), lambda k: numbers.__setitem__(0, int(k))


def torch_module() -> Reader:
    layer = torch.nn.Dropout(0.5)
    layer.p = 1.0
    return lambda: layer.p, lambda k: setattr(layer, "p", k)


def torch_module_mode() -> Reader:
    layer = torch.nn.Dropout(0.5)
    return lambda: 1.0 if layer.training else 3.0, lambda k: layer.train(k < 2.5)


def torch_optimizer() -> Reader:
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
    return lambda: optimizer.param_groups[0]["lr"], lambda k: optimizer.param_groups[0].__setitem__("lr", k)


def torch_scheduler() -> Reader:
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1.0 + n)
    return lambda: scheduler.get_last_lr()[0], lambda k: (optimizer.step(), scheduler.step())


def torch_scheduler_count() -> Reader:
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1.0 + n)
    return lambda: 1.0 + scheduler.last_epoch, lambda k: (optimizer.step(), scheduler.step())


def tensor_attribute() -> Reader:
    tensor: Any = torch.ones(1)
    tensor.k = 1.0
    return lambda: tensor.k, lambda k: setattr(tensor, "k", k)


def on_torch() -> Reader:
    torch.stale_k = 1.0  # type: ignore[attr-defined]
    return lambda: torch.stale_k, lambda k: setattr(torch, "stale_k", k)  # type: ignore[attr-defined]


def on_numpy() -> Reader:
    np.stale_k = 1.0  # type: ignore[attr-defined]
    return lambda: np.stale_k, lambda k: setattr(np, "stale_k", k)  # type: ignore[attr-defined]


def on_hotgrad() -> Reader:
    hg.stale_k = 1.0  # type: ignore[attr-defined]
    return lambda: hg.stale_k, lambda k: setattr(hg, "stale_k", k)  # type: ignore[attr-defined]


def on_a_module_of_hotgrad() -> Reader:
    hg.functional.stale_k = 1.0  # type: ignore[attr-defined]
    return lambda: hg.functional.stale_k, lambda k: setattr(hg.functional, "stale_k", k)  # type: ignore[attr-defined]


def on_a_class_of_hotgrad() -> Reader:
    hg.Linear.stale_k = 1.0  # type: ignore[attr-defined]
    return lambda: hg.Linear.stale_k, lambda k: setattr(hg.Linear, "stale_k", k)  # type: ignore[attr-defined]


def on_a_class_through_an_object() -> Reader:
    hg.Module.stale_k = 1.0  # type: ignore[attr-defined]
    layer = hg.Tanh()
    return lambda: layer.stale_k, lambda k: setattr(hg.Module, "stale_k", k)  # type: ignore[attr-defined]


def on_a_standard_module() -> Reader:
    import math

    math.stale_k = 1.0  # type: ignore[attr-defined]
    return lambda: math.stale_k, lambda k: setattr(math, "stale_k", k)  # type: ignore[attr-defined]


def on_builtins() -> Reader:
    import builtins

    builtins.stale_k = 1.0  # type: ignore[attr-defined]
    return lambda: stale_k, lambda k: setattr(builtins, "stale_k", k)  # type: ignore[name-defined]  # noqa: F821


def on_a_standard_class() -> Reader:
    argparse.Namespace.stale_k = 1.0  # type: ignore[attr-defined]
    args = argparse.Namespace()
    return lambda: args.stale_k, lambda k: setattr(argparse.Namespace, "stale_k", k)


def hotgrad_layer_attribute() -> Reader:
    layer: Any = hg.Tanh()
    layer.k = 1.0
    return lambda: layer.k, lambda k: setattr(layer, "k", k)


def hotgrad_optimizer_attribute() -> Reader:
    optimizer: Any = hg.optim.SGD([hg.Parameter(torch.ones(1))])
    optimizer.k = 1.0
    return lambda: optimizer.k, lambda k: setattr(optimizer, "k", k)


def hotgrad_optimizer_setting() -> Reader:
    optimizer = hg.optim.SGD([hg.Parameter(torch.ones(1))], momentum=0.1)
    settings = optimizer.groups[0].settings
    return lambda: optimizer.groups[0].settings.momentum * 10, lambda k: setattr(settings, "momentum", k / 10)


def hotgrad_other_lr() -> Reader:
    optimizer = hg.optim.SGD([hg.Parameter(torch.ones(1))], lr=1.0)
    return lambda: optimizer.lr, lambda k: setattr(optimizer, "lr", k)


def hotgrad_schedule() -> Reader:
    schedule = hg.optim.StepLR(1.0, 1, 2.0)
    return lambda: schedule.lr, lambda k: schedule.epoch_end()


def hotgrad_schedule_count() -> Reader:
    schedule = hg.optim.StepLR(1.0, 1, 2.0)
    return lambda: 1.0 + schedule.count, lambda k: schedule.epoch_end()


def hotgrad_plateau() -> Reader:
    schedule = hg.optim.PlateauLR(1.0, patience=0)
    return lambda: 1.0 + schedule.bad + schedule.count, lambda k: schedule.epoch_end(1.0)


def hotgrad_history() -> Reader:
    history = hg.History()
    return lambda: 1.0 + len(history), lambda k: history.append({"loss": k})


def default_dict() -> Reader:
    table: Any = collections.defaultdict(lambda: 1.0)
    table["k"] = 1.0
    return lambda: table["k"], lambda k: table.__setitem__("k", k)


def chain_map() -> Reader:
    table: Any = collections.ChainMap({}, {"k": 1.0})
    return lambda: table["k"], lambda k: table.maps[0].__setitem__("k", k)


def named_tuple_of_lists() -> Reader:
    pair = collections.namedtuple("Pair", "a b")([1.0], 2)
    return lambda: pair.a[0], lambda k: pair.a.__setitem__(0, k)


def enum_member() -> Reader:
    member: Any = Color.RED
    member.k = 1.0
    return lambda: member.k, lambda k: setattr(member, "k", k)


def globals_called() -> Reader:
    return lambda: globals()["GLOBAL"], lambda k: globals().__setitem__("GLOBAL", k)


def evaluated() -> Reader:
    return lambda: eval("GLOBAL"), lambda k: globals().__setitem__("GLOBAL", k)


def attribute_getter() -> Reader:
    get = operator.attrgetter("k")
    thing = Plain()
    return lambda: get(thing), lambda k: setattr(thing, "k", k)


def attribute_getter_of_a_module() -> Reader:
    get = operator.attrgetter("K")
    return lambda: get(CONFIG), lambda k: setattr(CONFIG, "K", k)


def chained_iteration() -> Reader:
    numbers = [[0.5], [0.5]]
    return lambda: sum(itertools.chain.from_iterable(numbers)), lambda k: numbers.append([1.0])


def recursion_limit() -> Reader:
    limit = sys.getrecursionlimit()
    return lambda: 1.0 + (sys.getrecursionlimit() - limit), lambda k: sys.setrecursionlimit(limit + int(k) - 1)


def torch_threads_setting() -> Reader:
    torch.backends.cudnn.benchmark_limit = 1  # type: ignore[assignment]
    return lambda: float(torch.backends.cudnn.benchmark_limit or 1), lambda k: setattr(torch.backends.cudnn, "benchmark_limit", int(k))


def class_method() -> Reader:
    class Own:
        k = 1.0

        @classmethod
        def read(cls) -> float:
            return cls.k

    return Own.read, lambda k: setattr(Own, "k", k)


def static_method() -> Reader:
    table = {"k": 1.0}

    class Own:
        @staticmethod
        def read() -> float:
            return table["k"]

    thing = Own()
    return lambda: thing.read(), lambda k: table.__setitem__("k", k)


def subclass_check() -> Reader:
    class Own(Plain):
        pass

    Own.k = 1.0
    return lambda: Plain.__subclasses__()[-1].k, lambda k: setattr(Own, "k", k)


def generator_expression() -> Reader:
    numbers = [1.0, 0.0]
    return lambda: sum(n for n in numbers), lambda k: numbers.__setitem__(1, k)


def pattern_match() -> Reader:
    box = types.SimpleNamespace(kind="a")

    def read() -> float:
        match box.kind:
            case "a":
                return 1.0
            case _:
                return 3.0

    return read, lambda k: setattr(box, "kind", "b" if k > 2.5 else "a")


def exception_caught() -> Reader:
    table: dict[str, float] = {}

    def read() -> float:
        try:
            return table["k"]
        except KeyError:
            return 1.0

    return read, lambda k: table.__setitem__("k", k)


def ordered_dict_order() -> Reader:
    table = collections.OrderedDict(a=1.0, b=2.0, c=3.0, d=4.0, e=5.0)
    return lambda: next(iter(table.values())), lambda k: table.move_to_end("abcde"[int(k) - 1], last=False)


def replaced_base() -> Reader:
    bases = [type(f"Base{k}", (Plain,), {"k": float(k)}) for k in range(1, 6)]
    own: Any = type("Own", (bases[0],), {})
    thing = own()
    return lambda: thing.k, lambda k: setattr(own, "__bases__", (bases[int(k) - 1],))


def registered_class() -> Reader:
    kind = abc.ABCMeta("Kind", (), {})
    others = [type(f"Other{k}", (), {}) for k in range(4)]
    things = [other() for other in others]
    return lambda: 1.0 + sum(isinstance(thing, kind) for thing in things), lambda k: kind.register(others[int(k) - 2]) if k > 1 else None


def decimal_context() -> Reader:
    def read() -> float:
        return float(decimal.Decimal(1) + decimal.Decimal("0.11111"))

    decimal.getcontext().prec = 1

    def change(k: float) -> None:
        decimal.getcontext().prec = int(k)

    return read, change


def single_dispatch() -> Reader:
    @functools.singledispatch
    def number(thing: Any) -> float:
        return 1.0

    return lambda: number("a"), lambda k: number.register(str, lambda thing: k)


def name_of_a_class() -> Reader:
    class Own:
        pass

    Own.__name__ = "a"
    return lambda: float(len(Own.__name__)), lambda k: setattr(Own, "__name__", "a" * int(k))


def doc_of_a_function() -> Reader:
    def number() -> None:
        """a"""

    return lambda: float(len(number.__doc__ or "")), lambda k: setattr(number, "__doc__", "a" * int(k))


READERS: dict[str, Callable[[], Reader]] = {
    function.__name__.replace("_", " "): function
    for function in (
        global_number, global_dict, cell, namespace, simple_namespace, nested_namespace, module_global, module_in_closure,
        module_in_attribute, module_in_list, module_by_getattr, module_by_a_name_made, module_by_vars, module_by_dict, module_by_sys,
        module_by_importlib, module_imported_inside, name_imported_inside, module_alias_inside, module_as_argument, submodule,
        submodule_imported_inside, dict_in_module, dynamic, everything, computed, mangled, described, class_attribute, base_attribute,
        meta_attribute, called, function_attribute, default_argument, keyword_default, replaced_code, replaced_function, partial,
        partial_of_own, cached, bound_get, bound_pop_of_a_list, bound_count, user_method_bound, length_of_a_list, sum_of_a_dict,
        membership, mapping_proxy, dict_view, weak_reference, weak_proxy, weak_dict, config_parser, config_parser_getfloat, environment,
        environment_getenv, ctypes_number, ctypes_structure, ctypes_pointer, context_variable, thread_local, numpy_array, numpy_view,
        numpy_objects, numpy_masked, big_numpy_array, memory_view, byte_array, torch_module, torch_module_mode, torch_optimizer,
        torch_scheduler, torch_scheduler_count, tensor_attribute, on_torch, on_numpy, on_hotgrad, on_a_module_of_hotgrad,
        on_a_class_of_hotgrad, on_a_class_through_an_object, on_a_standard_module, on_builtins, on_a_standard_class,
        hotgrad_layer_attribute, hotgrad_optimizer_attribute, hotgrad_optimizer_setting, hotgrad_other_lr, hotgrad_schedule,
        hotgrad_schedule_count, hotgrad_plateau, hotgrad_history, default_dict, chain_map, named_tuple_of_lists, enum_member,
        globals_called, evaluated, attribute_getter, attribute_getter_of_a_module, chained_iteration, recursion_limit,
        torch_threads_setting, class_method, static_method, subclass_check, generator_expression, pattern_match, exception_caught,
        ordered_dict_order, replaced_base, registered_class, decimal_context, single_dispatch, name_of_a_class, doc_of_a_function,
    )
} | {
    "an attribute of a plain object": attribute(Plain),
    "a slot": attribute(Slotted),
    "a field": attribute(Data),
    "a field in a slot": attribute(SlottedData),
    "an attribute of a dict": attribute(Dict),
    "an attribute of a list": attribute(List),
    "an attribute of a tuple": attribute(Tuple),
    "an attribute of a float": attribute(lambda: Float(2.0)),
    "an attribute of an int": attribute(lambda: Int(2)),
    "an attribute of a str": attribute(lambda: Str("a")),
    "an attribute of a Parameter": attribute(lambda: Weight(torch.ones(1))),
    "an attribute of an exception": attribute(lambda: ValueError("a")),
    "an item of a list": items(lambda k: [k], first, put_first),
    "an item of a dict": items(lambda k: {"k": k}, by_k, put_k),
    "an item of a deque": items(lambda k: collections.deque([k]), first, put_first),
    "an item of an OrderedDict": items(lambda k: collections.OrderedDict(k=k), by_k, put_k),
    "an item of a UserDict": items(lambda k: collections.UserDict(k=k), by_k, put_k),
    "an item of a UserList": items(lambda k: collections.UserList([k]), first, put_first),
    "an item of an array": items(lambda k: array.array("d", [k]), first, put_first),
    "an item of a subclass of dict": items(lambda k: Dict(k=k), by_k, put_k),
    "an item of a subclass of list": items(lambda k: List([k]), first, put_first),
    "an item of a Counter": items(lambda k: collections.Counter(k=int(k)), by_k, lambda thing, k: put_k(thing, int(k))),
}  # fmt: skip


def one(make: Callable[[], Reader]) -> Reader:
    """A reader that begins at 1, whatever earlier ones have left."""
    read, change = make()
    if read() != 1.0:
        change(1.0)
    return read, change
