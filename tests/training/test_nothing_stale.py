"""Captured training does what eager training does, whatever the user's Python reads, and whatever changes it."""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from changing_steps import STEPS
from stale import READERS, one

import hotgrad as hg
from hotgrad.engines.native import engine as native
from hotgrad.engines.native.compiler import find_compiler
from hotgrad.engines.registry import ENGINES
from hotgrad.program.captured import Captured
from hotgrad.program.guards import Watch

X = torch.randn(14, 3, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 2, (14,), generator=torch.Generator().manual_seed(1))
cross_entropy = hg.functional.cross_entropy
FORMS: dict[str, Callable[[Callable[[], Any]], tuple[Any, Any]]] = {
    "a factor of the loss": lambda read: (hg.Tanh(), lambda o, t: cross_entropy(o, t) * read()),
    "a factor in a layer": lambda read: (lambda h: h * read(), cross_entropy),
    "a branch": lambda read: (hg.Tanh(), lambda o, t: cross_entropy(o, t) if read() < 2.5 else cross_entropy(o * 2, t)),
}
# Numbers that hotgrad moves differ from step to step: a branch on one is refused.
MOVING = ("hotgrad other lr", "hotgrad schedule", "hotgrad schedule count", "hotgrad plateau")


def trained(model: hg.Sequential, callback: Any, engine: str, **settings: Any) -> tuple[str, list[Any], torch.Tensor]:
    callbacks = [] if callback is None else [lambda m, h: (callback(m, h), None)[1]]
    given = {"batch_size": 5, "seed": 0, "verbose": 0, "epochs": 4, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hg.EngineWarning)
        history = model.fit(given.pop("x", X), Y, engine=engine, callbacks=callbacks, **given)
    told = history.column("loss") + (history.column("val_loss") if "validation_data" in settings else [])
    return history.engine, told, torch.cat([p.data.flatten().double() for p in model.parameters()])


def check_same(found: tuple[str, list[Any], torch.Tensor], eager: tuple[str, list[Any], torch.Tensor], tolerance: float = 2e-4) -> None:
    tolerance = tolerance if found[0] == "native" else 0.0
    np.testing.assert_allclose(found[1], eager[1], rtol=0, atol=tolerance)
    torch.testing.assert_close(found[2], eager[2], rtol=0, atol=tolerance)


def with_reader(name: str, form: str, engine: str) -> tuple[str, list[Any], torch.Tensor]:
    read, change = one(READERS[name])
    layer, loss = FORMS[form](read)
    torch.manual_seed(0)
    model = hg.Sequential(hg.Linear(3, 4), layer, hg.Linear(4, 2), optimizer=hg.optim.SGD(lr=0.1), loss=loss)
    return trained(model, lambda m, h: change(1.0 + len(h)), engine)


@pytest.mark.parametrize("name", READERS)
def test_what_the_step_reads(name: str, thorough: bool, request: pytest.FixtureRequest) -> None:
    """Each way of reading a number, in the loss, in a layer and in a branch, changed by a callback after each epoch."""
    place = list(READERS).index(name)
    for number, (form, engine) in enumerate(itertools.product(FORMS, ("replay", "native", "auto"))):
        if not thorough and (number != place % 45 if number % 3 else number // 3 != place % 3):
            continue
        if engine == "native" and find_compiler() is None:
            continue
        eager = with_reader(name, form, "eager")
        if name in MOVING and form == "a branch" and engine != "auto":
            with pytest.raises(hg.CaptureError, match="differs from step to step"):
                with_reader(name, form, engine)
        else:
            check_same(with_reader(name, form, engine), eager)
        assert len({round(float(loss), 5) for loss in eager[1]}) > 1


@pytest.mark.parametrize("name", STEPS)
def test_steps_that_change(name: str, thorough: bool) -> None:
    """Structure, rules, settings, numbers, tensors, and what hotgrad moves itself."""
    model, callback, settings = STEPS[name]()
    eager = trained(model, callback, "eager", **settings)
    for engine in ("replay", "native", "auto") if thorough else ("replay",):
        if engine == "native" and (find_compiler() is None or name.startswith("own op")):
            continue
        model, callback, settings = STEPS[name]()
        check_same(trained(model, callback, engine, **settings), eager)


def counting(k: argparse.Namespace) -> Callable[[Any], Any]:
    def layer(h: Any) -> Any:
        k.calls += 1
        return h / k.calls

    return layer


def test_a_refused_capture_leaves_the_users_objects_as_they_were() -> None:
    """So that eager training begins where it would have begun."""
    found, calls = [], []
    for engine in ("eager", "auto"):
        k = argparse.Namespace(calls=0)
        torch.manual_seed(0)
        model = hg.Sequential(hg.Linear(3, 4), counting(k), hg.Linear(4, 2), optimizer="sgd", loss="cross_entropy")
        found.append(trained(model, None, engine, epochs=60))
        calls.append(k.calls)
    assert found[1][0] == "eager" and calls[0] == calls[1] >= 180
    check_same(found[1], found[0])


@pytest.mark.skipif(find_compiler() is None, reason="there is no C compiler")
def test_an_annealed_weight_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []
    compile_source = native._compiled
    monkeypatch.setattr(native, "_compiled", lambda *args: (compiled.append(len(told)), compile_source(*args))[1])
    args, told = argparse.Namespace(k=1.0), []

    def anneal(model: Any, history: Any) -> None:
        args.k = 1.0 + len(history)
        told.append(args.k)

    model = hg.Sequential(hg.Linear(3, 4), hg.Tanh(), hg.Linear(4, 2), optimizer="sgd", loss=lambda o, t: cross_entropy(o, t) * args.k)
    assert trained(model, anneal, "native", epochs=10)[0] == "native"
    assert compiled == [0, 1]


@pytest.mark.parametrize("engine", ENGINES)
def test_own_layers_are_not_traced_again(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with callbacks of the user's that change nothing."""
    monkeypatch.setattr(Captured, "compared", lambda self, watch: pytest.fail("it was traced again"))
    for optimizer in ("sgd", hg.optim.Adam(lr=hg.optim.StepLR(0.1, 2))):
        model = hg.Sequential(
            hg.Linear(3, 4), hg.nn.Dropout(0.1), hg.nn.BatchNorm1d(4), hg.Linear(4, 2), optimizer=optimizer, loss="cross_entropy"
        )
        trained(model, lambda m, h: None, engine, validation_data=(X, Y))


def test_a_comparing_trace_leaves_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators, buffers, gradients, the optimizer's state, tape and modes, also when it raises."""
    import random

    args = argparse.Namespace(k=1.0, fails=False)

    def layer(h: Any) -> Any:
        random.random()
        np.random.rand()
        if args.fails:
            raise ZeroDivisionError("it")
        return h * args.k

    generator = np.random.default_rng(0)
    model = hg.Sequential(hg.Linear(3, 4), hg.nn.BatchNorm1d(4), hg.nn.Dropout(0.5), lambda h: h * args.k, hg.Linear(4, 2))
    model.optimizer, model.loss = hg.optim.Adam(lr=0.1), "cross_entropy"
    found: list[Captured] = []
    init = Captured.__post_init__
    monkeypatch.setattr(Captured, "__post_init__", lambda self: (found.append(self), init(self))[1])
    trained(model, None, "replay")

    def state() -> Any:
        tensors = [p.data.clone() for p in model.parameters()] + [b.clone() for _, b in model.named_buffers()]
        kept = [value.clone() for slot in model.optimizer._slots() for value in slot.state.values()]
        counts = [slot.count for slot in model.optimizer._slots()]
        randoms = random.getstate(), str(np.random.get_state()), str(generator.bit_generator.state), model.generator.get_state().tolist()  # type: ignore[union-attr]
        rest = (
            counts,
            [m.training for m in model.modules()],
            len(hg.tape()),
            torch.get_rng_state().tolist(),
            [p.grad for p in model.parameters()],
        )
        return [t.tolist() for t in tensors + kept], randoms, rest

    model.train()
    before = state()
    assert not found[0].compared(Watch(found[0].watch.roots)).different
    assert state() == before
    model[3] = layer
    for fails in (False, True):
        args.fails = fails
        with pytest.raises((hg.CaptureError, ZeroDivisionError)):
            found[0].compared(Watch(found[0].watch.roots))
        assert state() == before
