"""Linear algebra, with torch.linalg's names, arguments and conventions: `hg.linalg.solve(a, b)`, or torch's own function on a Variable.

Matrices are the last two axes; those before are batches. Gradients of any order are those of `ops.decompositions`; these run on eager and
replay. Where eigenvalues or singular values coincide, vectors have no derivative: it is infinite or NaN.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from hotgrad.core.methods import FUNCTIONS, published
from hotgrad.errors import OperandError, ShapeError
from hotgrad.ops.axes import array
from hotgrad.ops.decompositions import QR, SVD, Cholesky, Det, Eigh, Inv, LogAbsDet, MatrixExp, PInv, SignDet, Solve, SolveTriangular
from hotgrad.ops.matrices import cross
from hotgrad.ops.rearranging import diagonal, tril, triu
from hotgrad.ops.reductions import Norm

__all__ = [
    "cholesky", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "lstsq", "matrix_exp", "matrix_norm", "matrix_power", "multi_dot", "norm",
    "pinv", "qr", "slogdet", "solve", "solve_triangular", "svd", "svdvals", "vecdot", "vector_norm",
]  # fmt: skip


class Eigen(NamedTuple):
    """Eigenvalues, ascending, and eigenvectors as columns."""

    eigenvalues: Any
    eigenvectors: Any


class Singular(NamedTuple):
    """Left singular vectors as columns, singular values, descending, and right singular vectors as rows."""

    U: Any
    S: Any
    Vh: Any


class Triangular(NamedTuple):
    """Orthonormal columns, and an upper triangular matrix."""

    Q: Any
    R: Any


class Determinant(NamedTuple):
    """Sign of a determinant, and the logarithm of its absolute value."""

    sign: Any
    logabsdet: Any


class LeastSquares(NamedTuple):
    """The solution that minimises the sum of squares."""

    solution: Any


def inv(a: Any) -> Any:
    """The inverse of square matrices. Raises OperandError for a singular one.

    >>> hg.linalg.inv(hg.Variable([[2.0, 0.0], [0.0, 4.0]]))
    Variable([[0.5000, 0.0000],
              [0.0000, 0.2500]])
    """
    return Inv.apply(a)


def solve(a: Any, b: Any, *, left: bool = True) -> Any:
    """The solution x of a @ x = b, or with left=False of x @ a = b. `b` holds vectors where it has the shape of `a` less its last axis.

    >>> hg.linalg.solve(hg.Variable([[2.0, 0.0], [0.0, 4.0]]), torch.ones(2))
    Variable([0.5000, 0.2500])
    """
    a, b = array(a), array(b)
    vectors = b.ndim == 1 or (a.ndim - 1 == b.ndim and tuple(a.shape[:-1]) == tuple(b.shape))
    if vectors:
        return Solve.apply(a if left else a.mT, b.unsqueeze(-1)).squeeze(-1)
    return Solve.apply(a, b) if left else Solve.apply(a.mT, b.mT).mT


def solve_triangular(a: Any, b: Any, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    """The solution x of a @ x = b, or with left=False of x @ a = b, for a triangular `a` of which the other half is not read, nor the
    diagonal, taken for ones, with `unitriangular`.

    >>> hg.linalg.solve_triangular(hg.Variable([[2.0, 9.0], [1.0, 4.0]]), torch.ones(2, 1), upper=False)
    Variable([[0.5000],
              [0.1250]])
    """
    a, b = array(a), array(b)
    if unitriangular:
        a = (triu(a, 1) if upper else tril(a, -1)) + torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return SolveTriangular.apply(a, b, upper) if left else SolveTriangular.apply(a.mT, b.mT, not upper).mT


def det(a: Any) -> Any:
    """The determinants of square matrices; the gradient wants them not singular.

    >>> hg.linalg.det(hg.Variable([[2.0, 0.0], [0.0, 4.0]]))
    Variable(8.)
    """
    return Det.apply(a)


def slogdet(a: Any) -> Determinant:
    """Sign and logarithm of the absolute value of determinants: (sign, logabsdet).

    >>> hg.linalg.slogdet(hg.Variable([[2.0, 0.0], [0.0, -4.0]])).logabsdet
    Variable(2.0794)
    """
    return Determinant(SignDet.apply(a), LogAbsDet.apply(a))


def _symmetric(a: Any) -> Any:
    a = array(a)
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ShapeError(f"expected symmetric matrices, shape (..., n, n); got {tuple(a.shape)}")
    return (a + a.mT) * 0.5


def cholesky(a: Any, *, upper: bool = False) -> Any:
    """The lower triangular factor of symmetric, positive definite matrices, or the upper one. Raises OperandError for others.

    Of `a` the symmetric part counts, so that the gradient is symmetric.

    >>> hg.linalg.cholesky(hg.Variable([[4.0, 2.0], [2.0, 5.0]]))
    Variable([[2., 0.],
              [1., 2.]])
    """
    lower = Cholesky.apply(_symmetric(a))
    return lower.mT if upper else lower


def eigh(a: Any, UPLO: str = "L") -> Eigen:
    """Eigenvalues, ascending, and eigenvectors of symmetric matrices: (eigenvalues, eigenvectors).

    Of `a` the symmetric part counts, so that the gradient is symmetric, whichever half `UPLO`, "L" or "U", names.

    >>> hg.linalg.eigh(hg.Variable([[2.0, 0.0], [0.0, 1.0]])).eigenvalues
    Variable([1., 2.])
    """
    if UPLO not in ("L", "U", "l", "u"):
        raise OperandError(f"eigh: UPLO must be 'L' or 'U'; got {UPLO!r}")
    found = Eigh.apply(_symmetric(a))
    return Eigen(found[..., 0, :], found[..., 1:, :])


def eigvalsh(a: Any, UPLO: str = "L") -> Any:
    """The eigenvalues of symmetric matrices, ascending.

    >>> hg.linalg.eigvalsh(hg.Variable([[2.0, 0.0], [0.0, 1.0]]))
    Variable([1., 2.])
    """
    return eigh(a, UPLO).eigenvalues


def svd(a: Any, full_matrices: bool = True) -> Singular:
    """The singular value decomposition a = U diag(S) Vh: (U, S, Vh).

    With full_matrices=False U and Vh have as many vectors as there are singular values, which is the only form for other than square
    matrices here.

    >>> hg.linalg.svd(hg.Variable([[2.0, 0.0], [0.0, 1.0]])).S
    Variable([2., 1.])
    """
    a = array(a)
    m, n = a.shape[-2:] if a.ndim > 1 else (0, 0)
    if full_matrices and m != n:
        raise OperandError(
            f"svd: matrices of shape {tuple(a.shape)} have further vectors, which have no gradient; pass full_matrices=False"
        )
    found = SVD.apply(a)
    return Singular(found[..., :m, :], found[..., m, :], found[..., m + 1 :, :].mT)


def svdvals(a: Any) -> Any:
    """The singular values, descending.

    >>> hg.linalg.svdvals(hg.Variable([[2.0, 0.0], [0.0, 1.0]]))
    Variable([2., 1.])
    """
    return svd(a, False).S


def qr(a: Any, mode: str = "reduced") -> Triangular:
    """The QR decomposition a = Q R in its reduced form: (Q, R).

    >>> hg.linalg.qr(hg.Variable([[2.0, 0.0], [0.0, 1.0]])).R.shape
    torch.Size([2, 2])
    """
    a = array(a)
    if mode != "reduced" and not (mode == "complete" and a.ndim > 1 and a.shape[-2] <= a.shape[-1]):
        raise OperandError(f"qr: mode must be 'reduced'; got {mode!r}")
    found = QR.apply(a)
    rows = a.shape[-2]
    return Triangular(found[..., :rows, :], found[..., rows:, :].mT)


def pinv(a: Any, *, rtol: float | None = None) -> Any:
    """The Moore-Penrose inverse; singular values below `rtol` times the largest count as 0.

    >>> hg.linalg.pinv(hg.Variable([[2.0, 0.0], [0.0, 4.0]]))
    Variable([[0.5000, 0.0000],
              [0.0000, 0.2500]])
    """
    return PInv.apply(a, rtol)


def lstsq(a: Any, b: Any, rcond: float | None = None, *, driver: str | None = None) -> LeastSquares:
    """The x of least norm that minimises the norm of a @ x - b, by the Moore-Penrose inverse: (solution,).

    Singular values below `rcond` times the largest count as 0. `driver` is torch's; there is one way here.

    >>> hg.linalg.lstsq(hg.Variable([[1.0], [1.0]]), torch.tensor([[1.0], [3.0]])).solution
    Variable([[2.0000]])
    """
    return LeastSquares(PInv.apply(a, rcond) @ array(b))


def matrix_exp(a: Any) -> Any:
    """The matrix exponential of square matrices.

    >>> hg.linalg.matrix_exp(hg.Variable([[0.0, 1.0], [0.0, 0.0]]))
    Variable([[1., 1.],
              [0., 1.]])
    """
    return MatrixExp.apply(a)


def matrix_power(a: Any, n: int) -> Any:
    """Square matrices multiplied n times by themselves, by repeated squaring; the inverse for a negative n.

    >>> hg.linalg.matrix_power(hg.Variable([[1.0, 1.0], [0.0, 1.0]]), 3)
    Variable([[1., 3.],
              [0., 1.]])
    """

    a = array(a)
    if isinstance(n, bool) or not isinstance(n, int):
        raise OperandError(f"matrix_power: n must be a whole number; got {n!r:.60}")
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ShapeError(f"matrix_power: expected square matrices; got shape {tuple(a.shape)}")
    a, n = (inv(a), -n) if n < 0 else (a, n)
    out: Any = None
    while n:
        if n % 2:
            out = a if out is None else out @ a
        n //= 2
        a = a @ a if n else a
    return a * 0.0 + torch.eye(a.shape[-1], dtype=a.dtype, device=a.device) if out is None else out


def multi_dot(tensors: Any) -> Any:
    """The product of several matrices, from left to right; the first and the last may be vectors.

    >>> hg.linalg.multi_dot([torch.ones(2, 3), torch.ones(3, 1), torch.ones(1, 2)]).shape
    torch.Size([2, 2])
    """
    if len(tensors) < 2:
        raise OperandError(f"multi_dot: expected two tensors or more; got {len(tensors)}")
    out = array(tensors[0])
    for b in tensors[1:]:
        out = out @ b
    return out


def vecdot(a: Any, b: Any, *, dim: int = -1) -> Any:
    """The inner products of vectors along the axis `dim`; the other axes broadcast.

    >>> hg.linalg.vecdot(hg.Variable([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    Variable(11.)
    """
    return (array(a) * b).sum(dim)


def vector_norm(a: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The norm of order `ord` over `dim`, all as one vector by default; see `hg.norm`.

    >>> hg.linalg.vector_norm(hg.Variable([3.0, 4.0]))
    Variable(5.)
    """
    return Norm.apply(a if dtype is None else array(a).to(dtype), float(ord), dim, keepdim)


def matrix_norm(a: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None) -> Any:
    """A norm of matrices in the axes `dim`: "fro" the root of the sum of squares, "nuc" the sum of singular values, 2 or -2 the largest or
    smallest of them, 1 or -1 the largest or smallest sum of a column's absolute values, inf or -inf of a row's.

    >>> hg.linalg.matrix_norm(hg.Variable([[3.0, 0.0], [0.0, 4.0]]))
    Variable(5.)
    """
    a = array(a) if dtype is None else array(a).to(dtype)
    if a.ndim < 2:
        raise ShapeError(f"matrix_norm: expected matrices; got shape {tuple(a.shape)}")
    if ord == "fro":
        return Norm.apply(a, 2.0, tuple(dim), keepdim)
    if ord not in ("nuc", 1, -1, 2, -2, math.inf, -math.inf):
        raise OperandError(f"matrix_norm: ord must be 'fro', 'nuc', inf, -inf, 1, -1, 2 or -2; got {ord!r}")
    first, second = (d % a.ndim for d in dim)
    matrices = a.movedim((first, second), (-2, -1))
    if ord in ("nuc", 2, -2):
        values = svdvals(matrices)
        out = values.sum(-1) if ord == "nuc" else values.amax(-1) if ord == 2 else values.amin(-1)
    else:
        sums = abs(matrices).sum(-2 if abs(ord) == 1 else -1)
        out = sums.amax(-1) if ord > 0 else sums.amin(-1)
    for axis in sorted((first, second)) if keepdim else ():
        out = out.unsqueeze(axis)
    return out


def norm(a: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """A norm: of all as one vector by default; with `ord`, of a vector, or of a matrix where `a` or `dim` has two axes.

    >>> hg.linalg.norm(hg.Variable([3.0, 4.0]))
    Variable(5.)
    """
    a = array(a)
    pair = (isinstance(dim, (tuple, list)) and len(dim) == 2) or (dim is None and a.ndim == 2 and ord is not None)
    if isinstance(ord, str) or (pair and ord is not None):
        return matrix_norm(a, ord, dim if dim is not None else (-2, -1), keepdim, dtype=dtype)
    return vector_norm(a, 2 if ord is None else ord, dim, keepdim, dtype=dtype)


# torch's functions on Variables, and its older names
for _name in __all__:
    globals()[_name] = published(globals()[_name])
FUNCTIONS.update({f"linalg_{name}": globals()[name] for name in __all__})
FUNCTIONS.update({name: globals()[name] for name in ("cholesky", "det", "slogdet", "matrix_exp", "matrix_power", "qr")})
FUNCTIONS.update({"inverse": inv, "pinverse": pinv, "logdet": lambda a: slogdet(a).logabsdet})
