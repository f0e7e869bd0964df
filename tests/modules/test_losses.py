"""Losses against torch, in value, gradient and second order; what they refuse; and that they do not overflow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import hotgrad as hg
from hotgrad import functional, nn
from hotgrad.errors import DataError, DtypeError, OperandError, SettingError, ShapeError

G = torch.Generator().manual_seed(0)


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=G, dtype=torch.float64)


LABELS = torch.tensor([0, 3, 1, 1, 2])
PROBABILITIES = torch.softmax(rand(5, 4), 1)
# ours, torch's, output, target
LOSSES: dict[str, tuple[Any, Any, torch.Tensor, torch.Tensor]] = {
    "mse": (functional.mse, F.mse_loss, rand(5, 4), rand(5, 4)),
    "mse 1-D": (functional.mse, F.mse_loss, rand(5), rand(5)),
    "l1": (functional.l1, F.l1_loss, rand(5, 4), rand(5, 4)),
    "huber": (functional.huber, F.huber_loss, 2 * rand(5, 4), rand(5, 4)),
    "huber 0.3": (
        lambda o, t, reduction="mean": functional.huber(o, t, reduction, 0.3),
        lambda o, t, reduction="mean": F.huber_loss(o, t, reduction, 0.3),
        rand(5, 4),
        rand(5, 4),
    ),
    "cross_entropy": (functional.cross_entropy, F.cross_entropy, 3 * rand(5, 4), LABELS),
    "cross_entropy int32": (
        functional.cross_entropy,
        lambda o, t, reduction: F.cross_entropy(o, t.long(), reduction=reduction),
        rand(5, 4),
        LABELS.int(),
    ),
    "cross_entropy probabilities": (functional.cross_entropy, F.cross_entropy, 3 * rand(5, 4), PROBABILITIES),
    "bce": (functional.bce_with_logits, F.binary_cross_entropy_with_logits, 3 * rand(5, 4), (rand(5, 4) > 0).double()),
    "bce soft": (functional.bce_with_logits, F.binary_cross_entropy_with_logits, 3 * rand(5), torch.sigmoid(rand(5))),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_equals_torch(name: str, reduction: str) -> None:
    ours, theirs, output, target = LOSSES[name]
    x, t = hg.Variable(output, True), output.clone().requires_grad_()
    value, expected = ours(x, target, reduction=reduction), theirs(t, target, reduction=reduction)
    assert value.shape == expected.shape
    assert torch.allclose(value.data, expected, rtol=1e-12, atol=1e-14)

    weights = rand(*expected.shape)
    (g,) = hg.gradients(value, x, weights, create_graph=True)
    (tg,) = torch.autograd.grad(expected, t, weights, create_graph=True)
    assert torch.allclose(g.data, tg, rtol=1e-11, atol=1e-14)

    direction = rand(*output.shape)
    (h,) = hg.gradients((g * direction).sum(), x, allow_unused=True)
    th = torch.autograd.grad((tg * direction).sum(), t, allow_unused=True)[0] if tg.requires_grad else None
    zero = torch.zeros_like(output)
    assert torch.allclose(h.data if h is not None else zero, th if th is not None else zero, rtol=1e-10, atol=1e-13)


def test_gradient_reaches_the_target() -> None:
    for ours, theirs in ((functional.mse, F.mse_loss), (functional.cross_entropy, F.cross_entropy)):
        output, target = rand(3, 4), torch.softmax(rand(3, 4), 1)
        y, t = hg.Variable(target, True), target.clone().requires_grad_()
        ours(hg.Variable(output), y).backward()
        theirs(output, t).backward()
        assert torch.allclose(y.grad, t.grad)


@pytest.mark.parametrize("kind", [nn.MSE, nn.L1, nn.Huber, nn.CrossEntropy, nn.BCEWithLogits])
def test_modules_are_the_functions(kind: Any) -> None:
    x = hg.Variable(rand(5, 4), True)
    target = LABELS if kind is nn.CrossEntropy else torch.rand(5, 4, dtype=torch.float64)
    function = kind.function if kind is not nn.Huber else functional.huber
    for reduction in ("mean", "sum", "none"):
        assert torch.equal(kind(reduction=reduction)(x, target).data, function(x, target, reduction).data)
    assert repr(kind()) == f"{kind.__name__}()"
    assert repr(kind(reduction="sum")) == f"{kind.__name__}(reduction='sum')"
    assert list(kind().parameters()) == []
    with pytest.raises(SettingError, match="did you mean 'mean'"):
        kind(reduction="meen")


def test_huber_delta() -> None:
    x, y = hg.Variable(rand(6)), rand(6)
    assert torch.allclose(nn.Huber(0.3)(x, y).data, F.huber_loss(x.data, y, delta=0.3))
    assert repr(nn.Huber(0.3, "sum")) == "Huber(delta=0.3, reduction='sum')"
    with pytest.raises(SettingError, match="delta must be a finite number above 0"):
        nn.Huber(0.0)
    with pytest.raises(SettingError, match="reduction"):
        functional.mse(x, y, "median")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stable_at_large_logits(dtype: torch.dtype) -> None:
    x = hg.Variable(torch.tensor([[1000.0, -1000.0, 0.0], [-1000.0, 1000.0, 999.0]], dtype=dtype), True)
    loss = functional.cross_entropy(x, torch.tensor([1, 1]), "none")
    assert torch.allclose(loss.data, torch.tensor([2000.0, 0.3132616875182228], dtype=dtype))
    loss.sum().backward()
    assert x.grad.isfinite().all()
    assert torch.allclose(x.grad[0], torch.tensor([1.0, -1.0, 0.0], dtype=dtype))

    z = hg.Variable(torch.tensor([1000.0, -1000.0, 1000.0, -1000.0, 0.0, 60.0, -60.0], dtype=dtype), True)
    y = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0], dtype=dtype)
    loss = functional.bce_with_logits(z, y, "none")
    t = z.data.clone().requires_grad_()
    expected = F.binary_cross_entropy_with_logits(t, y, reduction="none")
    assert torch.allclose(loss.data, expected)
    loss.sum().backward()
    expected.sum().backward()
    assert torch.allclose(z.grad, t.grad, atol=1e-20, rtol=1e-6)
    assert z.grad[4] == -0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_dtypes(dtype: torch.dtype) -> None:
    x, y = torch.tensor([[60.0, 20.0], [-60.0, 1.0]], dtype=dtype), torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=dtype)
    for ours, theirs in ((functional.bce_with_logits, F.binary_cross_entropy_with_logits), (functional.mse, F.mse_loss)):
        assert ours(hg.Variable(x), y).dtype is dtype
        assert torch.allclose(ours(hg.Variable(x), y).data.float(), theirs(x.float(), y.float()), rtol=0.02)


def test_raw_in_raw_out() -> None:
    """Plain tensors in, a plain tensor out; arrays and lists are taken as targets."""
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])
    assert isinstance(functional.mse(x, y), torch.Tensor)
    assert isinstance(functional.mse(x, hg.Variable(y)), hg.Variable)
    assert functional.mse(hg.Variable(x), y.numpy()).item() == functional.mse(hg.Variable(x), [1.0, 4.0]).item() == 2.0
    assert functional.cross_entropy(hg.Variable(torch.zeros(2, 2)), np.array([0, 1])).item() == pytest.approx(0.6931472)
    with pytest.raises(OperandError, match="torch gradient"):
        functional.mse(hg.Variable(x), y.clone().requires_grad_())


@pytest.mark.parametrize("loss", [nn.MSE(), nn.L1(), nn.Huber(), nn.BCEWithLogits()])
@pytest.mark.parametrize(("a", "b"), [((4,), (4, 1)), ((4, 1), (4,)), ((4, 2), (4, 1)), ((4, 2), (2,)), ((1,), ()), ((3, 4), (4, 3))])
def test_shapes_never_broadcast(loss: Any, a: Any, b: Any) -> None:
    x = hg.Variable(torch.zeros(a), True)
    with hg.Tape() as tape, pytest.raises(ShapeError, match="must be equal"):
        loss(x, torch.zeros(b))
    assert len(tape) == 0


def test_shape_errors_say_what_to_do() -> None:
    with pytest.raises(ShapeError, match=r"target\.reshape\(4, 1\)"):
        functional.mse(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(ShapeError, match="use cross_entropy"):
        functional.mse(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ShapeError, match="as many columns"):
        functional.mse(torch.zeros(4, 3), torch.zeros(4, 2))


@pytest.mark.parametrize(
    ("output", "target", "error", "message"),
    [
        ((5, 4), [0, 1, 2, 3, 4], DataError, "from 0 to 3.*got 4 in row 4"),
        ((2, 4), [0, -1], DataError, "got -1 in row 1"),
        ((2, 4), [0.0, 1.0], DtypeError, "labels must be integers"),
        ((2, 4), [0.5, 1.0], DtypeError, "labels must be integers"),
        ((2, 4), [True, False], DtypeError, "labels must be integers"),
        ((2, 4), [0, 1, 2], ShapeError, "2 rows and there are 3 labels"),
        ((2, 4), [[0], [1]], ShapeError, "integer labels"),
        ((2, 4), [[1, 0, 0, 0], [0, 1, 0, 0]], DtypeError, "probabilities must be floats"),
        ((2,), [0, 1], ShapeError, "takes an output"),
        ((2, 3, 4), [[0, 1, 2], [0, 1, 2]], ShapeError, "takes an output"),
    ],
)
def test_cross_entropy_refuses(output: Any, target: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        nn.CrossEntropy()(hg.Variable(torch.zeros(output), True), torch.tensor(target))


def test_cross_entropy_of_logits_that_are_no_floats() -> None:
    with pytest.raises(DtypeError, match="LogSoftmax"):
        nn.CrossEntropy()(hg.Variable(torch.zeros(2, 3, dtype=torch.int64)), torch.tensor([0, 1]))


def test_bce_takes_integers_bools_and_a_weight_of_positives() -> None:
    x, y = torch.randn(4, 3), torch.randint(2, (4, 3))
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(x, y.float(), pos_weight=torch.tensor([1.0, 2.0, 3.0]))
    for target in (y, y.bool(), y.float()):
        found = hg.nn.BCEWithLogits(pos_weight=torch.tensor([1.0, 2.0, 3.0]))(hg.Variable(x), target)
        torch.testing.assert_close(found.data, wanted)
        plain = hg.functional.bce_with_logits(hg.Variable(x), target)
        torch.testing.assert_close(plain.data, torch.nn.functional.binary_cross_entropy_with_logits(x, y.float()))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(6, 4), (5, 4, 3), (2, 4, 3, 2)])
def test_cross_entropy_of_any_rank_with_all_options_is_torchs(shape: tuple[int, ...], reduction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    y = torch.randint(4, (shape[0], *shape[2:]), generator=generator)
    weight = torch.tensor([1.0, 0.5, 2.0, 3.0], dtype=torch.float64)
    soft = torch.rand(shape, dtype=torch.float64, generator=generator).softmax(1)
    for target, options in (
        (y, {}), (y, {"weight": weight}), (y, {"ignore_index": 2}), (y, {"label_smoothing": 0.2}),
        (y, {"weight": weight, "ignore_index": 0, "label_smoothing": 0.3}), (soft, {"weight": weight, "label_smoothing": 0.1}), (soft, {}),
    ):  # fmt: skip
        ours, theirs = hg.Variable(x.clone(), requires_grad=True), x.clone().requires_grad_()
        found = hg.nn.CrossEntropy(reduction=reduction, **options)(ours, target)
        wanted = torch.nn.functional.cross_entropy(theirs, target, reduction=reduction, **options)
        if found.shape != wanted.shape:
            found = found.reshape(wanted.shape)
        torch.testing.assert_close(found.data, wanted.detach())
        found.sum().backward()
        wanted.sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_values_of_targets_are_checked_on_demand() -> None:
    """`check` looks at the values, which costs too much at each step."""
    logits = hg.Variable(torch.zeros(2, 2))
    nn.MSE().check(logits, torch.tensor([[9.0, 9.0], [9.0, 9.0]]))
    nn.CrossEntropy().check(logits, torch.tensor([0, 1]))
    nn.CrossEntropy().check(logits, torch.tensor([[0.25, 0.75], [0.0, 1.0]]))
    nn.BCEWithLogits().check(logits, torch.tensor([[0.0, 1.0], [0.5, 1.0]]))
    with pytest.raises(DataError, match="from 0 to 1"):
        nn.CrossEntropy().check(logits, hg.Variable(torch.tensor([0, 2])))
    for rows in ([[1.0, -1.0], [0.0, 1.0]], [[0.5, 0.5], [1.0, 1.0]]):
        with pytest.raises(DataError, match="sum to 1; row"):
            nn.CrossEntropy().check(logits, torch.tensor(rows))
    with pytest.raises(DataError, match=r"got -1\.0"):
        nn.BCEWithLogits().check(logits, torch.tensor([[-1.0, 1.0], [1.0, 1.0]]))


def test_labels_are_an_operand() -> None:
    """What a captured step needs: the labels enter the graph as an operand, not as an option of an op."""
    labels = hg.Variable(LABELS)
    with hg.Tape() as tape:
        loss = functional.cross_entropy(hg.Variable(rand(5, 4), True), labels)
        gathers = [record for record in tape if record.op is hg.ops.Gather]
    assert loss.requires_grad
    assert len(gathers) == 1
    assert "index" in hg.ops.Gather.operand_names
    assert set(gathers[0].options or {}) == {"dim"}


def test_own_loss() -> None:
    class LogCosh(nn.Loss):
        function = staticmethod(lambda output, target, reduction: ((output - target).exp() + (target - output).exp()).log().mean())

    assert LogCosh()(hg.Variable([0.0]), torch.zeros(1)).item() == pytest.approx(0.6931472)
