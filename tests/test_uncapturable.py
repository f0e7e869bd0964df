"""Functions that cannot be captured, or whose program no longer holds: CaptureError or eager's numbers, never others."""

from __future__ import annotations

import array
import collections
import contextlib
import contextvars
import dataclasses
import datetime
import functools
import itertools
import math
import random
import sys
import threading
import time
import types
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import hotgrad as hg

ENGINES = ["replay"]

XS = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([0.5, -4.0, 0.25])]
Scenario = Callable[[], Any]
SCENARIOS: dict[str, Scenario] = {}
MUST_REFUSE: set[str] = set()  # those in which the function itself is at fault, so that capture is where to say so

K: Any = 2.0  # globals that functions below use
BOX: Any = [2.0]


class Holder:
    """A user's object, with what it holds in its class, in itself, and behind methods."""

    k = 2.0

    def __init__(self) -> None:
        self.inner = types.SimpleNamespace(k=2.0)
        self.own = 2.0

    def by_class(self, x: Any) -> Any:
        return x * self.k

    def by_global(self, x: Any) -> Any:
        return x * K

    @property
    def looked_up(self) -> float:
        return float(K)

    @staticmethod
    def static(x: Any) -> Any:
        return x * K

    @classmethod
    def of_class(cls, x: Any) -> Any:
        return x * cls.k


class Slotted:
    __slots__ = ("k",)

    def __init__(self) -> None:
        self.k = 2.0


@dataclasses.dataclass
class Config:
    k: float = 2.0


class Scaled(hg.Module):
    """A layer of a user's."""

    factor = 1.5

    def __init__(self) -> None:
        self.weight = hg.Parameter([1.0, 2.0, 3.0])
        self.k = 2.0

    def forward(self, x: Any) -> Any:
        return self.scaled(x) * self.factor

    def scaled(self, x: Any) -> Any:
        return self.weight * x * self.k * K


@pytest.fixture(autouse=True)
def _reset() -> Any:
    yield
    set_globals()


def set_globals() -> None:
    global K, BOX
    K, BOX = 2.0, [2.0]
    Holder.k, Scaled.factor = 2.0, 1.5
    torch.set_default_dtype(torch.float32)


def set_k(value: Any) -> None:
    global K
    K = value


def numbers(result: Any) -> list[torch.Tensor]:
    """The arrays in what a function or a program returned."""
    if isinstance(result, (tuple, list)):
        return [t for item in result for t in numbers(item)]
    if isinstance(result, dict):
        return [t for item in result.values() for t in numbers(item)]
    return [] if result is None else [result.data if isinstance(result, hg.Variable) else torch.as_tensor(result)]


def equal(a: Any, b: Any) -> bool:
    a, b = numbers(a), numbers(b)
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and torch.allclose(x, y, rtol=1e-6, atol=0, equal_nan=True)
        and torch.equal(torch.signbit(x), torch.signbit(y))
        for x, y in zip(a, b)
    )  # fmt: skip


def never_wrong(scenario: Scenario, engine: str = "replay", xs: Any = XS) -> str:
    """Where the program gave way: "capture", "call" or "" if it computed the same as eager throughout. Fails for a wrong number.

    A scenario makes a function anew, and what changes afterwards something that it depends on.
    """

    def prepared() -> tuple[Callable[..., Any], Callable[[], None]]:
        set_globals()
        made = scenario()
        return made if isinstance(made, tuple) else (made, lambda: None)

    def clones(result: Any) -> list[torch.Tensor]:
        return [t.clone() for t in numbers(result)]

    f, change = prepared()
    expected = [clones(f(hg.Variable(x.clone()))) for x in xs]
    change()
    expected += [clones(f(hg.Variable(x.clone()))) for x in xs]
    f, change = prepared()
    try:
        program = hg.capture(f, xs[0].clone()).to(engine, fuse=False)
    except hg.CaptureError:
        return "capture"
    try:
        for x, values in zip(xs, expected):
            found = program(x.clone())
            assert equal(found, values), f"{found} in place of {values}"
        change()
        for x, values in zip(xs, expected[len(xs) :]):
            found = program(x.clone())
            assert equal(found, values), f"after the change {found} in place of {values}"
    except hg.CaptureError:
        return "call"
    return ""


def scenario(make: Scenario) -> Scenario:
    SCENARIOS[make.__name__] = make
    return make


def refused(make: Scenario) -> Scenario:
    MUST_REFUSE.add(make.__name__)
    return scenario(make)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", [pytest.param(n, id=n) for n in ()] or None or ["_"], ids=lambda n: n)
def _placeholder(name: str, engine: str) -> None: ...


# ------------------------------------------------------------------------------------------------ values that are read


def reading(name: str, f: Callable[[Any], Any]) -> None:
    SCENARIOS[name] = lambda: f
    MUST_REFUSE.add(name)


def while_on_data(x: Any) -> Any:
    while x.sum() < 10.0:
        x = x * 2 + 20
    return x


def swallowed(x: Any) -> Any:
    """An except that hides the refusal."""
    try:
        scale = float(x.sum())
    except Exception:
        scale = 1.0
    return x * scale


def suppressed(x: Any) -> Any:
    scale = 1.0
    with contextlib.suppress(RuntimeError):
        scale = x.sum().item()
    return x * scale


def swallowed_comparison(x: Any) -> Any:
    try:
        return x * 2 if x.sum() > 0 else x
    except hg.CaptureError:
        return x * 3


def printed(x: Any) -> Any:
    print(x)
    return x * 2


def rows_until(x: Any) -> Any:
    total = x[0]
    for row in x:
        if row < 0:
            break
        total = total + row
    return total


READS: dict[str, Callable[[Any], Any]] = {
    "a branch": lambda x: x * 2 if x.sum() > 0 else x,
    "a branch with a number on the left": lambda x: x * 2 if 0 < x.sum() else x,
    "a branch on a comparison's mask": lambda x: x if (x > 0).all() else -x if hasattr(x > 0, "all") else x,
    "a while loop": while_on_data,
    "and": lambda x: (x.sum() > 0) and x * 2 or x,
    "not": lambda x: x * 2 if not x.sum() > 0 else x,
    "max of Python": lambda x: max(x[0], x[1]) * 2,
    "sorted": lambda x: sorted([x[0], x[1]])[0],
    "in": lambda x: x * 2 if x[0] in (1.0, 5.0) else x,
    "float": lambda x: x * float(x.sum()),
    "int": lambda x: x * int(x.sum()),
    "bool": lambda x: x * bool(x.sum()),
    "item": lambda x: x * x.sum().item(),
    "tolist": lambda x: x * x.tolist()[0] if hasattr(x, "tolist") else x * x.data.tolist()[0],
    "numpy": lambda x: x * float(x.numpy()[0]),
    "np.asarray": lambda x: x * float(np.asarray(x)[0]),
    "np.float64": lambda x: x * np.float64(x[0]),
    "math.sqrt": lambda x: x * math.sqrt(x.sum() ** 2),
    "math.isnan": lambda x: x * 2 if math.isnan(x[0]) else x,
    "round": lambda x: x * round(x[0]) if hasattr(x, "__round__") else x * round(float(x[0])),
    "print": printed,
    "format": lambda x: x * len(f"{x}"),
    "format of one": lambda x: x * float(f"{x.sum():.3f}") if hasattr(x.sum(), "__format__") else x,
    "str": lambda x: x * len(str(x)),
    "repr": lambda x: x * len(repr(x)),
    "data": lambda x: x * x.data,
    "data of a result": lambda x: x * (x + 1).data,
    "shape of what data picks": lambda x: x.sum() * x[x.data > 0].shape[0],
    "an index from data": lambda x: x[int(x.abs().data.argmax())],
    "range": lambda x: sum(x[0] for _ in range(int(x.abs().sum()))) + x[0],
    "a list index": lambda x: x * [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0][x.abs().amax().data.long()],
    "a swallowed refusal": swallowed,
    "a suppressed refusal": suppressed,
    "a swallowed comparison": swallowed_comparison,
    "rows until": rows_until,
    "hash of the repr": lambda x: x * (len(repr(x)) % 7),
    "gradient's number": lambda x: x * float(hg.gradients((hg.Variable(x.data, requires_grad=True) ** 2).sum(), ())[0:1] or 1),
}
for _name, _f in READS.items():
    if _name != "gradient's number":
        reading(f"reads: {_name}", _f)


# ------------------------------------------------------------------------------------------------ values of closed-over things


@refused
def parameter_item() -> Any:
    w = hg.Parameter([2.0])
    return lambda x: x * w.item(), lambda: w.data.add_(1)


@refused
def parameter_float() -> Any:
    w = hg.Parameter([2.0])
    return lambda x: x * float(w), lambda: w.data.add_(1)


@refused
def parameter_numpy() -> Any:
    w = hg.Variable([2.0, 3.0, 4.0])
    return lambda x: x * float(w.numpy()[1]), lambda: w.data.add_(1)


@refused
def parameter_asarray() -> Any:
    w = hg.Variable([2.0, 3.0, 4.0])
    return lambda x: x * np.asarray(w), lambda: w.data.add_(1)


@refused
def parameter_branch() -> Any:
    w = hg.Parameter([2.0])
    return lambda x: x * 2 if w > 0 else x, lambda: w.data.mul_(-1)


@refused
def parameter_bool() -> Any:
    w = hg.Parameter([2.0])
    return lambda x: x * 2 if w else x, lambda: w.data.mul_(0)


@refused
def parameter_str() -> Any:
    w = hg.Parameter([2.0])
    return lambda x: x * len(str(w)), lambda: w.data.mul_(0.123)


@refused
def parameter_format() -> Any:
    w = hg.Parameter([2.0])
    return lambda x: x * len(f"{w}"), lambda: w.data.mul_(0.123)


@scenario
def parameter_data() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])
    return lambda x: x * w.data, lambda: w.data.add_(1)


@scenario
def parameter_and_its_data() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])
    return lambda x: x * w + w.data, lambda: w.data.add_(1)


@scenario
def parameter_and_its_detach() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])
    return lambda x: x * w + w.detach(), lambda: w.data.add_(1)


@scenario
def parameter_detach_alone() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])
    return lambda x: x * w.detach(), lambda: w.data.add_(1)


@scenario
def data_of_a_trained_parameter() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])
    optimizer = hg.optim.SGD([w], lr=0.1)

    def f(x: Any) -> Any:
        optimizer.zero_grad()
        ((w * x) ** 2).sum().backward()
        optimizer.step()
        return hg.Variable(w.data) * x

    return f


@refused
def data_sum_of_a_parameter() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])
    return lambda x: x * w.data.sum(), lambda: w.data.add_(1)


@refused
def item_of_data() -> Any:
    w = hg.Parameter([2.0])
    return lambda x: x * w.data.item(), lambda: w.data.add_(1)


def on_tensor(name: str, use: Callable[[torch.Tensor, Any], Any]) -> None:
    def make() -> Any:
        t = torch.tensor([2.0, 3.0, 4.0])
        return lambda x: use(t, x), lambda: t.mul_(1.5)

    SCENARIOS[f"closed-over tensor: {name}"] = make
    if name not in ("itself", "len", "Variable of it", "Variable of it twice", "detached", "normalize", "one_hot", "where", "shape"):
        MUST_REFUSE.add(f"closed-over tensor: {name}")


ON_TENSOR: dict[str, Callable[[torch.Tensor, Any], Any]] = {
    "itself": lambda t, x: x * t,
    "Variable of it": lambda t, x: x * hg.Variable(t),
    "Variable of it twice": lambda t, x: x * hg.Variable(t) * hg.Variable(t) * 2,
    "len": lambda t, x: x * len(t),
    "shape": lambda t, x: x * t.shape[0],
    "exp": lambda t, x: x * torch.exp(t),
    "method": lambda t, x: x * t.exp(),
    "operator": lambda t, x: x * (t + 1),
    "item": lambda t, x: x * t[0].item(),
    "float": lambda t, x: x * float(t[1]),
    "index": lambda t, x: x * t[1],
    "tolist": lambda t, x: x * t.tolist()[0],
    "numpy": lambda t, x: x * t.numpy(),
    "asarray": lambda t, x: x * np.asarray(t),
    "branch": lambda t, x: x if t.sum() > 10 else -x,
    "iteration": lambda t, x: x * next(iter(t)),
    "print": lambda t, x: x * len(repr(t)),
    "data": lambda t, x: x * t.data,
    "clone": lambda t, x: x * t.clone(),
    "view": lambda t, x: x * t.view(3),
    "allclose": lambda t, x: x * torch.allclose(t, t),
    "write": lambda t, x: x * t.add_(1.0),
    "write by index": lambda t, x: (t.__setitem__(0, 1.0), x * t)[1],
    "write with out": lambda t, x: x * torch.add(t, 1.0, out=t),
    "dlpack": lambda t, x: x * float(np.from_dlpack(t)[0]),
    "memory": lambda t, x: x * float(t.untyped_storage()[3]),
    "copy to": lambda t, x: x * t.to(torch.float64),
    "normalize": lambda t, x: x * hg.data.normalize(t.reshape(3, 1) if False else t[:, None] if False else _column(t))[0],
    "one_hot": lambda t, x: x * hg.data.one_hot(_LONG[id(t)])[0],
}
_COLUMNS: dict[int, torch.Tensor] = {}
_LONG: dict[int, torch.Tensor] = {}


def _column(t: torch.Tensor) -> torch.Tensor:
    return _COLUMNS[id(t)]


for _name, _use in ON_TENSOR.items():
    if _name not in ("normalize", "one_hot"):
        on_tensor(_name, _use)


@scenario
def normalize_of_a_tensor() -> Any:
    t = torch.tensor([[2.0], [3.0], [5.0]])

    def change() -> None:
        t[0] = -7.0

    return lambda x: x * hg.data.normalize(t).reshape((3,)) if False else x * hg.sum(hg.data.normalize(t), 1), change


@scenario
def one_hot_of_labels() -> Any:
    labels = torch.tensor([0, 1, 2])

    def change() -> None:
        labels[0] = 2

    return lambda x: x @ hg.data.one_hot(labels, 3), change


@scenario
def labels_of_a_loss() -> Any:
    labels = torch.tensor([0])

    def change() -> None:
        labels[0] = 2

    return lambda x: hg.functional.cross_entropy(x.reshape(1, 3), labels), change


@scenario
def labels_of_a_loss_module() -> Any:
    labels, loss = torch.tensor([0]), hg.CrossEntropy()

    def change() -> None:
        labels[0] = 2

    return lambda x: loss(x.reshape(1, 3), labels), change


@scenario
def an_index_tensor() -> Any:
    rows = torch.tensor([0, 1])

    def change() -> None:
        rows[0] = 2

    return lambda x: x[rows], change


@scenario
def a_mask_tensor() -> Any:
    mask = torch.tensor([True, False, True])
    return lambda x: hg.where(mask, x, -x), lambda: mask.logical_not_()


@scenario
def predict_of_a_model() -> Any:
    model, t = hg.Sequential(hg.Linear(3, 3)), torch.ones(1, 3)
    model.reset(0)
    return lambda x: x * model.predict(t)[0] if False else x * hg.sum(model.predict(t), 0), lambda: t.mul_(2)


@scenario
def predict_of_a_model_that_changes() -> Any:
    model, t = hg.Sequential(hg.Linear(3, 3)), torch.ones(1, 3)
    model.reset(0)
    return lambda x: x * hg.sum(model.predict(t), 0), lambda: model[0].weight.data.mul_(2)


@scenario
def a_numpy_array() -> Any:
    a = np.array([2.0, 3.0, 4.0], dtype=np.float32)
    return lambda x: x * a, lambda: a.__setitem__(0, 7.0)


@scenario
def a_number_of_a_numpy_array() -> Any:
    a = np.array([2.0, 3.0, 4.0])
    return lambda x: x * float(a[0]), lambda: a.__setitem__(0, 7.0)


@scenario
def numpy_on_a_numpy_array() -> Any:
    a = np.array([2.0, 3.0, 4.0], dtype=np.float32)
    return lambda x: x * np.exp(a), lambda: a.__setitem__(0, 1.0)


@scenario
def a_branch_on_a_numpy_array() -> Any:
    a = np.array([2.0])
    return lambda x: x if a[0] > 0 else -x, lambda: a.__setitem__(0, -1.0)


# ------------------------------------------------------------------------------------------------ what changes by itself


@refused
def a_counter_in_a_closure() -> Any:
    n = 0

    def f(x: Any) -> Any:
        nonlocal n
        n += 1
        return x * n

    return f


@refused
def a_counter_that_matters_later() -> Any:
    n = 0

    def f(x: Any) -> Any:
        nonlocal n
        n += 1
        return x * (1.0 if n < 5 else 2.0)

    return f


@refused
def a_counter_in_a_global() -> Any:
    def f(x: Any) -> Any:
        global K
        K += 1
        return x * K

    return f


@refused
def a_counter_in_an_attribute() -> Any:
    holder = Holder()

    def f(x: Any) -> Any:
        holder.own += 1
        return x * holder.own

    return f


@refused
def a_counter_in_a_list() -> Any:
    counts: list[int] = []

    def f(x: Any) -> Any:
        counts.append(1)
        return x * len(counts)

    return f


@refused
def a_counter_in_a_default() -> Any:
    def f(x: Any, counts: list[int] = []) -> Any:  # noqa: B006
        counts.append(1)
        return x * (1.0 if len(counts) % 100 < 90 else 2.0)

    return f


@refused
def a_counter_in_a_dict() -> Any:
    counts = {"n": 0}

    def f(x: Any) -> Any:
        counts["n"] += 1
        return x * (counts["n"] // 4)

    return f


@refused
def a_counter_in_a_slot() -> Any:
    holder = Slotted()

    def f(x: Any) -> Any:
        holder.k += 1
        return x * (holder.k // 6)

    return f


@refused
def a_counter_in_a_namespace() -> Any:
    space = types.SimpleNamespace(n=0)

    def f(x: Any) -> Any:
        space.n += 1
        return x * (space.n // 4)

    return f


@refused
def a_counter_in_a_class() -> Any:
    class Counted:
        n = 0

    def f(x: Any) -> Any:
        Counted.n += 1
        return x * (Counted.n // 4)

    return f


@refused
def a_counter_in_the_function() -> Any:
    def f(x: Any) -> Any:
        f.n = getattr(f, "n", 0) + 1  # type: ignore[attr-defined]
        return x * (f.n // 4)  # type: ignore[attr-defined]

    return f


@refused
def a_counter_in_a_layer() -> Any:
    class Counting(hg.Module):
        n = 0

        def forward(self, x: Any) -> Any:
            self.n += 1
            return x * (self.n // 4)

    return Counting()


@refused
def itertools_count() -> Any:
    count = itertools.count()
    return lambda x: x * next(count)


@refused
def an_iterator() -> Any:
    """Whose first values are alike."""
    values = iter([1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    return lambda x: x * next(values)


@refused
def a_generator() -> Any:
    values = (1.0 if i < 2 else float(i) for i in range(99))
    return lambda x: x * next(values)


@refused
def a_cycle() -> Any:
    values = itertools.cycle([1.0, 1.0, 2.0])
    return lambda x: x * next(values)


@refused
def a_deque_that_rotates() -> Any:
    values = collections.deque([1.0, 1.0, 2.0])

    def f(x: Any) -> Any:
        values.rotate(-1)
        return x * values[-1]

    return f


def at_random(name: str, f: Callable[[Any], Any]) -> None:
    SCENARIOS[f"random: {name}"] = lambda: f
    MUST_REFUSE.add(f"random: {name}")


RNG, NUMPY_RNG = random.Random(0), np.random.default_rng(0)
RANDOM: dict[str, Callable[[Any], Any]] = {
    "random.random": lambda x: x * random.random(),
    "a rare branch": lambda x: x * 2 if random.random() < 1e-9 else x,
    "an own Random": lambda x: x * 2 if RNG.random() < 1e-9 else x,
    "choice": lambda x: x * random.choice([1.0, 1.0]),
    "randint": lambda x: x * random.randint(1, 1) if random.randint(0, 10**9) else x,
    "gauss": lambda x: x * 2 if random.gauss(0, 1) > 30 else x,
    "shuffle": lambda x: x * (random.shuffle([1, 2]) is None),
    "numpy": lambda x: x * np.random.rand(),
    "numpy's rare branch": lambda x: x * 2 if np.random.rand() < 1e-9 else x,
    "numpy's generator": lambda x: x * 2 if NUMPY_RNG.random() < 1e-9 else x,
    "numpy's new generator": lambda x: x * 2 if np.random.default_rng().normal() > 30 else x,
    "torch.rand": lambda x: x * torch.rand(3),
    "torch's rare branch": lambda x: x * 2 if torch.rand(()) < 1e-9 else x,
    "disc": lambda x: x * hg.sum(hg.data.disc(3)[0], 1),
    "time.time": lambda x: x * (time.time() % 1),
    "a date": lambda x: x * 2 if time.time() > 1e12 else x,
    "perf_counter": lambda x: x * 2 if time.perf_counter() < 0 else x,
    "monotonic_ns": lambda x: x * 2 if time.monotonic_ns() < 0 else x,
    "datetime.now": lambda x: x * datetime.datetime.now().year,
    "date.today": lambda x: x * datetime.date.today().year,
    "utc": lambda x: x * datetime.datetime.now(datetime.timezone.utc).year,
    "strftime": lambda x: x * int(time.strftime("%Y")),
    "gmtime": lambda x: x * time.gmtime().tm_year,
    "uuid": lambda x: x * (uuid.uuid4().int % 1000),
    "a sleep is none": lambda x: (time.sleep(0), x * 2)[1],
}
for _name, _f in RANDOM.items():
    at_random(_name, _f)
MUST_REFUSE.discard("random: a sleep is none")


def inside(name: str, f: Callable[[Any], Any]) -> None:
    SCENARIOS[f"torch inside: {name}"] = lambda: f
    MUST_REFUSE.add(f"torch inside: {name}")


INSIDE: dict[str, Callable[[Any], Any]] = {
    "ones": lambda x: x * torch.ones(3),
    "tensor": lambda x: x * torch.tensor([1.0, 2.0, 3.0]),
    "zeros_like": lambda x: x + torch.zeros(3) * 2,
    "arange": lambda x: x * torch.arange(3),
    "from_numpy": lambda x: x * torch.from_numpy(np.ones(3, dtype=np.float32)),
    "Tensor": lambda x: x * torch.Tensor([1.0, 2.0, 3.0]),
    "as_tensor": lambda x: x * torch.as_tensor([1.0, 2.0, 3.0]),
    "full of a global": lambda x: x * torch.full((3,), K),
    "nn.functional": lambda x: x * torch.nn.functional.softplus(torch.ones(3)),
}
for _name, _f in INSIDE.items():
    inside(_name, _f)
for _name in ("ones", "tensor", "from_numpy", "Tensor", "as_tensor", "full of a global", "arange", "zeros_like", "nn.functional"):
    pass


# ------------------------------------------------------------------------------------------------ what is changed later


@scenario
def a_number_in_a_closure() -> Any:
    k = 2.0

    def change() -> None:
        nonlocal k
        k = 3.0

    return lambda x: x * k, change


@scenario
def the_sign_of_zero() -> Any:
    k = 0.0

    def change() -> None:
        nonlocal k
        k = -0.0

    return lambda x: x / k, change


@scenario
def an_int_becomes_a_float() -> Any:
    k: Any = 2

    def change() -> None:
        nonlocal k
        k = 2.5

    return lambda x: x**k, change


@scenario
def a_list_item() -> Any:
    ks = [2.0, 3.0]
    return lambda x: x * ks[0], lambda: ks.__setitem__(0, 5.0)


@scenario
def a_list_that_grows() -> Any:
    ks = [2.0, 3.0]
    return lambda x: x * len(ks), lambda: ks.append(5.0)


@scenario
def a_list_in_another_order() -> Any:
    ks = [2.0, 3.0]
    return lambda x: x * ks[0], lambda: ks.reverse()


@scenario
def a_dict_item() -> Any:
    ks = {"a": 2.0}
    return lambda x: x * ks["a"], lambda: ks.update(a=5.0)


@scenario
def a_dict_key() -> Any:
    ks: dict[float, None] = {2.0: None}

    def change() -> None:
        ks.clear()
        ks[3.0] = None

    return lambda x: x * next(iter(ks)), change


@scenario
def a_renamed_dict_key() -> Any:
    ks = {"a": 2.0, "b": 2.0}

    def change() -> None:
        del ks["b"]
        ks["c"] = 2.0

    return lambda x: x * (5 if "b" in ks else 3), change


@scenario
def a_set() -> Any:
    ks = {2.0}

    def change() -> None:
        ks.clear()
        ks.add(3.0)

    return lambda x: x * next(iter(ks)), change


@scenario
def the_order_of_a_set() -> Any:
    ks = {0.5, 3.25, "a", 7.125, None, 1e30, (1, 2)}
    return lambda x: sum((x * k for k in ks if isinstance(k, float) and k < 10), x)


@scenario
def a_nested_attribute() -> Any:
    root = Config(Config(Config(2.0)))  # type: ignore[arg-type]
    return lambda x: x * root.k.k.k, lambda: setattr(root.k.k, "k", 3.0)  # type: ignore[attr-defined]


@scenario
def a_slot() -> Any:
    holder = Slotted()
    return lambda x: x * holder.k, lambda: setattr(holder, "k", 3.0)


@scenario
def a_namespace() -> Any:
    space = types.SimpleNamespace(k=2.0)
    return lambda x: x * space.k, lambda: setattr(space, "k", 3.0)


@scenario
def a_namespace_in_an_object() -> Any:
    holder = Holder()
    return lambda x: x * holder.inner.k, lambda: setattr(holder.inner, "k", 3.0)


@scenario
def a_deque() -> Any:
    ks = collections.deque([2.0])
    return lambda x: x * ks[0], lambda: ks.__setitem__(0, 3.0)


@scenario
def an_array() -> Any:
    ks = array.array("d", [2.0])
    return lambda x: x * ks[0], lambda: ks.__setitem__(0, 3.0)


@scenario
def a_bytearray() -> Any:
    ks = bytearray([2])
    return lambda x: x * ks[0], lambda: ks.__setitem__(0, 3)


@scenario
def a_user_dict() -> Any:
    ks = collections.UserDict(a=2.0)
    return lambda x: x * ks["a"], lambda: ks.update(a=3.0)


@scenario
def a_chain_map() -> Any:
    ks = collections.ChainMap({"a": 2.0})
    return lambda x: x * ks["a"], lambda: ks.update(a=3.0)


@scenario
def a_default_dict() -> Any:
    ks = collections.defaultdict(float, a=2.0)
    return lambda x: x * ks["a"], lambda: ks.update(a=3.0)


@scenario
def a_list_of_many() -> Any:
    ks = [[float(i)] for i in range(20_001)]
    return lambda x: x * ks[20_000][0], lambda: ks[20_000].__setitem__(0, 3.0)


@scenario
def a_context_variable() -> Any:
    k = contextvars.ContextVar("k", default=2.0)
    return lambda x: x * k.get(), lambda: (k.set(3.0), None)[1]


@scenario
def a_thread_local() -> Any:
    local = threading.local()
    local.k = 2.0
    return lambda x: x * local.k, lambda: setattr(local, "k", 3.0)


@scenario
def a_global() -> Any:
    return lambda x: x * K, lambda: set_k(3.0)


@scenario
def a_global_behind_a_helper() -> Any:
    def helper(x: Any) -> Any:
        return x * K

    return lambda x: (lambda y: helper(y))(x), lambda: set_k(3.0)


@scenario
def a_global_by_globals() -> Any:
    return lambda x: x * globals()["K"], lambda: set_k(3.0)


@scenario
def a_global_by_its_module() -> Any:
    module = sys.modules[__name__]
    return lambda x: x * module.K, lambda: set_k(3.0)


@scenario
def a_global_that_appears() -> Any:
    def f(x: Any) -> Any:
        try:
            return x * LATER  # type: ignore[name-defined]
        except NameError:
            return x

    globals().pop("LATER", None)
    return f, lambda: globals().update(LATER=3.0)


@scenario
def a_global_behind_a_method() -> Any:
    holder = Holder()
    return lambda x: holder.by_global(x), lambda: set_k(3.0)


@scenario
def a_global_behind_a_bound_method() -> Any:
    return Holder().by_global, lambda: set_k(3.0)


@scenario
def a_global_behind_a_property() -> Any:
    holder = Holder()
    return lambda x: x * holder.looked_up, lambda: set_k(3.0)


@scenario
def a_global_behind_a_static_method() -> Any:
    return lambda x: Holder.static(x), lambda: set_k(3.0)


@scenario
def a_global_behind_a_cached_function() -> Any:
    @functools.lru_cache
    def helper(n: int) -> float:
        return n * K

    return lambda x: x * helper(1), lambda: (set_k(3.0), helper.cache_clear())[1]


@scenario
def a_global_behind_a_decorator() -> Any:
    def twice(f: Any) -> Any:
        @functools.wraps(f)
        def wrapper(*args: Any) -> Any:
            return f(*args) * 2

        return wrapper

    @twice
    def f(x: Any) -> Any:
        return x * K

    return f, lambda: set_k(3.0)


@scenario
def a_global_behind_a_partial() -> Any:
    return functools.partial(lambda k, x: x * k * K, 2.0), lambda: set_k(3.0)


@scenario
def a_partial_of_a_method() -> Any:
    return functools.partial(Holder().by_global), lambda: set_k(3.0)


@scenario
def a_class_attribute() -> Any:
    return lambda x: x * Holder.k, lambda: setattr(Holder, "k", 3.0)


@scenario
def a_class_attribute_by_an_instance() -> Any:
    holder = Holder()
    return lambda x: holder.by_class(x), lambda: setattr(Holder, "k", 3.0)


@scenario
def a_class_method() -> Any:
    return lambda x: Holder.of_class(x), lambda: setattr(Holder, "k", 3.0)


@scenario
def an_instance_attribute_over_the_class() -> Any:
    holder = Holder()
    return lambda x: x * holder.k, lambda: setattr(holder, "k", 3.0)


@scenario
def a_function_attribute() -> Any:
    def f(x: Any) -> Any:
        return x * f.k  # type: ignore[attr-defined]

    f.k = 2.0  # type: ignore[attr-defined]
    return f, lambda: setattr(f, "k", 3.0)


@scenario
def a_default_argument() -> Any:
    def f(x: Any, k: float = 2.0) -> Any:
        return x * k

    return f, lambda: setattr(f, "__defaults__", (3.0,))


@scenario
def a_keyword_default() -> Any:
    def f(x: Any, *, k: float = 2.0) -> Any:
        return x * k

    return f, lambda: f.__kwdefaults__.update(k=3.0)  # type: ignore[union-attr]


@scenario
def another_code() -> Any:
    def f(x: Any) -> Any:
        return x * 2

    def g(x: Any) -> Any:
        return x * 3

    return f, lambda: setattr(f, "__code__", g.__code__)


@scenario
def a_method_replaced() -> Any:
    class Own:
        def scale(self, x: Any) -> Any:
            return x * 2

    own = Own()
    return lambda x: own.scale(x), lambda: setattr(Own, "scale", lambda self, x: x * 3)


@scenario
def a_callable_object() -> Any:
    class Own:
        k = 2.0

        def __call__(self, x: Any) -> Any:
            return x * self.k * K

    own = Own()
    return own, lambda: setattr(own, "k", 3.0)


@scenario
def a_default_dtype() -> Any:
    return lambda x: x * hg.Variable([1.0, 2.0, 3.0]), lambda: torch.set_default_dtype(torch.float64)


@scenario
def made_in_another_thread() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])

    def f(x: Any) -> Any:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append((w * 2).detach()))
        thread.start()
        thread.join()
        return x * found[0]

    return f, lambda: w.data.add_(1)


# ------------------------------------------------------------------------------------------------ Variables and gradients


@scenario
def data_replaced() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])
    return lambda x: x * w, lambda: setattr(w, "data", torch.tensor([5.0, 6.0, 7.0]))


@scenario
def data_replaced_in_a_namespace() -> Any:
    space = types.SimpleNamespace(w=hg.Parameter([2.0, 3.0, 4.0]))
    return lambda x: x * space.w, lambda: setattr(space.w, "data", torch.tensor([5.0, 6.0, 7.0]))


@scenario
def a_parameter_replaced() -> Any:
    ws = [hg.Parameter([2.0, 3.0, 4.0])]
    return lambda x: x * ws[0], lambda: ws.__setitem__(0, hg.Parameter([5.0, 6.0, 7.0]))


@scenario
def a_parameter_written() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])
    return lambda x: x * w, lambda: w.data.add_(1)


@scenario
def a_constant_variable_written() -> Any:
    w = hg.Variable([2.0, 3.0, 4.0])
    return lambda x: x * w, lambda: w.data.add_(1)


@scenario
def requires_grad_switched() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])
    return lambda x: x * 2 if w.requires_grad else x * w, lambda: setattr(w, "requires_grad", False)


@refused
def a_variable_computed_outside() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])
    y = w * 2
    return lambda x: x * y, lambda: w.data.add_(1)


@refused
def a_variable_kept() -> Any:
    """Which a later call uses."""
    kept: list[Any] = []

    def f(x: Any) -> Any:
        kept.append(x * 2)
        return x * kept[0]

    return f


@refused
def a_variable_kept_in_a_slot() -> Any:
    holder = Slotted()
    holder.k = hg.Variable([1.0, 1.0, 1.0])  # type: ignore[assignment]

    def f(x: Any) -> Any:
        y = x * holder.k
        holder.k = y
        return y

    return f


@scenario
def gradients_that_add_up() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])

    def f(x: Any) -> Any:
        (w * x).sum().backward()
        return w.grad

    return f


@scenario
def a_gradient_from_before() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])
    w.grad = torch.ones(3)
    return lambda x: x * w.grad, lambda: setattr(w, "grad", torch.zeros(3))


@scenario
def a_gradient_from_before_written() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])
    w.grad = torch.ones(3)
    return lambda x: x * w.grad, lambda: w.grad.mul_(3)


@scenario
def a_gradient_written() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])

    def f(x: Any) -> Any:
        w.grad = None
        (w * x).sum().backward()
        w.grad.mul_(0.5)
        return w.grad

    return f


@scenario
def steps_on_gradients_that_add_up() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])
    optimizer = hg.optim.SGD([w], lr=0.1)

    def f(x: Any) -> Any:
        loss = ((w * x) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss

    return f


@refused
def a_write_into_a_parameter() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])

    def f(x: Any) -> Any:
        w.data.mul_(0.9)
        return x * w

    return f


@refused
def data_set_inside() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])

    def f(x: Any) -> Any:
        w.data = w.data
        w.data = torch.ones(3)
        return x * w

    return f


@refused
def the_length_of_the_tape() -> Any:
    return lambda x: x * len(hg.tape())


@refused
def lbfgs_inside() -> Any:
    w = hg.Parameter([2.0, 3.0, 4.0])
    optimizer = hg.optim.LBFGS([w])

    def f(x: Any) -> Any:
        def closure() -> Any:
            optimizer.zero_grad()
            loss = ((w * x) ** 2).sum()
            loss.backward()
            return loss

        return optimizer.step(closure) if False else (optimizer.step(closure), w * 1)[1]

    return f


@refused
def a_capture_inside() -> Any:
    return lambda x: x * hg.capture(lambda y: y * 2, XS[0])(XS[0])


@refused
def a_program_inside() -> Any:
    t = torch.ones(3)
    program = hg.capture(lambda y: y * 2, t)
    return lambda x: x * program(t), lambda: t.mul_(2)


@refused
def a_fit_inside() -> Any:
    model = hg.Sequential(hg.Linear(3, 3), loss="mse", optimizer="sgd")
    model.reset(0)

    def f(x: Any) -> Any:
        model.fit(torch.ones(2, 3), torch.ones(2, 3), verbose=0, seed=0)
        return model(x.reshape(1, 3))

    return f


# ------------------------------------------------------------------------------------------------ modules and optimizers


def network() -> hg.Sequential:
    model = hg.Sequential(hg.Linear(3, 4), hg.nn.BatchNorm1d(4), hg.nn.Dropout(0.0), hg.Tanh(), hg.Linear(4, 2))
    model.reset(0)
    return model


def on_model(name: str, change: Callable[[Any], Any], mode: bool = False) -> None:
    def make() -> Any:
        model = network().train(mode)
        return lambda x: model(x.reshape(3, 1).expand((3, 3))), lambda: (change(model), None)[1]

    SCENARIOS[f"a model: {name}"] = make


def _doubled(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(2)


ON_MODEL: dict[str, Callable[[Any], Any]] = {
    "unchanged": lambda m: None,
    "weights written": _doubled,
    "train": lambda m: m.train(),
    "one layer's mode": lambda m: m[1].train(),
    "freeze": lambda m: m.freeze(),
    "a layer replaced": lambda m: m.__setitem__(3, hg.ReLU()),
    "a layer added": lambda m: m.append(hg.nn.Softmax()),
    "a setting": lambda m: setattr(m[1], "eps", 0.5),
    "a weight replaced": lambda m: setattr(m[0], "weight", hg.Parameter(torch.ones(3, 4))),
    "a weight removed": lambda m: setattr(m[0], "bias", None),
    "data replaced": lambda m: setattr(m[0].weight, "data", torch.ones(3, 4)),
    "load_state_dict": lambda m: m.load_state_dict({k: v * 0.5 for k, v in m.state_dict().items()}),
    "a buffer written": lambda m: m[1].running_mean.add_(1.0),
    "a buffer replaced": lambda m: setattr(m[1], "running_mean", torch.ones(4)),
    "a buffer registered anew": lambda m: m[1].register_buffer("running_var", torch.full((4,), 3.0)),
    "reset": lambda m: m.reset(1),
    "a forward of its own": lambda m: setattr(m[3], "forward", lambda x: x * 7),
}
for _name, _change in ON_MODEL.items():
    on_model(_name, _change)
    if _name != "train":
        on_model(f"{_name}, training", _change, True)


@scenario
def a_model_of_another_dtype() -> Any:
    model = hg.Sequential(hg.Linear(3, 2))
    model.reset(0)
    return lambda x: model(x.reshape(1, 3).to(model[0].weight.dtype)), lambda: (model.to(torch.float64), None)[1]


@scenario
def a_users_layer() -> Any:
    layer = Scaled()
    return lambda x: layer(x), lambda: setattr(layer, "k", 3.0)


@scenario
def a_users_layers_global() -> Any:
    return Scaled(), lambda: set_k(3.0)


@scenario
def a_users_layers_class_attribute() -> Any:
    return hg.Sequential(Scaled()), lambda: setattr(Scaled, "factor", 3.0)


@scenario
def a_users_layers_base() -> Any:
    class Base(hg.Module):
        def forward(self, x: Any) -> Any:
            return x * K

    class Derived(Base):
        def forward(self, x: Any) -> Any:
            return super().forward(x) + 1

    return Derived(), lambda: set_k(3.0)


@refused
def a_lazy_model() -> Any:
    layer = hg.Linear(2)
    return lambda x: layer(x.reshape(1, 3))


class OwnRule(hg.optim.Optimizer):
    """An update rule of a user's that depends on more than its settings."""

    strength = 1.0

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        return p - s.lr * self.strength * K * g


def trained(optimizer: Any) -> Callable[[Any], Any]:
    (w,) = optimizer.parameters

    def f(x: Any) -> Any:
        optimizer.zero_grad()
        loss = ((w * x) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss, w * 1.0

    return f


def on_optimizer(name: str, make: Callable[[Any], Any], change: Callable[[Any], Any]) -> None:
    def made() -> Any:
        optimizer = make([hg.Parameter([2.0, 3.0, 4.0])])
        return trained(optimizer), lambda: (change(optimizer), None)[1]

    SCENARIOS[f"an optimizer: {name}"] = made


def momentum(w: Any) -> Any:
    return hg.optim.SGD(w, lr=0.01, momentum=0.9)


def _without_gradient_once(optimizer: Any) -> None:
    (w,) = optimizer.parameters
    w.requires_grad = False
    w.requires_grad = True


ON_OPTIMIZER: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "unchanged": (momentum, lambda o: None),
    "lr": (momentum, lambda o: setattr(o, "lr", 0.001)),
    "lr becomes a schedule": (momentum, lambda o: setattr(o, "lr", hg.optim.StepLR(0.01, 1, 0.5, per="step"))),
    "a group's rate": (momentum, lambda o: setattr(o.groups[0], "rate", 0.001)),
    "a setting": (momentum, lambda o: setattr(o.groups[0].settings, "momentum", 0.5)),
    "weight decay": (momentum, lambda o: setattr(o.groups[0].settings, "weight_decay", 0.5)),
    "clip_norm": (momentum, lambda o: setattr(o, "clip_norm", 0.1)),
    "state written": (momentum, lambda o: o._slots()[0].state["velocity"].zero_()),
    "state loaded": (momentum, lambda o: o.load_state_dict({**o.state_dict(), "clip_norm": 0.5})),
    "state cleared": (momentum, lambda o: o._slots()[0].state.clear()),
    "frozen and unfrozen": (momentum, _without_gradient_once),
    "frozen": (momentum, lambda o: setattr(o.parameters[0], "requires_grad", True)),
    "Adam": (lambda w: hg.optim.Adam(w, lr=0.01), lambda o: None),
    "Adam, betas": (lambda w: hg.optim.Adam(w, lr=0.01), lambda o: setattr(o.groups[0].settings, "betas", (0.5, 0.5))),
    "Adam, its count": (lambda w: hg.optim.Adam(w, lr=0.01), lambda o: setattr(o._slots()[0], "count", 100)),
    "AdamW": (lambda w: hg.optim.AdamW(w, lr=0.01), lambda o: setattr(o, "lr", 0.1)),
    "a schedule": (lambda w: hg.optim.Adam(w, lr=hg.optim.CosineLR(0.1, 6, per="step")), lambda o: None),
    "a schedule's count": (lambda w: hg.optim.SGD(w, lr=hg.optim.StepLR(0.01, 1, 0.5)), lambda o: o.epoch_end()),
    "clipping": (lambda w: hg.optim.SGD(w, lr=0.01, clip_norm=0.5), lambda o: None),
    "a rule's attribute": (lambda w: OwnRule(w, lr=0.01), lambda o: setattr(o, "strength", 3.0)),
    "a rule's global": (lambda w: OwnRule(w, lr=0.01), lambda o: set_k(3.0)),
}
for _name, (_make, _change) in ON_OPTIMIZER.items():
    on_optimizer(_name, _make, _change)


# ------------------------------------------------------------------------------------------------ what is returned


RETURNS: dict[str, Callable[[Any], Any]] = {
    "a number": lambda x: 3.0,
    "a string": lambda x: "text",
    "None": lambda x: None,
    "nothing in a tuple": lambda x: (),
    "a number beside": lambda x: (x, 3.0),
    "a generator": lambda x: (x * i for i in range(2)),
    "a set": lambda x: {x},
    "a shape": lambda x: x.shape,
    "a function": lambda x: lambda: x,
    "a module": lambda x: hg.ReLU(),
}


@pytest.mark.parametrize("name", RETURNS)
def test_what_cannot_be_returned(name: str) -> None:
    with pytest.raises(hg.CaptureError):
        hg.capture(RETURNS[name], XS[0])


@refused
def different_structures() -> Any:
    turn = itertools.cycle([True, False])
    return lambda x: (x, x * 2) if next(turn) else [x, x * 2]


# ------------------------------------------------------------------------------------------------ the test itself


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_never_a_wrong_number(name: str, engine: str, capsys: Any) -> None:
    where = never_wrong(SCENARIOS[name], engine)
    if name in MUST_REFUSE:
        assert where == "capture", f"only noticed: {where or 'never'}"


def test_at_least_twenty() -> None:
    assert len(MUST_REFUSE) >= 20 and len(SCENARIOS) >= 100


@pytest.mark.parametrize("name", ["a branch", "float", "item", "data", "print", "numpy"])
def test_the_users_line_is_told(name: str) -> None:
    with pytest.raises(hg.CaptureError, match=r"test_uncapturable\.py, line \d+"):
        hg.capture(READS[name], XS[0])


def test_a_traced_variable_afterwards() -> None:
    """It refuses everything, and says why."""
    kept: list[Any] = []
    with pytest.raises(hg.CaptureError):
        hg.capture(lambda x: (kept.append(x * 2), x)[1], XS[0])
    for use in (lambda v: v * 2, lambda v: v.data, float, str, lambda v: v.sum(), lambda v: v.shape, lambda v: v.backward()):
        with pytest.raises(hg.CaptureError, match="over|read while"):
            use(kept[0])
    assert "over" in repr(kept[0])


def test_every_uncapturable_one_leaves_nothing_behind() -> None:
    """After a refusal eager goes on as if nothing had been."""
    w = hg.Parameter([2.0, 3.0, 4.0])
    optimizer = hg.optim.Adam([w], lr=0.1)

    def f(x: Any) -> Any:
        optimizer.zero_grad()
        loss = ((w * x) ** 2).sum()
        loss.backward()
        optimizer.step()
        return x * float(loss)

    before, length = w.data.clone(), len(hg.tape())
    with pytest.raises(hg.CaptureError):
        hg.capture(f, XS[0])
    assert torch.equal(w.data, before) and w.grad is None and len(hg.tape()) == length
    assert optimizer.state_dict()["state"] == [{"count": 0}]
    assert torch.equal(f(hg.Variable(XS[0])).data, XS[0] * ((before * XS[0]) ** 2).sum())


# ------------------------------------------------------------------------------------------------ bad input


def test_other_shapes_dtypes_and_numbers_of_inputs() -> None:
    program = hg.capture(lambda x, y: x @ y, torch.ones(2, 3), torch.ones(3, 4))
    with pytest.raises(hg.ShapeError, match=r"\(5, 3\).*\(2, 3\)"):
        program(torch.ones(5, 3), torch.ones(3, 4))
    with pytest.raises(hg.ShapeError, match=r"input 1.*\(4,\).*\(3, 4\)"):
        program(torch.ones(2, 3), torch.ones(4))
    with pytest.raises(hg.DtypeError, match=r"float64.*float32"):
        program(torch.ones(2, 3, dtype=torch.float64), torch.ones(3, 4))
    with pytest.raises(hg.DtypeError, match=r"int64.*float32"):
        program(torch.ones(2, 3, dtype=torch.int64), torch.ones(3, 4))
    for wrong in ((), (torch.ones(2, 3),), (torch.ones(2, 3),) * 3):
        with pytest.raises(hg.OperandError, match=rf"2 inputs.*{len(wrong)}"):
            program(*wrong)
    with pytest.raises(hg.HotgradError):
        program("text", torch.ones(3, 4))
    with pytest.raises(hg.HotgradError):
        program(torch.ones(2, 3), None)
    with pytest.raises(hg.DeviceError, match="meta.*cpu"):
        program(torch.ones(2, 3, device="meta"), torch.ones(3, 4))
    assert torch.equal(program(torch.ones(2, 3), torch.ones(3, 4)), torch.full((2, 4), 3.0))


@pytest.mark.parametrize("f", [3, "text", None, torch.ones(2), hg.Variable([1.0])])
def test_what_cannot_be_called(f: Any) -> None:
    with pytest.raises(hg.OperandError, match="function"):
        hg.capture(f, XS[0])


def test_bad_examples() -> None:
    for example in ("text", None, object(), {"a": 1}):
        with pytest.raises(hg.HotgradError):
            hg.capture(lambda x: x * 2, example)
    with pytest.raises(TypeError):
        hg.capture(lambda x: x * 2)
    with pytest.raises(TypeError):
        hg.capture(lambda x: x * 2, XS[0], XS[0])


def test_unknown_engines() -> None:
    program = hg.capture(lambda x: x * 2, XS[0])
    with pytest.raises(hg.SettingError, match="replay"):
        program.to("repaly")


def test_a_users_own_error_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        hg.capture(lambda x: x * (1 / 0), XS[0])
    with pytest.raises(hg.ShapeError):
        hg.capture(lambda x: x @ torch.ones(4) if False else x + BAD, XS[0])


BAD = torch.ones(2)
