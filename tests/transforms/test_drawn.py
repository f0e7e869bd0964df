"""Derivatives of drawn compositions of ops: the transforms agree with each other, with `gradients`, with programs and with loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import HealthCheck, given, seed, settings
from torch import Tensor

import hotgrad as hg
from hotgrad.testing.programs import programs_with_inputs


def close(found: Sequence[Any], wanted: Sequence[Any]) -> bool:
    pairs = [[v.data if isinstance(v, hg.Variable) else v for v in pair] for pair in zip(found, wanted)]
    return all(
        torch.allclose(a, b, rtol=1e-6, atol=1e-6 * (1 + float(b.abs().max()) if b.numel() else 1), equal_nan=True) for a, b in pairs
    )


def wave(like: Tensor, shift: float) -> Tensor:
    return torch.cos(torch.arange(like.numel(), dtype=torch.float64) + shift).reshape(like.shape)


def test_compositions(count: Callable[[int, int], int]) -> None:
    compared = []

    @seed(0)
    @settings(max_examples=count(40, 2000), suppress_health_check=list(HealthCheck))
    @given(programs_with_inputs())
    def check(drawn: Any) -> None:
        program, inputs = drawn

        def f(*xs: Any) -> Any:
            out = program(*xs)
            return (out * wave(out, 0.0)).sum()

        variables = [hg.Variable(t, requires_grad=True) for t in inputs]
        value = f(*variables)
        if not value.requires_grad or not value.data.isfinite().all():
            return
        zeros = [torch.zeros_like(t) for t in inputs]
        first = hg.gradients(value, variables, allow_unused=True, create_graph=True)
        wanted = [zero if g is None else g for g, zero in zip(first, zeros)]
        places = tuple(range(len(inputs)))
        gradient = hg.grad(f, places)
        found = gradient(*inputs)
        assert close(found, wanted)
        again = hg.grad(hg.remat(f), places)(*inputs)
        assert all(torch.equal(a.data.nan_to_num(), b.data.nan_to_num()) for a, b in zip(again, found))
        tangents = tuple(wave(t, 1.0) for t in inputs)
        slopes = [(g * d).sum() for g, d in zip(first, tangents) if g is not None]
        assert close([hg.jvp(f, inputs, tangents)[1]], [sum(s.data for s in slopes)])
        linked = [s for s in slopes if s.requires_grad]
        second = hg.gradients(sum(linked[1:], linked[0]), variables, allow_unused=True) if linked else zeros
        assert close(hg.hvp(f, inputs, tangents)[1], [zero if s is None else s for s, zero in zip(second, zeros)])
        assert close(hg.capture(gradient, *inputs)(*inputs), found)
        stacks = [torch.stack([t, t * 1.01 + 0.001, t]) for t in inputs]
        loop = [gradient(*[stack[i] for stack in stacks]) for i in range(3)]
        assert close(hg.vmap(gradient)(*stacks), [torch.stack([each[k].data for each in loop]) for k in places])
        compared.append(program)

    check()
    assert len(compared) > 0.9 * count(40, 2000)
