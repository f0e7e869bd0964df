"""What scenarios of functions that cannot be captured, or whose program no longer holds, are made of, and how they are judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import hotgrad as hg

XS = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([0.5, -4.0, 0.25])]
F = Callable[..., Any]
WIDE = torch.ones(2, 3)
# By name what makes a function anew, and what then changes something that it depends on.
SCENARIOS: dict[str, Callable[[], tuple[F, F]]] = {}
REFUSED: set[str] = set()  # those that capture itself must refuse, the others may give the right numbers
RESETS: list[Callable[[], None]] = []  # what brings back the globals that scenarios change


def reset() -> None:
    for bring_back in RESETS:
        bring_back()
    torch.set_default_dtype(torch.float32)


def numbers(result: Any) -> list[torch.Tensor]:
    """The arrays in what a function or a program returned, cloned."""
    if isinstance(result, (tuple, list)):
        return [t for item in result for t in numbers(item)]
    return [(result.data if isinstance(result, hg.Variable) else torch.as_tensor(result)).clone()]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and torch.allclose(x, y, rtol=1e-6, atol=0, equal_nan=True)
        and torch.equal(torch.signbit(x), torch.signbit(y))
        for x, y in zip(a, b)
    )  # fmt: skip


def never_wrong(scenario: Callable[[], tuple[F, F]], engine: str = "replay") -> str:
    """Where the program gave way: "capture", "call", or "" if it computed the same as eager throughout. Fails for a wrong number."""
    reset()
    f, change = scenario()
    expected = [numbers(f(hg.Variable(x.clone()))) for x in XS]
    change()
    expected += [numbers(f(hg.Variable(x.clone()))) for x in XS]
    reset()
    f, change = scenario()
    try:
        program = hg.capture(f, XS[0].clone()).to(engine, fuse=False)
    except hg.CaptureError:
        return "capture"
    try:
        for i, (x, values) in enumerate(zip(XS * 2, expected)):
            if i == len(XS):
                change()
            found = numbers(program(x.clone()))
            assert equal(found, values), f"call {i}: {found} in place of {values}"
    except hg.CaptureError:
        return "call"
    return ""


def nothing(*_: Any) -> None:
    pass


def refuse(group: str, functions: dict[str, F]) -> None:
    for name, f in functions.items():
        SCENARIOS[f"{group}: {name}"] = lambda f=f: (f, nothing)  # type: ignore[misc]
        REFUSED.add(f"{group}: {name}")


def depend(group: str, table: dict[str, tuple[F, F, F]], refused: bool = False) -> None:
    """Rows of: what makes a thing, a function of it and x, and what changes the thing."""
    for name, (make, use, change) in table.items():

        def scenario(make: F = make, use: F = use, change: F = change) -> tuple[F, F]:
            thing = make()
            return lambda x: use(thing, x), lambda: change(thing)

        SCENARIOS[f"{group}: {name}"] = scenario
        if refused:
            REFUSED.add(f"{group}: {name}")


def weight(*values: float) -> hg.Parameter:
    return hg.Parameter([float(value) for value in values])


def set_to(name: str, value: Any = 3.0) -> F:
    return lambda thing: setattr(thing, name, value)


def put(key: Any, value: Any = 3.0) -> F:
    return lambda thing: thing.__setitem__(key, value)


def network(mode: bool = False) -> hg.Sequential:
    model = hg.Sequential(hg.Linear(3, 4), hg.nn.BatchNorm1d(4), hg.nn.Dropout(0.0), hg.Tanh(), hg.Linear(4, 2))
    model.reset(0)
    return model.train(mode)  # type: ignore[no-any-return]


def doubled(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(2)
