"""Products of places: which kernels and copies make up a matrix product, and an einsum by matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from hotgrad.engines.native.builder import Builder
from hotgrad.engines.native.kernels import Transfer
from hotgrad.engines.native.layout import Place, new_place, reshaped
from hotgrad.engines.native.matmul_kernels import Dots, Product, Transpose, fits
from hotgrad.engines.native.reductions import Reduce
from hotgrad.ops.products import spell_out


def product(build: Builder, note: list[str], a: Place, b: Place, c: Place) -> None:
    """Add the kernels of a matrix product, with copies where an operand does not lie as it needs."""
    if len(b.shape) == 1:
        b, c = b.view((*b.shape, 1), (*b.strides, 0)), c.view((*c.shape, 1), (*c.strides, 0))
    if len(a.shape) == 1:
        a = a.view((1, *a.shape), (0, *a.strides))
        c = c.view((*c.shape[:-1], 1, c.shape[-1]), (*c.strides[:-1], 0, c.strides[-1]))
    n, vector = c.shape[-1], build.context.vector(c.dtype)
    if n == 1:
        _times_column(build, note, a, b, c)
        return
    if n % vector == 1 and c.shape[-2] >= vector:  # a vector for the last column would do the work of a whole one
        _times_column(build, note, a, *(_columns(p, n - 1, n) for p in (b, c)))
        b, c = (_columns(p, 0, n - 1) for p in (b, c))
    _add_product(build, note, a, b, c)


def _add_product(build: Builder, note: list[str], a: Place, b: Place, c: Place) -> None:
    batch, vector = c.shape[:-2], build.context.vector(c.dtype)
    if not fits(b, vector):
        transposed = Transpose.of(build.context, b)
        if transposed is None:
            b = build.copied(b)
        else:
            build.add(transposed[0])
            b = transposed[1]
    a, b = (p.broadcast((*batch, *p.shape[-2:])) for p in (a, b))
    build.add(Product(build.context, [a, b], [c], note))


def _times_column(build: Builder, note: list[str], a: Place, b: Place, c: Place) -> None:
    """Matrix times a column: by dot products, or if its columns are contiguous as a row times its transpose."""
    batch, vector = c.shape[:-2], build.context.vector(c.dtype)
    if a.strides[-1] != 1 and a.strides[-2] == 1 and fits(a.turned(), vector):
        row = c.turned()
        if fits(row, vector):
            _add_product(build, note, b.turned(), a.turned(), row)
        else:
            part = new_place(row.shape, c.dtype, build.context.lanes)
            _add_product(build, note, b.turned(), a.turned(), part)
            build.add(Transfer(build.context, [part], [row], [f"copy {row.shape}"]))
        return
    if a.strides[-1] != 1 and a.shape[-1] > 1:
        a = build.copied(a)
    if b.strides[-2] != 1 and b.shape[-2] > 1:
        b = _column(build, b)
    a, b = (p.broadcast((*batch, *p.shape[-2:])) for p in (a, b))
    build.add(Dots(build.context, [a, b], [c], note))


def _column(build: Builder, b: Place) -> Place:
    """A copy of columns whose elements are neighbours."""
    flat = build.copied(b.view(b.shape[:-1], b.strides[:-1]))
    return flat.view(b.shape, (*flat.strides, 0))


def _columns(place: Place, start: int, stop: int) -> Place:
    return place.view((*place.shape[:-1], stop - start), place.strides, start * place.strides[-1])


def einsum(build: Builder, note: list[str], operands: Sequence[Place], equation: str) -> Place:
    """Contract the operands from left to right. Letters that nothing after needs are summed as soon as they can be."""
    inputs, output = spell_out(equation, [len(p.shape) for p in operands])
    letters, place = _diagonal(inputs[0], operands[0])
    for number, (term, operand) in enumerate(zip(inputs[1:], operands[1:]), 1):
        other, right = _diagonal(term, operand)
        needed = set(output).union(*inputs[number + 1 :])
        letters, place = _summed(build, note, letters, place, needed | set(other))
        other, right = _summed(build, note, other, right, needed | set(letters))
        letters, place = _contracted(build, note, letters, place, other, right, needed)
    letters, place = _summed(build, note, letters, place, set(output))
    return place.permuted([letters.index(c) for c in output])


def _diagonal(term: str, place: Place) -> tuple[str, Place]:
    """An operand with each letter once."""
    letters = "".join(dict.fromkeys(term))
    sizes = [max(n for c, n in zip(term, place.shape) if c == letter) for letter in letters]
    strides = [sum(s for c, s in zip(term, place.strides) if c == letter) for letter in letters]
    return letters, place.view(sizes, strides)


def _summed(build: Builder, note: list[str], letters: str, place: Place, keep: set[str]) -> tuple[str, Place]:
    axes = tuple(i for i, c in enumerate(letters) if c not in keep)
    if not axes:
        return letters, place
    kept = "".join(c for c in letters if c in keep)
    target = new_place(tuple(n for c, n in zip(letters, place.shape) if c in keep), place.dtype, build.context.lanes)
    whole = cast(Place, reshaped(target, tuple(1 if i in axes else n for i, n in enumerate(place.shape))))
    build.add(Reduce(build.context, [place], [whole], note, "sum", axes))
    return kept, target


def _contracted(build: Builder, note: list[str], left: str, a: Place, right: str, b: Place, needed: set[str]) -> tuple[str, Place]:
    """The product of two operands, as one of stacks of matrices: (batch, rows, inner) times (batch, inner, columns)."""
    sizes = dict(zip(left, a.shape))
    for c, n in zip(right, b.shape):  # sizes of 1 broadcast
        sizes[c] = max(n, sizes.get(c, 1)) if n else 0
    batch = "".join(c for c in left if c in right and c in needed)
    inner = "".join(c for c in left if c in right and c not in needed)
    rows, columns = ("".join(c for c in term if c not in batch + inner) for term in (left, right))

    def matrices(letters: str, place: Place, *groups: str) -> Place:
        order = "".join(groups)
        turned = place.permuted([letters.index(c) for c in order]).broadcast(tuple(sizes[c] for c in order))
        shape = (*(sizes[c] for c in groups[0]), *(math.prod(sizes[c] for c in group) for group in groups[1:]))
        return reshaped(turned, shape) or cast(Place, reshaped(build.copied(turned, padded=False), shape))

    a, b = matrices(left, a, batch, rows, inner), matrices(right, b, batch, inner, columns)
    out = new_place((*a.shape[:-1], b.shape[-1]), a.dtype, build.context.lanes)
    product(build, note, a, b, out)
    letters = batch + rows + columns
    shape = tuple(sizes[c] for c in letters)
    return letters, reshaped(out, shape) or cast(Place, reshaped(build.copied(out, padded=False), shape))
