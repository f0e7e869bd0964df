"""Products of matrices and vectors under torch's names; each says what axes it wants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hotgrad.errors import ShapeError
from hotgrad.ops.axes import array, common_shape, normal_axis, number
from hotgrad.ops.products import MatMul
from hotgrad.ops.rearranging import broadcast_tensors, roll
from hotgrad.ops.shaping import Permute, Reshape
from hotgrad.ops.statistics import sum as total

__all__ = [
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "cdist", "cosine_similarity", "cross", "dot", "ger", "inner", "kron", "mm", "mv", "outer",
    "tensordot", "vdot",
]  # fmt: skip


def _of(name: str, *wanted: tuple[Any, int]) -> None:
    """Raise ShapeError unless each has so many axes."""
    if any(a.ndim != ndim for a, ndim in wanted):
        shapes = ", ".join(str(tuple(a.shape)) for a, _ in wanted)
        raise ShapeError(f"{name}: expected {', '.join(str(ndim) for _, ndim in wanted)} axes; got shapes {shapes}. `@` takes all kinds")


def mm(a: Any, b: Any) -> Any:
    """The product of two matrices.

    >>> hg.mm(hg.Variable([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]))
    Variable([[11.]])
    """
    a, b = array(a), array(b)
    _of("mm", (a, 2), (b, 2))
    return MatMul.apply(a, b)


def bmm(a: Any, b: Any) -> Any:
    """The products of two batches of as many matrices: (n, m, k) and (n, k, l).

    >>> hg.bmm(torch.ones(2, 1, 3), torch.ones(2, 3, 1)).shape
    torch.Size([2, 1, 1])
    """
    a, b = array(a), array(b)
    _of("bmm", (a, 3), (b, 3))
    if a.shape[0] != b.shape[0]:
        raise ShapeError(f"bmm: the batches must be as large; got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    return MatMul.apply(a, b)


def mv(a: Any, b: Any) -> Any:
    """The product of a matrix and a vector.

    >>> hg.mv(hg.Variable([[1.0, 2.0]]), torch.tensor([3.0, 4.0]))
    Variable([11.])
    """
    a, b = array(a), array(b)
    _of("mv", (a, 2), (b, 1))
    return MatMul.apply(a, b)


def dot(a: Any, b: Any) -> Any:
    """The inner product of two vectors of one length.

    >>> hg.dot(hg.Variable([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    Variable(11.)
    """
    a, b = array(a), array(b)
    _of("dot", (a, 1), (b, 1))
    return MatMul.apply(a, b)


def vdot(a: Any, b: Any) -> Any:
    """`dot`, as there are no complex numbers.

    >>> hg.vdot(hg.Variable([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    Variable(11.)
    """
    return dot(a, b)


def inner(a: Any, b: Any) -> Any:
    """Sums of products over the last axis of both; a product of numbers where one has no axes.

    >>> hg.inner(torch.ones(2, 3), torch.ones(4, 3)).shape
    torch.Size([2, 4])
    """
    a, b = array(a), array(b)
    return a * b if not a.ndim or not b.ndim else tensordot(a, b, ([-1], [-1]))


def outer(a: Any, b: Any) -> Any:
    """All products of elements of two vectors: (n,) and (m,) make (n, m).

    >>> hg.outer(hg.Variable([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    Variable([[3., 4.],
              [6., 8.]])
    """
    a, b = array(a), array(b)
    _of("outer", (a, 1), (b, 1))
    return Reshape.apply(a, (-1, 1)) * b


def ger(a: Any, b: Any) -> Any:
    """`outer` under its BLAS name.

    >>> hg.ger(torch.ones(2), torch.ones(3)).shape
    torch.Size([2, 3])
    """
    return outer(a, b)


def _combined(a: Any, product: Any, beta: float, alpha: float) -> Any:
    """beta a + alpha product; for beta = 0 whatever `a` holds, NaN too, does not count."""
    product = product if alpha == 1 else product * number("alpha", alpha)
    if beta == 0:
        return product.expand(common_shape("addmm", a.shape, product.shape))
    return (a if beta == 1 else a * number("beta", beta)) + product


def addmm(a: Any, mat1: Any, mat2: Any, beta: float = 1, alpha: float = 1) -> Any:
    """beta a + alpha mat1 @ mat2, of matrices.

    >>> hg.addmm(hg.Variable([1.0]), torch.ones(1, 2), torch.ones(2, 1))
    Variable([[3.]])
    """
    return _combined(array(a), mm(mat1, mat2), beta, alpha)


def addmv(a: Any, mat: Any, vec: Any, beta: float = 1, alpha: float = 1) -> Any:
    """beta a + alpha mat @ vec.

    >>> hg.addmv(hg.Variable([1.0]), torch.ones(1, 2), torch.ones(2))
    Variable([3.])
    """
    return _combined(array(a), mv(mat, vec), beta, alpha)


def addr(a: Any, vec1: Any, vec2: Any, beta: float = 1, alpha: float = 1) -> Any:
    """beta a + alpha outer(vec1, vec2).

    >>> hg.addr(hg.Variable([1.0]), torch.ones(1), torch.ones(1))
    Variable([[2.]])
    """
    return _combined(array(a), outer(vec1, vec2), beta, alpha)


def baddbmm(a: Any, batch1: Any, batch2: Any, beta: float = 1, alpha: float = 1) -> Any:
    """beta a + alpha batch1 @ batch2, of batches of matrices.

    >>> hg.baddbmm(hg.Variable([1.0]), torch.ones(1, 1, 2), torch.ones(1, 2, 1))
    Variable([[[3.]]])
    """
    return _combined(array(a), bmm(batch1, batch2), beta, alpha)


def addbmm(a: Any, batch1: Any, batch2: Any, beta: float = 1, alpha: float = 1) -> Any:
    """beta a + alpha times the sum of the products of two batches of matrices.

    >>> hg.addbmm(hg.Variable([1.0]), torch.ones(3, 1, 2), torch.ones(3, 2, 1))
    Variable([[7.]])
    """
    return _combined(array(a), total(bmm(batch1, batch2), 0), beta, alpha)


def tensordot(a: Any, b: Any, dims: int | Sequence[Sequence[int]] = 2) -> Any:
    """Sums of products over axes of both: the last so many of `a` and the first of `b`, or the axes listed for each.

    >>> hg.tensordot(torch.ones(2, 3, 4), torch.ones(3, 4, 5), 2).shape
    torch.Size([2, 5])
    """
    a, b = array(a), array(b)
    if isinstance(dims, int):
        dims = (range(a.ndim - dims, a.ndim), range(dims))
    ours, theirs = ([normal_axis(d, x.ndim) for d in given] for x, given in zip((a, b), dims))
    for i, j in zip(ours, theirs):  # sizes of 1 broadcast, as in torch
        if a.shape[i] != b.shape[j] and 1 in (a.shape[i], b.shape[j]):
            a, b = (a, b.sum(j, True)) if a.shape[i] == 1 else (a.sum(i, True), b)
    if [a.shape[i] for i in ours] != [b.shape[i] for i in theirs]:
        raise ShapeError(f"tensordot: axes {ours} of shape {tuple(a.shape)} and {theirs} of shape {tuple(b.shape)} must have equal sizes")
    left = [i for i in range(a.ndim) if i not in ours]
    right = [i for i in range(b.ndim) if i not in theirs]
    rows, columns = [a.shape[i] for i in left], [b.shape[i] for i in right]
    size = torch.Size([a.shape[i] for i in ours]).numel()
    first = Reshape.apply(Permute.apply(a, (*left, *ours)), (torch.Size(rows).numel(), size))
    second = Reshape.apply(Permute.apply(b, (*theirs, *right)), (size, torch.Size(columns).numel()))
    return Reshape.apply(MatMul.apply(first, second), (*rows, *columns))


def kron(a: Any, b: Any) -> Any:
    """The Kronecker product: `b` times each element of `a`, put where that element was.

    >>> hg.kron(hg.Variable([1.0, 2.0]), torch.tensor([1.0, 10.0]))
    Variable([ 1., 10.,  2., 20.])
    """
    a, b = array(a), array(b)
    ndim = max(a.ndim, b.ndim)
    rows, columns = ((1,) * (ndim - x.ndim) + tuple(x.shape) for x in (a, b))
    product = Reshape.apply(a, tuple(n for size in rows for n in (size, 1))) * Reshape.apply(
        b, tuple(n for size in columns for n in (1, size))
    )
    return Reshape.apply(product, tuple(n * m for n, m in zip(rows, columns)))


def cross(a: Any, b: Any, dim: int | None = None) -> Any:
    """The vector product along the axis `dim`, of size 3; by default the first one of that size.

    >>> hg.cross(hg.Variable([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))
    Variable([0., 0., 1.])
    """
    a, b = array(a), array(b)
    axis = next((i for i, n in enumerate(a.shape) if n == 3), 0) if dim is None else dim
    if not a.ndim == b.ndim > 0 or a.shape[axis] != 3 or b.shape[axis] != 3:
        raise ShapeError(f"cross: axis {dim} must have size 3 in both; got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    return roll(a, -1, axis) * roll(b, -2, axis) - roll(a, -2, axis) * roll(b, -1, axis)


def cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: str | None = None) -> Any:
    """The p-norms of the differences of all rows: (..., n, k) and (..., m, k) make (..., n, m). The gradient is 0 where rows are equal.

    `compute_mode` is torch's; there is one way here, by the differences themselves.

    >>> hg.cdist(hg.Variable([[3.0, 4.0]]), torch.zeros(1, 2))
    Variable([[5.]])
    """
    x1, x2 = array(x1), array(x2)
    if min(x1.ndim, x2.ndim) < 2 or x1.shape[-1] != x2.shape[-1]:
        raise ShapeError(f"cdist: expected shapes (..., n, k) and (..., m, k); got {tuple(x1.shape)} and {tuple(x2.shape)}")
    return (x1.unsqueeze(-2) - x2.unsqueeze(-3)).norm(p, -1)


def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """The inner product along `dim` over the product of the norms, each of which counts as `eps` at least.

    >>> hg.cosine_similarity(hg.Variable([[3.0, 4.0]]), torch.tensor([[3.0, 4.0]]))
    Variable([1.])
    """
    x1, x2 = broadcast_tensors(x1, x2)
    first, second = x1.norm(2, dim, True), x2.norm(2, dim, True)
    return ((x1 / first.clip(eps, None)) * (x2 / second.clip(eps, None))).sum(dim)
