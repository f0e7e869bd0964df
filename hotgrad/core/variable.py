"""Variables: tensors on which ops are recorded, and the gradients that a walk leaves in them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from hotgrad.core.array_like import ArrayLike
from hotgrad.core.arrays import as_tensor
from hotgrad.core.explain import check_like, describe, several
from hotgrad.core.modes import enable_grad, state
from hotgrad.core.records import MADE, NO_ACCUMULATORS, Accumulator, Record
from hotgrad.core.walk import walk
from hotgrad.errors import DtypeError, OperandError, ShapeError, TapeError


class Variable(ArrayLike):
    """A tensor on which ops are recorded, so that gradients with respect to it can be computed.

    `data` is a torch tensor (wrapped without copying, detached from torch's own graph), a number, a nested list or a numpy
    array (copied). Numbers and lists get torch's default dtypes. Only floating dtypes may require gradients.

    `v += w` and its like write into `v`, and into whatever shares its memory, if `v` is a leaf and the sum is not recorded; they raise
    TapeError if `v` is a leaf that requires a gradient and recording is on; else they give a new value.

    Raises DtypeError for complex data or integers that shall require a gradient, OperandError for inference-mode tensors, for Variables
    that require a gradient and for anything that is no array, DataError for masked arrays that hide something.

    >>> x = Variable([1.0, 2.0, 3.0], requires_grad=True, name="x")
    >>> y = (x * x).sum()
    >>> y.backward()
    >>> x.grad
    tensor([2., 4., 6.])
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = False, name: str | None = None) -> None:
        self._data = as_tensor(data)
        self._link = None
        self._accumulator = Accumulator(self._data, name) if name is not None else MADE
        if requires_grad:
            self.requires_grad = True
            if state.trace is not None:
                state.trace.made_leaf(self)

    @property
    def requires_grad(self) -> bool:
        return self._link is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not self.is_leaf:
            raise TapeError("requires_grad can be changed on leaves only; use detach() to get a Variable outside the graph")
        if value and not self._data.dtype.is_floating_point:
            raise DtypeError(f"only floating dtypes may require gradients; got {describe(self._data)}. Convert it with to(torch.float32)")
        self._link = self._own_accumulator() if value else None

    def _assign_grad(self, value: Tensor | Variable | None) -> None:
        if value is None:
            if self._accumulator not in NO_ACCUMULATORS:
                self._accumulator.grad = None
            return
        if not isinstance(value, (Tensor, Variable)):
            raise OperandError(f"grad must be a tensor, a Variable or None; got {value!r:.60}")
        check_like("grad", value, self._data)
        if isinstance(value, Tensor):
            value = as_tensor(value).contiguous()  # backward adds to it in place
        self._own_accumulator().grad = value

    grad = property(
        operator.attrgetter("_accumulator.grad"),
        _assign_grad,
        doc="""The gradient that backwards have accumulated: a tensor of the same shape, dtype and device that shares memory with
        nothing, a Variable after `create_graph=True`, or None.""",
    )

    def zero_grad(self) -> None:
        """Set `grad` to None."""
        self.grad = None

    def retain_grad(self) -> None:
        """Also keep the gradient of this computed Variable in `grad`. On leaves it changes nothing."""
        if self._link is None:
            raise TapeError("retain_grad() on a Variable that needs no gradient; make one of its inputs with requires_grad=True")
        if isinstance(self._link, Record):
            self._own_accumulator().retain = True

    def backward(self, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False) -> None:
        """Add to the `grad` of every leaf that this Variable depends on.

        `gradient`: the gradient of the final result with respect to this Variable, of the same shape and dtype; may be left out
        for one element. `retain_graph` keeps the records for another backward; otherwise they are freed while walking.
        `create_graph` records the backward itself, so that gradients can be differentiated again; implies `retain_graph`.

        Raises TapeError if this Variable needs no gradient, if the graph is freed or was written to; ShapeError, DtypeError or
        DeviceError for a gradient that does not match. No leaf's `grad` changes when it raises; the graph may be used up.

        >>> x = Variable(3.0, requires_grad=True)
        >>> (x ** 2).backward()
        >>> x.grad
        tensor(6.)
        """
        for accumulator, g in walk([(self, gradient)], None, retain_graph, create_graph, Variable).items():
            old = accumulator.grad
            if old is not None and not isinstance(old, Variable) and state.trace is not None:
                state.trace.refuse(
                    "backward() would add to a `grad` from before the capture: of a Parameter that zero_grad() did not clear, such as one of another model in the loss. Call zero_grad() on it first, or freeze() it"
                )
            if old is None:
                accumulator.grad = g
            elif create_graph or isinstance(old, Variable):
                add = operator.add if state.trace is None else partial(state.trace.accumulate, create_graph=create_graph)
                accumulator.grad = enable_grad.run(add, old, g)
            else:
                old.add_(g)

    def detach(self) -> Variable:
        """The same data outside the graph."""
        return wrap(self._data, None, MADE) if state.trace is None else state.trace.leaf(self).detach()


class Parameter(Variable):
    """A leaf that requires a gradient and that modules register as theirs to train."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True, name: str | None = None) -> None:
        super().__init__(data, requires_grad, name)


wrap = Variable._at


def gradients(
    outputs: Variable | Sequence[Variable],
    inputs: Variable | Sequence[Variable],
    gradients: Any = None,
    retain_graph: bool = False,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Variable | None, ...]:
    """The gradients of the sum of `outputs` with respect to each of `inputs`, as a tuple; no `grad` is touched.

    `gradients`: one seed per output, as `Variable.backward` takes it. `inputs` may be intermediates. `create_graph` makes the
    results differentiable. An input that the outputs do not depend on raises TapeError, or gives None with `allow_unused`.

    >>> x = Variable(2.0, requires_grad=True)
    >>> (first,) = gradients(x ** 3, x, create_graph=True)
    >>> (second,) = gradients(first, x)
    >>> first.item(), second.item()
    (12.0, 12.0)
    """
    roots = (outputs,) if isinstance(outputs, Variable) else several("gradients: outputs", outputs)
    targets = (inputs,) if isinstance(inputs, Variable) else several("gradients: inputs", inputs)
    seeds = (gradients,) if isinstance(outputs, Variable) else (None,) * len(roots) if gradients is None else tuple(gradients)
    if len(seeds) != len(roots):
        raise ShapeError(f"gradients must have one entry per output; got {len(seeds)} for {len(roots)} outputs")
    for i, target in enumerate(targets):
        if not isinstance(target, Variable) or target._link is None:
            raise TapeError(
                f"input {i} of gradients() needs no gradient: {target!r:.80}. Give Variables with requires_grad=True, or computed from such"
            )
    found = walk(list(zip(roots, seeds)), {target._link: None for target in targets if target._link}, retain_graph, create_graph, Variable)
    results: list[Variable | None] = []
    seen: set[Any] = set()
    for i, target in enumerate(targets):
        g = found.get(target._link)
        if g is None and not allow_unused:
            raise TapeError(f"the outputs do not depend on input {i} of gradients(); allow_unused=True gives None for it")
        results.append(g if g is None or isinstance(g, Variable) else wrap(g.clone() if target._link in seen else g, None))
        seen.add(target._link)
    return tuple(results)
