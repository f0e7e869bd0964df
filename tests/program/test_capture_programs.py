"""Captured programs keep to themselves: what they show, take and give, on any thread; and capturing leaves everything as it was."""

from __future__ import annotations

import copy
import gc
import random
import secrets
import threading
import time
import uuid
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from capturing import OPTIMIZERS, X, check_equal, check_everything, engines, everything, network, randn, training

import hotgrad as hg
from hotgrad import optim
from hotgrad.program.unsteady import Unsteady, draws

pytestmark = pytest.mark.usefixtures("native_in_full_runs")

QUICK = {"test_threads", "test_run_gives_the_programs_own_memory"}


# ------------------------------------------------------------------------------------------------ the program itself


def test_str() -> None:
    w = hg.Parameter([1.0, 2.0])
    optimizer = optim.SGD([w], lr=0.1)

    def f(x: Any) -> Any:
        optimizer.zero_grad()
        loss = ((w * x) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss

    text = str(hg.capture(f, torch.ones(2)))
    for part in ("inputs: x0 float32(2,)", "scalars: lr", "states: w float32(2,)", "Mul(", "Pow(", "Sum(", "updates: w <-", "outputs: %"):
        assert part in text, text
    assert str(hg.capture(lambda x: x * 2, torch.ones(2))).splitlines() == [
        "inputs: x0 float32(2,)", "  %0 = Mul(x0, 2)  float32(2,)", "outputs: %0",
    ]  # fmt: skip


@engines
def test_source_and_repr(engine: str) -> None:
    program = hg.capture(lambda x: x * 2, torch.ones(2)).to(engine)
    assert program.source()
    assert "1 instructions" in repr(program) and engine in repr(program)


def test_programs_are_short() -> None:
    """Nothing that no result needs, nothing twice, constants computed."""
    t = torch.ones(3)
    program = hg.capture(lambda x: ((x * 2).exp() + (x * 2).exp() * (hg.Variable(t) * 3), x.sin())[0], torch.ones(3))
    names = [i.op.name for i in program.code.instructions]
    assert sorted(names) == ["Add", "Exp", "Mul", "Mul"]
    assert len(program.code.constants) == 1


@engines
def test_run_gives_the_programs_own_memory(engine: str) -> None:
    program = hg.capture(lambda x: (x * 2, x.sum()), X).to(engine)
    called = program(X)
    first = program.run(X)
    kept = [t.clone() for t in first]
    second = program.run(X + 1)
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(first, second))
    assert not torch.equal(first[0], kept[0])
    again = program(X)
    assert all(torch.equal(a, b) for a, b in zip(called, again))
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(called, again))
    assert all(torch.equal(a, b) for a, b in zip(called, kept))
    chained = program.run(program.run(X)[0])  # what it returned may be its own input
    check_equal(chained[0].clone(), X * 4, True)


@engines
def test_inputs_of_any_layout(engine: str) -> None:
    program = hg.capture(lambda x: x.tanh() + x.sum(0), torch.zeros(4, 3)).to(engine, fuse=False)
    for x in (X.T, torch.ones(3).expand(4, 3), randn(8, 6)[::2, ::2], randn(4, 3)):
        expected = (hg.Variable(x).tanh() + hg.Variable(x).sum(0)).data
        check_equal(program(x), expected, False)
    assert torch.equal(X.T, program(X.T) * 0 + X.T), "inputs are not written to"
    transposed = hg.capture(lambda x: x.tanh() + x.sum(0), X.T).to(engine, fuse=False)
    check_equal(transposed(X.T.contiguous()), (hg.Variable(X.T).tanh() + hg.Variable(X.T).sum(0)).data, False)


@engines
def test_inputs_as_variables_arrays_and_lists(engine: str) -> None:
    program = hg.capture(lambda x: x * 2, [1.0, 2.0]).to(engine)
    for x in (torch.tensor([3.0, 4.0]), hg.Variable([3.0, 4.0]), [3.0, 4.0], hg.Variable([3.0, 4.0], requires_grad=True)):
        result = program(x)
        assert type(result) is torch.Tensor and result.tolist() == [6.0, 8.0]


@engines
def test_two_programs_side_by_side(engine: str) -> None:
    w = hg.Parameter(randn(4, 4))
    one, two = hg.capture(lambda x: (x @ w).tanh(), X).to(engine), hg.capture(lambda x: (x @ w).exp(), X).to(engine)
    other = hg.capture(lambda x: (x @ w).tanh(), X).to(engine)
    a, b, c = one.run(X), two.run(X), other.run(X * 2)
    check_equal(a.clone(), (hg.Variable(X) @ w).tanh().data, False)
    check_equal(b.clone(), (hg.Variable(X) @ w).exp().data, False)
    check_equal(c.clone(), (hg.Variable(X * 2) @ w).tanh().data, False)


@engines
def test_threads(engine: str) -> None:
    """Each captures and runs its own; and all run the same one."""
    same = hg.capture(lambda x: (x @ x.T).tanh().sum(1), X).to(engine, fuse=False)
    wrong: list[Any] = []

    def work(k: int) -> None:
        try:
            x = X * k
            expected = (hg.Variable(x) @ hg.Variable(x).T).tanh().sum(1).data
            own = hg.capture(lambda v: (v @ v.T).tanh().sum(1), x).to(engine, fuse=False)
            for _ in range(200):
                for program in (own, same):
                    if not torch.allclose(program(x), expected, rtol=1e-6, atol=0):
                        wrong.append((k, "own" if program is own else "same"))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]


def test_eager_work_on_another_thread_while_capturing() -> None:
    """A capture concerns its own thread."""
    begun, done = threading.Event(), threading.Event()
    results: list[Any] = []

    def eager() -> None:
        begun.wait(60)
        x = hg.Variable([1.0, 2.0], requires_grad=True)
        (x * x).sum().backward()
        results.append((float((x * 2).sum()), x.grad.tolist(), float(torch.ones(2).exp()[0])))  # type: ignore[union-attr]
        done.set()

    thread = threading.Thread(target=eager)
    thread.start()

    def f(x: Any) -> Any:
        begun.set()
        done.wait(60)
        return x * 2

    hg.capture(f, X, verify=True)
    thread.join()
    assert results == [(6.0, [2.0, 4.0], pytest.approx(2.7182817))]


def test_collections_while_another_capture_ends() -> None:
    """The garbage collector runs callbacks that read the clock; these are not the function's."""
    inside, over = threading.Event(), threading.Event()
    results: list[Any] = []

    def f(x: Any) -> Any:
        inside.set()
        over.wait(60)
        garbage = [[] for _ in range(10_000)]  # type: ignore[var-annotated]  # enough for a collection
        return x * len(garbage)

    def work() -> None:
        try:
            results.append(hg.capture(f, X, verify=True)(X).shape)
        except hg.CaptureError as error:
            results.append(error)

    def callback(phase: str, info: dict[str, int]) -> None:
        time.perf_counter()

    thread = threading.Thread(target=work)
    gc.callbacks.append(callback)
    try:
        Unsteady().run(lambda: (thread.start(), inside.wait(60)))
        over.set()
        thread.join()
    finally:
        gc.callbacks.remove(callback)
    assert results == [X.shape]
    assert gc.isenabled()


# ------------------------------------------------------------------------------------------------ indexing by a Variable


def test_indexing_by_a_mask_names_what_to_use() -> None:
    a, x = hg.Parameter(torch.randn(7, 4)), torch.tensor([3, 0, 3])
    with pytest.raises(hg.CaptureError, match=r"indexing by a Variable.*hg\.where"):
        hg.capture(lambda x: a[x > 1], x)


# ------------------------------------------------------------------------------------------------ ops that draw random numbers

OWN, NUMPYS, PYTHONS = torch.Generator(), np.random.default_rng(0), random.Random(0)
DRAWING = {
    "torch": lambda a: a * torch.rand(()),
    "torch dropout": lambda a: torch.nn.functional.dropout(a),
    "torch gumbel": lambda a: torch.nn.functional.gumbel_softmax(a, dim=-1),
    "torch normal_": lambda a: a + torch.zeros_like(a).normal_(),
    "torch distributions": lambda a: a + torch.distributions.Normal(0.0, 1.0).sample(),
    "torch generator": lambda a: a * torch.rand((), generator=OWN),
    "numpy": lambda a: a * np.random.rand(),
    "numpy generator": lambda a: a * NUMPYS.random(),
    "random": lambda a: a * random.random(),
    "random gauss": lambda a: a * random.gauss(0, 1),
    "random generator": lambda a: a * PYTHONS.random(),
    "secrets": lambda a: a * secrets.randbelow(9),
    "uuid": lambda a: a * (uuid.uuid4().int % 7),
    "clock": lambda a: a * time.perf_counter(),
}


def drawing(forward: Any) -> Any:
    return type("Drawing", (hg.Primitive,), {"forward": staticmethod(forward), "vjps": (lambda g, out, a: g,)}, register=False)


@pytest.mark.parametrize("how", ["named", "apply itself"])
@pytest.mark.parametrize("kind", DRAWING)
def test_an_op_that_draws_random_numbers_or_reads_a_clock_is_refused(kind: str, how: str) -> None:
    op = drawing(DRAWING[kind])
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]
    with pytest.raises(hg.CaptureError, match=r"random numbers|at each run|was drawn from"):
        hg.capture((lambda x: op.apply(x)) if how == "named" else hg.Sequential(op.apply), X)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:], "eager execution draws what it would have drawn"


def test_an_op_is_captured_while_another_thread_draws() -> None:
    def forward(a: Any) -> Any:
        if not drawn:
            drawn.append(1)
            thread = threading.Thread(target=torch.rand, args=(1,))
            thread.start()
            thread.join()
        return a * 2

    drawn: list[int] = []
    assert draws(lambda: forward(1)) == (2, False)
    assert drawn


@pytest.mark.parametrize("kind", ["torch", "numpy", "random"])
def test_a_fit_with_an_op_that_draws_is_eager(kind: str) -> None:
    def fitted(engine: Any) -> Any:
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        model = hg.Sequential(hg.Linear(2, 6), op.apply, hg.Linear(6, 2), loss="cross_entropy", optimizer="sgd")
        return model.fit(*hg.data.disc(3000, seed=0), epochs=2, batch_size=4, seed=0, verbose=0, engine=engine)

    op = drawing(DRAWING[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hg.EngineWarning)
        auto = fitted("auto")
    assert (auto.engine, auto[-1]["loss"]) == ("eager", fitted("eager")[-1]["loss"])
    assert "random" in auto.engine_note
    with pytest.raises(hg.CaptureError):
        fitted("replay")


# ------------------------------------------------------------------------------------------------ everything stays as it was


class Failed(Exception):
    pass


@pytest.mark.parametrize("fails", ["", "reads", "raises", "returns", "second"])
def test_capturing_leaves_everything_as_it_was(fails: str) -> None:
    model = network()
    optimizer = optim.Adam(list(model.parameters()), lr=optim.CosineLR(0.1, 5, per="step"), clip_norm=1.0)
    runs = 0

    def f(x: Any) -> Any:
        nonlocal runs
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        if fails == "reads":
            float(loss)
        if fails == "raises":
            raise Failed
        if fails == "second":
            runs += 1
            if runs == 2:
                raise Failed
        return 3.0 if fails == "returns" else loss

    for trained in (False, True):
        if trained:
            optimizer.zero_grad()
            (model(hg.Variable(X)) ** 2).mean().backward()
            optimizer.step()
        kept = [p.grad for p in model.parameters()]
        length, before, random = len(hg.tape()), everything(model, optimizer), torch.get_rng_state()
        versions = [p.data._version for p in model.parameters()]
        if fails:
            with pytest.raises((hg.CaptureError, Failed)):
                hg.capture(f, X)
        else:
            hg.capture(f, X)
        check_everything(everything(model, optimizer), before)
        assert all(p.grad is grad for p, grad in zip(model.parameters(), kept))
        assert [p.data._version for p in model.parameters()] == versions
        assert len(hg.tape()) == length and torch.equal(torch.get_rng_state(), random)
        x = hg.Variable([1.0], requires_grad=True)
        (x * x).backward()
        assert x.grad is not None and x.grad.tolist() == [2.0], "eager goes on"
        assert torch.ones(2).exp().shape == (2,)
        runs = 0


def test_a_capture_before_the_first_step_keeps_the_optimizers_state_empty() -> None:
    model = hg.Linear(4, 2)
    step, optimizer = training(OPTIMIZERS["adam"], model)
    program = hg.capture(step, X, randn(3, 2))
    del program
    gc.collect()
    other = copy.deepcopy(model)
    again, theirs = training(OPTIMIZERS["adam"], other)
    for f in (step, again):
        f(hg.Variable(X), hg.Variable(randn(3, 2)))
    check_everything(optimizer.state_dict(), theirs.state_dict())


def test_captures_do_not_nest() -> None:
    example = torch.ones(2)

    def f(x: Any) -> Any:
        return hg.capture(lambda y: y * 2, example)(x)

    with pytest.raises(hg.CaptureError, match="nest"):
        hg.capture(f, torch.ones(2))
    assert torch.equal(hg.capture(lambda x: x * 2, torch.ones(2))(torch.ones(2)), torch.full((2,), 2.0))


def test_capturing_under_no_grad_and_in_a_tape() -> None:
    with hg.no_grad():
        program = hg.capture(lambda x: x * 2, X)
        assert torch.equal(program(X), X * 2)
    with hg.Tape() as tape:
        x = hg.Variable(X, requires_grad=True)
        y = x * 3
        hg.capture(lambda v: v * 2, X)
        assert len(tape) == 1
        y.sum().backward()
    assert torch.equal(x.grad, torch.full((3, 4), 3.0))  # type: ignore[arg-type]


def test_the_examples_stay_as_they_were() -> None:
    x = hg.Variable(X.clone(), requires_grad=True)
    x.grad = torch.ones(3, 4)

    def f(v: Any) -> Any:
        v.grad = None
        (v * v).sum().backward()
        return v.grad

    program = hg.capture(f, x)
    assert torch.equal(x.data, X) and torch.equal(x.grad, torch.ones(3, 4))
    program(x)
    assert torch.equal(x.grad, torch.ones(3, 4))


def test_programs_are_freed() -> None:
    w = hg.Parameter(randn(4, 4))
    program = hg.capture(lambda x: x @ w, X)
    program(X)
    seen = weakref.ref(program)
    del program
    gc.collect()
    assert seen() is None


@engines
def test_no_warnings(engine: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hg.capture(lambda x: x.T @ x, X).to(engine)(X)
