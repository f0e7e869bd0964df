"""Matrix products and the general contraction."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from typing import Any, ClassVar

import torch

from hotgrad.core.primitive import Primitive
from hotgrad.core.variable import Variable
from hotgrad.errors import OperandError, ShapeError
from hotgrad.ops.arithmetic import Where
from hotgrad.ops.shaping import compact


def _matmul_left(g: Any, out: Any, a: Any, b: Any) -> Any:
    if b.dtype is not g.dtype:  # the product was computed in another dtype, under torch.autocast
        b = b.to(g.dtype)
    if a.ndim > 1 and b.ndim > 1:
        if type(g) is Variable and a.ndim == b.ndim == 2:  # for second derivatives: one record in place of two
            return MatMulT.apply(g, b)
        return torch.matmul(g, b.mT)  # `@` itself costs a tenth more
    if b.ndim == 1:
        return g * b if a.ndim == 1 else g.unsqueeze(-1) * b
    return (g.unsqueeze(-2) @ b.mT).squeeze(-2)  # a vector times a stack of matrices


def _matmul_right(g: Any, out: Any, a: Any, b: Any) -> Any:
    if a.dtype is not g.dtype:
        a = a.to(g.dtype)
    if a.ndim > 1 and b.ndim > 1:
        few = a.numel() >= 2**13 and 2 <= g.shape[-1] < 12 and a.ndim == g.ndim == 2 and a.shape[-1] >= 32
        if type(g) is Variable and isinstance(a, Variable) and not few and a.ndim == b.ndim == 2:
            return TMatMul.apply(a, g)
        if few:
            return torch.matmul(g.mT, a).mT  # a left operand of few rows takes MKL a tenth of the time of a right one of few columns
        return torch.matmul(a.mT, g)
    if a.ndim == 1:
        return g * a if b.ndim == 1 else a.unsqueeze(-1) * g.unsqueeze(-2)
    return (a.mT @ g.unsqueeze(-1)).squeeze(-1)  # a stack of matrices times a vector


def _in_form(a: Any) -> tuple[list[partial[Any]], Any]:
    """`a` as kernels of products read it in place, and the calls that bring it into this form."""
    if a.ndim == 2 and any(a.stride(i) == 1 and a.stride(1 - i) >= max(a.shape[i], 1) for i in (0, 1)):
        return [], a
    return ([], a) if a.ndim == 1 else compact(a)


class MatMul(Primitive):
    """Matrix product `a @ b` of the last two axes; the axes before them broadcast.

    A 1-D operand is a row on the left, a column on the right, and its axis vanishes from the result. An inner size of 0 gives
    zeros. Raises ShapeError where inner sizes differ or an operand has no axis.

    >>> hg.Variable([[1.0, 2.0], [3.0, 4.0]]) @ hg.Variable([1.0, 1.0])
    Variable([3., 7.])
    """

    native = "matmul"
    signature = "(m,k),(k,n)->(m,n)"

    @staticmethod
    def operands() -> list[Any]:
        shapes = [
            ((1,), (1,)), ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((1, 2), (2, 1)), ((2, 3), (3, 2)), ((2, 2), (2, 2)), ((3, 3), (3, 3)),
            ((2, 2), (2,)), ((2,), (2, 2)), ((3, 1), (1, 2)), ((2, 3), (3, 4)), ((2, 0), (0, 3)), ((0,), (0,)), ((0, 2), (2, 2)), ((2, 2, 3), (3, 2)),
            ((2, 3), (2, 3, 1)), ((2, 2, 2), (2, 2, 2)), ((2, 1, 2, 2), (3, 2, 1)), ((1, 2, 2), (2, 2, 2)), ((2, 2, 3), (3,)), ((2,), (2, 2, 3)),
        ]  # fmt: skip
        return [(drawn, {}) for drawn in shapes]

    forward = staticmethod(torch.matmul)

    @staticmethod
    def into(out: Any, a: Any, b: Any) -> Any:
        if a.ndim == 1 and b.ndim == 2:
            a, out = a.unsqueeze(0), out.unsqueeze(0)
        if a.ndim > 2 and b.ndim > 2:  # stacks of equal length, as the kernel itself makes them
            a, b = (t.expand(*out.shape[:-2], *t.shape[-2:]) for t in (a, b))
        (first, a), (second, b) = _in_form(a), _in_form(b)
        if a.ndim > 2 and b.ndim > 2:
            stack = math.prod(out.shape[:-2])  # view(-1) could not tell where a matrix is empty
            a, b, out = (t.view(stack, *t.shape[-2:]) for t in (a, b, out))
        kernel = {(1, 1): torch.dot, (2, 1): torch.mv, (2, 2): torch.mm, (3, 3): torch.bmm}.get((a.ndim, b.ndim), torch.matmul)
        return [*first, *second, partial(kernel, a, b, out=out)]

    vjps = (_matmul_left, _matmul_right)
    reads = ("b", "a")
    fresh = True
    operators = ("__matmul__", "__rmatmul__")


def _pairs() -> list[Any]:
    shapes = [((2, 3), (4, 3)), ((1, 2), (1, 2)), ((2, 0), (3, 0)), ((3, 1), (1, 1)), ((3, 3), (3, 3))]
    return [(pair, {}) for pair in shapes]


def _matrix(a: Any) -> Any:
    if a.ndim != 2:
        raise ShapeError(f"the operands are two matrices; got shape {tuple(a.shape)}")
    return a


def _turned(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[::-1]


class MatMulT(Primitive):
    """`a @ b.mT`, of two matrices: the gradient of a product's left operand.

    >>> hg.ops.MatMulT.apply(torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[1., 3.],
            [2., 4.]])
    """

    native = staticmethod(lambda a, b: a @ b.mT)
    function = ""
    operands: ClassVar[Any] = staticmethod(_pairs)
    forward = staticmethod(lambda a, b: torch.matmul(_matrix(a), _matrix(b).mT))
    into = staticmethod(lambda out, a, b: MatMul.into(out, a, b.mT))
    # in the form that the rules of a product with Permute have, to the bit
    vjps = (lambda g, out, a, b: torch.matmul(g, b), lambda g, out, a, b: _matmul_right(g, out, a, b).mT)
    reads = ("b", "a")
    fresh = True


class TMatMul(Primitive):
    """`a.mT @ b`, of two matrices: the gradient of a product's right operand.

    >>> hg.ops.TMatMul.apply(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.eye(2))
    tensor([[1., 3.],
            [2., 4.]])
    """

    native = staticmethod(lambda a, b: a.mT @ b)
    function = ""
    operands: ClassVar[Any] = staticmethod(lambda: [((_turned(a), _turned(b)), {}) for (a, b), _ in _pairs()])
    forward = staticmethod(lambda a, b: torch.matmul(_matrix(a).mT, _matrix(b)))
    into = staticmethod(lambda out, a, b: MatMul.into(out, a.mT, b))
    vjps = (lambda g, out, a, b: _matmul_left(g, out, a, b).mT, lambda g, out, a, b: _matmul_right(g, out, a.mT, b))
    reads = ("b", "a")
    fresh = True


class AddMM(Primitive):
    """Matrix product with a bias added, `bias + a @ b`, in one kernel, for two matrices and a bias that broadcasts.

    >>> hg.ops.AddMM.apply(torch.ones(2), torch.eye(2), torch.eye(2))
    tensor([[2., 1.],
            [1., 2.]])
    """

    native = staticmethod(lambda bias, a, b: bias + a @ b)
    function = ""

    @staticmethod
    def operands() -> list[Any]:
        shapes = [((2,), (3, 2), (2, 2)), ((), (1, 2), (2, 1)), ((3, 2), (3, 1), (1, 2)), ((3, 1), (3, 2), (2, 3)), ((2,), (2, 0), (0, 2))]
        return [(drawn, {}) for drawn in shapes]

    forward = staticmethod(torch.addmm)

    @staticmethod
    def into(out: Any, bias: Any, a: Any, b: Any) -> Any:
        (first, a), (second, b) = _in_form(a), _in_form(b)
        return [*first, *second, partial(torch.addmm, bias, a, b, out=out)]

    vjps = (
        lambda g, out, bias, a, b: g,
        lambda g, out, bias, a, b: _matmul_left(g, out, a, b),
        lambda g, out, bias, a, b: _matmul_right(g, out, a, b),
    )
    reads = ("", "b", "a")


def spell_out(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The equation's inputs and output with a letter for every axis: no spaces, no ellipsis, the output explicit."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in equation]
    extra = [rank - len(term.replace("...", "")) if "..." in term else 0 for term, rank in zip(inputs, ranks)]
    dots = "".join(free[: max(extra, default=0)])
    inputs = [term.replace("...", dots[len(dots) - n :]) for term, n in zip(inputs, extra)]
    if not arrow:
        counts = Counter(c for term in inputs for c in term if c not in dots)
        return inputs, dots + "".join(sorted(c for c, n in counts.items() if n == 1))
    return inputs, output.replace("...", dots)


def _on_diagonal(values: Any, letters: str, shape: tuple[int, ...]) -> Any:
    """An array of `shape` with `values` where its axes of the same letter have the same index, 0 elsewhere.

    `values` has an axis for each letter, in the order of their first.
    """
    places = [torch.arange(n, device=values.device).reshape((-1,) + (1,) * (len(shape) - i - 1)) for i, n in enumerate(shape)]
    firsts = [letters.index(letter) for letter in letters]
    same = torch.ones(shape, dtype=torch.bool, device=values.device)
    for axis, first in enumerate(firsts):
        same = same & (places[axis] == places[first])
    spread = values.reshape(tuple(n if first == axis else 1 for axis, (n, first) in enumerate(zip(shape, firsts))))
    return Where.apply(same, spread, 0.0)


class Einsum(Primitive):
    """Sum of products over the axes named by `equation`, in Einstein's notation as torch and numpy write it.

    `hg.einsum(equation, *operands)`; repeated letters within an operand take its diagonal, `...` stands for any axes.

    >>> hg.einsum("ij,j->i", hg.Variable([[1.0, 2.0], [3.0, 4.0]]), torch.ones(2))
    Variable([3., 7.])
    """

    native = "einsum"
    allocates = True

    @staticmethod
    def forward(*operands: Any, equation: str) -> Any:
        if not isinstance(equation, str):
            raise OperandError(f"the equation must be a string; got {equation!r:.60}")
        return torch.einsum(equation, *operands)

    @staticmethod
    def operands() -> Any:
        sizes = [{"i": 2, "j": 3, "k": 2, "l": 1, "b": 2}, dict.fromkeys("ijklb", 2), {"i": 3, "j": 1, "k": 0, "l": 2, "b": 1}]
        equations = [
            "i->i",
            "i,i->",
            "i,j->ij",
            "ij->ji",
            "ij->",
            "ij->j",
            "ij,jk",
            "ij,jk->ik",
            "ij,kj->ik",
            "ij,ij->i",
            "ii->i",
            "ii",
            "iij->j",
        ]
        equations += ["bij,bjk->bik", "ij,jk,kl->il", "ij,i->j", "i,ij,j->", "i,i->i", "ijk->kij"]
        drawn = [
            (tuple(tuple(size[c] for c in term) for term in equation.partition("->")[0].split(",")), {"equation": equation})
            for equation in equations
            for size in sizes
        ]
        drawn += [
            (((2, 3), (3,)), {"equation": "...i,i->..."}),
            (((2, 1, 3), (2, 3)), {"equation": "...i,...i"}),
            (((), (2,)), {"equation": ",i->i"}),
        ]
        return drawn

    @staticmethod
    def vjp(index: int, g: Any, out: Any, *operands: Any, equation: str) -> Any:
        """An einsum itself: of the cotangent and the other operands, with the letters of this one as output. Axes summed away
        alone come back by a vector of ones; of a diagonal the rest is 0.
        """
        inputs, output = spell_out(equation, [t.ndim for t in operands])
        own, target = inputs[index], operands[index]
        terms = [output, *(term for i, term in enumerate(inputs) if i != index)]
        factors = [g, *(t if t.dtype == g.dtype else t.to(g.dtype) for i, t in enumerate(operands) if i != index)]
        letters = dict.fromkeys(own)
        for letter in letters:
            if not any(letter in term for term in terms):
                terms.append(letter)
                factors.append(torch.ones(target.shape[own.index(letter)], dtype=g.dtype, device=target.device))
        result = Einsum.apply(*factors, equation=",".join(terms) + "->" + "".join(letters))
        sizes = [target.shape[own.index(letter)] for letter in letters]
        shape = tuple(got if size == 1 else size for got, size in zip(result.shape, sizes))
        if shape != tuple(result.shape):  # an axis that the others have with size 1 only
            result = result.expand(shape)
        return result if len(letters) == len(own) else _on_diagonal(result, own, tuple(target.shape))

    reads = ("operands",)
