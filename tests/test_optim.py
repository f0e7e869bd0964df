"""Optimizers against torch.optim, parameters that must stay as they are, schedules, state, and the lists that rules run on."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import hotgrad as hg
from hotgrad import interop
from hotgrad.errors import FileError, OperandError, SettingError, TapeError
from hotgrad.optim import LBFGS, SGD, Adam, AdamW, CosineLR, Optimizer, PlateauLR, RMSprop, Schedule, StepLR, WarmupLR
from hotgrad.optim.lists import Each, assign

SHAPES = [(3, 4), (4,), (), (1, 2)]

# every combination of settings that takes another way through a rule
CASES: list[tuple[Any, dict[str, Any]]] = [
    (SGD, {}),
    (SGD, {"weight_decay": 0.1}),
    (SGD, {"momentum": 0.9}),
    (SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (Adam, {}),
    (Adam, {"betas": (0.5, 0.7), "eps": 1e-3, "weight_decay": 0.1}),
    (AdamW, {}),
    (AdamW, {"weight_decay": 0.3}),
    (AdamW, {"weight_decay": 0.0}),
    (RMSprop, {}),
    (RMSprop, {"alpha": 0.5, "eps": 1e-3, "weight_decay": 0.1}),
    (RMSprop, {"momentum": 0.9}),
    (RMSprop, {"centered": True}),
    (RMSprop, {"centered": True, "momentum": 0.5, "weight_decay": 0.1}),
]
IDS = [f"{cls.__name__}-{'-'.join(settings)}" for cls, settings in CASES]


def twins(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[list[hg.Parameter], list[torch.nn.Parameter]]:
    generator = torch.Generator().manual_seed(seed)
    data = [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]
    return [hg.Parameter(x.clone()) for x in data], [torch.nn.Parameter(x.clone()) for x in data]


def give_gradients(ours: Any, theirs: Any, step: int, skip: Any = ()) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for i, (p, q) in enumerate(zip(ours, theirs)):
        g = torch.randn(q.shape, generator=generator, dtype=q.dtype)
        p.grad = None if i in skip else g.clone()
        q.grad = None if i in skip else g.clone()


def largest_difference(ours: Any, theirs: Any) -> float:
    return max(float((p.data - q.detach()).abs().max() / q.detach().abs().max().clamp(min=1e-30)) for p, q in zip(ours, theirs))


@pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_torch(cls: Any, settings: dict[str, Any], dtype: torch.dtype) -> None:
    ours, theirs = twins(dtype)
    optimizer, reference = cls(ours, lr=0.05, **settings), getattr(torch.optim, cls.__name__)(theirs, lr=0.05, **settings)
    for step in range(12):
        give_gradients(ours, theirs, step)
        before = [p.grad.clone() for p in ours]
        optimizer.step()
        reference.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(ours, before)), "a step must not change gradients"
    assert largest_difference(ours, theirs) < (1e-10 if dtype is torch.float64 else 1e-5)


@pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)
def test_parameters_without_gradient_and_frozen_ones_stay(cls: Any, settings: dict[str, Any]) -> None:
    """Each counts its own steps, as in torch: an untouched parameter keeps value, state and count."""
    ours, theirs = twins()
    optimizer, reference = cls(ours, lr=0.05, **settings), getattr(torch.optim, cls.__name__)(theirs, lr=0.05, **settings)
    skipped = [(0,), (1, 2), (), (0, 1, 2, 3), (3,), (0,), ()]
    for step, skip in enumerate(skipped):
        give_gradients(ours, theirs, step, skip)
        frozen = step % len(ours)
        ours[frozen].requires_grad = False  # it may have a gradient from before
        theirs[frozen].grad = None
        before = [(p.data.clone(), copy.deepcopy(slot.state), slot.count) for p, slot in zip(ours, optimizer._slots())]
        optimizer.step()
        reference.step()
        for i, ((value, state, count), slot) in enumerate(zip(before, optimizer._slots())):
            if i in skip or i == frozen:
                assert torch.equal(ours[i].data, value)
                assert slot.count == count
                assert all(torch.equal(slot.state[name], state[name]) for name in state)
        ours[frozen].requires_grad = True
    assert largest_difference(ours, theirs) < 1e-10


def test_defaults_are_those_of_torch() -> None:
    for cls in (SGD, Adam, AdamW, RMSprop, LBFGS):
        reference = getattr(torch.optim, cls.__name__)([torch.nn.Parameter(torch.zeros(1))])
        theirs = dict(reference.defaults)
        if cls is SGD:
            theirs["lr"] = 0.01
        ours = cls([hg.Parameter(torch.zeros(1))])._defaults
        expected = {name: theirs[name] for name in ours}
        if cls is LBFGS:
            expected["max_eval"] = None
        assert ours == expected


def test_shared_parameter_steps_once() -> None:
    w = hg.Parameter([1.0])
    optimizer = SGD([w, w], lr=0.5, momentum=0.9)
    (w * 1.0).sum().backward()
    optimizer.step()
    assert w.tolist() == [0.5]
    assert len(optimizer.parameters) == 1
    layer = hg.Linear(2, 2)
    model = hg.Sequential(layer, hg.ReLU(), layer)
    assert len(SGD(model.parameters()).parameters) == 2


def test_writes_in_place_and_notices_stale_graphs() -> None:
    w = hg.Parameter(torch.ones(2))
    data = w.data
    loss = (w * w).sum()
    loss.backward(retain_graph=True)
    SGD([w], lr=0.5).step()
    assert w.data is data
    assert data.tolist() == [0.0, 0.0]
    with pytest.raises(TapeError, match="written to in place"):
        loss.backward()


@pytest.mark.parametrize("limit", [0.5, 3.0, 1e6])
@pytest.mark.parametrize("cls", [SGD, Adam])
def test_clip_norm(cls: Any, limit: float) -> None:
    """The norm is joint, over all groups, and only over parameters that are stepped."""
    ours, theirs = twins()
    optimizer = cls([{"params": ours[:2]}, {"params": ours[2:], "lr": 0.01}], lr=0.1, clip_norm=limit)
    reference = getattr(torch.optim, cls.__name__)([{"params": theirs[:2]}, {"params": theirs[2:], "lr": 0.01}], lr=0.1)
    for step in range(5):
        give_gradients(ours, theirs, step, (step,))
        if step == 4:
            ours[0].requires_grad = False
            theirs[0].grad = None
        torch.nn.utils.clip_grad_norm_(theirs, limit)
        optimizer.step()
        reference.step()
    assert largest_difference(ours, theirs) < 1e-10


def test_clip_norm_of_zero_gradients_and_of_nothing() -> None:
    w = hg.Parameter(torch.ones(2))
    optimizer = SGD([w], lr=1.0, clip_norm=1.0)
    optimizer.step()
    w.grad = torch.zeros(2)
    optimizer.step()
    assert w.tolist() == [1.0, 1.0]


def test_groups_have_settings_of_their_own() -> None:
    ours, theirs = twins()
    groups = [{"params": ours[:1], "lr": 0.3, "momentum": 0.5}, {"params": ours[1:], "weight_decay": 0.2}]
    reference = torch.optim.SGD(
        [{"params": theirs[:1], "lr": 0.3, "momentum": 0.5}, {"params": theirs[1:], "weight_decay": 0.2}], lr=0.1, momentum=0.9
    )
    optimizer = SGD(groups, lr=0.1, momentum=0.9)
    for step in range(4):
        give_gradients(ours, theirs, step)
        optimizer.step()
        reference.step()
    assert largest_difference(ours, theirs) < 1e-10


def test_mixed_dtypes() -> None:
    ours, theirs = twins()
    ours += twins(torch.float32, 1)[0]
    theirs += twins(torch.float32, 1)[1]
    optimizer, reference = Adam(ours, lr=0.1), torch.optim.Adam(theirs, lr=0.1)
    for step in range(4):
        give_gradients(ours, theirs, step)
        optimizer.step()
        reference.step()
    assert largest_difference(ours[:4], theirs[:4]) < 1e-10
    assert largest_difference(ours[4:], theirs[4:]) < 1e-5
    assert all(slot.state["mean"].dtype == slot.parameter.dtype for slot in optimizer._slots())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_dtypes(dtype: torch.dtype) -> None:
    ours, theirs = twins(dtype)
    optimizer, reference = SGD(ours, lr=0.1, momentum=0.9), torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
    for step in range(3):
        give_gradients(ours, theirs, step)
        optimizer.step()
        reference.step()
    assert largest_difference(ours, theirs) < 0.02


def test_gradients_that_belong_to_a_graph() -> None:
    w = hg.Parameter([2.0])
    (w * w).sum().backward(create_graph=True)
    assert isinstance(w.grad, hg.Variable)
    SGD([w], lr=0.25).step()
    assert w.tolist() == [1.0]


def test_nothing_is_recorded() -> None:
    w = hg.Parameter([2.0])
    w.grad = torch.ones(1)
    with hg.Tape() as tape:
        for optimizer in (SGD([w], momentum=0.9, clip_norm=1.0), Adam([w]), RMSprop([w])):
            optimizer.step()
        assert len(tape) == 0


def test_built_before_a_lazy_layer_is_sized() -> None:
    torch.manual_seed(0)
    model = hg.Sequential(hg.Linear(3), hg.Tanh(), hg.Linear(1))
    optimizer = Adam(model.parameters(), lr=0.1)
    optimizer.step()
    optimizer.zero_grad()
    held = optimizer.parameters
    x, y = torch.randn(6, 4), torch.randn(6, 1)
    first = None
    for _ in range(20):
        optimizer.zero_grad()
        loss = hg.MSE()(model(x), y)
        loss.backward()
        optimizer.step()
        first = first or loss.item()
    assert loss.item() < first / 2
    assert all(a is b for a, b in zip(held, model.parameters()))


def test_bound_later() -> None:
    w, v = hg.Parameter([1.0]), hg.Parameter([1.0])
    optimizer = SGD(lr=0.5)
    for call in (optimizer.step, optimizer.zero_grad):
        with pytest.raises(SettingError, match="has no parameters yet"):
            call()
    optimizer.bind([w])
    optimizer.bind([w])  # the same again
    with pytest.raises(SettingError, match="already has other parameters"):
        optimizer.bind([v])
    w.grad = torch.ones(1)
    optimizer.step()
    assert w.tolist() == [0.5]
    other = optimizer.fresh()
    other.bind([v])
    assert (optimizer.lr, other.lr, other.parameters) == (0.5, 0.5, [v])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD([]), "no parameters to train"),
        (lambda: SGD([torch.zeros(1)]), "leaf Variables"),
        (lambda: SGD(3), "must be Parameters"),
        (lambda: SGD([hg.Variable([1.0])]), "without requires_grad"),
        (lambda: SGD([hg.Parameter([1.0]) * 2]), "leaf Variables"),
        (lambda: SGD([{"lr": 0.1}]), "'params'"),
        (lambda: SGD([{"params": [hg.Parameter([1.0])], "beta": 0.1}]), "no settings beta"),
        (lambda: SGD(lr=-1), "lr must be"),
        (lambda: SGD(lr=math.nan), "lr must be"),
        (lambda: SGD(lr="0.1"), "lr must be"),
        (lambda: SGD(momentum=-0.1), "momentum"),
        (lambda: SGD(weight_decay=-0.1), "weight_decay"),
        (lambda: SGD(nesterov=True), "nesterov needs a momentum"),
        (lambda: SGD(clip_norm=0), "clip_norm"),
        (lambda: Adam(betas=(0.9, 1.0)), "betas"),
        (lambda: Adam(betas=(0.9,)), "betas"),
        (lambda: Adam(eps=-1), "eps"),
        (lambda: RMSprop(alpha=1.5), "alpha"),
        (lambda: RMSprop(momentum=-1), "momentum"),
        (lambda: LBFGS(max_iter=0), "max_iter"),
        (lambda: LBFGS(max_eval=0), "max_eval"),
        (lambda: LBFGS(history_size=1.5), "history_size"),
        (lambda: LBFGS(line_search_fn="wolfe"), "line_search_fn"),
        (lambda: LBFGS(line_search_fn="strong_wolfe", clip_norm=1.0), "clip_norm"),
        (lambda: LBFGS([{"params": [hg.Parameter([1.0])]}, {"params": [hg.Parameter([1.0])]}]), "one group"),
        (lambda: SGD([hg.Parameter([1.0])]).__setattr__("lr", -1), "lr must be"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises((SettingError, OperandError), match=message):
        make()


def test_a_rule_must_be_defined() -> None:
    w = hg.Parameter([1.0])
    w.grad = torch.ones(1)
    with pytest.raises(OperandError, match="defines no `rule`"):
        Optimizer([w]).step()


# ---------------------------------------------------------------------------------------------------------------- state


def trained(cls: Any, settings: dict[str, Any], steps: range, optimizer: Any = None, ours: Any = None) -> tuple[Any, Any]:
    ours = ours or twins()[0]
    optimizer = optimizer or cls(ours, **settings)
    for step in steps:
        give_gradients(ours, twins()[1], step, (step % 3,))
        optimizer.step()
        optimizer.epoch_end(1.0)
    return optimizer, ours


@pytest.mark.parametrize(
    ("cls", "settings"),
    [*CASES, (SGD, {"lr": CosineLR(0.1, 9), "momentum": 0.9}), (Adam, {"lr": PlateauLR(0.1, patience=1), "clip_norm": 1.0})],
)
def test_state_goes_through_a_file(cls: Any, settings: dict[str, Any]) -> None:
    """Stopping, saving and going on equals going on, bit for bit; the file loads without executing anything."""
    optimizer, ours = trained(cls, copy.deepcopy(settings), range(5))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    values = [p.data.clone() for p in ours]
    trained(cls, settings, range(5, 9), optimizer, ours)

    others = [hg.Parameter(value) for value in values]
    restored = cls(others, **copy.deepcopy(settings))
    restored.load_state_dict(torch.load(file, weights_only=True))
    trained(cls, settings, range(5, 9), restored, others)
    assert all(torch.equal(p.data, q.data) for p, q in zip(ours, others))
    assert optimizer.lr == restored.lr


def test_loaded_state_is_a_copy_in_the_parameters_dtype() -> None:
    optimizer, ours = trained(Adam, {}, range(3))
    state = optimizer.state_dict()
    other = Adam([hg.Parameter(p.data.float()) for p in ours])
    other.load_state_dict(state)
    assert all(slot.state["mean"].dtype is torch.float32 for slot in other._slots())
    same = Adam([hg.Parameter(p.data.clone()) for p in ours])
    same.load_state_dict(state)
    assert same._slots()[0].state["mean"] is not state["state"][0]["mean"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(optimizer="RMSprop"), "it is of RMSprop"),
        (lambda s: s["groups"][0].update(parameters=3), r"groups of \[3\] parameters"),
        (lambda s: s["state"].pop(), "parameters"),
        (lambda s: s["state"][0].update(mean=torch.zeros(7)), r"parameter 0: mean has shape \(7,\)"),
        (lambda s: s["groups"][0].update(lr={"schedule": "StepLR", "count": 1}), "its lr is StepLR"),
        (lambda s: s.pop("state"), "no state of an optimizer"),
    ],
)
def test_state_that_does_not_fit(change: Any, message: str) -> None:
    optimizer, _ = trained(Adam, {}, range(2))
    state = copy.deepcopy(optimizer.state_dict())
    before = copy.deepcopy(optimizer.state_dict())
    change(state)
    with pytest.raises(FileError, match=message):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["groups"] == before["groups"]
    assert all(torch.equal(a["mean"], b["mean"]) and a["count"] == b["count"] for a, b in zip(after["state"], before["state"]))


# ------------------------------------------------------------------------------------------------------------ schedules

T = torch.optim.lr_scheduler
SCHEDULES: list[tuple[Any, Any]] = [
    (lambda: StepLR(0.1, 3, 0.5), lambda o: T.StepLR(o, 3, 0.5)),
    (lambda: CosineLR(0.1, 12, 0.01), lambda o: T.CosineAnnealingLR(o, 12, 0.01)),
    (lambda: WarmupLR(0.1, 4, 0.25), lambda o: T.LinearLR(o, 0.25, total_iters=4)),
    (lambda: WarmupLR(0.1), lambda o: T.LinearLR(o)),
    (lambda: PlateauLR(0.1, 0.5, 2, 0.01, 1, 0.02), lambda o: T.ReduceLROnPlateau(o, "min", 0.5, 2, 0.01, "rel", 1, 0.02, eps=0)),
]


@pytest.mark.parametrize(("make", "reference"), SCHEDULES, ids=["step", "cosine", "warmup", "warmup default", "plateau"])
def test_schedules_equal_torch(make: Any, reference: Any) -> None:
    losses = [3.0, 2.0, 2.5, 1.995, 1.99, 1.985, 1.7, 1.8, 1.9, 1.8, 1.8, 1.8, 1.8]
    w, q = hg.Parameter([1.0]), torch.nn.Parameter(torch.ones(1))
    optimizer, their_optimizer = SGD([w], lr=make()), torch.optim.SGD([q], lr=0.1)
    theirs = reference(their_optimizer)
    for loss in losses[:12]:
        assert optimizer.lr == pytest.approx(their_optimizer.param_groups[0]["lr"], rel=1e-12)
        w.grad, q.grad = torch.ones(1), torch.ones(1)
        optimizer.step()
        their_optimizer.step()
        assert w.item() == pytest.approx(q.item(), rel=1e-6)
        optimizer.epoch_end(loss)
        theirs.step(loss) if isinstance(theirs, T.ReduceLROnPlateau) else theirs.step()


def test_warmup_goes_on_with_another_schedule_and_cosine_stays_down() -> None:
    schedule = WarmupLR(CosineLR(1.0, 4, 0.2), 2, 0.5)
    assert [round(schedule.at(n), 6) for n in range(9)] == [0.5, 0.75, 1.0, 0.882843, 0.6, 0.317157, 0.2, 0.2, 0.2]


def test_schedule_per_step() -> None:
    w = hg.Parameter([0.0])
    optimizer = SGD([w], lr=StepLR(1.0, 2, 0.5, per="step"))
    for _ in range(4):
        w.grad = torch.ones(1)
        optimizer.step()
        optimizer.epoch_end(1.0)
    assert w.item() == -(1 + 1 + 0.5 + 0.5)


def test_one_schedule_for_two_groups_counts_once() -> None:
    schedule = StepLR(1.0, 1, 0.5)
    optimizer = SGD([{"params": [hg.Parameter([0.0])]}, {"params": [hg.Parameter([0.0])]}], lr=schedule)
    optimizer.epoch_end()
    assert schedule.lr == 0.5


def test_lr_can_be_set() -> None:
    optimizer = SGD([hg.Parameter([0.0])], lr=0.5)
    optimizer.lr = 0.25
    assert optimizer.lr == 0.25
    optimizer.lr = StepLR(0.1, 1)
    optimizer.epoch_end()
    assert optimizer.lr == pytest.approx(0.01)
    assert optimizer.fresh().lr == 0.1
    assert repr(optimizer.fresh()) == repr(optimizer), "a repr tells settings, not where it stands"


def test_own_schedule() -> None:
    class Halving(Schedule):
        def at(self, count: int) -> float:
            return self.base * 0.5**count

    optimizer = SGD([hg.Parameter([0.0])], lr=Halving(1.0))
    optimizer.epoch_end()
    assert optimizer.lr == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepLR(-0.1, 3), "lr must be"),
        (lambda: StepLR(0.1, 0), "step_size"),
        (lambda: StepLR(0.1, 2.5), "step_size"),
        (lambda: CosineLR(0.1, True), "epochs"),
        (lambda: CosineLR(0.1, 3, -1), "minimum"),
        (lambda: CosineLR(0.1, 3, per="batch"), "per must be"),
        (lambda: WarmupLR(PlateauLR(0.1)), "no PlateauLR"),
        (lambda: WarmupLR(StepLR(0.1, 3, per="step")), "counts the same"),
        (lambda: PlateauLR(0.1, 1.0), "factor"),
        (lambda: PlateauLR(0.1, patience=-1), "patience"),
        (lambda: PlateauLR(0.1).epoch_end(), "needs the loss"),
    ],
)
def test_bad_schedules(make: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()


# --------------------------------------------------------------------------------------------------------------- L-BFGS


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


# ---------------------------------------------------------------------------------------------------- the lists of rules

BINARY = ["add", "sub", "rsub", "mul", "div", "maximum", "minimum"]
UNARY = ["neg", "square", "abs", "sign", "tanh"]


def _apply(op: str, a: Any, b: Any) -> Any:
    if op in ("add", "sub", "mul", "div", "rsub"):
        return {"add": lambda: a + b, "sub": lambda: a - b, "rsub": lambda: b - a, "mul": lambda: a * b, "div": lambda: a / b}[op]()
    if op in ("maximum", "minimum"):
        return getattr(a, op)(b) if isinstance(a, Each) else getattr(torch, op)(a, torch.as_tensor(b, dtype=a.dtype))
    return getattr(a, op)()


@settings(max_examples=300)
@given(
    program=st.lists(
        st.tuples(st.sampled_from(BINARY + UNARY), st.integers(0, 9), st.one_of(st.integers(0, 9), st.sampled_from([0.5, -2.0, 3]))),
        max_size=8,
    ),
    targets=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 11)), max_size=3, unique_by=lambda pair: pair[0]),
)
def test_lists_compute_what_tensors_compute(program: Any, targets: Any) -> None:
    """Any expressions, assigned to any of the given lists at once: the same as with plain tensors and old values."""
    data = [
        [torch.tensor([1.5, -0.5]), torch.tensor(2.0)],
        [torch.tensor([-1.0, 4.0]), torch.tensor(0.25)],
        [torch.tensor([3.0, 0.75]), torch.tensor(-1.25)],
    ]
    lists: list[Any] = [Each([t.double() for t in tensors]) for tensors in data]
    plain: list[Any] = [[t.double() for t in tensors] for tensors in data]
    untouched = [list(each.tensors) for each in lists]
    memory = [[t.data_ptr() for t in each.tensors] for each in lists[:3]]
    for op, i, j in program:
        a, b = i % len(lists), j if isinstance(j, float) or j == 3 else j % len(lists)
        number = isinstance(j, float) or j == 3
        lists.append(_apply(op, lists[a], b if number else lists[b]))
        plain.append([_apply(op, t, b if number else plain[b][k]) for k, t in enumerate(plain[a])])
    assign([(lists[target], lists[value % len(lists)]) for target, value in targets])
    expected = {target: plain[value % len(lists)] for target, value in targets}
    for k in range(3):
        assert [t.data_ptr() for t in lists[k].tensors] == memory[k]
        for got, wanted in zip(untouched[k], expected.get(k, plain[k])):
            assert torch.equal(got, wanted.double()) or torch.allclose(got, wanted.double(), rtol=1e-12, equal_nan=True)


def test_lists_take_other_operands_of_rules() -> None:
    p, g = Each([torch.tensor([4.0, 9.0])]), Each([torch.tensor([1.0, 2.0])])
    result = Each([torch.zeros(2)])
    assign([(result, (2 / p.sqrt() + p**0.5 + p**g).exp() * torch.tensor(0.5) - (-g) + abs(g) + 1 - 1.0 / g.reciprocal() + g.neg())])
    x, y = torch.tensor([4.0, 9.0]), torch.tensor([1.0, 2.0])
    assert torch.allclose(result.tensors[0], (2 / x.sqrt() + x**0.5 + x**y).exp() * 0.5 + y + y + 1 - y - y)


def test_plain_sgd_is_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """`p - lr * g` is written straight into p: one kernel, no new tensor."""
    from hotgrad.optim import lists

    calls: list[str] = []
    counted = {
        name: tuple((lambda k, n: lambda *a, **o: calls.append(n) or k(*a, **o))(kernel, kernel.__name__) for kernel in pair)
        for name, pair in lists._KERNELS.items()
    }
    monkeypatch.setattr(lists, "_KERNELS", counted)
    w = hg.Parameter(torch.ones(3))
    w.grad = torch.ones(3)
    SGD([w], lr=0.5).step()
    assert calls == ["_foreach_sub_"]


def test_own_rule_with_state_and_scalars() -> None:
    """Heavy-ball with a rate that falls with each parameter's own count."""

    class Falling(Optimizer):
        def keeps(self, s: Any) -> tuple[str, ...]:
            return ("old",)

        def scalars(self, s: Any, count: int) -> dict[str, float]:
            return {"rate": s.lr / count}

        def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
            old = state["old"]
            state["old"] = p
            return p - s.rate * g + s.pull * old

    w, v = hg.Parameter([1.0]), hg.Parameter([1.0])
    optimizer = Falling([w, v], lr=1.0, pull=0.5)
    for step in range(3):
        w.grad = torch.ones(1)
        v.grad = torch.ones(1) if step == 2 else None
        optimizer.step()
    first = 1 - 1.0
    second = first - 0.5 + 0.5 * 1.0
    assert w.item() == pytest.approx(second - 1 / 3 + 0.5 * first)
    assert v.item() == 0.0
