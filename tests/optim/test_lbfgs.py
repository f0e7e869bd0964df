"""L-BFGS against torch's, its line search, and what it leaves alone."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad import interop
from hotgrad.errors import FileError, OperandError, TapeError
from hotgrad.optim import LBFGS, lbfgs


def rosenbrock(x: Any) -> Any:
    return ((1 - x[:-1]) ** 2).sum() + 100 * ((x[1:] - x[:-1] ** 2) ** 2).sum()


@pytest.mark.parametrize("settings", [{"lr": 0.3}, {"lr": 1.0, "history_size": 3, "max_iter": 7}, {"line_search_fn": "strong_wolfe"}])
def test_lbfgs_reaches_what_torch_reaches(settings: dict[str, Any]) -> None:
    """A small network on full batches, over several steps."""
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(40, n, generator=generator, dtype=torch.float64) for n in (3, 1))
    # with a line search, which each of the two does in its own way, to the one minimum of a linear model
    layers = [hg.Linear(3, 1)] if "line_search_fn" in settings else [hg.Linear(3, 5), hg.Tanh(), hg.Linear(5, 1)]
    model = hg.Sequential(*layers).to(torch.float64)
    model.reset_parameters(generator)
    theirs = interop.to_torch(model)
    optimizer, reference = LBFGS(model.parameters(), **settings), torch.optim.LBFGS(theirs.parameters(), **settings)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = hg.MSE()(model(x), y)
        loss.backward()
        return loss

    def their_closure() -> Any:
        reference.zero_grad()
        loss = torch.nn.functional.mse_loss(theirs(x), y)
        loss.backward()
        return loss

    for step in range(4):
        first, their_first = optimizer.step(closure), reference.step(their_closure)
        if step == 0:
            assert float(first) == pytest.approx(their_first.item(), rel=1e-12)
    assert closure().item() == pytest.approx(their_closure().item(), abs=1e-6)


def test_lbfgs_line_search_finds_the_minimum() -> None:
    x = hg.Parameter(torch.tensor([-1.2, 1.0, -1.0, 2.0], dtype=torch.float64))
    optimizer = LBFGS([x], line_search_fn="strong_wolfe", max_iter=200, max_eval=1000, tolerance_change=1e-16)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = rosenbrock(x)
        loss.backward()
        return loss

    before = rosenbrock(x).item()
    for _ in range(5):
        first = optimizer.step(closure).item()
        assert first <= before
        before = first
    assert closure().item() < 1e-12


def test_lbfgs_survives_an_infinite_loss() -> None:
    x = hg.Parameter(torch.tensor([0.5], dtype=torch.float64))
    optimizer = LBFGS([x], lr=10.0, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (x - 2 * x.log()).sum()  # NaN for x < 0; least at 2
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    assert x.item() == pytest.approx(2.0, abs=1e-5)


def test_lbfgs_leaves_frozen_parameters_and_those_without_gradient() -> None:
    x, frozen, unused = (hg.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(3))
    frozen.requires_grad = False
    optimizer = LBFGS([x, frozen, unused])

    def closure() -> Any:
        optimizer.zero_grad()
        loss = ((x - 3 * frozen) ** 2).sum()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert (x.data - 3).abs().max() < 1e-5
    assert frozen.tolist() == unused.tolist() == [1.0, 1.0]
    x.requires_grad, frozen.requires_grad = False, True  # what was learnt is of another space
    x.data.fill_(6.0)
    for _ in range(3):
        optimizer.step(closure)
    assert (frozen.data - 2).abs().max() < 1e-5


def test_lbfgs_state_goes_through_a_file() -> None:
    def setup(values: Any) -> tuple[Any, Any, Any]:
        x = hg.Parameter(values)
        optimizer = LBFGS([x], lr=0.1, max_iter=4)

        def closure() -> Any:
            optimizer.zero_grad()
            loss = ((x**2) * (1 + x.sin())).sum()
            loss.backward()
            return loss

        return x, optimizer, closure

    x, optimizer, closure = setup(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    optimizer.step(closure)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other, restored, their_closure = setup(x.data.clone())
    restored.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(3):
        optimizer.step(closure)
        restored.step(their_closure)
    assert torch.equal(x.data, other.data)
    with pytest.raises(FileError, match="memory"):
        restored.load_state_dict({})
    assert restored.fresh()._memory["iterations"] == 0


@pytest.mark.parametrize(
    ("closure", "message"),
    [(None, r"step\(closure\)"), (lambda: 3.0, "must return the loss"), (lambda: hg.Variable([1.0, 2.0]), "one element")],
)
def test_lbfgs_needs_a_closure(closure: Any, message: str) -> None:
    with pytest.raises(OperandError, match=message):
        LBFGS([hg.Parameter([1.0])]).step(closure)


def test_lbfgs_clip_norm_and_nothing_to_train() -> None:
    x = hg.Parameter([30.0, 40.0])
    optimizer = LBFGS([x], lr=1.0, max_iter=1, clip_norm=5.0)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (x * x).sum() * 0.5
        loss.backward()
        return loss

    optimizer.step(closure)  # the first step is lr over the sum of the clipped gradient (3, 4)
    assert x.tolist() == pytest.approx([30 - 3 / 7, 40 - 4 / 7], rel=1e-4)
    x.requires_grad = False
    with pytest.raises(TapeError, match="requires a gradient"):
        optimizer.step(closure)


class Line:
    """What the line search sees of an optimizer's run: one parameter, a function of it and its derivative."""

    def __init__(self, function: Any) -> None:
        self.x = torch.zeros(1, dtype=torch.float64)
        self.function, self.evaluations = function, 0
        self.s, self.left = SimpleNamespace(tolerance_change=1e-12), 100

    def move(self, by: Any) -> None:
        self.x += by

    def evaluate(self) -> Any:
        self.evaluations += 1
        x = hg.Variable(self.x.clone(), True)
        value = self.function(x).sum()
        value.backward()
        return value, float(value), x.grad


FUNCTIONS = {
    "parabola": lambda x: (x - 1) ** 2,
    "flat far away": lambda x: -x / (x**2 + 2),  # Moré and Thuente 1994, equation 5.1
    "steep start": lambda x: (x + 0.004) ** 5 - 2 * (x + 0.004) ** 4,  # the same, equation 5.2
    "wavy": lambda x: (x - 2) ** 2 / 10 + 0.3 * (5 * x).cos() - x * 0.5,
    "wall": lambda x: x - 3 * (x + 1).log() + 1 / (4 - x),
    "domain ends": lambda x: x**2 - 2 * x - (1.5 - x).log(),
}


@pytest.mark.parametrize("length", [1e-3, 0.1, 1.0, 3.0, 10.0, 1e3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_line_search_meets_the_wolfe_conditions(name: str, length: float) -> None:
    """Wherever it starts: the loss has fallen, the slope has flattened, and the parameters stand there."""
    line = Line(FUNCTIONS[name])
    _, loss, gradient = line.evaluate()
    direction = -gradient.sign()
    slope = float(gradient @ direction)
    t, found, g = lbfgs._strong_wolfe(line, direction, length, loss, gradient, slope)  # type: ignore[arg-type]
    assert line.evaluations <= 27
    assert t > 0
    assert float(line.x) == pytest.approx(float(t * direction), rel=1e-9)
    _, again, _ = line.evaluate()
    assert again == pytest.approx(found, rel=1e-9)
    assert found <= loss + 1e-4 * t * slope
    assert abs(float(g @ direction)) <= 0.9 * abs(slope)


def test_line_search_ends_where_the_loss_falls_for_ever() -> None:
    line = Line(lambda x: -x)
    _, loss, gradient = line.evaluate()
    t, found, _ = lbfgs._strong_wolfe(line, torch.ones(1, dtype=torch.float64), 1.0, loss, gradient, -1.0)  # type: ignore[arg-type]
    assert line.evaluations <= 27
    assert found == pytest.approx(-t)
    assert t > 1
    assert float(line.x) == pytest.approx(t)


def test_lbfgs_ends_at_a_minimum_and_where_nothing_falls() -> None:
    """At a minimum nothing moves; where the gradient lies, the search ends with the best it saw."""
    x = hg.Parameter([1.0])
    optimizer = LBFGS([x], line_search_fn="strong_wolfe")

    def at_minimum() -> Any:
        optimizer.zero_grad()
        loss = ((x - 1) ** 2).sum()
        loss.backward()
        return loss

    optimizer.step(at_minimum)
    assert x.tolist() == [1.0]

    def lying() -> Any:
        x.grad = torch.ones(1)
        return (x.detach() * -1).sum()

    optimizer.step(lying)
    assert x.item() == pytest.approx(1.0, abs=1e-3)
