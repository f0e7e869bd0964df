"""torch functions in captured code: constants of Python numbers and shapes pass, what depends on other tensors is refused."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import hotgrad as hg

X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]])
OUTSIDE = torch.tensor([1.0, 2.0, 3.0])
ARRAY = np.array([1.0, 2.0, 3.0], dtype=np.float32)


def causal(x: Any) -> Any:
    n = x.shape[1]
    mask = torch.tril(torch.ones(n, n)) == 0
    return hg.where(mask, -math.inf, x.T @ x).softmax(-1)


def positions(x: Any) -> Any:
    table = torch.zeros(x.shape)
    at = torch.arange(x.shape[0]).unsqueeze(1)
    table[:, 0::2] = torch.sin(at * torch.exp(torch.arange(0, 3, 2) * -0.1))
    table[:, 1] = 3
    return x + table


def counted(x: Any) -> Any:
    total = torch.zeros(3)
    for i in range(3):
        total[i] += i
        total *= 2
    return x * total


def written_after_use(x: Any) -> Any:
    scale = torch.ones(3)
    y = x * scale
    scale += 1
    return y + x * scale


def loop(x: Any) -> Any:
    total = torch.zeros(3)
    for row in x:
        total = total + row
    return total


CONSTANTS: dict[str, Callable[[Any], Any]] = {
    "zeros": lambda x: torch.cat([x, torch.zeros(x.shape[0], 12)], 1),
    "ones": lambda x: x + torch.ones(3),
    "full": lambda x: x * torch.full((3,), 2.5),
    "full by size": lambda x: x * torch.full(x.shape, x.shape[0] / 2),
    "arange": lambda x: x * torch.arange(3),
    "linspace": lambda x: x * torch.linspace(0, 1, steps=x.size(1)),
    "eye": lambda x: x @ torch.eye(x.shape[-1]),
    "tril": lambda x: x @ torch.tril(torch.ones(3, 3)),
    "tensor": lambda x: x * torch.tensor([1.0, 2.0, 3.0]),
    "tensor of nested": lambda x: x * torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.float32),
    "as_tensor": lambda x: x * torch.as_tensor([1.0, 2.0, 3.0]),
    "zeros_like": lambda x: x + torch.zeros_like(OUTSIDE),
    "full_like": lambda x: x + torch.full_like(OUTSIDE, 2.0),
    "zeros_like of a Variable": lambda x: torch.cat([x, torch.zeros_like(x)]),
    "full_like of a Variable": lambda x: x * torch.full_like(x[0], 2.0).cumsum(0),
    "new_zeros": lambda x: x + OUTSIDE.new_ones(3),
    "ones_like of a constant": lambda x: x + torch.ones_like(torch.zeros(3)),
    "methods": lambda x: x * torch.ones(3).cumsum(0).flip(0).to(torch.float64).float()[None],
    "a number": lambda x: x * torch.ones(3).sum().item(),
    "a branch": lambda x: x if torch.arange(3).max() > 1 else -x,
    "an index": lambda x: x[:, torch.tensor([0, 2])],
    "several": lambda x: x + torch.meshgrid(torch.arange(2.0), torch.arange(3.0), indexing="ij")[1],
    "raw ops": lambda x: x + hg.exp(torch.ones(3)) * 2,
    "a mask": causal,
    "positions": positions,
    "written": counted,
    "written after use": written_after_use,
    "a loop": loop,
    "cat": lambda x: torch.cat([x, x * 2]),
    "cat, tuple and dim": lambda x: torch.cat((x, x * 2), dim=1),
    "cat by keyword": lambda x: torch.cat(tensors=[x, x * 2], dim=1),
    "stack": lambda x: torch.stack([x, x * 2], 1),
    "stack with a constant": lambda x: torch.stack([torch.zeros(3), x[0]]),
    "concat with an outside tensor": lambda x: torch.cat([x[0], OUTSIDE]),
    "nested": lambda x: torch.stack([torch.stack([x, x]), torch.stack([x, -x])]),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "einsum of a list": lambda x: torch.einsum("ij,kj->ik", [x, x]),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_the_same_as_eager(name: str) -> None:
    f = CONSTANTS[name]
    program = hg.capture(f, torch.zeros(2, 3))
    for x in (X, -2 * X):
        expected = f(hg.Variable(x.clone()))
        assert torch.allclose(program(x), expected.data, equal_nan=True)
        assert torch.allclose(program.to("replay")(x), expected.data, equal_nan=True)


REFUSED: dict[str, Callable[[Any], Any]] = {
    "another tensor": lambda x: x * torch.exp(OUTSIDE),
    "with a constant": lambda x: x * (torch.ones(3) * OUTSIDE),
    "in a list": lambda x: x * torch.stack([torch.ones(3), OUTSIDE]).sum(0),
    "by keyword": lambda x: x * torch.mul(torch.ones(3), other=OUTSIDE),
    "in an index": lambda x: x * torch.ones(9)[OUTSIDE.long()],
    "into a constant": lambda x: x * torch.zeros(3).copy_(OUTSIDE),
    "of an array": lambda x: x * torch.tensor(ARRAY),
    "as_tensor of an array": lambda x: x * torch.as_tensor(ARRAY),
    "tensor of tensors": lambda x: x * torch.tensor([OUTSIDE[0], 1.0, 2.0]),
    "full of a value": lambda x: x * torch.full((3,), OUTSIDE[0].item()),
    "arange to a value": lambda x: x * torch.arange(OUTSIDE[2].item()),
    "rand": lambda x: x * torch.rand(3),
    "rand_like": lambda x: x * torch.rand_like(torch.zeros(3)),
    "randperm": lambda x: x[:, torch.randperm(3)],
    "bernoulli": lambda x: x * torch.bernoulli(torch.full((3,), 0.5)),
    "normal_": lambda x: x * torch.zeros(3).normal_(),
    "dropout": lambda x: x * torch.nn.functional.dropout(torch.ones(3)),
    "a seed each time": lambda x: (torch.manual_seed(0), x * torch.rand(3))[1],
    "empty": lambda x: x * torch.empty(3),
    "a value of a Variable": lambda x: x * torch.full((3,), x.sum().item()),
    "Python's dice": lambda x: x * torch.full((3,), random.random()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    state = torch.get_rng_state()
    with pytest.raises(hg.CaptureError):
        hg.capture(REFUSED[name], X)
    torch.set_rng_state(state)


def test_a_variable_made_inside_starts_anew_at_each_run() -> None:
    def f(x: Any) -> Any:
        total = hg.Variable(torch.zeros(3))
        count = hg.Variable(0.0)
        for row in x:
            total += row
            count += 1
        return total / count

    program = hg.capture(f, X).to("replay")
    for _ in range(3):
        assert torch.allclose(program(X), X.mean(0))
    assert "states" not in str(program)


def test_an_attention_block_trains_alike_on_every_engine() -> None:
    class Attention(hg.Module):
        def __init__(self) -> None:
            self.q, self.k, self.v = hg.Linear(4, 4), hg.Linear(4, 4), hg.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            n = x.shape[1]
            scores = self.q(x) @ self.k(x).transpose(-1, -2) / math.sqrt(4)
            return (
                hg.where(torch.tril(torch.ones(n, n)) == 0, -math.inf, scores).softmax(-1) @ self.v(x) + torch.arange(n).unsqueeze(1) * 0.1
            )

    found = []
    x = torch.randn(12, 5, 4, generator=torch.Generator().manual_seed(0))
    for engine in ("eager", "replay"):
        model = hg.Sequential(Attention(), hg.nn.Flatten(), hg.Linear(20, 2), loss="mse", optimizer=hg.optim.SGD(lr=0.1))
        model.reset(0)
        model.fit(x, x[:, 0, :2], epochs=3, batch_size=5, seed=0, verbose=0, engine=engine)
        found.append([p.data for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found))


# ------------------------------------------------------------------------------------------------------------ messages


@pytest.mark.parametrize("text", [str, repr, "{}".format, "{:.3f}".format, lambda v: f"{v!r:>10}", lambda v: "\n".join(map(str, [v]))])
def test_the_real_error_comes_out(text: Callable[[Any], str]) -> None:
    def f(x: Any) -> Any:
        raise KeyError(f"cannot use {text(x)}")

    with pytest.raises(KeyError, match=r"float32\(2, 3\)"):
        hg.capture(f, X)


def test_a_text_that_is_used_is_still_refused() -> None:
    with pytest.raises(hg.CaptureError, match=r"printed or formatted.*test_torch_calls\.py, line \d+"):
        hg.capture(lambda x: x * len(f"{x}"), X)


def test_ops_tell_what_they_got() -> None:
    with pytest.raises(hg.HotgradError, match=r"MatMul.*float32\(2, 3\)"):
        hg.capture(lambda x: x @ x, X)


GENERATOR, LEGACY, DICE = np.random.default_rng(0), np.random.RandomState(0), random.Random(0)
BYTES = bytearray(b"\x01\x02")


def state_of(generator: Any) -> int:
    return hash(str(getattr(generator, "bit_generator", generator._bit_generator if hasattr(generator, "_bit_generator") else None).state))


@pytest.mark.parametrize(
    ("f", "change", "told"),
    [
        (lambda x: x * float(ARRAY[0]), lambda: ARRAY.__iadd__(1), r"'ARRAY' has other contents"),
        (lambda x: x * BYTES[0], lambda: BYTES.__setitem__(0, BYTES[0] + 1), r"'BYTES' has other contents"),
        (lambda x: x * state_of(GENERATOR), lambda: GENERATOR.random(), r"'GENERATOR' was drawn from"),
        (lambda x: x * len(LEGACY.get_state()[1][:1]) * state_of(LEGACY), lambda: LEGACY.rand(), r"'LEGACY' was drawn from"),
        (lambda x: x * hash(DICE.getstate()), lambda: DICE.random(), r"'DICE' was drawn from"),
    ],
)
def test_changes_are_told_in_the_users_words(f: Any, change: Any, told: str) -> None:
    program = hg.capture(f, X)
    program(X)
    change()
    with pytest.raises(hg.CaptureError, match=told) as error:
        program(X)
    assert "b'" not in str(error.value) and "\\x" not in str(error.value)


def test_the_evaluation_mode_is_no_eval() -> None:
    layer = hg.nn.Dropout(0.5).eval()
    assert torch.equal(hg.capture(lambda x: layer.eval()(x * 1), X)(X), X)
