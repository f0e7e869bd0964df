"""Modules nested in modules: nothing but calling them takes Python's stack, and that says so where it ends."""

import copy
import sys

import pytest
import torch

import hotgrad as hg

# Three calls of Python a level are more than it has by default, two are not; 3.12 counts calls through C apart, and fewer of them.
DEPTH = 240 if sys.version_info[:2] == (3, 12) else 300
X = torch.ones(4, 2)


class Around(hg.Module):
    """Holds another module in a list."""

    def __init__(self, inner):
        self.inner = [inner]

    def forward(self, x):
        return self.inner[0](x)


def nested(kind, depth):
    module = hg.Linear(2, 2)
    for _ in range(depth):
        module = kind(module)
    return hg.Sequential(module, loss="mse", optimizer="sgd")


KINDS = pytest.mark.parametrize("kind", [hg.Sequential, Around])


@KINDS
@pytest.mark.parametrize("engine", ["eager", "replay", "native"])
def test_a_deeply_nested_model_trains(kind, engine):
    model = nested(kind, DEPTH)
    model.reset(0)
    flat = hg.Sequential(hg.Linear(2, 2), loss="mse", optimizer="sgd")
    flat.reset(0)
    expected = flat.fit(X, 2 * X, epochs=3, seed=0, verbose=0, engine=engine)
    history = model.fit(X, 2 * X, epochs=3, seed=0, verbose=0, engine=engine)
    assert [row["loss"] for row in history] == [row["loss"] for row in expected]
    assert torch.equal(model.predict(X), flat.predict(X))


@KINDS
def test_what_only_walks_through_modules_may_be_nested_beyond_pythons_limit(kind, tmp_path):
    model = nested(kind, 1200)
    assert len(list(model.parameters())) == 2
    assert len(list(model.modules())) == 1202
    assert len(model.state_dict()) == 2
    assert not model.eval().training
    model.train().freeze().unfreeze().to(torch.float64)
    model.reset(1)
    assert "6 parameters" in repr(model)
    copied = copy.deepcopy(model)
    assert all(a is not b for a, b in zip(model.modules(), copied.modules()))
    model.save(tmp_path / "model")
    copied.reset(2)
    copied.load(tmp_path / "model")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), copied.state_dict().values()))


@KINDS
def test_calling_beyond_pythons_limit_says_so_and_changes_nothing(kind):
    model = nested(kind, sys.getrecursionlimit())
    before = copy.deepcopy(model.state_dict())
    for call in (model, model.predict, lambda x: model.fit(x, x, verbose=0), lambda x: hg.capture(model, x)):
        with pytest.raises(hg.NestingError, match="setrecursionlimit"):
            call(X)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert (hg.Variable([1.0], requires_grad=True) * 2).requires_grad


def test_copies_keep_what_is_shared_circular_or_of_a_copier_of_its_own():
    class Own(hg.Module):
        def __init__(self, mark):
            self.mark = mark

        def __deepcopy__(self, memo):
            return Own(f"copy of {self.mark}")

    class Kept(hg.Module):
        def __init__(self, other):
            self.other, self.dropped = other, "here"

        def __getstate__(self):
            return {"other": self.other}

        def __setstate__(self, state):
            self.__dict__.update(state, dropped="set")

    class Slotted(hg.Module):
        __slots__ = ("extra",)

    shared = hg.Linear(2, 2)
    slotted = Slotted()
    slotted.extra, slotted.layer = [shared.weight], shared
    model = hg.Sequential(shared, Around(shared), Own("a"), Kept(shared), slotted)
    model[1].outer = model
    copied = copy.deepcopy(model)
    assert copied[0] is copied[1].inner[0] is copied[3].other is copied[4].layer is not shared
    assert copied[4].extra[0] is copied[0].weight is not shared.weight
    assert copied[1].outer is copied
    assert (copied[2].mark, copied[3].dropped, model[3].dropped) == ("copy of a", "set", "here")
    assert copy.deepcopy([model, model[0]])[0][0] is not model[0]
    pair = copy.deepcopy([model, model[0]])
    assert pair[0][0] is pair[1]


def test_layers_in_lists_in_lists():
    class Lists(hg.Module):
        pass

    module = Lists()
    module.layer = hg.Linear(2, 2)
    module.around = [module.layer, {"again": module.layer}]
    for _ in range(2000):
        module.around = [module.around]
    module.around[0].append(module.around)  # and in a ring
    assert [name for name, _ in module.named_parameters()] == ["layer.weight", "layer.bias"]
    del module.layer
    assert [name.removeprefix("around") for name, _ in module.named_parameters()] == [
        2000 * ".0" + ".0" + end for end in (".weight", ".bias")
    ]
