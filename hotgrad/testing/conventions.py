"""What differences cannot tell: the gradients agreed on at kinks and ties, and in the company of NaN and infinity; what ops that
declare themselves stable owe at large values; and the comparison with a torch function, which is optional.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.primitive import Primitive, primitives
from hotgrad.core.variable import Variable
from hotgrad.testing.numeric import slopes
from hotgrad.testing.report import Problem, option_code
from hotgrad.testing.subject import Subject, direction_of, near, reach_of, same, unit


def original(op: type[Primitive]) -> str:
    """The name of the registered built-in primitive whose forward `op` has; "" if none."""
    found = (p for p in primitives().values() if p.__module__.startswith("hotgrad.") and p.forward is op.forward)
    return next((p.name for p in found), "")


def check(op: type[Primitive]) -> list[Problem]:
    """The gradients of `op` against its own kinks, or those of the primitive whose forward it has."""
    problems = []
    known = op.kinks or getattr(primitives().get(original(op)), "kinks", {})
    for operands, options, g, wanted in chain.from_iterable(known.values()):
        values = [v if isinstance(v, int) else torch.tensor(v, dtype=torch.bool if v == [True, False] else torch.float64) for v in operands]
        leaves = [Variable(v, requires_grad=True) if w is not None else v for v, w in zip(values, wanted)]
        call = ", ".join([*map(str, operands), *(f"{name}={option_code(value)}" for name, value in options.items())])
        try:
            op.apply(*leaves, **options).backward(torch.tensor(g, dtype=torch.float64))
        except Exception as error:
            return [Problem("raised", f"{op.name}({call}): differentiating raised {type(error).__name__}: {error}")]
        for name, leaf, right in zip(op.operand_names, leaves, wanted):
            if right is None or not isinstance(leaf, Variable):
                continue
            got = torch.zeros_like(leaf.data) if leaf.grad is None else leaf.grad
            exact = torch.tensor(right, dtype=torch.float64)
            if not torch.allclose(got, exact, rtol=1e-12, atol=0, equal_nan=True):
                text = f"{op.name}({call}) with the cotangent {g}: the gradient of {name} is {got.tolist()}; by convention it is {right}"
                problems.append(Problem("convention", text, "wrong at a kink, at a tie, or where a mask must select and not multiply"))
    return problems


# ---------------------------------------------------------------------------------------------------------------- overflow


def probe_overflow(subject: Subject, g: Tensor) -> list[Problem]:
    """Far from 0, value and gradients of an op that is declared stable are finite and not NaN, in both dtypes."""
    if not bool(subject.plain(subject.values).isfinite().all()):
        return []
    for size in (60.0, 800.0, 1e30):
        for dtype in (torch.float64, torch.float32):
            values = [(torch.sign(v) * size + v).to(dtype) if i in subject.checked else v for i, v in enumerate(subject.values)]
            for one in values:
                one[one.abs() < size / 2] = 0.0  # zeros among the large
            where = f"{subject.name} is declared stable, but at {[v.tolist() for v in values]}, {dtype}, "
            finite = subject.plain(values).isfinite()
            if not bool(finite.all()):
                return [Problem("overflow", f"{where}its value is not finite: {subject.plain(values).tolist()}")]
            for i, grad in zip(subject.checked, subject.pull(values, g.to(dtype))):
                if not bool(grad.isfinite().all()):
                    return [
                        Problem(
                            "overflow",
                            f"{where}the gradient of {subject.names[i]} is {grad.tolist()}",
                            "something on the way overflows though the result does not",
                        )
                    ]
    return []


# ------------------------------------------------------------------------------------------------------------------ oracle


def compare(oracle: Callable[..., Tensor], subject: Subject, options: dict[str, Any], g: Tensor | None) -> list[Problem]:
    """Value and gradients against those of a torch function, to 1e-11 of the magnitude that entered.

    At kinks torch's gradients may be others, and change from one torch to the next: there what is declared counts, and differences.
    """
    leaves = [v.detach().clone().requires_grad_(i in subject.checked and g is not None) for i, v in enumerate(subject.values)]
    try:
        with torch.enable_grad():
            theirs = oracle(*leaves, **options)
    except Exception as error:
        return [Problem("oracle", f"{subject.name}: torch's function raises what forward computes: {type(error).__name__}: {error}")]
    ours = subject.plain(subject.values)
    size = max((float(v.abs().max()) for v in subject.values if v.numel() and v.dtype.is_floating_point), default=0.0)
    if (
        theirs.shape != ours.shape
        or theirs.dtype != ours.dtype
        or not near(ours, theirs.detach(), 1e-11, size)
        or not same(ours.isnan(), theirs.isnan())
    ):
        return [Problem("oracle", f"{subject.name}: the value is {ours.tolist()}; torch's is {theirs.tolist()}")]
    if g is None or not theirs.requires_grad:
        return []
    wanted: Sequence[Any] = torch.autograd.grad(theirs, [leaves[i] for i in subject.checked], g, allow_unused=True)
    factor = float(g.abs().max()) if g.numel() else 0.0
    for i, got, right in zip(subject.checked, subject.pull(subject.values, g), wanted):
        right = torch.zeros_like(got) if right is None else right
        if near(got, right, 1e-11, size * factor):
            continue
        smooth = ~kinks(subject, i, g, got != right)
        if not near(got[smooth], right[smooth], 1e-11, size * factor):
            return [
                Problem(
                    "oracle",
                    f"{subject.name}: the gradient of {subject.names[i]} is {got.tolist()}; torch's is {right.tolist()}",
                    "right to some digits only: somewhere it is computed in float32" if near(got, right, 1e-5) else "",
                )
            ]
    return []


def kinks(subject: Subject, operand: int, g: Tensor, among: Tensor) -> Tensor:
    """The elements of an operand, of those marked in `among`, along which an output that the cotangent counts has a kink."""
    values = [v.clone(memory_format=torch.contiguous_format) if v.dtype.is_floating_point else v for v in subject.values]
    places = among.reshape(-1).nonzero().flatten()
    directions = [direction_of(values, {operand: unit(values[operand], int(k))}) for k in places]
    reach = [reach_of(values, direction, subject.domains) for direction in directions]
    found = slopes(lambda moved: subject.plain(moved).reshape(-1), values, directions, reach)
    marked = torch.zeros(among.numel(), dtype=torch.bool)
    marked[places] = (found.kinked & found.resolved & (g.reshape(-1) != 0)).any(1)
    return marked.reshape(among.shape)


def _pooled(x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Tensor:
    pool = torch.nn.functional.max_pool1d if len(kernel) == 1 else torch.nn.functional.max_pool2d
    return pool(x, kernel, stride, padding, dilation, return_indices=True)[1]


def _put(g: Tensor, shape: tuple[int, ...], index: Any) -> Tensor:
    places = torch.arange(torch.Size(shape).numel()).reshape(shape)[index]
    return torch.zeros(shape, dtype=g.dtype).reshape(-1).index_add(0, places.reshape(-1), g.reshape(-1)).reshape(shape)


# What does in torch what the primitive of that name does, where no function of the same name takes the same operands and options.
_symmetric: Callable[[Tensor], Tensor] = lambda a: torch.tril(a) + torch.tril(a, -1).mT  # noqa: E731
_convolution_backward = torch.ops.aten.convolution_backward
ORACLES: dict[str, Callable[..., Any]] = {
    "Inv": torch.linalg.inv,
    "Solve": lambda a, b: torch.linalg.solve(a, b),
    "SolveTriangular": lambda a, b, upper: torch.linalg.solve_triangular(a, b, upper=upper),
    "Det": torch.linalg.det,
    "LogAbsDet": lambda a: torch.linalg.slogdet(a)[1],
    "SignDet": lambda a: torch.linalg.slogdet(a)[0],
    "Cholesky": lambda a: torch.linalg.cholesky(_symmetric(a)),
    "Eigh": lambda a: (lambda found: torch.cat((found[0].unsqueeze(-2), found[1]), -2))(torch.linalg.eigh(_symmetric(a))),
    "QR": lambda a: (lambda found: torch.cat((found[0], found[1].mT), -2))(torch.linalg.qr(a)),
    "SVD": lambda a: (lambda u, s, vh: torch.cat((u, s.unsqueeze(-2), vh.mT), -2))(*torch.linalg.svd(a, full_matrices=False)),
    "PInv": lambda a, rtol=None: torch.linalg.pinv(a, rtol=rtol),
    "MatrixExp": torch.linalg.matrix_exp,
    "Convolution": lambda x, weight, stride, padding, dilation, groups: torch.convolution(
        x, weight, None, stride, padding, dilation, False, (0,) * len(stride), groups
    ),
    "ConvolutionInput": lambda g, weight, shape, stride, padding, dilation, groups: _convolution_backward(
        g, g.new_zeros(shape), weight, None, stride, padding, dilation, False, (0,) * len(stride), groups, (True, False, False)
    )[0],
    "ConvolutionWeight": lambda g, x, shape, stride, padding, dilation, groups: _convolution_backward(
        g, x, g.new_zeros(shape), None, stride, padding, dilation, False, (0,) * len(stride), groups, (False, True, False)
    )[1],
    "PoolArgMax": lambda x, kernel, stride, padding, dilation: _pooled(x, kernel, stride, padding, dilation),
    "Cast": lambda a, dtype, device: a.to(dtype=dtype, device=device),
    "Cat": lambda *tensors, dim: torch.cat(tensors, dim),
    "Stack": lambda *tensors, dim: torch.stack(tensors, dim),
    "Einsum": lambda *operands, equation: torch.einsum(equation, *operands),
    "Expand": lambda a, shape: torch.broadcast_to(a, a.new_zeros(()).expand(shape).shape) if -1 not in shape else a.expand(shape),
    "Fold": lambda g, shape, dimension, size, step: _put(g, shape, _windows(shape, dimension, size, step)),
    "Put": lambda g, index, shape, dim: _put(g, shape, (*(slice(None) for _ in range(dim)), index)),
    "Scatter": lambda a, index, src, dim: a.scatter(dim, index, src),
    "Take": lambda a, index, dim: a[(*(slice(None) for _ in range(dim % a.ndim)), index)],
    "ArgMax": lambda a, dim, keepdim: torch.max(a, dim, keepdim).indices,
    "ArgMin": lambda a, dim, keepdim: torch.min(a, dim, keepdim).indices,
    "ArgSort": lambda a, dim, descending, stable: torch.sort(a, dim=dim, descending=descending, stable=True).indices,
    "CumArg": lambda a, dim, largest: (torch.cummax if largest else torch.cummin)(a, dim).indices,
    "TopK": lambda a, k, dim=-1, largest=True, sorted=True: torch.topk(a, k, dim, largest, sorted).indices,
    "Not": torch.logical_not, "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
    "Gather": lambda a, index, dim: torch.take_along_dim(a, index, dim) if a.shape == index.shape else torch.gather(a, dim, index),
    "GetItem": lambda a, index: a[index],
    "PutItem": lambda g, shape, index: _put(g, shape, index),
    "ScatterAdd": lambda g, index, shape, dim: torch.zeros(shape, dtype=g.dtype).scatter_add(dim, index, g),
    "Norm": lambda a, p, dim, keepdim: torch.linalg.vector_norm(a, p, dim, keepdim),
    "Pad": lambda a, pad, value: torch.nn.functional.pad(a, pad, value=value),
    "Prod": lambda a, dim, keepdim: torch.prod(a, dim, keepdim) if dim is not None else torch.prod(a).reshape((1,) * a.ndim if keepdim else ()),
    "ReLUGrad": lambda g, out: torch.where(out <= 0, 0.0, g) + 0 * out,
    "SigmoidGrad": lambda g, out: g * out * (1 - out),
    "Copy": lambda a: a.clone(),
    "FloorDivide": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "Polygamma": lambda a, n: torch.polygamma(n, a),
    "AddScaled": lambda a, b, alpha: a + alpha * b,
    "TanhGrad": lambda g, out: g * (1 - out * out),
    "Alias": lambda a, barrier: a + 0,
    "Independent": lambda a, b: a + 0 * b.sum(),
    "MatMulT": lambda a, b: a @ b.transpose(-1, -2),
    "TMatMul": lambda a, b: a.transpose(-1, -2) @ b,
    "Softplus": lambda a, beta: torch.nn.functional.softplus(a, beta),
    "Unfold": lambda a, dimension, size, step: a.unfold(dimension, size, step),
}  # fmt: skip


def _windows(shape: tuple[int, ...], dimension: int, size: int, step: int) -> tuple[Any, ...]:
    """The index that makes of a tensor of `shape` what unfold makes of it."""
    places = torch.arange(torch.Size(shape).numel()).reshape(shape).unfold(dimension, size, step)
    return torch.unravel_index(places, shape)


def oracle_of(op: type[Primitive]) -> Callable[..., Tensor] | None:
    """The torch function that does what `op` does, None if there is none known: for hotgrad's own ops that of the same name.

    >>> oracle_of(hg.ops.Exp) is torch.exp
    True
    """
    name = original(op)
    if not name or name in ORACLES:
        return ORACLES.get(name)
    names = (primitives()[name].function, name.lower(), re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower())
    found = (getattr(module, one, None) for one in names if one for module in (torch, torch.nn.functional))
    return next((function for function in found if function is not None), None)
