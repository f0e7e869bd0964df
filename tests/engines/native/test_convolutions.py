"""Convolutions and pooling in C against torch's kernels, over drawn shapes and options, a dozen in each program."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hotgrad as hg
from hotgrad.engines.native.compiler import find_compiler
from hotgrad.ops.convolutions import Convolution, ConvolutionInput, ConvolutionWeight, PoolArgMax, _out_shape

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="there is no C compiler")


def _drawn(draw: random.Random, most: int = 22) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Shapes of an input and of kernels that fit, and the options."""
    while True:
        axes = draw.choice([1, 1, 2, 2, 2, 3])
        groups = draw.choice([1, 1, 1, 2, 3])

        def sizes(choices: list[int], axes: int = axes) -> tuple[int, ...]:
            return tuple(draw.choice(choices) for _ in range(axes))

        how: dict[str, Any] = {"stride": sizes([1, 1, 2, 3]), "padding": sizes([0, 1, 2, 4]), "dilation": sizes([1, 1, 2, 3])}
        size = tuple(draw.randint(1, {1: 2 * most, 2: most, 3: 8}[axes]) for _ in range(axes))
        x = (draw.choice([1, 2, 5]), groups * draw.choice([1, 2, 3, 5]), *size)
        weight = (groups * draw.choice([1, 2, 3, 4, 7]), x[1] // groups, *sizes([1, 2, 3, 5]))
        if min(_out_shape(x, weight, how["stride"], how["padding"], how["dilation"])) >= 1:
            return x, weight, {**how, "groups": groups}


def _compare(cases: list[tuple[Callable[..., Tensor], list[Tensor]]], tolerance: float) -> None:
    """All these calls in one program natively, against each by itself on torch's kernels."""
    tensors = [tensor for _, operands in cases for tensor in operands]

    def together(*given: Tensor) -> tuple[Tensor, ...]:
        rest = iter(given)
        return tuple(call(*(next(rest) for _ in operands)) for call, operands in cases)

    found = hg.capture(together, *tensors).to("native")(*tensors)
    for (call, operands), result in zip(cases, found):
        exact = call(*(o.double() for o in operands)).to(result.dtype)
        scale = max(1.0, exact.abs().max().item()) if tolerance else 1.0
        torch.testing.assert_close(result / scale, exact / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_convolutions_and_their_gradients(dtype: torch.dtype, count: Callable[[int, int], int]) -> None:
    for seed in range(count(1, 8)):
        _convolutions(seed, dtype)


def _convolutions(seed: int, dtype: torch.dtype) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    cases: list[tuple[Callable[..., Tensor], list[Tensor]]] = []
    for _ in range(6):
        x_shape, weight_shape, how = _drawn(draw)
        x, weight = torch.randn(x_shape, dtype=dtype), torch.randn(weight_shape, dtype=dtype)
        g = torch.randn(_out_shape(x_shape, weight_shape, how["stride"], how["padding"], how["dilation"]), dtype=dtype)
        turned = draw.random() < 0.3  # operands that do not lie by rows
        if turned:
            x, g = x.transpose(0, 1).contiguous(), g.transpose(-1, -2).contiguous()

        def convolved(x: Tensor, weight: Tensor, how: dict[str, Any] = how, turned: bool = turned) -> Tensor:
            return Convolution.apply(x.transpose(0, 1) if turned else x, weight, **how)  # type: ignore[no-any-return]

        def of_input(
            g: Tensor, weight: Tensor, how: dict[str, Any] = how, turned: bool = turned, shape: tuple[int, ...] = x_shape
        ) -> Tensor:
            return ConvolutionInput.apply(g.transpose(-1, -2) if turned else g, weight, shape=shape, **how)  # type: ignore[no-any-return]

        def of_weight(
            g: Tensor, x: Tensor, how: dict[str, Any] = how, turned: bool = turned, shape: tuple[int, ...] = weight_shape
        ) -> Tensor:
            g, x = (g.transpose(-1, -2), x.transpose(0, 1)) if turned else (g, x)
            return ConvolutionWeight.apply(g, x, shape=shape, **how)  # type: ignore[no-any-return]

        cases += [(convolved, [x, weight]), (of_input, [g, weight]), (of_weight, [g, x])]
    _compare(cases, 2e-6 if dtype is torch.float32 else 1e-14)


def test_not_a_number_next_to_a_row_stays_out() -> None:
    """Vectors reach beyond the end of a row, to where other rows lie."""
    x, weight = torch.randn(2, 3, 5, 9), torch.randn(4, 3, 2, 2)
    g = torch.randn(2, 4, 4, 8)
    x[:, :, :, 8] = math.nan  # a column that the kernels of the second program do not see
    x[:, :, 4] = math.inf

    def f(x: Tensor, weight: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        part, how = x[:, :, :4, :8], {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
        upstream = g[:, :, :3, :7]
        return Convolution.apply(part, weight, **how), ConvolutionWeight.apply(upstream, part, shape=(4, 3, 2, 2), **how)

    for found, exact in zip(hg.capture(f, x, weight, g).to("native")(x, weight, g), f(x, weight, g)):
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-4)
        assert found.isfinite().all()


def test_positions_of_largest_elements(count: Callable[[int, int], int]) -> None:
    """Ties, NaN and windows of -inf alone included: torch's choice among them."""
    for seed in range(count(1, 8)):
        _positions(seed)


def _positions(seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    cases: list[tuple[Callable[..., Tensor], list[Tensor]]] = []
    for number in range(12):
        x_shape, _, how = _drawn(draw)
        kernel = tuple(draw.choice([1, 2, 3, 4]) for _ in x_shape[2:])
        options = {"kernel": kernel, "stride": how["stride"], "padding": tuple(k // 2 for k in kernel), "dilation": how["dilation"]}
        if number % 2:
            options["padding"] = (0,) * len(kernel)
        if min(_out_shape(x_shape, (1, 1, *kernel), options["stride"], options["padding"], options["dilation"])) < 1:
            continue
        x = torch.randint(-3, 4, x_shape).to(draw.choice([torch.float32, torch.float64, torch.int64, torch.int32]))
        if x.is_floating_point() and draw.random() < 0.4:
            x[torch.rand(x_shape) < 0.3] = math.nan
        if x.is_floating_point() and draw.random() < 0.4:
            x[torch.rand(x_shape) < 0.6] = -math.inf
        cases.append((lambda x, options=options: PoolArgMax.apply(x, **options), [x]))
    assert len(cases) >= 6
    _compare(cases, 0.0)
