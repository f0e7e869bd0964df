"""Every layer, loss and optimizer that is published, whatever there are: against torch's of the same name, on all engines, in files."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import compare, state
from torch import nn as tnn

import hotgrad as hg
from hotgrad import interop, modules, nn, optim
from hotgrad.training.model import LOSSES, OPTIMIZERS, published

LAYERS = {kind.__name__: kind for kind in published(modules, nn.Module) if not issubclass(kind, nn.Loss)}
# what gives several results, takes integers, or a function, has tests of its own
for name in ("Embedding", "GRU", "LSTM", "Lambda", "MultiheadAttention", "RNN"):
    del LAYERS[name]
SHAPES = [(6, 4), (6, 4, 5, 5), (6, 4, 8)]  # rows of features, images, or signals


def example(kind: Any) -> Any:
    """A layer with 4 wherever its constructor wants a value, or around a layer where it wants one."""
    wanted = [p for p in inspect.signature(kind).parameters.values() if p.default is p.empty]
    return kind(*[hg.Linear(4, 4) if p.annotation in ("Any", Any) else 4 for p in wanted])


@functools.cache
def shape_for(name: str) -> tuple[int, ...]:
    """The first of SHAPES that this layer takes."""
    for shape in SHAPES:
        try:
            example(LAYERS[name])(torch.zeros(shape))
        except hg.HotgradError:
            continue
        return shape
    raise AssertionError(f"{name} takes none of {SHAPES}")


def ready(name: str) -> Any:
    """This layer in eval mode and double, its lazy weights sized."""
    layer = example(LAYERS[name]).to(torch.float64).eval()
    layer(torch.zeros(shape_for(name), dtype=torch.float64))
    return layer


def around(name: str, **settings: Any) -> hg.Sequential:
    """A model that has this layer between others."""
    shape = shape_for(name)
    first = {
        2: [hg.Linear(4, 4, bias=False)],
        3: [lambda x: x.reshape(-1, 1, 4), nn.Conv1d(1, 4, 3, padding=4, bias=False)],
        4: [lambda x: x.reshape(-1, 1, 2, 2), nn.Conv2d(1, 4, 3, padding=4, bias=False)],
    }[len(shape)]
    return hg.Sequential(*first, example(LAYERS[name]), nn.Flatten(), hg.Linear(2), **settings)


def problem(loss: str) -> tuple[torch.Tensor, torch.Tensor]:
    """x (12, 4), and a target that this loss takes with an output (12, 2): floats of 0 and 1, or labels."""
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(12, 4, generator=generator), torch.randint(2, (12, 2), generator=generator)
    found = LOSSES[loss]()
    for target in (y[:, 0], y.float()):
        try:
            found(torch.zeros(12, 2), target)
            found.check(torch.zeros(12, 2), target)
        except (hg.DtypeError, hg.ShapeError, hg.DataError):
            continue
        return x, target
    raise AssertionError(f"{loss} takes neither labels nor floats")


def trained(model: hg.Sequential, engine: str, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
    model.to(torch.float64)
    model(x.double())  # sizes what is lazy
    model.reset(0)
    history = model.fit(x.double(), y.double() if y.is_floating_point() else y, epochs=3, verbose=0, seed=1, engine=engine)
    assert history.engine == engine
    return state(model)


ENGINES = pytest.mark.parametrize("engine", ["replay", "native"])


@ENGINES
@pytest.mark.parametrize("name", LAYERS)
def test_layers_train_alike_on_all_engines(name: str, engine: str, thorough: bool) -> None:
    if engine == "native" and not thorough and name in modules.activations.__all__:  # test_vocabulary has their functions
        pytest.skip("with --thorough")
    x, y = problem("mse")
    results = [trained(around(name, loss="mse", optimizer="sgd"), each, x, y) for each in ("eager", engine)]
    compare(results[1], results[0], 1e-9)


@ENGINES
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_train_alike_on_all_engines(loss: str, engine: str) -> None:
    x, y = problem(loss)
    results = [
        trained(hg.Sequential(hg.Linear(4, 3), hg.Tanh(), hg.Linear(3, 2), loss=loss, optimizer="sgd"), each, x, y)
        for each in ("eager", engine)
    ]
    compare(results[1], results[0], 1e-9)


@ENGINES
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_train_alike_on_all_engines(optimizer: str, engine: str, tmp_path: Path) -> None:
    """By name; and the state that was saved is the state that is loaded."""
    x, y = problem("mse")
    models = [hg.Sequential(hg.Linear(4, 3), hg.Tanh(), hg.Linear(3, 2), loss="mse", optimizer=optimizer) for _ in range(2)]
    results = [trained(model, each, x, y) for model, each in zip(models, ("eager", engine))]
    compare(results[1], results[0], 1e-7)
    other = OPTIMIZERS[optimizer](models[1].parameters())
    other.load_state_dict(models[1].optimizer.state_dict())
    assert str(other.state_dict()) == str(models[1].optimizer.state_dict())


@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_right_gradients(name: str) -> None:
    """Those of the input and of the parameters, against differences, once the first values are off the kinks."""
    layer = ready(name)
    x = torch.randn(shape_for(name), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for parameter in layer.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(5))
    own = list(layer.parameters())
    given = hg.Variable(x.clone(), requires_grad=True)
    weights = torch.randn(layer(x).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    (layer(given) * weights).sum().backward()
    for leaf in (given, *own):
        direction = torch.randn(leaf.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
        values = []
        for step in (1e-6, -2e-6):
            leaf.data.add_(direction, alpha=step)
            found = layer(given.data)
            values.append(float(((found.data if isinstance(found, hg.Variable) else found) * weights).sum()))
        leaf.data.add_(direction, alpha=1e-6)
        assert float((leaf.grad * direction).sum()) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-6)  # type: ignore[operator]


@pytest.mark.parametrize("name", LAYERS)
def test_layers_compute_what_torch_s_of_the_same_name_do(name: str) -> None:
    layer = ready(name)
    if not hasattr(tnn, name) and name != "Residual":
        with pytest.raises(hg.OperandError, match=f"got {name}"):
            interop.to_torch(layer)
        return
    x = torch.randn(shape_for(name), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    theirs = interop.to_torch(layer)
    found = layer(x)
    expected = theirs(x)
    assert torch.allclose(found.data if isinstance(found, hg.Variable) else found, expected, rtol=1e-12)
    back = interop.from_torch(theirs)
    assert repr(back) == repr(layer)
    for a, b in zip(back.state_dict().values(), layer.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", LAYERS)
def test_models_are_the_same_after_a_file(name: str, tmp_path: Path) -> None:
    x, _ = problem("mse")
    model = around(name, loss="mse", optimizer="sgd")
    model(x)
    model.save(tmp_path / "model.pt")
    other = around(name)
    other(x)
    other.load(tmp_path / "model.pt")
    model.eval()
    other.eval()
    assert torch.equal(model(x).data, other(x).data)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_compute_what_torch_s_of_the_same_name_do(loss: str, reduction: str) -> None:
    kind = LOSSES[loss]
    _, y = problem(loss)
    output = torch.randn(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    y = y.double() if y.is_floating_point() else y
    ours = hg.Variable(output.clone(), requires_grad=True)
    found = kind(reduction)(ours, y) if kind is not nn.Huber else kind(reduction=reduction)(ours, y)
    found.sum().backward()
    if not hasattr(tnn, f"{kind.__name__}Loss"):  # then the values one by one, which are what they are added up from
        values = kind(reduction="none")(output, y)
        expected = {"mean": values.mean(), "sum": values.sum(), "none": values}[reduction]
        assert torch.allclose(found.data, expected)
        return
    theirs = output.clone().requires_grad_()
    expected = getattr(tnn, f"{kind.__name__}Loss")(reduction=reduction)(theirs, y)
    expected.sum().backward()
    assert torch.allclose(found.data, expected, rtol=1e-12)
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_do_what_torch_s_of_the_same_name_do(name: str) -> None:
    kind = OPTIMIZERS[name]
    start = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    ours, theirs = hg.Parameter(start.clone()), start.clone().requires_grad_()
    optimizer = kind([ours], **({} if kind.needs_residuals else {"lr": 0.02}))
    reference = getattr(torch.optim, kind.__name__)([theirs], lr=0.02) if hasattr(torch.optim, kind.__name__) else None
    losses = []

    def closure(optimizer: Any, leaf: Any) -> Any:
        optimizer.zero_grad()
        loss = ((leaf - 1.0) ** 2).mean() + (leaf**4).mean()
        loss.backward()
        return loss

    for _ in range(10):
        if optimizer.needs_residuals:
            losses.append(float(optimizer.step(lambda: hg.cat([ours - 1.0, ours**2]))))
        elif optimizer.needs_closure:
            losses.append(float(optimizer.step(lambda: closure(optimizer, ours))))
        else:
            losses.append(float(closure(optimizer, ours)))
            optimizer.step()
        if reference is not None:
            reference.step(lambda: closure(reference, theirs))
    assert losses[-1] < losses[0]
    if reference is not None:
        assert torch.allclose(ours.data, theirs.detach(), rtol=1e-9)


def test_the_names_are_those_they_were() -> None:
    """They stand in programs and files of those who use hotgrad."""
    assert {"mse", "l1", "huber", "cross_entropy", "bce_with_logits"} <= set(LOSSES)
    assert {"sgd", "adam", "adamw", "rmsprop", "lbfgs"} <= set(OPTIMIZERS)
    assert {"Parameter", "Sequential", *modules.__all__} == set(nn.__all__)
    assert all(hasattr(optim, name) for name in optim.__all__)
