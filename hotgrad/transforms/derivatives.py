"""Derivatives of functions: gradients, products with Jacobians and Hessians, and these as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from hotgrad.checks import whole_number
from hotgrad.core.modes import state
from hotgrad.core.variable import Variable, wrap
from hotgrad.errors import OperandError
from hotgrad.ops.composites import cat, stack
from hotgrad.ops.shaping import Permute, Reshape
from hotgrad.transforms.made import Made
from hotgrad.transforms.passes import Pass, matching
from hotgrad.transforms.trees import mapped

__all__ = ["ggnvp", "grad", "hessian", "hvp", "jacobian", "jvp", "value_and_grad", "vjp"]


def grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The function that gives the gradient of `f`, which returns one element, with respect to argument `argnums`.

    Arguments are Variables or tensors, or nested tuples, lists and dicts of such; the gradient has the structure, shapes and dtypes of
    the argument, and is a tuple for several argnums. With `has_aux` `f` returns (value, auxiliary), and the result is (gradient,
    auxiliary). Other arguments, and keywords, are handed on.

    An argument that the value does not depend on has a gradient of zeros. Raises TapeError if it depends on none of the arguments,
    ShapeError if it is not one element, DtypeError for integers among the differentiated arguments, RangeError for argnums out of range.

    >>> hg.grad(lambda x: x ** 3)(2.0)
    Variable(12.)
    >>> hg.grad(hg.grad(lambda x: x ** 3))(2.0)
    Variable(12.)
    >>> hg.grad(lambda p, x: ((p["w"] * x).sum() + p["b"]) ** 2)({"w": torch.ones(2), "b": 1.0}, torch.tensor([1.0, 2.0]))
    {'w': Variable([ 8., 16.]), 'b': Variable(8.)}
    """

    def make(f: Callable[..., Any]) -> Callable[..., Any]:
        def gradient(*args: Any, **kwargs: Any) -> Any:
            value, found = _value_and_gradient(f, args, kwargs, argnums, has_aux)
            return (found, value[1]) if has_aux else found

        return gradient

    return Made(f, "grad", make)


def value_and_grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The function that gives (value, gradient), from one forward; with `has_aux` ((value, auxiliary), gradient). See `grad`.

    >>> hg.value_and_grad(lambda x: (x * x).sum())(torch.tensor([1.0, 2.0]))
    (Variable(5.), Variable([2., 4.]))
    """
    return Made(f, "value_and_grad", lambda f: lambda *args, **kwargs: _value_and_gradient(f, args, kwargs, argnums, has_aux))


def _value_and_gradient(f: Callable[..., Any], args: Any, kwargs: dict[str, Any], argnums: Any, has_aux: bool) -> tuple[Any, Any]:
    run = Pass("grad", f, args, kwargs, argnums, has_aux)
    value = run.scalar()
    create = run.outer and run.others
    gradients = run.in_arguments(run.whole(run.pull([(value, None)], run.inputs, create)))
    found = run.finished(gradients[0] if isinstance(argnums, int) else gradients)
    value = run.finished(run.result, linked=False)
    return ((value, run.finished(run.aux, linked=False)) if has_aux else value), found


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """(value, pullback): what `f` gives, and the function from a cotangent of it, of its structure, shapes and dtypes, to its product
    with the Jacobian, a tuple with an entry per primal. It may be called any number of times.

    >>> value, pullback = hg.vjp(lambda x, y: x * y, torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    >>> pullback(torch.tensor([1.0, 0.0]))
    (Variable([3., 0.]), Variable([1., 0.]))
    """
    run = Pass("vjp", f, primals, {})

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        seeds = matching(run.what, "cotangent", cotangent, run.result, run.outputs)
        outer, run.outer = run.outer, state.recording
        try:
            create = run.outer and (run.others or any(seed._link is not None for seed in seeds))
            found = run.pull(list(zip(run.outputs, seeds)), run.inputs, create, retain=True)
            return run.finished(run.in_arguments(run.whole(found)))  # type: ignore[no-any-return]
        finally:
            run.outer = outer

    return run.finished(run.result, linked=False), pullback


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """(value, tangent): what `f` gives, and the product of the Jacobian with the tangents, in the same structure.

    One forward and two walks back: the walk for a cotangent is linear in it, and the gradient of that is the product (J. Townsend 2017,
    "A new trick for calculating Jacobian vector products").

    >>> hg.jvp(lambda x: x ** 2, (torch.tensor([1.0, 2.0]),), (torch.tensor([1.0, 10.0]),))
    (Variable([1., 4.]), Variable([ 2., 40.]))
    """
    run, given = _directed("jvp", f, primals, tangents)
    pushed = run.whole(_push(run, given), run.outputs)
    return run.finished(run.result, linked=False), run.finished(run.like_outputs(pushed))


def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """(value, product): what `f` gives, which is one element, and the product of its Hessian with the tangents, in the structure of the
    primals. The Hessian is never formed: it is the gradient of the gradient's product with the tangents (Pearlmutter 1994).

    >>> hg.hvp(lambda x: (x ** 3).sum(), (torch.tensor([1.0, 2.0]),), (torch.tensor([1.0, 1.0]),))
    (Variable(9.), (Variable([ 6., 12.]),))
    """
    run, given = _directed("hvp", f, primals, tangents)
    value = run.scalar()
    gradients = run.pull([(value, None)], run.inputs, create=True)
    roots = [(g, tangent) for g, tangent in zip(gradients, given) if g is not None]
    product = run.whole(run.pull(roots, run.inputs, _create(run, given)))
    return run.finished(value, linked=False), _as_given(primals, run.finished(run.in_arguments(product)))


def ggnvp(
    f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], loss: Callable[[Any], Any] | None = None
) -> tuple[Any, Any]:
    """(value, product): what `f` gives, and the product of the Gauss-Newton matrix J' H J with the tangents, in the structure of the primals.

    J is the Jacobian of `f`, H the Hessian of `loss(f(*primals))` with respect to what `f` gives; without `loss` it is the identity, that
    of half the sum of squares of residuals. Neither is formed. Schraudolph 2002, "Fast curvature matrix-vector products".

    >>> hg.ggnvp(lambda x: x ** 2, (torch.tensor([1.0, 2.0]),), (torch.tensor([1.0, 1.0]),))
    (Variable([1., 4.]), (Variable([ 4., 16.]),))
    """
    run, given = _directed("ggnvp", f, primals, tangents)
    pushed = run.whole(_push(run, given, retain=True), run.outputs)
    if loss is not None:
        of_leaves = lambda *outputs: loss(run.like_outputs(outputs))  # noqa: E731
        _, pushed = run.on_tape(lambda: hvp(of_leaves, run.outputs, pushed))
    product = run.whole(run.pull(list(zip(run.outputs, pushed)), run.inputs, _create(run, given)))
    return run.finished(run.result, linked=False), _as_given(primals, run.finished(run.in_arguments(product)))


def jacobian(f: Callable[..., Any], argnums: int | Sequence[int] = 0, chunk: int | None = None) -> Callable[..., Any]:
    """The function that gives the Jacobian of `f` with respect to argument `argnums`: of shape (*value's, *argument's).

    For nested values and arguments it has the structure of the value, with that of the argument in place of each array. Rows are computed
    by walks back from each element of the value, or columns by products with each element of the arguments, whichever is cheaper. `chunk`:
    so many of them are computed before they are put into the result, which bounds what is held besides it; None computes all before.

    >>> hg.jacobian(lambda x: x ** 2)(torch.tensor([1.0, 2.0, 3.0]))
    Variable([[2., 0., 0.],
              [0., 4., 0.],
              [0., 0., 6.]])
    """
    if chunk is not None:
        whole_number("chunk", chunk)

    return Made(f, "jacobian", lambda f: lambda *args, **kwargs: _matrix(f, args, kwargs, argnums, chunk))


def _matrix(f: Callable[..., Any], args: Any, kwargs: dict[str, Any], argnums: Any, chunk: int | None) -> Any:
    run = Pass("jacobian", f, args, kwargs, argnums)
    create = run.outer and run.others
    rows, columns = (sum(x.numel() for x in group) for group in (run.outputs, run.inputs))
    # a walk over the graph of a walk costs about half as much again, and making it about two
    by = _by_columns if 2 + 1.5 * columns < rows else _by_rows
    nested = [run.in_arguments(row) for row in run.on_tape(lambda: by(run, create, chunk))]
    return run.finished(run.like_outputs([entry[0] for entry in nested] if isinstance(argnums, int) else nested))


def hessian(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """The function that gives the Hessian of `f`, which returns one element, with respect to argument `argnums`: of shape (*argument's,
    *argument's), nested as `jacobian` nests.

    >>> hg.hessian(lambda x: (x ** 3).sum())(torch.tensor([1.0, 2.0]))
    Variable([[ 6.,  0.],
              [ 0., 12.]])
    """
    return Made(f, "hessian", lambda f: jacobian(grad(f, argnums), argnums))


# ---- in parts


def _directed(what: str, f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Pass, list[Variable]]:
    """A run on the primals, and the tangents of its inputs."""
    for name, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, (tuple, list)):
            raise OperandError(
                f"{what}: {name} must be a tuple with an entry per argument; got {type(given).__name__}. Write ({name[:-1]},)"
            )
    run = Pass(what, f, primals, {})
    return run, matching(run.what, "tangent", tuple(tangents), run.arguments, run.inputs)


def _create(run: Pass, given: Sequence[Variable]) -> bool:
    return run.outer and (run.others or any(value._link is not None for value in given))


def _push(run: Pass, tangents: Sequence[Variable], retain: bool = False) -> list[Variable | None]:
    cotangents, gradients = run.dual()
    roots = [(g, tangent) for g, tangent in zip(gradients, tangents) if g is not None]
    return run.pull(roots, cotangents, _create(run, tangents), retain)


def _as_given(primals: Sequence[Any], product: tuple[Any, ...]) -> Any:
    return product if type(primals) is tuple else mapped(lambda _, new: new, primals, list(product))


def _one_hots(like: Any) -> Callable[[int], Variable]:
    """Of an index, the array of this shape that is 1 there and 0 elsewhere."""
    count, shape = like.numel(), tuple(like.shape)
    if count <= 1024:
        rows = torch.eye(count, dtype=like.dtype, device=like.device).reshape(count, *shape).unbind()
        return lambda i: wrap(rows[i], None)

    def one_hot(i: int) -> Variable:
        seed = torch.zeros(count, dtype=like.dtype, device=like.device)
        seed[i] = 1.0
        return Variable(seed.reshape(shape))

    return one_hot


def _by_rows(run: Pass, create: bool, chunk: int | None) -> list[list[Any]]:
    """Per output the Jacobian with respect to each input, from a walk for each element of the output."""
    found = []
    for output in run.outputs:
        row = _part(run, [output], run.inputs, output, create)
        blocks = _stacked(row, output.numel(), run.inputs, create, chunk)
        found.append([Reshape.apply(block, (*output.shape, *x.shape)) for block, x in zip(blocks, run.inputs)])
    return found


def _by_columns(run: Pass, create: bool, chunk: int | None) -> list[list[Any]]:
    """The same, from a product for each element of the inputs."""
    cotangents, gradients = run.dual()
    found: list[list[Any]] = [[] for _ in run.outputs]
    for x, g in zip(run.inputs, gradients):
        column = _part(run, [] if g is None else [g], cotangents, x, create)
        blocks = _stacked(column, x.numel(), run.outputs, create, chunk)
        for block, output, entry in zip(blocks, run.outputs, found):
            axes = (*range(1, output.ndim + 1), 0)
            entry.append(Reshape.apply(Permute.apply(block, axes), (*output.shape, *x.shape)))
    return found


def _part(run: Pass, roots: list[Variable], wanted: Sequence[Variable], like: Variable, create: bool) -> Callable[[int], list[Variable]]:
    """Of an index, the gradients of that element of the root."""
    back, seeds = run.puller(roots, wanted, create, True), _one_hots(like)
    return lambda i: run.whole(back([seeds(i)]), wanted)


def _stacked(part: Callable[[int], list[Variable]], count: int, like: Sequence[Variable], create: bool, chunk: int | None) -> list[Any]:
    """`part(0)`, `part(1)`, ... stacked along a new first axis, for each of what they give, with so many of them held at a time."""
    if not count:
        return [Variable(torch.zeros((0, *x.shape), dtype=x.dtype, device=x.device)) for x in like]
    if create or state.trace is not None:
        pieces = [[stack(column) for column in zip(*rows)] for rows in _chunks(part, count, chunk)]
        return [cat(piece) if len(piece) > 1 else piece[0] for piece in zip(*pieces)]
    whole = [torch.empty((count, *x.shape), dtype=x.dtype, device=x.device) for x in like]
    at = 0
    for rows in _chunks(part, count, chunk):
        for into, column in zip(whole, zip(*rows)):
            torch.stack([value._data for value in column], out=into[at : at + len(rows)])
        at += len(rows)
    return [Variable(tensor) for tensor in whole]


def _chunks(part: Callable[[int], list[Variable]], count: int, chunk: int | None) -> Iterator[list[list[Variable]]]:
    size = chunk or count
    for start in range(0, count, size):
        yield [part(i) for i in range(start, min(start + size, count))]
