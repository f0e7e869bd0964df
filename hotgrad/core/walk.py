"""The walk backwards: from gradients of results to gradients of what they were computed from.

It follows the links between records, always taking the pending record with the largest sequence number; so its cost depends on
what the roots reach, it needs no recursion, and the order is the same every time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from contextlib import nullcontext
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.arrays import as_tensor, is_numpy
from hotgrad.core.explain import check_like, freed, misfit, rule_failed, written
from hotgrad.core.hooks import hooked
from hotgrad.core.modes import enable_grad, no_grad, state
from hotgrad.core.nodes import Node
from hotgrad.core.records import Record, Value
from hotgrad.errors import OperandError, ShapeError, TapeError


def walk(
    roots: list[Any], wanted: Any, retain_graph: bool, create_graph: bool, variable: type[Value], leading: Any = None
) -> dict[Any, Any]:
    """Walk backwards from `roots`, pairs of a Variable and its seed. Returns the gradient of every leaf's Accumulator reached and of every
    Accumulator that retains one; with `wanted`, that of the Records and Accumulators it names instead, through what is `leading_to` them.

    Gradients are tensors that share memory with nothing, or Variables if `create_graph`; `variable` is the class of Variables.
    """
    if torch.is_inference_mode_enabled():
        raise TapeError("backward inside torch.inference_mode would make gradients that nothing can update; leave that mode first")
    trace = state.trace
    # what rules get and give; while a program is captured, they are noted too
    kind: type[Any] = variable if create_graph or trace is not None else Tensor
    pending: dict[Any, Any] = {}  # what has arrived so far for each Record or Accumulator
    shared: set[Any] = set()  # those whose arrivals may share memory with something
    for root, gradient in roots:
        if not isinstance(root, Value) or root._link is None:
            raise TapeError(
                f"backward needs a Variable that requires a gradient; got {root!r:.80}. "
                "Make a leaf it depends on with requires_grad=True, and compute it outside no_grad"
            )
        seed = _seed(root, gradient, kind)
        pending[root._link] = pending[root._link] + seed if root._link in pending else seed
        shared.add(root._link)
    leading = leading_to(wanted, pending) if wanted is not None and leading is None else leading
    if kind is variable:
        with trace.internal() if trace is not None else nullcontext():
            (enable_grad if create_graph else no_grad).run(_walk, pending, shared, wanted, leading, create_graph or retain_graph, kind)
        return pending if trace is None else {n: trace.gradient(g, n in shared, create_graph) for n, g in pending.items()}
    _walk(pending, shared, wanted, leading, retain_graph, kind)
    for node in shared:
        if node in pending:
            pending[node] = pending[node].clone(memory_format=torch.contiguous_format)
    return pending


def _walk(pending: dict[Any, Any], shared: set[Any], wanted: Any, leading: set[Any] | None, retain_graph: bool, kind: type[Any]) -> None:
    """The loop of `walk`: on return `pending` holds the results. `kind` is what rules get and give, Tensor or Variable. References are
    dropped early, so that memory is released while walking."""
    heap = [(-node.sequence, node) for node in pending if type(node) is Record]
    heapq.heapify(heap)
    only: Any = None  # the one pending record, while there is no other: chains need no heap
    push, pop, take, share = heapq.heappush, heapq.heappop, pending.pop, shared.add
    at: Any = getattr(kind, "_at", None)
    results: dict[Any, Any] = {}
    record: Any
    gi: Any
    while heap or only is not None:
        if only is None:
            record = pop(heap)[1]
        else:
            record = only
            only = None
        g = take(record)
        parents = record.parents
        op = record.op
        if parents is None:
            raise freed(record)
        if record.accumulator.hooks:
            g = hooked(record.accumulator, g, kind)
        if wanted is not None:
            if record in wanted:
                results[record] = g
            if leading is not None and record not in leading:
                continue
        elif record.accumulator.retain:
            results[record.accumulator] = g
        if record.guards is not None:
            pairs = iter(record.guards)  # computes what was dropped again, see `core.recompute`
            for value in pairs:
                if value._version != next(pairs):
                    raise written(record, value)
            value = None
        operands = record.operands
        out = record.out
        options = record.options
        if kind is not Tensor:
            operands = [at(x, parent) if parent is not None and isinstance(x, Tensor) else x for x, parent in zip(operands, parents)]
            out = at(out, record) if isinstance(out, Tensor) else out
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
            own = op.fresh
            shape = parent.shape
            if type(gi) is not kind or gi.dtype is not parent.dtype or not shape:
                fitted = _fit(gi, parent, record, kind)
                own = own or fitted is not gi
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
            elif kind is not Tensor or parent in shared:
                pending[parent] = pending[parent] + gi
                shared.discard(parent)
            else:
                pending[parent].add_(gi)
        gi = fitted = None
        if not retain_graph:
            record.parents = record.operands = record.out = record.options = record.guards = None
    for node in [node for node in pending if node.hooks]:
        pending[node] = hooked(node, pending[node], kind)
        share(node)
    shared.update(results)
    pending.update(results)


def leading_to(wanted: Iterable[Any], starts: Iterable[Any]) -> set[Any]:
    """The Records reachable from `starts` from which one of `wanted` is reached by following at least one link."""
    reached = {node for node in starts if type(node) is Record}
    stack = list(reached)
    while stack:
        for parent in stack.pop().parents or ():
            if type(parent) is Record and parent not in reached:
                reached.add(parent)
                stack.append(parent)
    leading, ends = set[Any](), set(wanted)
    for record in sorted(reached, key=attrgetter("sequence")):
        parents = record.parents  # of a freed record None: walking into it raises
        if parents is None or not (leading.isdisjoint(parents) and ends.isdisjoint(parents)):
            leading.add(record)
    return leading


def _seed(root: Any, gradient: Any, kind: type[Any]) -> Any:
    """The gradient to start from, checked against the root: a Tensor or Variable, as `kind` says."""
    if gradient is None:
        if root.numel() != 1:
            raise ShapeError(
                f"backward from a Variable of shape {tuple(root.shape)} needs a gradient of that shape; "
                "reduce it to one element first (sum() or mean()), or give backward(gradient)"
            )
        data = root._data
        seed: Any = torch.ones(data.shape, dtype=data.dtype, device=data.device) if data.ndim else torch.ones_like(data)
        return seed if kind is Tensor else kind._at(seed, None)
    if isinstance(gradient, Value):
        seed = gradient._data if kind is Tensor else gradient
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
    return seed if isinstance(seed, kind) else kind._at(seed, None)


def _fit(gi: Any, parent: Node, record: Record, kind: type[Any]) -> Any:
    """A rule's result made to fit its operand: broadcasting undone, dtype and device the operand's own. Raises RuleError."""
    shape = parent.shape
    if isinstance(gi, (int, float)) and gi == 0:
        gi = torch.zeros(shape, dtype=parent.dtype, device=parent.device)
    if isinstance(gi, Tensor) and kind is not Tensor:
        gi = kind._at(gi, None)
    if not isinstance(gi, kind):
        raise misfit(record, parent, f"returned {type(gi).__name__} ({gi!r:.60}); it must return a tensor")
    if not gi.dtype.is_floating_point:
        raise misfit(record, parent, f"returned {gi.dtype}; a gradient must be of a floating dtype")
    if gi.shape != shape:
        lead = gi.ndim - len(shape)
        if lead < 0 or any(size != 1 and size != got for size, got in zip(shape, gi.shape[lead:])):
            raise misfit(record, parent, f"returned shape {tuple(gi.shape)}, to which {tuple(shape)} does not broadcast")
        axes = (*range(lead), *(lead + i for i, size in enumerate(shape) if size == 1 != gi.shape[lead + i]))
        gi = gi.sum(axes) if len(axes) == lead else gi.sum(axes, keepdim=True).reshape(tuple(shape))
    if gi.dtype is not parent.dtype:
        gi = gi.to(parent.dtype)
    if gi.device != parent.device:
        if gi.ndim:
            raise misfit(record, parent, f"returned a tensor on {gi.device}; the operand is on {parent.device}")
        gi = gi.to(parent.device)  # a 0-d operand may join tensors of another device
    return gi
