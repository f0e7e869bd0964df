"""Modules: what they hold, lazy layers, state, and layers against torch.nn."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch

import hotgrad as hg
from hotgrad import functional, interop, nn
from hotgrad.errors import DataError, DtypeError, OperandError, SettingError, ShapeError, TapeError
from hotgrad.modules.parameters import INITIALIZERS, LazyParameter, fill, size_lazy

F64 = torch.float64


class Net(hg.Module):
    """Without super().__init__(): nothing is registered behind the scenes."""

    def __init__(self) -> None:
        self.first = hg.Linear(3, 4)
        self.blocks = [hg.Linear(4, 4), {"deep": (hg.Linear(4, 4, bias=False),)}]
        self.again = self.first
        self.scale = hg.Parameter([2.0])
        self.shifts = [hg.Parameter([1.0]), self.scale]
        self.note = "text"
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x: Any) -> Any:
        return self.blocks[1]["deep"][0](self.blocks[0](self.first(x)).tanh()) * self.scale + self.shifts[0]  # type: ignore[index, operator]


NAMES = ["scale", "shifts.0", "first.weight", "first.bias", "blocks.0.weight", "blocks.0.bias", "blocks.1.deep.0.weight"]


def test_what_a_module_holds() -> None:
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [name for name, _ in net.named_modules()] == ["", "first", "blocks.0", "blocks.1.deep.0"]
    assert [name for name, _ in net.named_children()] == ["first", "blocks.0", "blocks.1.deep.0"]
    assert [name for name, _ in net.named_buffers()] == ["seen"]
    assert list(net.state_dict()) == [*NAMES, "seen"]
    assert sum(p.numel() for p in net.parameters()) == 1 + 1 + 16 + 20 + 16


def test_holds_what_is_added_later_and_forgets_what_is_taken_away() -> None:
    net = Net()
    net.blocks.append(hg.Linear(1, 1))
    net.extra = hg.Linear(2, 2)  # type: ignore[attr-defined]
    del net.scale
    net.shifts = []
    names = [name for name, _ in net.named_parameters()]
    assert "blocks.2.weight" in names
    assert "extra.bias" in names
    assert "scale" not in names


def test_circles_end() -> None:
    net = Net()
    net.blocks.append(net.blocks)  # type: ignore[arg-type]
    net.first.owner = net  # type: ignore[attr-defined]
    assert len(list(net.modules())) == 4
    assert [name for name, _ in net.named_parameters()] == NAMES


def test_modes_reach_every_module() -> None:
    net = Net()
    assert net.training
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    net.train()
    assert all(module.training for module in net.modules())
    generator = torch.Generator()
    net.use_generator(generator)
    assert all(module.generator is generator for module in net.modules())
    assert hg.Linear(1, 1).generator is None


def test_freezing() -> None:
    net = Net()
    net.first.freeze()
    net(torch.zeros(2, 3)).sum().backward()
    assert {name for name, p in net.named_parameters() if p.grad is None} == {"first.weight", "first.bias"}
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    net.unfreeze()
    net(torch.ones(2, 3)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_frozen_layers_are_not_decayed() -> None:
    model = hg.Sequential(hg.Linear(3, 4), hg.Tanh(), hg.Linear(4, 1))
    model[0].freeze()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = hg.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        hg.MSE()(model(torch.ones(2, 3)), torch.zeros(2, 1)).backward()
        optimizer.step()
    changed = {name: not torch.equal(value, before[name]) for name, value in model.state_dict().items()}
    assert changed == {"0.weight": False, "0.bias": False, "2.weight": True, "2.bias": True}


def test_calling_a_module_without_forward() -> None:
    with pytest.raises(OperandError, match="defines no `forward`"):
        hg.Module()(1)


# ---------------------------------------------------------------------------------------------------------------- state


def test_state_shares_memory_and_loads_in_place() -> None:
    net, other = Net(), Net()
    state = net.state_dict()
    assert state["first.weight"] is net.first.weight.data
    held = [p.data for p in other.parameters()]
    other.load_state_dict(state)
    assert all(p.data is data for p, data in zip(other.parameters(), held))
    assert all(torch.equal(a, b) for a, b in zip(state.values(), other.state_dict().values()))
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))


def test_state_that_does_not_fit_lists_everything_and_changes_nothing() -> None:
    net = Net()
    state = {name: value + 1 for name, value in net.state_dict().items()}
    before = {name: value.clone() for name, value in net.state_dict().items()}
    del state["scale"], state["seen"]
    state |= {"wrong": torch.zeros(1), "odd": torch.zeros(1), "first.weight": torch.zeros(4, 3), "shifts.0": torch.zeros(())}
    with pytest.raises(ShapeError) as caught:
        net.load_state_dict(state)
    for line in (
        "missing: scale",
        "missing: seen",
        "unexpected: wrong",
        "unexpected: odd",
        "first.weight is (4, 3), expected (3, 4)",
        "shifts.0 is (), expected (1,)",
    ):
        assert line in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with pytest.raises(ShapeError, match="wrong shape"):
        net.load_state_dict(state, strict=False)
    del state["first.weight"], state["shifts.0"]
    net.load_state_dict(state, strict=False)
    assert torch.equal(net.first.bias.data, before["first.bias"] + 1)
    assert torch.equal(net.scale.data, before["scale"])
    with pytest.raises(ShapeError, match="complex"):
        net.load_state_dict({"scale": torch.zeros(1, dtype=torch.complex64)}, strict=False)
    with pytest.raises(ShapeError, match="no tensor: scale is str"):
        net.load_state_dict({"scale": "text"}, strict=False)


def test_loading_converts_to_the_models_dtype() -> None:
    layer = hg.Linear(2, 2)
    layer.load_state_dict({"weight": torch.full((2, 2), 0.1, dtype=F64), "bias": hg.Variable([1, 2])})
    assert layer.weight.dtype is torch.float32
    assert layer.bias.tolist() == [1.0, 2.0]  # type: ignore[union-attr]


def test_to_converts_in_place() -> None:
    net = Net()
    parameters = list(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    assert net.to(F64) is net
    assert all(a is b for a, b in zip(parameters, net.parameters()))
    assert {p.dtype for p in parameters} == {p.grad.dtype for p in parameters} == {net.seen.dtype} == {F64}
    net.zero_grad()
    net(torch.ones(1, 3, dtype=F64)).sum().backward()
    assert {p.grad.dtype for p in parameters} == {F64}
    net.to("cpu").to(torch.zeros(1)).to(device="cpu", dtype=torch.float32)
    assert net.scale.dtype is torch.float32
    with pytest.raises(DtypeError, match="floating"):
        net.to(torch.int64)
    with pytest.raises(OperandError, match="expected a dtype"):
        net.to([1])


def test_integer_buffers_keep_their_dtype() -> None:
    net = Net()
    net.register_buffer("seen", torch.zeros(2, dtype=torch.int64))
    assert net.to(F64).seen.dtype is torch.int64
    assert [name for name, _ in net.named_buffers()] == ["seen"]


def test_a_buffer_is_a_tensor() -> None:
    with pytest.raises(OperandError, match="a buffer must be a tensor; got list"):
        Net().register_buffer("seen", [1.0])  # type: ignore[arg-type]


def test_a_gradient_of_a_graph_cannot_be_converted() -> None:
    layer = hg.Linear(1, 1)
    (layer(torch.ones(1, 1)) ** 2).sum().backward(create_graph=True)
    with pytest.raises(OperandError, match="zero_grad"):
        layer.to(F64)
    assert {p.dtype for p in layer.parameters()} == {torch.float32}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_keep_what_is_shared(duplicate: Any) -> None:
    net = Net()
    net.lazy = hg.Linear(2)  # type: ignore[attr-defined]
    net.lazy.freeze()  # type: ignore[attr-defined]
    other = duplicate(net)
    assert other.again is other.first
    assert other.shifts[1] is other.scale
    assert other.scale is not net.scale
    assert other.scale.data.data_ptr() != net.scale.data.data_ptr()
    assert isinstance(other.lazy.weight, LazyParameter)
    assert not other.lazy.weight.requires_grad
    assert torch.equal(other(torch.ones(2, 3)).data, net(torch.ones(2, 3)).data)
    other.lazy(torch.zeros(1, 5))
    assert isinstance(net.lazy.weight, LazyParameter)  # type: ignore[attr-defined]


def test_repr_and_table() -> None:
    net = Net()
    net.first.freeze()
    net.lazy = hg.Linear(2)  # type: ignore[attr-defined]
    text = repr(net)
    assert text.startswith("Net: 56 parameters (16 frozen, 1 not sized yet)")
    for part in (
        "weight (3, 4) frozen",
        "blocks.1.deep.0  Linear(4, 4, bias=False)",
        "scale (1,), shifts.0 (1,), shifts.1 (1,) shared",
        "Linear(?, 2)",
        "weight (?, 2)",
    ):
        assert part in text
    table = net._repr_html_()
    assert table.count("<tr>") == len(text.splitlines())
    assert "Linear(4, 4, bias=False)" in table
    assert repr(hg.Linear(3, 2, init="zeros")) == "Linear(3, 2, init='zeros')"
    assert repr(nn.Residual(hg.Linear(2, 2))).startswith("Residual: 6 parameters")


# --------------------------------------------------------------------------------------------------------- lazy layers


def test_reading_a_lazy_parameter_early_raises() -> None:
    layer = hg.Linear(4)
    weight = layer.weight
    assert isinstance(weight, hg.Parameter)
    reads = [
        lambda: weight.data, lambda: weight.shape, lambda: weight.ndim, lambda: weight.numel(), lambda: weight @ weight, lambda: weight + 1,
        lambda: weight.tolist(), lambda: len(weight), lambda: layer.state_dict(), lambda: weight.detach(), lambda: hg.tanh(weight),
        lambda: hg.Variable([1.0]) * weight, lambda: setattr(weight, "data", torch.zeros(1)),
    ]  # fmt: skip
    for read in reads:
        with pytest.raises(TapeError, match=r"shape \(\?, 4\) is not sized yet; call the model"):
            read()
    assert (weight.grad, weight.requires_grad, weight.is_leaf, weight.dtype, weight.device.type) == (None, True, True, torch.float32, "cpu")
    assert (layer.in_features, layer.out_features) == (None, 4)
    assert str(weight) == "LazyParameter(?, 4)"


def test_lazy_layers_are_filled_in_place() -> None:
    layer = hg.Linear(4).to(F64)
    weight = layer.weight
    weight.name = "w"
    layer.freeze()
    layer.use_generator(torch.Generator().manual_seed(5))
    out = layer(torch.zeros(2, 3, dtype=F64))
    assert out.shape == (2, 4)
    assert layer.weight is weight
    assert type(weight) is hg.Parameter
    assert (weight.shape, weight.dtype, weight.name, weight.requires_grad) == ((3, 4), F64, "w", False)
    eager = hg.Linear(3, 4).to(F64)
    eager.reset_parameters(torch.Generator().manual_seed(5))
    assert torch.equal(weight.data, eager.weight.data)
    layer.unfreeze()
    layer(torch.ones(2, 3, dtype=F64)).sum().backward()
    assert weight.grad.shape == (3, 4)
    with pytest.raises(ShapeError, match=r"Linear\(3, 4\) takes inputs of shape \(\.\.\., 3\); got \(2, 5\)"):
        layer(torch.ones(2, 5, dtype=F64))


def test_a_lazy_layer_refuses_inputs_without_features() -> None:
    layer = hg.Linear(4)
    for x in (torch.tensor(1.0), torch.zeros(3, 0), [[1.0]]):
        with pytest.raises(ShapeError, match="features"):
            layer(x)
    assert isinstance(layer.weight, LazyParameter)


def test_loading_sizes_lazy_layers() -> None:
    source, layer = hg.Linear(3, 4), hg.Linear(4)
    weight = layer.weight
    with pytest.raises(ShapeError, match=r"weight is \(3, 5\), expected \(\?, 4\)"):
        layer.load_state_dict({"weight": torch.zeros(3, 5), "bias": torch.zeros(4)})
    assert isinstance(layer.weight, LazyParameter)
    layer.load_state_dict(source.state_dict())
    assert layer.weight is weight
    assert torch.equal(weight.data, source.weight.data)


# -------------------------------------------------------------------------------------------------------- first values


@pytest.mark.parametrize("make", [lambda init: hg.Linear(300, 200, init=init), lambda init: nn.Conv2d(30, 20, (3, 5), init=init)])
@pytest.mark.parametrize("init", ["xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"])
def test_initialisers_have_torchs_spread(make: Any, init: str) -> None:
    layer = make(init)
    layer.reset_parameters(torch.Generator().manual_seed(0))
    ours = layer.weight.data
    theirs = torch.empty(ours.shape if ours.ndim == 4 else ours.shape[::-1])
    options = {"nonlinearity": "relu"} if "kaiming" in init else {}
    getattr(torch.nn.init, init + "_")(theirs, **options)
    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.03)
    assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.01 if "uniform" in init else 0.4)
    assert ours.mean().abs() < 0.05 * ours.std()
    assert not layer.bias.data.any()


def test_first_values_are_the_same_in_every_dtype() -> None:
    values = []
    for dtype in (torch.float32, F64):
        layer = hg.Linear(3, 4).to(dtype)
        layer.reset_parameters(torch.Generator().manual_seed(1))
        values.append(layer.weight.data)
    assert torch.equal(values[0], values[1].float())


def test_initialisers_by_function_and_bad_ones() -> None:
    layer = hg.Linear(2, 3, init=lambda shape, generator: torch.arange(6.0).reshape(shape))
    assert layer.weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(SettingError, match="did you mean 'xavier_uniform'"):
        hg.Linear(2, 3, init="xavier_unifrom")
    with pytest.raises(SettingError, match="unknown initialiser None"):
        hg.Linear(2, init=None)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"gave shape \(3, 2\) for a parameter of shape \(2, 3\)"):
        hg.Linear(2, 3, init=lambda shape, generator: torch.zeros(3, 2))
    with pytest.raises(ShapeError, match="two or more axes"):
        INITIALIZERS["xavier_normal"]((3,), None)
    assert set(hg.Linear(2, 3, init="zeros").weight.data.reshape(-1).tolist()) == {0.0}


def test_reset_parameters() -> None:
    model = hg.Sequential(hg.Linear(3, 4), nn.BatchNorm1d(4), nn.LayerNorm(4), hg.Linear(2), nn.Residual(hg.Linear(2, 2)))
    x = torch.randn(8, 3)
    model.reset_parameters(torch.Generator().manual_seed(2))
    first = {name: value.clone() for name, value in model[:3].state_dict().items()}
    model(x).sum().backward()
    for p in model.parameters():
        p.data.add_(1.0)
    model.reset_parameters(torch.Generator().manual_seed(2))
    assert all(torch.equal(value, first[name]) for name, value in model[:3].state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model[3].weight.shape == (4, 2)
    assert model[1].running_var.tolist() == [1.0] * 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: hg.Linear(2, 2, bias=False),
        lambda: nn.Conv2d(1, 1, 2, bias=False),
        lambda: nn.LayerNorm(2, bias=False),
        lambda: nn.LayerNorm(2, elementwise_affine=False),
        lambda: nn.BatchNorm1d(2, affine=False),
    ],
)
def test_reset_of_layers_without_some_parameters(make: Any) -> None:
    layer = make()
    layer.reset_parameters(torch.Generator().manual_seed(0))
    first = {name: value.clone() for name, value in layer.state_dict().items()}
    for value in layer.state_dict().values():
        value.add_(1.0)
    layer.reset_parameters(torch.Generator().manual_seed(0))
    assert all(torch.equal(value, first[name]) for name, value in layer.state_dict().items())


def test_lazy_parameters_of_ones_own() -> None:
    class Scale(hg.Module):
        def __init__(self) -> None:
            self.weight = LazyParameter((None,))

        def forward(self, x: Any) -> Any:
            if isinstance(self.weight, LazyParameter):
                size_lazy(self.weight, x.shape[-1:])
                fill(self.weight, "ones")
            return x * self.weight

    layer = Scale()
    with pytest.raises(ShapeError, match=r"shape \(\?,\) cannot be sized as \(2, 2\)"):
        size_lazy(layer.weight, (2, 2))  # type: ignore[arg-type]
    assert layer(torch.full((3,), 2.0)).tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(OperandError, match="is sized already"):
        size_lazy(layer.weight, (3,))  # type: ignore[arg-type]


def test_reset_needs_initialize() -> None:
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(OperandError, match=r"Net has state of its own \(scale, shifts\.0, shifts\.1, seen\).*initialize"):
        net.reset_parameters()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# -------------------------------------------------------------------------------------------------- layers against torch

G = torch.Generator().manual_seed(0)
LAYERS: list[tuple[Any, tuple[int, ...]]] = [
    (lambda: hg.Linear(4, 3), (5, 4)),
    (lambda: hg.Linear(4, 3, bias=False), (2, 5, 4)),
    (lambda: hg.Linear(4, 3), (4,)),
    (lambda: hg.ReLU(), (5, 4)),
    (lambda: hg.Tanh(), (5, 4)),
    (lambda: nn.Sigmoid(), (5, 4)),
    (lambda: nn.GELU(), (5, 4)),
    (lambda: nn.Softmax(), (5, 4)),
    (lambda: nn.Softmax(0), (5, 4)),
    (lambda: nn.Flatten(), (5, 2, 3)),
    (lambda: nn.Flatten(0, 1), (5, 2, 3)),
    (lambda: nn.LayerNorm(4), (5, 4)),
    (lambda: nn.LayerNorm((2, 3), eps=0.1), (5, 2, 3)),
    (lambda: nn.LayerNorm(4, bias=False), (5, 4)),
    (lambda: nn.LayerNorm(4, elementwise_affine=False), (5, 4)),
    (lambda: nn.BatchNorm1d(4), (5, 4)),
    (lambda: nn.BatchNorm1d(4, eps=0.1, momentum=0.5, affine=False), (5, 4)),
    (lambda: nn.Conv2d(2, 3, 3), (2, 2, 5, 6)),
    (lambda: nn.Conv2d(2, 3, (1, 2), stride=(2, 1), padding=(1, 2), bias=False), (2, 2, 5, 4)),
    (lambda: nn.Conv2d(1, 1, 5, stride=3, padding=2), (1, 1, 4, 3)),
    (lambda: nn.Residual(hg.Linear(4, 4)), (5, 4)),
    (lambda: nn.Residual(hg.Linear(4, 3), hg.Linear(4, 3, bias=False)), (5, 4)),
]


@pytest.mark.parametrize(("make", "shape"), LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_layers_equal_torch(make: Any, shape: tuple[int, ...], training: bool) -> None:
    """Value, gradients of input and parameters, second order, and what three calls do to the buffers."""
    layer = hg.Sequential(make()).to(F64).train(training)
    for p in layer.parameters():
        p.data.add_(torch.randn(p.shape, generator=G, dtype=F64) * 0.3)
    theirs = interop.to_torch(layer)
    for _ in range(3):
        data = torch.randn(shape, generator=G, dtype=F64)
        x, t = hg.Variable(data, True), data.clone().requires_grad_()
        out, expected = layer(x), theirs(t)
        assert torch.allclose(out.data, expected, rtol=1e-10, atol=1e-12)
        seed = torch.randn(expected.shape, generator=G, dtype=F64)
        ours = hg.gradients(out, (x, *layer.parameters()), seed, create_graph=True)
        other = torch.autograd.grad(expected, (t, *theirs.parameters()), seed, create_graph=True)
        order = {name: i for i, (name, _) in enumerate(theirs.named_parameters(), 1)}
        aligned = [other[0], *(other[order[name]] for name, _ in layer.named_parameters())]
        for (name, _), g, tg in zip([("x", x), *layer.named_parameters()], ours, aligned):
            assert torch.allclose(g.data.mT if g.shape != tg.shape else g.data, tg, rtol=1e-9, atol=1e-11) or torch.allclose(
                g.data.mT, tg, rtol=1e-9, atol=1e-11
            ), name
        (second,) = hg.gradients((ours[0] ** 2).sum(), x, allow_unused=True) if ours[0].requires_grad else (None,)
        th = torch.autograd.grad((other[0] ** 2).sum(), t, allow_unused=True)[0] if other[0].requires_grad else None
        zero = torch.zeros(shape, dtype=F64)
        assert torch.allclose(zero if second is None else second.data, zero if th is None else th, rtol=1e-8, atol=1e-10)
    for (name, ours_buffer), (_, their_buffer) in zip(
        layer.named_buffers(), [b for b in theirs.named_buffers() if "num_batches" not in b[0]]
    ):
        assert torch.allclose(ours_buffer, their_buffer, rtol=1e-12), name


def test_layers_take_plain_tensors() -> None:
    x = torch.randn(3, 2)
    assert isinstance(hg.ReLU()(x), torch.Tensor)
    assert isinstance(hg.Linear(2, 2)(x), hg.Variable)
    assert isinstance(functional.gelu(x), torch.Tensor)
    assert isinstance(functional.conv2d(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 2, 2), padding=1), torch.Tensor)
    assert hg.Linear(2, 2)(x.numpy()).shape == (3, 2)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.75, 1.0])
def test_dropout(p: float) -> None:
    layer = nn.Dropout(p)
    layer.use_generator(torch.Generator().manual_seed(0))
    x = hg.Variable(torch.ones(200, 100), True)
    out = layer(x)
    dropped = out.data == 0
    assert dropped.double().mean() == pytest.approx(p, abs=0.01)
    assert torch.allclose(out.data[~dropped], torch.tensor(1 / (1 - p) if p < 1 else 1.0))
    if p:
        out.sum().backward()
        assert torch.equal(x.grad, out.data)
    assert layer.eval()(x) is x


def test_dropout_draws_from_its_generator_on_the_host() -> None:
    layer = nn.Dropout(0.5)
    state = torch.get_rng_state()
    draws = []
    for seed in (1, 1, 2):
        layer.use_generator(torch.Generator().manual_seed(seed))
        draws.append(layer(torch.ones(50)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(state, torch.get_rng_state())
    layer.use_generator(None)
    layer(torch.ones(50))
    assert not torch.equal(state, torch.get_rng_state())


def test_dropout_masks_select() -> None:
    x = hg.Variable(torch.full((100,), math.inf), True)
    out = functional.dropout(x, 0.5, generator=torch.Generator().manual_seed(0))
    assert set(out.tolist()) == {0.0, math.inf}
    with pytest.raises(SettingError, match="at most 1"):
        functional.dropout(x, 1.5)


def test_batch_norm_statistics_are_no_part_of_the_graph() -> None:
    layer = nn.BatchNorm1d(2)
    for _ in range(3):
        layer(hg.Variable(torch.randn(4, 2), True))
    assert isinstance(layer.running_mean, torch.Tensor)
    before = layer.running_mean.clone()
    layer.eval()(torch.randn(4, 2))
    assert torch.equal(before, layer.running_mean)
    assert list(layer.state_dict()) == ["weight", "bias", "running_mean", "running_var"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.BatchNorm1d(2)(torch.ones(1, 2)), DataError, "one row"),
        (lambda: nn.BatchNorm1d(2)(torch.ones(3, 4)), ShapeError, r"\(n, 2\) or \(n, 2, length\); got \(3, 4\)"),
        (lambda: functional.batch_norm(torch.ones(3), None, None, training=True), ShapeError, "n, features"),
        (lambda: functional.batch_norm(torch.ones(3, 1), None, None), OperandError, "running"),
        (lambda: nn.BatchNorm1d(2, momentum=2), SettingError, "momentum"),
        (lambda: nn.LayerNorm(3)(torch.ones(3, 4)), ShapeError, "last axes"),
        (lambda: nn.LayerNorm(0), SettingError, "normalized_shape"),
        (lambda: nn.Conv2d(1, 1, 3)(torch.ones(1, 1, 2, 2)), ShapeError, "do not fit"),
        (lambda: nn.Conv2d(1, 1, 3)(torch.ones(1, 2, 4, 4)), ShapeError, "equal in"),
        (lambda: nn.Conv2d(1, 1, 3)(torch.ones(1, 4, 4)), ShapeError, "conv2d takes x"),
        (lambda: nn.Conv2d(1, 1, 0), SettingError, "kernel_size"),
        (lambda: nn.Conv2d(1, 1, (1, 2, 3)), SettingError, "kernel_size"),
        (lambda: nn.Conv2d(1, 1, 1, stride=1.5), SettingError, "stride"),
        (lambda: nn.Conv2d(1, 1, 1, padding=-1), SettingError, "padding"),
        (lambda: nn.Conv2d(1, 0, 1), SettingError, "out_channels"),
        (lambda: hg.Linear(0, 2), SettingError, "in_features"),
        (lambda: hg.Linear(2, -1), SettingError, "out_features"),
        (lambda: hg.Linear(2.5), SettingError, "out_features"),  # type: ignore[arg-type]
        (lambda: hg.Linear(3, 2)(torch.ones(4, 2)), ShapeError, r"Linear\(3, 2\) takes inputs of shape \(\.\.\., 3\); got \(4, 2\)"),
        (lambda: nn.Dropout(-0.1), SettingError, "at most 1"),
        (lambda: nn.Dropout("half"), SettingError, "at most 1"),  # type: ignore[arg-type]
        (lambda: nn.Residual(hg.Linear(4, 3))(torch.ones(2, 4)), ShapeError, "shortcut"),
    ],
)
def test_layers_refuse(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_sizes_may_be_numpys() -> None:
    assert repr(hg.Linear(np.int64(3), np.int32(2))) == "Linear(3, 2)"  # type: ignore[arg-type]
    assert nn.LayerNorm(np.int64(3)).normalized_shape == (3,)  # type: ignore[arg-type]


def test_float64_input_meets_float32_weights() -> None:
    with pytest.raises(DtypeError):
        hg.Linear(3, 2)(torch.zeros(1, 3, dtype=F64))
