"""Variables, and the walk backwards that gives their gradients.

`backward` follows the links between records, always taking the pending record with the largest sequence number; so its cost
depends on what the root reaches, it needs no recursion, and the order is the same every time.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.arrays import is_numpy, read
from hotgrad.core.explain import check_like, describe, operand_name, rule_failed, several, written
from hotgrad.core.methods import WRITERS, Methods, counterpart
from hotgrad.core.primitive import Primitive
from hotgrad.core.records import MADE, NO_SINK, NO_SINKS, Node, Record, Sink, enable_grad, no_grad, state
from hotgrad.errors import DtypeError, HotgradError, OperandError, RuleError, ShapeError, TapeError

# ------------------------------------------------------------------------------------------------------------ Variables


class Variable(Methods):
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

    # _link: what records point to: the Record or Sink of this value, None if it needs no gradient. _leaf: the Sink that
    # holds gradient and name where there is one.
    __slots__ = ("_data", "_link", "_leaf", "__weakref__")

    _data: Tensor
    _link: Record | Sink | None
    _leaf: Sink

    __array_ufunc__ = None  # numpy arrays on the left leave the operation to us
    __hash__ = object.__hash__

    def __init__(self, data: Any, requires_grad: bool = False, name: str | None = None) -> None:
        self._data = as_tensor(data)
        self._link = None
        self._leaf = Sink(self._data, name) if name is not None else MADE
        if requires_grad:
            self.requires_grad = True

    # ---- what it is

    def _assign_data(self, value: Any) -> None:
        if not self.is_leaf:
            raise TapeError("data can be assigned on leaves only; this Variable was computed by " + self._link.op.name)  # type: ignore[union-attr]
        value = as_tensor(value)
        check_like("data", value, self._data)
        self._data = value

    # attrgetter, here and for grad: reading these is part of every optimizer step
    data = property(
        operator.attrgetter("_data"),
        _assign_data,
        doc="""The tensor itself, not a copy. Writes through it are noticed by a later backward that needs the old values; writes
        through torch's own `Tensor.data` or through numpy memory are not.

        Assigning another tensor is allowed on a leaf, for equal shape, dtype and device; earlier records keep the old one.
        """,
    )

    @property
    def requires_grad(self) -> bool:
        return self._link is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not self.is_leaf:
            raise TapeError("requires_grad can be changed on leaves only; use detach() to get a Variable outside the graph")
        if value and not self._data.dtype.is_floating_point:
            raise DtypeError(f"only floating dtypes may require gradients; got {describe(self._data)}. Convert it with to(torch.float32)")
        self._link = self._sink() if value else None

    @property
    def is_leaf(self) -> bool:
        """True unless an op on the tape computed it."""
        return not isinstance(self._link, Record)

    @property
    def previous_op(self) -> type[Primitive] | None:
        """The Primitive class that made it, None on leaves; a backward does not clear it."""
        return self._link.op if isinstance(self._link, Record) else None

    @property
    def name(self) -> str | None:
        """A name for tables, graphs and messages."""
        return self._leaf.name

    @name.setter
    def name(self, value: str | None) -> None:
        self._sink().name = value

    def _sink(self) -> Sink:
        if self._leaf in NO_SINKS:
            self._leaf = Sink(self._data)
            if isinstance(self._link, Record):
                self._link.sink = self._leaf
        return self._leaf

    @property
    def shape(self) -> torch.Size:
        return self._data.shape

    @property
    def dtype(self) -> torch.dtype:
        return self._data.dtype

    @property
    def device(self) -> torch.device:
        return self._data.device

    @property
    def ndim(self) -> int:
        return self._data.ndim

    def dim(self) -> int:
        return self._data.ndim

    def size(self, dim: int | None = None) -> Any:
        return self._data.size() if dim is None else self._data.size(dim)

    def numel(self) -> int:
        """The number of elements."""
        return self._data.numel()

    # ---- gradients

    def _assign_grad(self, value: Tensor | Variable | None) -> None:
        if value is None:
            if self._leaf not in NO_SINKS:
                self._leaf.grad = None
            return
        if not isinstance(value, (Tensor, Variable)):
            raise OperandError(f"grad must be a tensor, a Variable or None; got {value!r:.60}")
        check_like("grad", value, self._data)
        if isinstance(value, Tensor):
            value = as_tensor(value).contiguous()  # backward adds to it in place
        self._sink().grad = value

    grad = property(
        operator.attrgetter("_leaf.grad"),
        _assign_grad,
        doc="""The gradient that backwards have accumulated: a tensor of the same shape, dtype and device that shares memory with
        nothing, a Variable after `create_graph=True`, or None.
        """,
    )

    def zero_grad(self) -> None:
        """Set `grad` to None."""
        self.grad = None

    def retain_grad(self) -> None:
        """Also keep the gradient of this computed Variable in `grad`. On leaves it changes nothing."""
        if self._link is None:
            raise TapeError("retain_grad() on a Variable that needs no gradient; make one of its inputs with requires_grad=True")
        if isinstance(self._link, Record):
            self._sink().retain = True

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
        for sink, g in walk([(self, gradient)], None, retain_graph, create_graph).items():
            old = sink.grad
            if old is not None and not isinstance(old, Variable) and state.trace is not None:
                state.trace.refuse("backward() would add to a `grad` from before the capture; call zero_grad() in the function first")
            if old is None:
                sink.grad = g
            elif create_graph or isinstance(old, Variable):
                add = operator.add if state.trace is None else partial(state.trace.accumulate, create_graph=create_graph)
                sink.grad = enable_grad.run(add, old, g)
            else:
                old.add_(g)

    def _as_index(self) -> Tensor:
        return self.data  # type: ignore[no-any-return]

    def detach(self) -> Variable:
        """The same data outside the graph."""
        return wrap(self._data, None, MADE) if state.trace is None else state.trace.leaf(self).detach()

    # ---- values for Python

    def _values(self) -> Tensor:
        if state.trace is not None:
            state.trace.refuse("the values of a Variable were read while capturing; they may differ at each run")
        return self._data

    def item(self) -> Any:
        """The one element as a Python number. Raises ShapeError for more."""
        if self._values().numel() != 1:
            raise ShapeError(f"only one element converts to a Python number; got shape {tuple(self.shape)}. Reduce it first with sum()")
        return self._data.item()

    def tolist(self) -> Any:
        """The data as nested lists."""
        return self._values().tolist()

    def numpy(self) -> Any:
        """The data as a numpy array that shares its memory. Raises TapeError if a gradient is required."""
        if self._link is not None:
            message = "numpy() on a Variable that requires a gradient would lose the graph; use detach().numpy()"
            raise TapeError(f"{message}. To join Variables into one use hg.stack([v0, v1])")
        return self._values().resolve_neg().numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        array = self.numpy()
        if copy is False and dtype is not None and array.dtype != dtype:
            raise ValueError(f"a copy is needed to convert {array.dtype} to {dtype}")
        return array.copy() if copy and dtype in (None, array.dtype) else array if dtype is None else array.astype(dtype, copy=bool(copy))

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __len__(self) -> int:
        if not self.ndim:
            raise OperandError("a 0-d Variable has no length. To join Variables into one use hg.stack([v0, v1])")
        return self.shape[0]

    def __iter__(self) -> Iterator[Variable]:
        return iter([self[i] for i in range(len(self))])

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TapeError(
            "a Variable's elements cannot be assigned; use where(mask, value, v) or cat/stack, or write to v.data outside the graph"
        )

    def __repr__(self) -> str:
        name = f", name={self.name!r}" if self.name else ""
        origin = f", op={self.previous_op.name}" if self.previous_op else ", requires_grad=True" if self.requires_grad else ""
        kind = type(self).__name__
        values = str(self._values()).removeprefix("tensor(").removesuffix(")").replace("\n       ", "\n " + " " * len(kind))  # aligned
        return f"{kind}({values}{origin}{name})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __reduce__(self) -> Any:
        self._refuse_to_copy("pickled")
        return _restore, (type(self), self._data, self.requires_grad, self.name, self.grad)

    def __copy__(self) -> Variable:
        self._refuse_to_copy("copied")
        grad = None if self.grad is None else self.grad.clone()  # backwards of either add to it in place
        return _restore(type(self), self._data, self.requires_grad, self.name, grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Variable:
        copied = self.__copy__()
        copied._data = self._data.clone()
        memo[id(self)] = copied
        return copied

    def _refuse_to_copy(self, done: str) -> None:
        if not self.is_leaf or isinstance(self.grad, Variable):
            raise TapeError(f"only leaf Variables can be {done}: a graph belongs to the tape it was recorded on. Use detach() first")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """torch functions on Variables dispatch to the op of the same name, or raise."""
        name = func.__name__
        if name in WRITERS and len(args) == 2 and not kwargs:
            return WRITERS[name](*args)
        if name in ("zeros_like", "ones_like", "full_like") and args and isinstance(args[0], Variable):
            return func(args[0]._data, *args[1:], **(kwargs or {}))  # no values are asked for, and none recorded
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            # no TypeError: of `t += v` Python would make `t = t + v`
            raise TapeError(f"torch's {name!r} cannot write a Variable into a tensor; compute a new value, as in t = t + v")
        function = counterpart(func)
        options = {"dim" if k == "axis" else k: value for k, value in (kwargs or {}).items() if (k, value) not in _TORCH_DEFAULTS}
        try:
            return function(*args, **options)
        except TypeError as error:
            if isinstance(error, HotgradError):
                raise
            raise OperandError(f"torch's {name!r} on a Variable takes what hotgrad's {name!r} takes; {error}") from error


_TORCH_DEFAULTS = [("_stacklevel", 3), ("dtype", None), ("out", None), ("inplace", False), ("value", None)]  # which nobody asked for


class Parameter(Variable):
    """A leaf that requires a gradient and that modules register as theirs to train."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True, name: str | None = None) -> None:
        super().__init__(data, requires_grad, name)


def wrap(data: Tensor, link: Record | Sink | None, leaf: Sink = NO_SINK) -> Variable:
    """A Variable of `data` at this place in the graph, without checks."""
    out = Variable.__new__(Variable)
    out._data, out._link, out._leaf = data, link, leaf
    return out


def _restore(cls: type[Variable], data: Tensor, requires_grad: bool, name: str | None, grad: Tensor | None) -> Variable:
    out = cls(data, requires_grad, name)
    out.grad = grad
    return out


def as_tensor(data: Any) -> Tensor:
    """`data` as a tensor that belongs to no torch graph. Tensors share their memory, everything else is copied."""
    if isinstance(data, Variable):
        if data._link is not None:
            raise OperandError("a Variable that requires a gradient cannot be wrapped again, the graph would be lost; use detach()")
        return data._data
    tensor = data if isinstance(data, Tensor) else read(data)
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.is_complex():
        raise DtypeError(f"complex data is not supported; got {describe(tensor)}. Use its real and imaginary parts")
    if tensor.layout is not torch.strided:
        raise OperandError(f"only dense tensors are supported; got layout {tensor.layout}. Convert it with to_dense()")
    if tensor.is_inference():
        raise OperandError(
            "inference-mode tensors have no version counter, so writes to them would go unnoticed; clone() it outside torch.inference_mode"
        )
    return tensor


# ------------------------------------------------------------------------------------------------------------- backward


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
    found = walk(list(zip(roots, seeds)), {target._link: None for target in targets if target._link}, retain_graph, create_graph)
    results: list[Variable | None] = []
    seen: set[Any] = set()
    for i, target in enumerate(targets):
        g = found.get(target._link)
        if g is None and not allow_unused:
            raise TapeError(f"the outputs do not depend on input {i} of gradients(); allow_unused=True gives None for it")
        results.append(g if g is None or isinstance(g, Variable) else wrap(g.clone() if target._link in seen else g, None))
        seen.add(target._link)
    return tuple(results)


def walk(roots: list[tuple[Variable, Any]], wanted: dict[Any, None] | None, retain_graph: bool, create_graph: bool) -> dict[Any, Any]:
    """Walk backwards from `roots`, pairs of a Variable and its seed. Returns the gradient of every leaf's Sink reached and of every
    Sink that retains one; with `wanted`, that of the Records and Sinks it names instead, walking no further than they need.

    Gradients are tensors that share memory with nothing, or Variables if `create_graph`.
    """
    if torch.is_inference_mode_enabled():
        raise TapeError("backward inside torch.inference_mode would make gradients that nothing can update; leave that mode first")
    trace = state.trace
    on_variables = create_graph or trace is not None  # while a program is captured, the rules are noted too
    pending: dict[Any, Any] = {}  # what has arrived so far for each Record or Sink
    shared: set[Any] = set()  # those whose arrivals may share memory with something
    for root, gradient in roots:
        if not isinstance(root, Variable) or root._link is None:
            raise TapeError(
                f"backward needs a Variable that requires a gradient; got {root!r:.80}. "
                "Make a leaf it depends on with requires_grad=True, and compute it outside no_grad"
            )
        seed = _seed(root, gradient, on_variables)
        pending[root._link] = pending[root._link] + seed if root._link in pending else seed
        shared.add(root._link)
    leading = None if wanted is None else _leading_to(wanted, pending)
    if on_variables:
        with trace.internal() if trace is not None else nullcontext():
            (enable_grad if create_graph else no_grad).run(_walk, pending, shared, wanted, leading, create_graph or retain_graph, Variable)
        return pending if trace is None else {n: trace.gradient(g, n in shared, create_graph) for n, g in pending.items()}
    _walk(pending, shared, wanted, leading, retain_graph, Tensor)
    for node in shared:
        if node in pending:
            pending[node] = pending[node].clone(memory_format=torch.contiguous_format)
    return pending


def _walk(pending: dict[Any, Any], shared: set[Any], wanted: Any, leading: set[Any] | None, retain_graph: bool, kind: Any) -> None:
    """The loop of `walk`: on return `pending` holds the results. `kind` is what rules get and give, Tensor or Variable.

    References are dropped early, so that memory is released while walking.
    """
    heap = [(-node.sequence, node) for node in pending if type(node) is Record]
    heapq.heapify(heap)
    only: Any = None  # the one pending record, while there is no other: chains need no heap
    push, pop, take, share = heapq.heappush, heapq.heappop, pending.pop, shared.add
    results: dict[Any, Any] = {}
    record: Any
    g: Any
    gi: Any
    while heap or only is not None:
        if only is None:
            record = pop(heap)[1]
        else:
            record = only
            only = None
        g = take(record)
        parents = record.parents
        operands = record.operands
        out = record.out
        options = record.options
        op = record.op
        if parents is None:
            what = f"the graph was freed by an earlier backward (at {op.name}, result {tuple(record.shape)})"
            raise TapeError(f"{what}; use retain_graph=True in the earlier one, or compute the expression again")
        if wanted is not None:
            if record in wanted:
                results[record] = g
            if leading is not None and record not in leading:
                continue
        elif record.sink.retain:
            results[record.sink] = g
        if record.guards is not None:
            pairs = iter(record.guards)
            for value in pairs:
                if value._version != next(pairs):
                    raise written(record, value)
            value = None
        if kind is Variable:
            operands = [wrap(x, parent) if parent is not None and isinstance(x, Tensor) else x for x, parent in zip(operands, parents)]
            out = wrap(out, record) if isinstance(out, Tensor) else out
        fresh = op.fresh
        rules = op.rules
        if not rules:
            rules, operands, options = op.rules_on(operands, options), (), None
        for rule, parent in zip(rules, parents):
            if parent is None or (leading is not None and parent not in leading and parent not in wanted):
                continue
            try:
                gi = rule(g, out, *operands) if options is None else rule(g, out, *operands, **options)
            except Exception as error:
                rule_failed(record, rule, error)
            own = fresh
            shape = parent.shape
            if type(gi) is not kind or gi.dtype is not parent.dtype or not shape:
                fitted = _fit(gi, parent, record, kind)
                own = fresh or fitted is not gi
                gi = fitted
            elif gi.shape != shape:
                gi = gi.sum(0) if gi.shape[1:] == shape else _fit(gi, parent, record, kind)
                own = True
            if parent not in pending:
                pending[parent] = gi
                if not own:
                    share(parent)
                if type(parent) is Record:
                    if only is None and not heap:
                        only = parent
                    else:
                        if only is not None:
                            push(heap, (-only.sequence, only))
                            only = None
                        push(heap, (-parent.sequence, parent))
            elif kind is Variable or parent in shared:
                pending[parent] = pending[parent] + gi
                shared.discard(parent)
            else:
                pending[parent].add_(gi)
        gi = fitted = None
        if not retain_graph:
            record.parents = record.operands = record.out = record.options = record.guards = None
    if results:
        shared.update(results)
        pending.update(results)


def _leading_to(wanted: Iterable[Any], starts: Iterable[Any]) -> set[Any]:
    """The Records reachable from `starts` from which one of `wanted` is reached by following at least one link."""
    reached = {node for node in starts if type(node) is Record}
    stack = list(reached)
    while stack:
        for parent in stack.pop().parents or ():
            if type(parent) is Record and parent not in reached:
                reached.add(parent)
                stack.append(parent)
    leading: set[Any] = set()
    for record in sorted(reached, key=lambda record: record.sequence):
        if record.parents is None or any(parent in leading or parent in wanted for parent in record.parents if parent is not None):
            leading.add(record)  # a freed record too: walking into it raises
    return leading


def _seed(root: Variable, gradient: Any, on_variables: bool) -> Any:
    """The gradient to start from, checked against the root; a Variable if the rules run `on_variables`."""
    if gradient is None:
        if root.numel() != 1:
            raise ShapeError(
                f"backward from a Variable of shape {tuple(root.shape)} needs a gradient of that shape; "
                "reduce it to one element first (sum() or mean()), or give backward(gradient)"
            )
        data = root._data
        seed: Any = torch.ones(data.shape, dtype=data.dtype, device=data.device) if data.ndim else torch.ones_like(data)
        return wrap(seed, None) if on_variables else seed
    if isinstance(gradient, Variable):
        seed = gradient if on_variables else gradient._data
    elif isinstance(gradient, Tensor):
        if gradient.requires_grad:
            raise OperandError("the seed gradient requires a torch gradient; wrap it in a Variable, or detach() it")
        seed = as_tensor(gradient)
    elif is_numpy(gradient) and gradient.shape:
        seed = as_tensor(gradient)
    else:
        seed = as_tensor(gradient).to(root.dtype).to(root.device)
        if not seed.ndim and root.numel() == 1:
            seed = seed.reshape(root.shape)
    check_like("the seed gradient", seed, root._data)
    return wrap(seed, None) if on_variables and not isinstance(seed, Variable) else seed


def _fit(gi: Any, parent: Node, record: Record, kind: Any) -> Any:
    """A rule's result made to fit its operand: broadcasting undone, dtype and device the operand's own. Raises RuleError."""
    shape = parent.shape

    def wrong(what: str) -> RuleError:
        return RuleError(f"{record.op.name}: the rule for {operand_name(record, parent)} of shape {tuple(shape)} {what}")

    if isinstance(gi, (int, float)) and gi == 0:
        gi = torch.zeros(shape, dtype=parent.dtype, device=parent.device)
    if isinstance(gi, Tensor) and kind is Variable:
        gi = wrap(gi, None)
    if not isinstance(gi, kind):
        raise wrong(f"returned {type(gi).__name__} ({gi!r:.60}); it must return a tensor")
    if not gi.dtype.is_floating_point:
        raise wrong(f"returned {gi.dtype}; a gradient must be of a floating dtype")
    if gi.shape != shape:
        lead = gi.ndim - len(shape)
        if lead < 0 or any(size != 1 and size != got for size, got in zip(shape, gi.shape[lead:])):
            raise wrong(f"returned shape {tuple(gi.shape)}, to which {tuple(shape)} does not broadcast")
        axes = (*range(lead), *(lead + i for i, size in enumerate(shape) if size == 1 != gi.shape[lead + i]))
        gi = gi.sum(axes) if len(axes) == lead else gi.sum(axes, keepdim=True).reshape(tuple(shape))
    if gi.dtype is not parent.dtype:
        gi = gi.to(parent.dtype)
    if gi.device != parent.device:
        if gi.ndim:
            raise wrong(f"returned a tensor on {gi.device}; the operand is on {parent.device}")
        gi = gi.to(parent.device)  # a 0-d operand may join tensors of another device
    return gi
