"""An optimizer that was given no parameters trains those that the model has; one that was given some says what it lacks."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import ENGINES, compare, state

import hotgrad as hg
from hotgrad import nn, optim

pytestmark = pytest.mark.usefixtures("native_in_full_runs")

X, LABELS = hg.data.disc(40, seed=0)


class Net(hg.Module):
    """A user's Module, with Modules in an attribute and in a list."""

    def __init__(self) -> None:
        self.first, self.more = hg.Linear(4, 4), [hg.Linear(4, 4)]

    def forward(self, x: Any) -> Any:
        x = self.first(x).tanh()
        for layer in self.more:
            x = layer(x)
        return x


def made(optimizer: Any = "adam") -> hg.Sequential:
    model = hg.Sequential(hg.Linear(2, 4), hg.Tanh(), Net(), hg.Linear(4, 2), loss="cross_entropy", optimizer=optimizer)
    for i, parameter in enumerate(model.parameters()):
        parameter.data.copy_(torch.linspace(-0.5, 0.6, parameter.numel()).reshape(parameter.shape).roll(i))
    return model


def layer(*sizes: int) -> Any:
    made = hg.Linear(*sizes)
    made.reset_parameters(torch.Generator().manual_seed(3))
    return made


CHANGES: dict[str, Callable[[Any], Any]] = {
    "appended": lambda m: m.append(layer(2, 2)),
    "sized later": lambda m: m.append(hg.Linear(2)),
    "replaced": lambda m: m.__setitem__(0, layer(2, 4)),
    "all replaced": lambda m: [m.__setitem__(i, new) for i, new in ((0, layer(2, 4)), (2, hg.Tanh()), (3, layer(4, 2)))],
    "taken out": lambda m: m.__setitem__(2, hg.Tanh()),
    "set in a Module": lambda m: setattr(m[2], "first", layer(4, 4)),
    "put into a list": lambda m: m[2].more.append(layer(4, 4)),
    "a Parameter": lambda m: setattr(m[3], "bias", hg.Parameter(torch.zeros(2))),
    "shared": lambda m: setattr(m[2], "first", m[2].more[0]),
}


def by_hand(model: Any, before: dict[int, dict[str, torch.Tensor]], steps: int) -> None:
    """Full-batch Adam of torch's, each parameter with what it had learnt."""
    peers = {id(p): torch.nn.Parameter(p.data.clone()) for p in model.parameters()}
    for _ in range(steps):
        model.zero_grad()
        model.loss(model(X), LABELS).backward()
        for p in model.parameters():
            if p.grad is None:
                continue
            kept = before.setdefault(id(p), {"m": torch.zeros_like(p.data), "v": torch.zeros_like(p.data), "count": torch.zeros(())})
            optimizer = torch.optim.Adam([peers[id(p)]], lr=1e-3)
            optimizer.state[peers[id(p)]] = {"step": kept["count"], "exp_avg": kept["m"], "exp_avg_sq": kept["v"]}
            peers[id(p)].grad = p.grad
            optimizer.step()
            p.data.copy_(peers[id(p)].data)


@pytest.mark.parametrize("engine", ["eager", *ENGINES])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("optimizer", ["adam", "made without"])
def test_new_parameters_join_and_others_leave(change: str, optimizer: str, engine: str) -> None:
    model = made(optim.Adam(lr=1e-3) if optimizer == "made without" else "adam")
    peer, kept = made(), {}
    model.fit(X, LABELS, epochs=3, seed=0, verbose=0, engine=engine)
    by_hand(peer, kept, 3)
    for each in (model, peer):
        CHANGES[change](each)
    if change == "sized later":
        for each in (model, peer):
            each.predict(X[:1])
            each[-1].reset_parameters(torch.Generator().manual_seed(3))
    model.fit(X, LABELS, epochs=4, verbose=0, engine=engine)
    by_hand(peer, kept, 4)
    assert [p.shape for p in model.optimizer.parameters] == [p.shape for p in model.parameters()]
    for (name, ours), theirs in zip(model.named_parameters(), peer.parameters()):
        torch.testing.assert_close(ours.data, theirs.data, rtol=2e-4, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("change", CHANGES)
def test_files_of_a_changed_model(change: str, tmp_path: Path) -> None:
    """Saved before and after the next fit, loaded, copied, pickled, and resumed from a checkpoint: training goes on as it would have."""
    model = made()
    model.fit(X, LABELS, epochs=3, seed=0, verbose=0)
    CHANGES[change](model)
    model.predict(X[:1])  # sizes what is sized later
    other = made()
    CHANGES[change](other)
    model.save(tmp_path / "model")
    again = [other.load(tmp_path / "model"), copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    model.fit(X, LABELS, epochs=3, verbose=0)
    for each in again:
        each.fit(X, LABELS, epochs=3, verbose=0)
        compare(state(each), state(model))
    model.save(tmp_path / "model")
    other.load(tmp_path / "model")
    runs = []
    for steps in ((2, 4), (4,)):
        each = copy.deepcopy(model)
        for epochs in steps:
            each = copy.deepcopy(model)
            each.fit(X, LABELS, epochs=epochs, seed=1, verbose=0, checkpoint=tmp_path / f"run{len(runs)}")
        runs.append(each)
    compare(state(runs[0]), state(runs[1]))
    for each in (model, other):
        each.reset(0)
        each.fit(X, LABELS, epochs=2, verbose=0)
    compare(state(model), state(other))


@pytest.mark.parametrize("engine", ["eager", *ENGINES])
def test_by_a_callback_in_the_middle(engine: str) -> None:
    """The optimizer follows at once; early stopping's weights and the return to an epoch's start fit the model that is."""
    model = made(optim.Adam(lr=0.05))

    def grow(model: Any, history: Any) -> None:
        if len(history) == 2:
            model.append(hg.Linear(2))
            model.append(nn.Dropout(0.1))
            model.append(hg.Linear(2, 2))

    stop = hg.EarlyStopping("loss", patience=50)
    with pytest.warns(RuntimeWarning, match="the layers have changed, so that the best weights so far, of epoch 1, do not fit"):
        history = model.fit(X, LABELS, epochs=12, batch_size=15, seed=0, verbose=0, engine=engine, callbacks=[grow, stop])
    assert len(history) == 12 and history.engine == engine
    assert [slot.count for slot in model.optimizer._slots()][-4:] == [3 * (stop.best_epoch - 2)] * 4
    assert all(module.generator is model.generator for module in model.modules())


@pytest.mark.parametrize("engine", ["eager", "replay"])
def test_a_given_optimizer_names_what_it_lacks(engine: str) -> None:
    for change, names in {
        "appended": "4.weight, 4.bias",
        "replaced": "0.weight, 0.bias",
        "set in a Module": "2.first.weight, 2.first.bias",
        "put into a list": "2.more.1.weight, 2.more.1.bias",
        "a Parameter": "3.bias",
    }.items():
        model = made(None)
        model.optimizer = optim.SGD(
            [{"params": model[0].parameters(), "lr": 0.2}, {"params": [*model[2].parameters(), *model[3].parameters()]}]
        )
        model.fit(X, LABELS, epochs=1, seed=0, verbose=0, engine=engine)
        CHANGES[change](model)
        before = state(model)
        with pytest.raises(hg.SettingError, match=names.replace(".", r"\.") + r"\. Give it all"):
            model.fit(X, LABELS, verbose=0, engine=engine)
        compare(state(model), before)
    model = made(None)
    model.optimizer = optim.SGD(list(model.parameters()))
    model.append(layer(2, 2).freeze())
    model.fit(X, LABELS, verbose=0, engine=engine)
    model[-1].unfreeze()
    with pytest.raises(hg.SettingError, match=r"4\.weight, 4\.bias"):
        model.fit(X, LABELS, verbose=0, engine=engine)
    with pytest.raises(hg.SettingError, match=r"4\.weight, 4\.bias"):  # also where a callback did it
        model[-1].freeze()
        model.fit(X, LABELS, epochs=3, verbose=0, engine=engine, callbacks=[lambda m, h: m[-1].unfreeze() and None])


def test_frozen_then_unfrozen() -> None:
    model = made()
    model[0].freeze()
    model.fit(X, LABELS, epochs=2, seed=0, verbose=0)
    before = model[0].weight.data.clone()
    model[0].unfreeze()
    model.fit(X, LABELS, epochs=2, verbose=0)
    assert not torch.equal(model[0].weight.data, before)
    assert [slot.count for slot in model.optimizer._slots()] == [2, 2, 4, 4, 4, 4, 4, 4]


def test_lbfgs_forgets_what_it_learnt_of_other_parameters() -> None:
    """Also if they have the same shapes."""
    model, peer = (made(optim.LBFGS(max_iter=4)) for _ in range(2))
    model.fit(X, LABELS, epochs=2, seed=0, verbose=0)
    model[0], peer[0] = layer(2, 4), layer(2, 4)
    peer.load_state_dict(model.state_dict())
    for each in (model, peer):
        each.fit(X, LABELS, epochs=2, seed=1, verbose=0)
    for a, b in zip(model.parameters(), peer.parameters()):
        assert torch.equal(a.data, b.data)


def test_an_optimizer_does_not_go_to_another_model() -> None:
    optimizer = optim.Adam(lr=0.01)
    model, other = made(optimizer), made(optimizer)
    model.fit(X, LABELS, seed=0, verbose=0)
    before = state(model)
    for call in (lambda: other.fit(X, LABELS, verbose=0), lambda: made().fit(X, LABELS, optimizer=optimizer, verbose=0)):
        with pytest.raises(hg.SettingError, match="another model"):
            call()
    compare(state(model), before)
    longer = hg.Sequential(*model, layer(2, 2), loss="cross_entropy", optimizer=optimizer)  # has them all, and some of its own
    longer.fit(X, LABELS, seed=0, verbose=0)
    assert not torch.equal(longer[-1].weight.data, layer(2, 2).weight.data)


def test_a_fit_that_fails_leaves_the_optimizer_as_it_was() -> None:
    model = made(optim.LBFGS(max_iter=2))
    model.fit(X, LABELS, seed=0, verbose=0)
    groups, memory = model.optimizer.groups, model.optimizer._memory
    model.append(layer(2, 2))
    with pytest.raises(hg.CaptureError):
        model.append(lambda v: v * v.data.mean()) and model.fit(X, LABELS, verbose=0, engine="replay")
    assert model.optimizer.groups is groups and model.optimizer._memory is memory


def test_groups_outlive_a_reset_and_folds() -> None:
    model = made(None)
    model[2].freeze()
    shared = optim.StepLR(0.5, 3, 0.1)
    groups = [{"params": model[0].parameters(), "lr": shared, "momentum": 0.9}, {"params": model[3].parameters(), "lr": shared}]
    model.optimizer = optim.SGD(groups)
    model.reset(0)
    model.fit(X, LABELS, epochs=4, seed=0, verbose=0)
    first = state(model)
    assert [(len(group.slots), group.settings.momentum, group.lr) for group in model.optimizer.groups] == [(2, 0.9, 0.05), (2, 0, 0.05)]
    model.reset(0)
    assert model.optimizer.groups[0].rate is model.optimizer.groups[1].rate is not shared
    model.fit(X, LABELS, epochs=4, seed=0, verbose=0)
    compare(state(model), first)
    plain = made(optim.SGD(lr=0.5, momentum=0.9))
    plain[2].freeze()
    # folds train on the copies of a given optimizer's parameters
    scores = [
        each.cross_validate(X, LABELS, 2, seed=1, epochs=30, optimizer=given)
        for each, given in ((model, None), (model, model.optimizer), (plain, None))
    ]
    assert scores[0] == scores[1] != scores[2]
    compare({name: t for name, t in state(model).items() if name != "generator"}, {n: t for n, t in first.items() if n != "generator"})
