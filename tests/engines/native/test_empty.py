"""Axes of size zero: programs on replay and native give what eager gives, gradients included."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import hotgrad as hg
from hotgrad.engines.native.compiler import find_compiler
from hotgrad.engines.native.engine import Native

Case = tuple[str, Callable[..., Any], tuple[tuple[int, ...], ...]]
EMPTY = [(0,), (0, 3), (3, 0), (2, 0, 3), (0, 0)]
LEFT = [(0,), (3,), (2, 0), (0, 3), (0, 0), (2, 3), (2, 2, 0), (0, 2, 3), (2, 0, 3), (2, 3, 0), (1, 2, 0)]
RIGHT = [(0,), (3,), (0, 2), (3, 0), (3, 2), (0, 0), (2, 0, 3), (2, 3, 0), (0, 3, 2), (1, 0, 2), (5, 1, 0, 2)]
EINSUMS = [
    ("ij,jk->ik", (2, 0), (0, 3)), ("ij,jk->ik", (0, 2), (2, 3)), ("bij,bjk->bik", (2, 3, 0), (2, 0, 4)), ("bij,bjk->bik", (0, 3, 2), (0, 2, 4)),
    ("i,j->ij", (0,), (3,)), ("ij->j", (0, 3)), ("ij->ji", (0, 3)), ("ii->i", (0, 0)), ("ij,k->k", (0, 2), (3,)), ("bi,bj,bk->ijk", (0, 2), (0, 3), (0, 4)),
    ("i,i->", (0,), (0,)), ("ij,ij->i", (3, 0), (3, 0)),
]  # fmt: skip
INDEX, ROWS = torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
SHAPED: list[tuple[str, Callable[[Any], Any], tuple[int, ...]]] = [
    ("[0:0]", lambda a: a[0:0], (3, 2)), ("[:, 0:0]", lambda a: a[:, 0:0], (3, 2)), ("reshape", lambda a: a.reshape(0, 7, 2), (0, 3)),
    ("expand", lambda a: a.expand((4, 0)), (1, 0)), ("unfold", lambda a: a.unfold(1, 2, 1), (0, 3)), ("pad", lambda a: a.pad((1, 1)), (3, 0)),
    ("pad away", lambda a: a.pad((-3, 0)), (2, 3)), ("gather", lambda a: a.gather(0, INDEX), (2, 3)), ("cat", lambda a: hg.cat([a, a + 1], 0), (0, 3)),
    ("stack", lambda a: hg.stack([a, a], -1), (0, 3)), ("chain", lambda a: (a.sum(0) + 1).log() * a.mean(0), (0, 3)),
    ("tables", lambda a: a[ROWS], (3, 2)), ("clip", lambda a: a.clip(0, 1) ** 2, (0, 3)),
]  # fmt: skip


def cases() -> Iterator[Case]:
    for op in (op for op in hg.primitives().values() if op.differentiable and op.native):
        if op.arity == 1 and not op.defaults:
            yield op.name, lambda a, op=op: op.apply(a), ((2, 0, 3),)
        elif op.arity == 2 and not op.defaults and op.name != "MatMul":
            yield op.name, lambda a, b, op=op: op.apply(a, b), ((2, 0, 3), (1, 3))
    for name, shape, keepdim in itertools.product(("sum", "mean", "var", "amax", "prod", "logsumexp", "norm"), EMPTY, (False, True)):
        for dim in (None, *range(len(shape))):
            yield f"{name} {dim}", lambda a, n=name, d=dim, k=keepdim: getattr(a, n)(dim=d, keepdim=k), (shape,)
    for name, shape in itertools.product(("softmax", "log_softmax", "cumsum"), EMPTY):
        for dim in range(len(shape)):
            yield f"{name} {dim}", lambda a, n=name, d=dim: getattr(a, n)(d), (shape,)
    for a, b in itertools.product(LEFT, RIGHT):
        yield "matmul", lambda x, y: x @ y, (a, b)
    for equation, *shapes in EINSUMS:
        yield equation, lambda *xs, e=equation: hg.einsum(e, *xs), tuple(shapes)
        for name in ("softmax", "log_softmax", "logsumexp"):
            yield f"{equation} {name}", lambda *xs, e=equation, n=name: getattr(hg.einsum(e, *xs), n)(-1), tuple(shapes)
    for name, f, shape in SHAPED:
        yield name, f, (shape,)


def values(f: Callable[..., Any], inputs: list[Any], graded: bool) -> list[Any]:
    result = f(*inputs)
    if not graded:
        return [result]
    return [result, *(g for g in hg.gradients(result.sum(), inputs, allow_unused=True, create_graph=True) if g is not None)]


def plain(result: Any) -> list[Tensor]:
    return [
        v.data if isinstance(v, hg.Variable) else torch.as_tensor(v) for v in (result if isinstance(result, (list, tuple)) else [result])
    ]


def same(got: Any, expected: list[Tensor], what: str) -> None:
    for a, b in zip(plain(got), expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), what
        assert torch.equal(a.nan_to_num(7, 8, 9), b.nan_to_num(7, 8, 9)), f"{what}: {a} {b}"


@pytest.mark.filterwarnings("ignore:var")
def test_every_engine_gives_what_eager_gives(thorough: bool) -> None:
    found = [(case, graded) for case in cases() for graded in (False, True)]
    made = []
    for (name, f, shapes), graded in found if thorough else found[::4] + found[3::4]:
        inputs = [torch.ones(shape) for shape in shapes]
        leaves = [hg.Variable(x, requires_grad=graded) for x in inputs]
        try:
            expected = plain(values(f, leaves, graded))
        except (hg.HotgradError, RuntimeError, IndexError):  # an op without a value or a gradient there
            continue
        program = hg.capture(lambda *xs, f=f, graded=graded: values(f, list(xs), graded), *leaves)
        what = f"{name} {shapes} {graded}"
        for fuse in (False, True):
            same(program.to("replay", fuse=fuse)(*inputs), expected, f"replay: {what}")
        made.append((what, program, inputs, expected))
    assert len(made) > 150
    if find_compiler() is None:
        return
    natives = Native.prepare([program.code for _, program, _, _ in made], options=["-O0"])
    for native, (what, program, inputs, expected) in zip(natives, made):
        outputs = [torch.full((1, *value.shape), 5).to(value.dtype) for value in program.code.outputs]
        native.run(inputs, None, 1, torch.zeros(1, 0, dtype=torch.float64), [], outputs)
        same([output[0] for output in outputs], expected, f"native: {what}")
