"""Solving, inverses and decompositions of matrices: primitives on torch's kernels, eager and replay only. `hg.linalg` has their functions.

Matrices are the last two axes; those before are batches. What gives several results has them side by side in one array, and is cut
apart by slices. Rules after M. B. Giles, "Collected matrix derivative results for forward and reverse mode algorithmic differentiation"
(2008); that of `cholesky` after I. Murray, "Differentiation of the Cholesky decomposition" (2016).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.primitive import Primitive
from hotgrad.errors import OperandError, ShapeError
from hotgrad.ops.arithmetic import Where
from hotgrad.ops.rearranging import diag_embed, diagonal, tril, triu
from hotgrad.ops.shaping import Cat


def _well(shape: tuple[int, ...]) -> Tensor:
    """A drawn matrix that is far from singular, with eigenvalues far apart."""
    n, m = shape[-2:]
    return torch.sin(torch.arange(1.0, math.prod(shape) + 1, dtype=torch.float64) * 2.3).reshape(shape) * 0.3 + torch.eye(
        n, m, dtype=torch.float64
    ) * torch.arange(1.0, m + 1, dtype=torch.float64)


def _drawn(matrices: Iterable[tuple[Any, ...]]) -> Any:
    return [(operands, {}) for operands in matrices]


_SQUARE = ((1, 1), (2, 2), (3, 3), (2, 2, 2))


def _matrices(name: str, a: Any, square: bool = True) -> None:
    if a.ndim < 2 or (square and a.shape[-1] != a.shape[-2]):
        raise ShapeError(
            f"{name}: expected {'square matrices' if square else 'matrices'}, shape (..., n, {'n' if square else 'm'}); got {tuple(a.shape)}"
        )


def _solved(call: Any, *operands: Any) -> Any:
    """What torch.linalg gives; its refusals in our words."""
    try:
        return call(*operands)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise OperandError(str(error).partition(": ")[2] or str(error)) from None


class _OfMatrices(Primitive, abstract=True):
    """What they have in common."""

    allocates = True


class Inv(_OfMatrices):
    """The inverse of square matrices. Raises OperandError where there is none.

    >>> hg.ops.Inv.apply(hg.Variable([[2.0, 0.0], [0.0, 4.0]]))
    Variable([[0.5000, 0.0000],
              [0.0000, 0.2500]])
    """

    function = ""
    signature = "(n,n)->(n,n)"
    operands = staticmethod(lambda: _drawn((_well(shape),) for shape in _SQUARE))

    @staticmethod
    def forward(a: Any) -> Any:
        _matrices("inv", a)
        return _solved(torch.linalg.inv, a)

    vjps = (lambda g, out, a: -(out.mT @ g @ out.mT),)
    reads = ("out",)
    fresh = True


class Solve(_OfMatrices):
    """The solution x of a @ x = b, for square `a` (..., n, n) and `b` (..., n, k). Raises OperandError for a singular `a`.

    >>> hg.ops.Solve.apply(hg.Variable([[2.0, 0.0], [0.0, 4.0]]), torch.ones(2, 1))
    Variable([[0.5000],
              [0.2500]])
    """

    function = ""
    operands = staticmethod(
        lambda: _drawn(
            (_well(a), _well(b))
            for a, b in [((1, 1), (1, 1)), ((2, 2), (2, 1)), ((3, 3), (3, 2)), ((2, 2, 2), (2, 2, 1)), ((2, 2), (2, 2, 1))]
        )
    )

    @staticmethod
    def forward(a: Any, b: Any) -> Any:
        _matrices("solve", a)
        _matrices("solve", b, False)
        return _solved(torch.linalg.solve, a, b)

    vjps = (lambda g, out, a, b: -(Solve.apply(a.mT, g) @ out.mT), lambda g, out, a, b: Solve.apply(a.mT, g))
    reads = ("a out", "a")


class SolveTriangular(_OfMatrices):
    """The solution x of a @ x = b for a triangular `a`, of which the other half is not read.

    >>> hg.ops.SolveTriangular.apply(hg.Variable([[2.0, 9.0], [1.0, 4.0]]), torch.ones(2, 1), upper=False)
    Variable([[0.5000],
              [0.1250]])
    """

    function = ""
    operands = staticmethod(
        lambda: [
            ((_well(a), _well(b)), {"upper": u})
            for a, b in [((1, 1), (1, 1)), ((3, 3), (3, 2)), ((2, 2, 2), (2, 2, 1))]
            for u in (False, True)
        ]
    )

    @staticmethod
    def forward(a: Any, b: Any, *, upper: bool) -> Any:
        _matrices("solve_triangular", a)
        _matrices("solve_triangular", b, False)
        return torch.linalg.solve_triangular(a, b, upper=upper)

    vjps = (
        lambda g, out, a, b, upper: (triu if upper else tril)(-(SolveTriangular.apply(a.mT, g, not upper) @ out.mT)),
        lambda g, out, a, b, upper: SolveTriangular.apply(a.mT, g, not upper),
    )
    reads = ("a out", "a")


class Det(_OfMatrices):
    """The determinants of square matrices. Their gradient is not defined here where a matrix is singular: OperandError.

    >>> hg.ops.Det.apply(hg.Variable([[2.0, 0.0], [0.0, 4.0]]))
    Variable(8.)
    """

    function = ""
    operands = staticmethod(lambda: _drawn((_well(shape),) for shape in _SQUARE))

    @staticmethod
    def forward(a: Any) -> Any:
        _matrices("det", a)
        return torch.linalg.det(a)

    vjps = (lambda g, out, a: (g * out).unsqueeze(-1).unsqueeze(-1) * Inv.apply(a).mT,)
    reads = ("a out",)
    fresh = True


class LogAbsDet(_OfMatrices):
    """The logarithms of the absolute values of determinants, -inf where a matrix is singular.

    >>> hg.ops.LogAbsDet.apply(hg.Variable([[2.0, 0.0], [0.0, -4.0]]))
    Variable(2.0794)
    """

    function = ""
    operands = staticmethod(lambda: _drawn((_well(shape),) for shape in _SQUARE))

    @staticmethod
    def forward(a: Any) -> Any:
        _matrices("slogdet", a)
        return torch.linalg.slogdet(a)[1]

    vjps = (lambda g, out, a: g.unsqueeze(-1).unsqueeze(-1) * Inv.apply(a).mT,)
    reads = ("a",)
    fresh = True


class SignDet(_OfMatrices):
    """The signs of determinants, 0 where a matrix is singular, as a plain tensor.

    >>> hg.ops.SignDet.apply(hg.Variable([[2.0, 0.0], [0.0, -4.0]]))
    tensor(-1.)
    """

    function = ""
    plain = True
    operands = staticmethod(lambda: _drawn((_well(shape),) for shape in _SQUARE))

    @staticmethod
    def forward(a: Any) -> Any:
        _matrices("slogdet", a)
        return torch.linalg.slogdet(a)[0]

    vjps = (None,)
    reads = ("",)


def _lower_half(a: Any) -> Any:
    """The lower triangle, with half of the diagonal."""
    return tril(a) - diag_embed(diagonal(a, 0, -2, -1)) * 0.5


def _of_lower_half(g: Any) -> Any:
    """The gradient of what is read from the lower half, from that of a symmetric matrix."""
    return tril(g + g.mT) - diag_embed(diagonal(g, 0, -2, -1))


class Cholesky(_OfMatrices):
    """The lower triangular matrix whose product with its transpose is `a`, symmetric and positive definite; of `a` the lower half is read.

    Raises OperandError where it is not positive definite. The gradient is that of the lower half.

    >>> hg.ops.Cholesky.apply(hg.Variable([[4.0, 2.0], [2.0, 5.0]]))
    Variable([[2., 0.],
              [1., 2.]])
    """

    function = ""
    operands = staticmethod(lambda: _drawn((w @ w.mT + 2 * torch.eye(w.shape[-1], dtype=w.dtype),) for w in map(_well, _SQUARE)))

    @staticmethod
    def forward(a: Any) -> Any:
        _matrices("cholesky", a)
        return _solved(torch.linalg.cholesky, a)

    @staticmethod
    def rule(g: Any, out: Any, a: Any) -> Any:
        middle = _lower_half(out.mT @ g)
        half = SolveTriangular.apply(out.mT, SolveTriangular.apply(out.mT, middle.mT, True).mT, True)
        return _of_lower_half(half)

    vjps = (rule,)
    reads = ("out",)
    fresh = True


class Eigh(_OfMatrices):
    """The eigenvalues, ascending, as the first row, and the eigenvectors as columns below it, of symmetric matrices whose lower half is read.

    The gradient is that of the lower half; it is infinite or NaN where eigenvalues coincide.

    >>> hg.ops.Eigh.apply(hg.Variable([[2.0, 0.0], [0.0, 1.0]])).shape
    torch.Size([3, 2])
    """

    function = ""
    operands = staticmethod(lambda: _drawn((w + w.mT,) for w in map(_well, _SQUARE)))

    @staticmethod
    def forward(a: Any) -> Any:
        _matrices("eigh", a)
        values, vectors = _solved(torch.linalg.eigh, a)
        return torch.cat((values.unsqueeze(-2), vectors), -2)

    @staticmethod
    def rule(g: Any, out: Any, a: Any) -> Any:
        values, vectors = out[..., :1, :], out[..., 1:, :]
        gaps = values - values.mT
        same = torch.eye(a.shape[-1], dtype=torch.bool, device=a.device)
        inner = Where.apply(same, 0.0, (vectors.mT @ g[..., 1:, :]) / Where.apply(same, 1.0, gaps))
        full = vectors @ (inner + diag_embed(g[..., 0, :])) @ vectors.mT
        return _of_lower_half(full)

    vjps = (rule,)
    reads = ("out",)
    fresh = True


class QR(_OfMatrices):
    """The reduced QR decomposition of matrices (..., m, n), k = min(m, n): q (..., m, k) with orthonormal columns above r's transpose (..., n, k).

    Its gradient wants m >= n and full rank.

    >>> hg.ops.QR.apply(hg.Variable([[2.0, 0.0], [0.0, 1.0]])).shape
    torch.Size([4, 2])
    """

    function = ""
    operands = staticmethod(lambda: _drawn((_well(shape),) for shape in ((1, 1), (2, 2), (3, 2), (2, 3, 2))))

    @staticmethod
    def forward(a: Any) -> Any:
        _matrices("qr", a, False)
        q, r = torch.linalg.qr(a)
        return torch.cat((q, r.mT), -2)

    @staticmethod
    def rule(g: Any, out: Any, a: Any) -> Any:
        m, n = a.shape[-2:]
        if m < n:
            raise OperandError(f"qr: the gradient wants at least as many rows as columns; got shape {tuple(a.shape)}")
        q, r = out[..., :m, :], out[..., m:, :].mT
        gq, gr = g[..., :m, :], g[..., m:, :].mT
        inner = r @ gr.mT - gq.mT @ q
        symmetric = tril(inner) + tril(inner, -1).mT
        return SolveTriangular.apply(r, (gq + q @ symmetric).mT, True).mT

    vjps = (rule,)
    reads = ("out",)
    fresh = True


class SVD(_OfMatrices):
    """The reduced singular value decomposition of matrices (..., m, n), k = min(m, n): one above the other u (..., m, k), the singular values,
    descending, as a row, and v (..., n, k), with a = u diag(s) v^T.

    The gradient is infinite or NaN where singular values coincide or, for m other than n, vanish.

    >>> hg.ops.SVD.apply(hg.Variable([[2.0, 0.0], [0.0, 1.0]])).shape
    torch.Size([5, 2])
    """

    function = ""
    operands = staticmethod(lambda: _drawn((_well(shape),) for shape in ((1, 1), (2, 2), (3, 2), (2, 3), (2, 2, 2))))

    @staticmethod
    def forward(a: Any) -> Any:
        _matrices("svd", a, False)
        u, s, vh = _solved(lambda x: torch.linalg.svd(x, full_matrices=False), a)
        return torch.cat((u, s.unsqueeze(-2), vh.mT), -2)

    @staticmethod
    def rule(g: Any, out: Any, a: Any) -> Any:
        m, n = a.shape[-2:]
        u, s, v = out[..., :m, :], out[..., m : m + 1, :], out[..., m + 1 :, :]
        gu, gs, gv = g[..., :m, :], g[..., m, :], g[..., m + 1 :, :]
        same = torch.eye(min(m, n), dtype=torch.bool, device=a.device)
        squares = s * s
        gaps = Where.apply(same, 1.0, squares - squares.mT)
        of_u, of_v = u.mT @ gu, v.mT @ gv
        of_u, of_v = of_u - of_u.mT, of_v - of_v.mT
        inner = Where.apply(same, 0.0, (of_u * s + s.mT * of_v) / gaps) + diag_embed(gs)
        total = u @ inner @ v.mT
        if m > n:
            total = total + ((gu - u @ (u.mT @ gu)) / s) @ v.mT
        if n > m:
            total = total + (u / s) @ (gv - v @ (v.mT @ gv)).mT
        return total

    vjps = (rule,)
    reads = ("out",)
    fresh = True


class PInv(_OfMatrices):
    """The Moore-Penrose inverse of matrices (..., m, n). Singular values below `rtol` times the largest count as 0; None for torch's choice.

    The rule (Golub and Pereyra 1973) holds where the rank stays the same nearby.

    >>> hg.ops.PInv.apply(hg.Variable([[2.0, 0.0], [0.0, 4.0]]))
    Variable([[0.5000, 0.0000],
              [0.0000, 0.2500]])
    """

    function = ""
    operands = staticmethod(lambda: _drawn((_well(shape),) for shape in ((1, 1), (2, 2), (3, 2), (2, 3), (2, 2, 2))))

    @staticmethod
    def forward(a: Any, *, rtol: float | None = None) -> Any:
        _matrices("pinv", a, False)
        return torch.linalg.pinv(a, rtol=rtol)

    @staticmethod
    def rule(g: Any, out: Any, a: Any, rtol: Any) -> Any:
        p, pt = out, out.mT
        left = -(pt @ g @ pt)
        right = (g - g @ a @ p).mT @ p @ pt
        last = pt @ p @ (g - p @ a @ g).mT
        return left + right + last

    vjps = (rule,)
    reads = ("a out",)


class MatrixExp(_OfMatrices):
    """The matrix exponential of square matrices.

    Its derivative is a block of the exponential of a matrix twice as large (Mathias 1996).

    >>> hg.ops.MatrixExp.apply(hg.Variable([[0.0, 1.0], [0.0, 0.0]]))
    Variable([[1., 1.],
              [0., 1.]])
    """

    function = ""
    operands = staticmethod(lambda: _drawn((_well(shape) * 0.3,) for shape in _SQUARE))

    @staticmethod
    def forward(a: Any) -> Any:
        _matrices("matrix_exp", a)
        return torch.linalg.matrix_exp(a)

    @staticmethod
    def rule(g: Any, out: Any, a: Any) -> Any:
        n = a.shape[-1]
        zero = torch.zeros(tuple(a.shape), dtype=a.dtype, device=a.device)
        block = Cat.apply(Cat.apply(a.mT, g, dim=-1), Cat.apply(zero, a.mT, dim=-1), dim=-2)
        return MatrixExp.apply(block)[..., :n, n:]

    vjps = (rule,)
    reads = ("a",)
