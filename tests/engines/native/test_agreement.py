"""The comparison of native code with replay before it trains: rounding is never refused, wrong kernels are."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad import nn, optim
from hotgrad.core.variable import wrap
from hotgrad.engines.native import csource
from hotgrad.engines.native.compiler import find_compiler
from hotgrad.engines.native.engine import Native
from hotgrad.engines.native.kernels import Kernel
from hotgrad.engines.native.layout import Nest
from hotgrad.program.captured import Captured, captured
from hotgrad.training import agreement
from hotgrad.training.agreement import check_agreement
from hotgrad.training.runner import training_step

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="there is no C compiler")

OPTIMIZERS: list[Callable[[Any], Any]] = [
    lambda p: optim.SGD(p, lr=0.01),
    lambda p: optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.01),
    lambda p: optim.Adam(p, lr=0.001),
    lambda p: optim.AdamW(p, lr=0.001, clip_norm=1.0),
    lambda p: optim.RMSprop(p, lr=0.001),
]


class Attention(hg.Module):
    """Over two places of each row. The true gradient of the keys' bias is zero."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.all = hg.Linear(size, 3 * size)

    def forward(self, x: Any) -> Any:
        n, d = x.shape[0], self.size
        both = self.all(x.reshape(n, 2, d))
        scores = both[:, :, :d] @ both[:, :, d : 2 * d].mT / math.sqrt(d)
        return x + (scores.softmax(-1) @ both[:, :, 2 * d :]).reshape(n, 2 * d)


PARTS: list[Callable[[int], Sequence[Any]]] = [
    lambda d: [hg.Linear(d, d), nn.BatchNorm1d(d), nn.ReLU()],  # the true gradient of the bias is zero
    lambda d: [hg.Linear(d, d), nn.LayerNorm(d), nn.GELU()],
    lambda d: [Attention(d // 2)],
    lambda d: [hg.Linear(d, d), nn.Tanh(), nn.Dropout(0.3)],
]
STEP = tuple[Captured, list[torch.Tensor]]


def prepared(model: hg.Sequential, optimizer: Callable[[Any], Any], x: torch.Tensor, y: torch.Tensor) -> STEP:
    model.predict(x[:2])
    model.train()
    model.optimizer = optimizer(list(model.parameters()))
    found = captured(training_step(model, False), [wrap(x, None), y], [model, model.loss, model.optimizer])
    found.begin()
    return found, [x, y]


def drawn(seed: int) -> STEP:
    pick = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    size, rows = pick.choice([4, 8]), pick.choice([3, 17, 64])
    parts = [layer for _ in range(pick.randint(1, 3)) for layer in pick.choice(PARTS)(size)]
    loss = pick.choice(["mse", "cross_entropy", "huber"])
    model = hg.Sequential(hg.Linear(3, size), *parts, hg.Linear(size, 3), loss=loss)
    model.reset(seed)
    dtype = pick.choice([torch.float32, torch.float64])
    model.to(dtype)
    scale = pick.choice([0.01, 1.0, 30.0])
    x = scale * torch.randn(rows, 3, generator=generator, dtype=dtype)
    y = torch.arange(rows) % 3 if loss == "cross_entropy" else scale * torch.randn(rows, 3, generator=generator, dtype=dtype)
    return prepared(model, pick.choice(OPTIMIZERS), x, y)


def refusal(step: STEP, native: Native) -> str:
    agreement._AGREED.clear()
    before = [state.tensor.clone() for state in step[0].code.states]
    try:
        check_agreement(step[0], native, step[1])
    except hg.EngineError as error:
        return str(error)
    finally:
        assert all(torch.equal(state.tensor, old) for state, old in zip(step[0].code.states, before))
    return ""


def test_rounding_is_not_refused(thorough: bool) -> None:
    for first in range(0, 240 if thorough else 16, 8):
        steps = [drawn(seed) for seed in range(first, first + 8)]
        for number, (step, native) in enumerate(zip(steps, Native.prepare([step[0].code for step in steps], options=["-O1"]))):
            assert refusal(step, native) == "", f"seed {first + number}\n{step[0].code}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_classifier_that_has_learned_its_data(dtype: torch.dtype) -> None:
    """Probabilities near 1: what is left of p - 1 is the rounding of p."""
    steps = []
    for margin in (8.0, 12.0, 20.0, 35.0):
        for optimizer in (OPTIMIZERS[0], OPTIMIZERS[2]):
            x, y = torch.randn(6, 30, generator=torch.Generator().manual_seed(int(margin)), dtype=dtype), torch.arange(6) % 2
            model = hg.Sequential(hg.Linear(30, 2), loss="cross_entropy")
            model.to(dtype)
            with hg.no_grad():
                model[0].weight.data = torch.linalg.lstsq(x, margin * (torch.eye(2, dtype=dtype)[y] - 0.5)).solution
                model[0].bias.data = torch.zeros(2, dtype=dtype)
            steps.append(prepared(model, optimizer, x, y))
    for step, native in zip(steps, Native.prepare([step[0].code for step in steps], options=["-O1"])):
        assert refusal(step, native) == ""


@pytest.mark.parametrize("layers", [(Attention(2),), (hg.Linear(4, 4), nn.BatchNorm1d(4))], ids=["attention", "batchnorm"])
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_parameters_whose_true_gradient_is_zero(layers: Sequence[Any], optimizer: str) -> None:
    model = hg.Sequential(hg.Linear(3, 4), *layers, hg.Linear(4, 1), loss="mse", optimizer=optimizer)
    model.reset(0)
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    assert model.fit(x, x[:, :1].sin(), epochs=2, engine="native", seed=0).engine == "native"


class Planted(Kernel):
    """Another kernel, with a fault in what it writes last."""

    def __init__(self, right: Kernel, fault: str) -> None:
        super().__init__(right.context, right.reads, right.writes, right.note)
        self.right, self.fault = right, fault

    def lines(self) -> Iterator[str]:
        place = self.writes[-1]
        nest = Nest.over(place.shape, [place.strides])
        everywhere, first = place.at(nest.terms(0)), place.at("")
        if self.fault != "missing":
            yield from self.right.lines()
        yield "{"
        if self.fault == "one element":
            yield f"{first} += ({first} < 0 ? -0.001 : 0.001) * (1 + fabs({first}));"
        elif self.fault != "missing":
            yield from nest.wrap([{"sign": f"{everywhere} *= -1;", "factor": f"{everywhere} *= 1.001;"}[self.fault]])
        yield "}"


FAULTS = ["sign", "factor", "one element", "missing"]


@pytest.mark.parametrize("optimizer", [OPTIMIZERS[0], OPTIMIZERS[2]], ids=["sgd", "adam"])
def test_a_fault_in_any_kernel_is_refused(optimizer: Callable[[Any], Any], thorough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, generator=generator)
    model = hg.Sequential(hg.Linear(3, 5), nn.Tanh(), hg.Linear(5, 2), loss="mse")
    model.reset(0)
    step = prepared(model, optimizer, x, torch.randn(12, 2, generator=generator))
    lowered = csource.lowered
    count = len([kernel for kernel in lowered(step[0].code).kernels if kernel])
    plants = [(i, fault) for i in range(count) for fault in (FAULTS if thorough else [FAULTS[i % len(FAULTS)]])]
    waiting = iter(plants)

    def with_a_fault(code: Any, fuse: bool = True) -> Any:
        low = lowered(code, fuse)
        position, fault = next(waiting)
        kernels = [i for i, kernel in enumerate(low.kernels) if kernel]
        low.kernels[kernels[position]] = Planted(low.kernels[kernels[position]], fault)
        return low

    monkeypatch.setattr(csource, "lowered", with_a_fault)
    natives = Native.prepare([step[0].code] * len(plants), options=["-O1"])
    missed = [plant for plant, native in zip(plants, natives) if "differs from replay's by" not in refusal(step, native)]
    assert not missed and len(plants) >= count > 12


DEVIATIONS: list[tuple[str, Callable[[Any], Any]]] = [
    ("std", lambda v: v.std()),
    ("std of columns", lambda v: v.std(0)),
    ("std of rows", lambda v: v.std(1, correction=0, keepdim=True)),
    ("var", lambda v: v.var()),
    ("var of columns", lambda v: v.var(0)),
    ("norm", lambda v: v.norm(2, 1)),
    ("norm 3", lambda v: v.norm(3, 0)),
]


@pytest.mark.parametrize(("name", "f"), DEVIATIONS, ids=[case[0] for case in DEVIATIONS])
def test_numbers_whose_squares_overflow_or_vanish(name: str, f: Callable[[Any], Any], thorough: bool) -> None:
    base = torch.randn(6, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def both(v: Any) -> Any:
        y = f(v)
        return y, hg.gradients(y.sum(), v)[0]

    program = hg.capture(both, hg.Variable(base.float(), requires_grad=True))
    replay, native = program.to("replay"), program.to("native")
    for power in range(-40, 38) if thorough else (-40, -25, -20, 0, 18, 19, 20, 30, 37):
        x = (base * 10.0**power).float()
        for what, expected, got in zip(("value", "gradient"), replay(x), native(x)):
            torch.testing.assert_close(
                got, expected, rtol=1e-4, atol=1e-44, equal_nan=True, msg=lambda m, p=power, w=what: f"1e{p}, {w}: {m}"
            )
