"""`vmap`: a function of one element, run over all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.arrays import as_tensor, is_numpy
from hotgrad.core.modes import no_grad, state
from hotgrad.core.placing import placed
from hotgrad.core.primitive import Primitive
from hotgrad.core.variable import Variable
from hotgrad.engines.programs import Program
from hotgrad.engines.registry import ENGINES, EXACT
from hotgrad.errors import AxisError, CaptureError, EngineError, EngineWarning, OperandError, ShapeError, TapeError
from hotgrad.ops.axes import normal_axis
from hotgrad.ops.composites import stack
from hotgrad.ops.shaping import Permute, Reshape
from hotgrad.program.captured import captured
from hotgrad.program.tree import flatten, rebuilt
from hotgrad.transforms.made import Made, name_of
from hotgrad.transforms.trees import leaves, mapped

__all__ = ["vmap"]


class NotRecorded(Primitive, register=False):
    """What `vmap` gave, in the graph of what it depends on: to differentiate it raises."""

    reads = ("",)

    @staticmethod
    def forward(*operands: Tensor) -> Tensor:
        raise TapeError("this op stands for values that are computed otherwise")

    @staticmethod
    def vjp(index: int, g: Any, out: Any, *operands: Any) -> Any:
        raise TapeError(_INSIDE)


_INSIDE = (
    "vmap is not recorded, so its result cannot be differentiated: differentiate inside, as in vmap(grad(f)), write the function for the "
    "whole batch, or, where values alone are wanted, call it inside hg.no_grad"
)


def vmap(f: Callable[..., Any], in_dims: Any = 0) -> Callable[..., Any]:
    """The function that gives what `f` gives for each element of its arguments, stacked along a new first axis.

    `in_dims`: along which axis the elements lie, for all arguments or a tuple with an entry for each; None for an argument that each call
    of `f` gets whole. Arguments may be nested tuples, lists and dicts. `f` is captured once for each set of shapes, and its program runs
    over all elements in one call: on the native engine, or on replay, with an EngineWarning, where that cannot run it; what cannot be
    captured runs once per element, with a warning too. Keep the function that it returns: it holds the programs. Random numbers are drawn
    element by element, in order.

    It needs no rules of its own, but is not recorded: raises TapeError if the elements require a gradient while recording is on, or
    when its result is differentiated. `hg.vmap(hg.grad(loss))` gives the gradient for each example, `hg.vmap(hg.jacobian(f))` a Jacobian
    for each. Raises ShapeError for arguments of different numbers of elements, AxisError for an axis that is not there.

    >>> hg.vmap(hg.grad(lambda x: (x ** 2).sum()))(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    Variable([[2., 4.],
              [6., 8.]])
    >>> hg.vmap(lambda w, x: (w * x).sum(), in_dims=(None, 0))(torch.tensor([1.0, 10.0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    Variable([21., 43.])
    """
    return Made(f, "vmap", lambda f: _over_all(f, in_dims))


def _over_all(f: Callable[..., Any], in_dims: Any) -> Callable[..., Any]:
    programs: dict[Any, _Mapped] = {}

    def over_all(*args: Any) -> Any:
        given = _Arguments(f, args, in_dims)
        if state.trace is not None:
            return given.one_by_one()
        linked = [v for v in given.arrays if isinstance(v, Variable) and v._link is not None]
        if state.recording and any(v._link is not None for v in given.elements if isinstance(v, Variable)):
            raise TapeError(_INSIDE)
        found = programs.get(given.key)
        if found is None or (found.program is not None and found.program._captured.stale()):
            found = programs[given.key] = _Mapped(given)
        result = found.run(given) if found.program is not None else no_grad.run(given.one_by_one)
        linked += found.read
        return mapped(lambda value: placed(NotRecorded, value, linked, None), result) if linked and state.recording else result

    return over_all


class _Arguments:
    """The arguments of one call: which arrays are taken apart, and along which axis.

    - `elements`: those arrays, in order, with the axis of their elements first; `whole`: the other arrays; `count`: of elements.
    - `key`: what programs depend on.
    """

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], in_dims: Any) -> None:
        self.f, self.args = f, args
        self.name = f"vmap({name_of(f)})"
        if not args:
            raise OperandError(f"{self.name}: there is no argument whose elements to run over; vmap hands on positional arguments alone")
        if isinstance(in_dims, tuple) and len(in_dims) != len(args):
            raise OperandError(f"{self.name}: in_dims has {len(in_dims)} entries, and {len(args)} arguments were given")
        dims = in_dims if isinstance(in_dims, tuple) else (in_dims,) * len(args)
        self.dims: list[Any] = []  # per leaf
        for i, (arg, dim) in enumerate(zip(args, dims)):
            self._note_dims(arg, dim, f"argument {i}")
        self.elements: list[Variable] = []
        self.whole: list[Any] = []
        self.arrays: list[Any] = []
        key: list[Any] = []
        for leaf, dim in zip(leaves(args), self.dims):
            array = Variable(as_tensor(leaf)) if isinstance(leaf, Tensor) or is_numpy(leaf) else leaf
            if not isinstance(array, Variable):
                if dim is not None:
                    raise OperandError(f"{self.name}: only arrays have elements; got {leaf!r:.60}. Give it None in in_dims")
                key.append((type(leaf), leaf) if _hashable(leaf) else id(leaf))
                continue
            self.arrays.append(array)
            if dim is None:
                self.whole.append(array)
            else:
                if not array.ndim:
                    raise AxisError(f"{self.name}: a single number has no elements; give it None in in_dims")
                axis = normal_axis(dim, array.ndim)
                axes = (axis, *(i for i in range(array.ndim) if i != axis))
                array = array if not axis else Permute.apply(array, axes)
                self.elements.append(array)
            key.append((dim is None, array.shape if dim is None else array.shape[1:], array.dtype, array.device))
        sizes = [array.shape[0] for array in self.elements]
        if not sizes:
            raise OperandError(f"{self.name}: in_dims is None for every array, so there is nothing to run over")
        if len(set(sizes)) > 1:
            raise ShapeError(f"{self.name}: the arguments must have as many elements each along their axes of in_dims; got {sizes}")
        self.count = sizes[0]
        self.key = (repr(mapped(lambda _: 0, args)), torch.get_default_dtype(), *key)

    def _note_dims(self, arg: Any, dim: Any, where: str) -> None:
        if dim is None or (isinstance(dim, int) and not isinstance(dim, bool)):
            self.dims += [dim] * len(leaves(arg))
        elif isinstance(dim, dict) and isinstance(arg, dict) and set(arg) == set(dim):
            for name, value in arg.items():
                self._note_dims(value, dim[name], f"{where}[{name!r}]")
        elif isinstance(dim, (tuple, list)) and isinstance(arg, (tuple, list)) and len(arg) == len(dim):
            for i, (value, inner) in enumerate(zip(arg, dim)):
                self._note_dims(value, inner, f"{where}[{i}]")
        else:
            raise OperandError(f"{self.name}: in_dims must be an int or None, or have the structure of {where}; got {dim!r:.60}")

    def with_elements(self, elements: Sequence[Any], whole: Sequence[Any]) -> list[Any]:
        """The arguments of `f` with these arrays in them."""
        dims, one, all_ = iter(self.dims), iter(elements), iter(whole)

        def place(leaf: Any) -> Any:
            dim = next(dims)
            if not isinstance(leaf, (Variable, Tensor)) and not is_numpy(leaf):
                return leaf
            return next(all_) if dim is None else next(one)

        return [mapped(place, arg) for arg in self.args]

    def one_by_one(self) -> Any:
        """The results of calls for one element after the other, stacked."""
        if not self.count:
            raise ShapeError(f"{self.name}: there is no element to run over, and no shape of the result without one")
        results = [self.f(*self.with_elements([x[i] for x in self.elements], self.whole)) for i in range(self.count)]
        arrays, structure = flatten(results[0])
        others = [flatten(result) for result in results]
        if any(other != structure for _, other in others):
            raise OperandError(f"{self.name}: the function must return the same structure for every element")
        return rebuilt(structure, [stack([each[i] for each, _ in others]) for i in range(len(arrays))])


class _Mapped:
    """The program of one element, and the memory that whole arguments stand in. `read`: Variables outside that it depends on and that require
    a gradient. Without a program the function runs once per element.
    """

    def __init__(self, given: _Arguments) -> None:
        self.whole = [Variable(x._data.clone()) for x in given.whole]
        whole, shapes = self.whole, [tuple(x.shape[1:]) for x in given.elements]

        def one(*rows: Any) -> Any:
            return given.f(*given.with_elements([Reshape.apply(row, shape) for row, shape in zip(rows, shapes)], whole))

        examples = [
            Variable(x._data[:1].clone() if given.count else torch.ones((1, *x.shape[1:]), dtype=x.dtype, device=x.device))
            for x in given.elements
        ]
        self.program: Program | None = None
        self.read: list[Variable] = []
        try:
            found = captured(one, examples, [given.f, whole], watched=True)
        except CaptureError as error:
            warnings.warn(EngineWarning(f"{given.name} runs once per element, as it cannot be captured: {error}"), stacklevel=4)
            return
        holders = [state.holder for state in found.code.states]
        self.read = [holder for holder in holders if isinstance(holder, Variable) and holder._link is not None]
        self.program = _prepared(given.name, found)

    def run(self, given: _Arguments) -> Any:
        for holder, x in zip(self.whole, given.whole):
            holder._data.copy_(x._data)
        program: Any = self.program
        results = program.each([x._data.contiguous() for x in given.elements], given.count)
        return rebuilt(program._captured.structure, [Variable(tensor) for tensor in results])


def _prepared(name: str, found: Any) -> Program:
    """The program on the first engine that can run it, the fastest first."""
    for engine in [*ENGINES][::-1]:
        if engine == EXACT.name:
            break
        try:
            return Program(found).to(engine)
        except EngineError as error:
            warnings.warn(EngineWarning(f"{name} runs on {EXACT.name}: {error}"), stacklevel=5)
    return Program(found)


def _hashable(leaf: Any) -> bool:
    try:
        hash(leaf)
    except TypeError:
        return False
    return True
