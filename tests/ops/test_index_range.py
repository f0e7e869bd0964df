"""Indices and labels out of range raise one error on every engine, and leave everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fitting import compare, state
from graphs import leaf

import hotgrad as hg
from hotgrad import functional, optim

ENGINES = ["eager", "replay", "native"]
X, LABELS = hg.data.disc(43, seed=0)


def on(engine: str, f: Callable[..., Any], *examples: Any) -> Callable[..., Any]:
    return f if engine == "eager" else hg.capture(f, *examples).to(engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("wrong", [3, -1, 2**40, -(2**62)])
def test_labels_and_indices(wrong: int, engine: str) -> None:
    functions: dict[str, tuple[Callable[..., Any], Any]] = {
        "labels": (lambda o, t: functional.cross_entropy(o, t), torch.tensor([0, 1, 2, 0])),
        "weighted": (lambda o, t: functional.cross_entropy(o, t, "none") * 2, torch.tensor([0, 1, 2, 0])),
        "computed": (lambda o, t: functional.cross_entropy(o, t + 0 * t), torch.tensor([0, 1, 2, 0])),
        "gather": (lambda o, t: hg.gather(o * 2, 1, t), torch.tensor([[0], [1], [2], [0]])),
        "along rows": (lambda o, t: hg.gather(o.T, 0, t) + 1, torch.tensor([[0, 1, 2, 0]])),
        "short indices": (lambda o, t: hg.gather(o, 1, t.to(torch.int32)), torch.tensor([[0], [1], [2], [0]])),
        "scatter": (lambda o, t: hg.ops.ScatterAdd.apply(o[:, :1] * 1, t, shape=(4, 3), dim=1), torch.tensor([[0], [1], [2], [0]])),
    }
    output = torch.arange(12.0).reshape(4, 3)
    for name, (f, good) in functions.items():
        if name == "short indices" and abs(wrong) > 9:
            continue  # the conversion wraps, as everywhere
        run = on(engine, f, output, good)
        expected = f(hg.Variable(output), good).data
        for place in range(4):
            bad = good.clone()
            bad.view(-1)[place] = wrong
            with pytest.raises(hg.RangeError, match=str(wrong)) as caught:
                run(hg.Variable(output) if engine == "eager" else output, bad)
            assert isinstance(caught.value, (hg.DataError, IndexError, ValueError)), name
            found = run(hg.Variable(output) if engine == "eager" else output, good)
            torch.testing.assert_close(found.data if isinstance(found, hg.Variable) else found, expected)


@pytest.mark.parametrize("engine", ["replay", "native"])
def test_a_training_program_changes_nothing(engine: str) -> None:
    w = hg.Parameter(torch.ones(2, 3))
    optimizer = optim.Adam([w], lr=optim.StepLR(0.1, 1, 0.5, per="step"))

    def step(x: Any, t: Any) -> Any:
        optimizer.zero_grad()
        loss = functional.cross_entropy(x @ w, t)
        loss.backward()
        optimizer.step()
        return loss

    program = hg.capture(step, X[:4], torch.tensor([0, 1, 2, 0])).to(engine)
    program(X[:4], torch.tensor([0, 1, 2, 0]))
    before = w.data.clone(), {name: t.clone() for name, t in optimizer._slots()[0].state.items()}, optimizer._slots()[0].count, optimizer.lr
    with pytest.raises(hg.DataError, match="3"):
        program(X[:4], torch.tensor([0, 1, 3, 0]))
    slot = optimizer._slots()[0]
    assert torch.equal(w.data, before[0]) and (slot.count, optimizer.lr) == before[2:]
    assert all(torch.equal(slot.state[name], t) for name, t in before[1].items())


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
@pytest.mark.parametrize("attended", [False, True])
def test_labels_of_ones_own_loss(attended: bool, engine: str) -> None:
    """That go out of range after some epochs, which may have run together: the model stands as after the last good one."""

    def loss(output: Any, target: Any) -> Any:
        return functional.cross_entropy(output, target + (output[:, 1] > output[:, 0] + 0.3).to(torch.int64) * 7)

    states = []
    for name in ("eager", engine):
        model = hg.Sequential(hg.Linear(2, 2), loss=loss, optimizer=optim.SGD(lr=0.1))
        model[0].weight.data.copy_(torch.tensor([[0.1, -0.1], [0.05, 0.1]]))
        with pytest.raises(hg.DataError, match=r"\b[78]\b"):
            model.fit(X, LABELS, epochs=400, batch_size=10, seed=0, verbose=0, engine=name, callbacks=[lambda *_: None] if attended else ())
        states.append(state(model))
    assert states[0]["epochs"] > 2
    compare(states[1], states[0], 1e-4)


def test_an_element_that_is_picked_twice_gets_both_gradients() -> None:
    x = leaf([1.0, 2.0, 3.0])
    hg.gather(x, 0, torch.tensor([2, 2])).sum().backward()
    x[hg.Variable([0])].sum().backward()
    assert x.grad.tolist() == [1.0, 0.0, 2.0]
