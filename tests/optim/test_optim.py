"""Optimizers against torch.optim, parameters that must stay as they are, schedules, state, and the lists that rules run on."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad.errors import FileError, OperandError, SettingError, TapeError
from hotgrad.optim import LBFGS, SGD, Adam, AdamW, CosineLR, Optimizer, PlateauLR, RMSprop

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
    optimizer, reference = Adam(ours, lr=0.1), torch.optim.Adam(theirs, lr=0.1)
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


def test_state_of_a_schedule_that_is_broken() -> None:
    optimizer = SGD([hg.Parameter([1.0])], lr=CosineLR(0.1, 5))
    for wrong in ({"schedule": "CosineLR"}, {"schedule": "CosineLR", "count": "two"}):
        state = optimizer.state_dict()
        state["groups"][0]["lr"] = wrong
        with pytest.raises(FileError, match="state of its CosineLR is broken"):
            optimizer.load_state_dict(state)


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
    kept = same._slots()[0].state["mean"]
    assert kept is not state["state"][0]["mean"]
    kept.zero_()
    same.load_state_dict(state)
    assert same._slots()[0].state["mean"] is kept and torch.equal(kept, state["state"][0]["mean"]), "what is there is written to"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(optimizer="RMSprop"), "it is of RMSprop"),
        (lambda s: s["groups"][0].update(parameters=3), r"groups of \[3\] parameters"),
        (lambda s: s["state"].pop(), "parameters"),
        (lambda s: s["state"][0].update(mean=torch.zeros(7)), r"parameter 0: mean has shape \(7,\)"),
        (lambda s: s["groups"][0].update(lr={"schedule": "StepLR", "count": 1}), "its lr is StepLR"),
        (lambda s: s.pop("state"), "it is broken"),
        (lambda s: s["state"][0].update(mean="text"), "it is broken"),
        (lambda s: s["state"][0].update(count=-1), "count must be"),
        (lambda s: s["groups"][0]["settings"].update(momentum=0.9), "its settings are"),
        (lambda s: s["groups"][0]["settings"].update(betas=[2.0, 0.9]), "betas"),
        (lambda s: s["groups"][0].update(lr=-1.0), "lr must be"),
        (lambda s: s.update(clip_norm="high"), "clip_norm"),
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
