"""Convolution of one, two or three axes and its two transposes, on torch's kernels; pooling by the positions of the largest elements.

Natively they are patches times a matrix. Each of the three is the gradient rule of the other two, so every order of derivative is there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotgrad.core.primitive import Primitive
from hotgrad.errors import ShapeError
from hotgrad.ops.shaping import Pad, Unfold

Sizes = tuple[int, ...]


def _given(x: Sizes, weight: Sizes, **options: Any) -> Any:
    return (
        x,
        weight,
        {"stride": (1,) * (len(x) - 2), "padding": (0,) * (len(x) - 2), "dilation": (1,) * (len(x) - 2), "groups": 1, **options},
    )


# what tests draw: shapes of x and weight, and options
_CASES = [
    _given((1, 1, 3), (1, 1, 2)), _given((2, 2, 4), (3, 2, 2), stride=(2,)), _given((1, 1, 3, 3), (2, 1, 2, 2)), _given((2, 2, 3, 4), (2, 2, 2, 1), padding=(1, 0)),
    _given((1, 2, 5), (2, 1, 2), groups=2, dilation=(2,)), _given((1, 2, 4, 4), (4, 1, 2, 2), groups=2, stride=(2, 1)), _given((1, 1, 5, 5), (1, 1, 2, 2), dilation=(2, 2), padding=(1, 1)),
]  # fmt: skip


def _out_shape(x: Sizes, weight: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> Sizes:
    """The shape of a convolution."""
    sizes = zip(x[2:], weight[2:], stride, padding, dilation)
    return (x[0], weight[0], *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes))


def _stand_in(shape: Sizes, like: Tensor) -> Tensor:
    """For a kernel that asks of an operand its shape alone."""
    return torch.empty((), dtype=like.dtype, device=like.device).expand(shape)


def _backward(g: Tensor, x: Tensor, weight: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int, of_x: bool) -> Tensor:
    """One gradient of a convolution by torch's kernel."""
    found = torch.ops.aten.convolution_backward(
        g, x, weight, None, stride, padding, dilation, False, (0,) * len(stride), groups, (of_x, not of_x, False)
    )
    return found[0 if of_x else 1]  # type: ignore[no-any-return]


def patches(x: Any, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, value: float = 0.0) -> Any:
    """The patches (n, channels, *out, *kernel) that a kernel sees of x (n, channels, *sizes)."""
    if any(padding):
        x = Pad.apply(x, tuple(p for size in reversed(padding) for p in (size, size)), value=value)
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation), 2):
        x = Unfold.apply(x, axis, (k - 1) * d + 1, s)
        if d > 1:
            x = x[..., ::d]
    return x


class Convolution(Primitive):
    """Cross-correlation of x (n, in, *sizes) with kernels `weight` (out, in / groups, *kernel), over one to three axes of sizes.

    `stride`, `padding` (of zeros, on both sides) and `dilation` give a number for each of these axes.

    >>> hg.ops.Convolution.apply(torch.ones(1, 1, 3), torch.ones(1, 1, 2), stride=(1,), padding=(0,), dilation=(1,), groups=1)
    tensor([[[2., 2.]]])
    """

    function = ""
    native = "convolution"
    allocates = True
    operands = staticmethod(lambda: [((x, w), options) for x, w, options in _CASES])

    @staticmethod
    def forward(x: Any, weight: Any, *, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Tensor:
        return torch.convolution(x, weight, None, stride, padding, dilation, False, (0,) * len(stride), groups)

    vjps = (
        lambda g, out, x, weight, **how: ConvolutionInput.apply(g, weight, shape=tuple(x.shape), **how),
        lambda g, out, x, weight, **how: ConvolutionWeight.apply(g, x, shape=tuple(weight.shape), **how),
    )
    reads = ("weight", "x")
    fresh = True


class ConvolutionInput(Primitive):
    """The gradient of a convolution's input of that `shape`, from that of its result `g` and its kernels.

    >>> hg.ops.ConvolutionInput.apply(torch.ones(1, 1, 2), torch.ones(1, 1, 2), shape=(1, 1, 3), stride=(1,), padding=(0,), dilation=(1,), groups=1)
    tensor([[[1., 2., 1.]]])
    """

    function = ""
    native = "convolution_input"
    allocates = True
    operands = staticmethod(
        lambda: [((_out_shape(x, w, o["stride"], o["padding"], o["dilation"]), w), {**o, "shape": x}) for x, w, o in _CASES]
    )

    @staticmethod
    def forward(g: Any, weight: Any, *, shape: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Tensor:
        return _backward(g, _stand_in(shape, g), weight, stride, padding, dilation, groups, True)

    vjps = (
        lambda h, out, g, weight, shape, **how: Convolution.apply(h, weight, **how),
        lambda h, out, g, weight, shape, **how: ConvolutionWeight.apply(g, h, shape=tuple(weight.shape), **how),
    )
    reads = ("weight", "g")
    fresh = True


class ConvolutionWeight(Primitive):
    """The gradient of a convolution's kernels of that `shape`, from that of its result `g` and its input.

    >>> hg.ops.ConvolutionWeight.apply(torch.ones(1, 1, 2), torch.ones(1, 1, 3), shape=(1, 1, 2), stride=(1,), padding=(0,), dilation=(1,), groups=1)
    tensor([[[2., 2.]]])
    """

    function = ""
    native = "convolution_weight"
    allocates = True
    operands = staticmethod(
        lambda: [((_out_shape(x, w, o["stride"], o["padding"], o["dilation"]), x), {**o, "shape": w}) for x, w, o in _CASES]
    )

    @staticmethod
    def forward(g: Any, x: Any, *, shape: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Tensor:
        return _backward(g, x, _stand_in(shape, g), stride, padding, dilation, groups, False)

    vjps = (
        lambda h, out, g, x, shape, **how: Convolution.apply(x, h, **how),
        lambda h, out, g, x, shape, **how: ConvolutionInput.apply(g, h, shape=tuple(x.shape), **how),
    )
    reads = ("x", "g")
    fresh = True


class PoolArgMax(Primitive):
    """For each window the position of its largest element among x's (n, channels, *sizes) as one axis of sizes, the first of several.

    >>> hg.ops.PoolArgMax.apply(torch.tensor([[[1.0, 3.0, 2.0, 0.0]]]), kernel=(2,), stride=(2,), padding=(0,), dilation=(1,))
    tensor([[[1, 2]]])
    """

    function = ""
    native = "pool_argmax"
    plain = True
    allocates = True
    vjps = (None,)
    reads = ("",)
    operands = staticmethod(
        lambda: [
            ((shape,), {"kernel": k, "stride": s, "padding": p, "dilation": d})
            for shape, k, s, p, d in [
                ((1, 1, 4), (2,), (2,), (0,), (1,)), ((1, 2, 4, 4), (2, 2), (2, 2), (0, 0), (1, 1)), ((2, 1, 5, 4), (3, 2), (2, 1), (1, 0), (1, 2)),
            ]
        ]
    )  # fmt: skip

    @staticmethod
    def forward(x: Any, *, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> Tensor:
        if len(kernel) == 1:  # torch's kernel for one axis tells no positions
            found = torch.ops.aten.max_pool2d_with_indices(x.unsqueeze(-2), (1, *kernel), (1, *stride), (0, *padding), (1, *dilation))[1]
            return found.squeeze(-2)  # type: ignore[no-any-return]
        name = "max_pool2d_with_indices" if len(kernel) == 2 else "max_pool3d_with_indices"
        return getattr(torch.ops.aten, name)(x, kernel, stride, padding, dilation)[1]  # type: ignore[no-any-return]


def check_images(name: str, x: Any, axes: int) -> None:
    """Raise ShapeError unless x has two axes and so many sizes."""
    if x.ndim != axes + 2:
        sizes = ("length", "height, width", "depth, height, width")[axes - 1]
        raise ShapeError(f"{name}: expected x of shape (n, channels, {sizes}); got {tuple(x.shape)}")
