"""Tensors whose memory is not what they stand for: negated views, strides of all kinds, subclasses. Every engine reads them alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from building import Build
from torch import Tensor

import hotgrad as hg
from hotgrad.engines.native.compiler import find_compiler
from hotgrad.engines.native.engine import Native
from hotgrad.files import digest

BASE = torch.tensor([1.0, -2.0, 3.0, 0.5])
ENGINES = ["replay", pytest.param("native", marks=pytest.mark.skipif(find_compiler() is None, reason="there is no C compiler"))]


class Own(torch.Tensor):
    pass


KINDS: dict[str, Callable[[], Tensor]] = {
    "negated": lambda: torch._neg_view(-BASE),
    "imaginary part": lambda: torch.complex(torch.zeros(4), -BASE).conj().imag,
    "row of imaginary parts": lambda: torch.complex(torch.zeros(2, 4), -BASE.expand(2, 4)).conj().imag[1],
    "column": lambda: torch.stack([BASE, BASE], 1)[:, 0],
    "expanded": lambda: torch.tensor([2.0]).expand(4),
    "overlapping": lambda: torch.arange(3.0).as_strided((2, 2), (1, 1)).reshape(4).as_strided((4,), (1,)),
    "windows": lambda: torch.arange(6.0).as_strided((4,), (1,), 1),
    "requires a gradient": lambda: BASE.clone().requires_grad_(),
    "subclass": lambda: BASE.clone().as_subclass(Own),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_input(kind: str, engine: str) -> None:
    given = KINDS[kind]()
    expected = given.detach() * 2 + 1
    for example in (given, torch.zeros(4)):
        assert torch.equal(hg.capture(lambda x: x * 2 + 1, example).to(engine)(given), expected)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_and_a_parameter_that_is_read(kind: str, engine: str) -> None:
    given = KINDS[kind]().detach()
    fixed = hg.Parameter(given, requires_grad=False) if kind != "subclass" else hg.Variable(given)
    program = hg.capture(lambda x: x * given + fixed, torch.ones(4)).to(engine)
    assert torch.equal(program(BASE), BASE * given + given)


@pytest.mark.skipif(find_compiler() is None, reason="there is no C compiler")
def test_a_state_that_is_written() -> None:
    make = Build()
    memory = torch._neg_view(-BASE)
    state = make.state(memory)
    make.update(state, make.run("Add", state, 1.0))
    native = Native(make.done(state))
    out = [torch.empty(1, 4)]
    for step in range(2):
        native.run([], None, 1, torch.zeros(1, 0, dtype=torch.float64), [], out)
        assert torch.equal(out[0][0], BASE + step) and torch.equal(memory, BASE + step + 1)


@pytest.mark.parametrize("engine", ["eager", *ENGINES])
def test_the_data_of_a_fit(engine: str) -> None:
    x = torch.linspace(-1, 1, 24).reshape(8, 3)
    results = []
    for data, target in ((x, x[:, :1].clone()), (torch._neg_view(-x), torch._neg_view(-x[:, :1].clone()))):
        model = hg.Sequential(hg.Linear(3, 4), hg.Tanh(), hg.Linear(4, 1), loss="mse", optimizer="adam")
        model.reset(0)
        model.fit(data, target, verbose=0, epochs=3, batch_size=4, seed=1, engine=engine)
        results.append([*(p.data for p in model.parameters()), model.predict(data)])
    assert all(map(torch.equal, *results))


def test_a_negated_parameter_is_not_trained() -> None:
    with pytest.raises(hg.SettingError, match=r"parameter 0 of shape \(4,\) is a negated view.*resolve_neg"):
        hg.optim.SGD([hg.Parameter(torch._neg_view(BASE.clone()))], lr=0.1)


def test_numpy_and_digests_see_signs() -> None:
    assert np.array_equal(hg.Variable(torch._neg_view(-BASE)).numpy(), BASE.numpy())
    assert digest(torch._neg_view(-BASE)) == digest(BASE) != digest(-BASE)


@pytest.mark.parametrize("given", [BASE.to_sparse(), torch.complex(BASE, BASE).conj()], ids=["sparse", "complex"])
def test_what_no_engine_can_read_is_refused(given: Any) -> None:
    with pytest.raises(hg.HotgradError, match=r"dense|complex"):
        hg.capture(lambda x: x * 2, given)
