"""One run of a function on arguments that have a place of their own in the graph, and the walks back through it.

What comes out belongs to the caller's graph where Variables of the caller's took part, and to none otherwise. The records are made on a
tape of their own, so that the caller's tape is as before, whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from hotgrad.core.arrays import as_tensor, is_numpy
from hotgrad.core.explain import check_like
from hotgrad.core.modes import MODE, Mode, Tape, state, surely
from hotgrad.core.placing import independent
from hotgrad.core.records import Record, next_sequence
from hotgrad.core.variable import Variable, wrap
from hotgrad.core.walk import leading_to, walk
from hotgrad.errors import DtypeError, HotgradError, OperandError, RangeError, ShapeError, TapeError
from hotgrad.ops.shaping import Alias, Independent
from hotgrad.transforms.made import name_of
from hotgrad.transforms.trees import differs, leaves, mapped, paths

T = TypeVar("T")


class Pass:
    """`f` run on these arguments, of which those that `argnums` names can be differentiated with respect to.

    - `what`: the transform, for messages.
    - `inputs`: the differentiated Variables, in order; `arguments` the same in their structure, a tuple with an entry per argnum.
    - `outputs`: what `f` returned, in order; `result` the same in its structure, and `aux` what it returned besides.
    """

    def __init__(
        self, what: str, f: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], argnums: Any = None, has_aux: bool = False
    ) -> None:
        self.what, self.f, self.kwargs, self.has_aux = f"{what}({_name(f)})", f, kwargs, has_aux
        self.argnums = _positions(self.what, argnums, len(args))
        self.outer, self.tape, self.caller = state.recording, Tape(), state.tape
        self.start = next_sequence()
        chosen = set(self.argnums)
        self.given = [self._as_variables(arg, f"argument {i}", i in chosen) for i, arg in enumerate(args)]
        self.nodes: dict[Any, int] = {}
        self.result: Any = None
        self.on_tape(self._run)

    def on_tape(self, body: Callable[[], T]) -> T:
        """What `body()` gives, recorded on the tape of this run."""

        if state.tape is self.tape and state.recording:
            return body()

        def run() -> T:
            now = state.now
            MODE.set(Mode(self.tape, True, now.trace, now))
            return body()

        return surely(run)

    def _run(self) -> None:
        self.arguments = tuple(mapped(self._apart, self.given[i]) for i in self.argnums)
        self.inputs = leaves(self.arguments)
        self.nodes = {variable._link: i for i, variable in enumerate(self.inputs)}
        args = list(self.given)
        for i, argument in zip(self.argnums, self.arguments):
            args[i] = argument
        self.result, self.aux = self._called(args)
        self.outputs = leaves(self.result)
        self._check_outputs()
        self.reached, self.others = self._reached(self.outputs)
        if not self.reached and self.inputs and not self.others:
            explain(self)

    def _called(self, args: Sequence[Any]) -> tuple[Any, Any]:
        result = self.f(*args, **self.kwargs)
        if not self.has_aux:
            return result, None
        if not isinstance(result, tuple) or len(result) != 2:
            raise OperandError(f"{self.what}: with has_aux the function returns a pair (value, auxiliary); got {result!r:.60}")
        return result

    def _apart(self, variable: Variable) -> Variable:
        """The same value at a place of its own in the graph: a leaf, or a computed value where the caller's graph goes on."""
        if variable._link is not None and self.outer:
            return Alias.apply(variable)  # type: ignore[no-any-return]
        return independent(variable)

    def _as_variables(self, arg: Any, where: str, chosen: bool) -> Any:
        def convert(leaf: Any) -> Any:
            if isinstance(leaf, Variable):
                found = leaf
            elif isinstance(leaf, Tensor) and leaf.requires_grad:
                raise OperandError(f"{self.what}: {where} requires a torch gradient; wrap it in a Variable, or detach() it")
            elif isinstance(leaf, Tensor) or is_numpy(leaf) or (chosen and isinstance(leaf, (bool, int, float))):
                tensor = as_tensor(leaf)
                if not chosen and not tensor.dtype.is_floating_point:
                    return leaf
                found = _variable(tensor)
            elif chosen:
                raise OperandError(
                    f"{self.what}: {where} must be arrays, or tuples, lists and dicts of arrays; got {type(leaf).__name__} ({leaf!r:.60})"
                )
            else:
                return leaf
            if chosen and not found.dtype.is_floating_point:
                raise DtypeError(
                    f"{self.what}: {where} holds {str(found.dtype).removeprefix('torch.')} of shape {tuple(found.shape)}; derivatives are "
                    "with respect to floats. Convert it, as in 3.0 or x.to(torch.float64), or leave it out of argnums"
                )
            return found

        return mapped(convert, arg)

    def _check_outputs(self) -> None:
        if not all(isinstance(output, Variable) for output in self.outputs):
            path, output = next((path, output) for path, output in paths(self.result) if not isinstance(output, Variable))
            raise TapeError(
                f"{self.what}: the function returned {_described(output)}{_at(path)}, which belongs to no graph, so it cannot be "
                f"differentiated with respect to {self._named(self.inputs)}. Return what ops on the arguments give: item(), float(), "
                "numpy() and data leave the graph"
            )
        if not self.outputs:
            raise OperandError(f"{self.what}: the function returned {self.result!r:.60}; it must return at least one Variable")

    def _named(self, inputs: Iterable[Any]) -> str:
        names = [f"argument {i}" for i in self.argnums]
        return names[0] if len(names) == 1 else " and ".join([", ".join(names[:-1]), names[-1]])

    def _reached(self, outputs: Iterable[Variable]) -> tuple[set[Any], bool]:
        """Which of the inputs these outputs depend on, by their nodes, and whether also on something of the caller's."""
        reached: set[Any] = set()
        other = unreached(outputs, self.nodes, self.start, reached)
        return reached, other is not None or any(type(node) is Record for node in reached)

    def scalar(self) -> Variable:
        """The one output, of one element. Raises ShapeError for others."""
        output = self.result
        if not isinstance(output, Variable) or output.numel() != 1:
            got = f"shape {tuple(output.shape)}" if isinstance(output, Variable) else f"a {type(output).__name__} of {len(self.outputs)}"
            raise ShapeError(
                f"{self.what}: the function must return one element; got {got}. Reduce it with sum() or mean(), or take hg.jacobian or hg.vjp"
            )
        return output

    # ---- walks

    def pull(
        self, roots: Sequence[tuple[Variable, Any]], wanted: Sequence[Variable], create: bool, retain: bool = False
    ) -> list[Variable | None]:
        """The gradients of the sum of the roots, each times its seed, with respect to the wanted Variables; None where there is none."""
        back = self.puller([root for root, _ in roots], wanted, create, retain)
        return self.on_tape(lambda: back([seed for _, seed in roots]))

    def puller(
        self, roots: Sequence[Variable], wanted: Sequence[Variable], create: bool, retain: bool
    ) -> Callable[[Sequence[Any]], list[Variable | None]]:
        """The same as a function of the seeds, for several walks, to be called on the tape of this run."""
        linked = [(i, root) for i, root in enumerate(roots) if root._link is not None]
        nodes = [variable._link for variable in wanted]
        links = dict.fromkeys(nodes)
        leading = leading_to(links, [root._link for _, root in linked])

        def back(seeds: Sequence[Any]) -> list[Variable | None]:
            if not linked:
                return [None] * len(wanted)
            found = walk([(root, seeds[i]) for i, root in linked], links, retain or create, create, Variable, leading)
            gradients = [found.get(node) for node in nodes]
            return [g if g is None or isinstance(g, Variable) else wrap(g, None) for g in gradients]

        return back

    def dual(self) -> tuple[list[Variable], list[Variable | None]]:
        """Cotangents of the outputs, and the gradients of the inputs for them, as part of the graph: a linear function of the cotangents,
        whose own gradient is the product of the Jacobian with a tangent.
        """
        ones = [self.on_tape(lambda o=output: self._apart(_variable(ones_like(o)))) for output in self.outputs]  # type: ignore[misc]
        return ones, self.pull(list(zip(self.outputs, ones)), self.inputs, create=True)

    # ---- results

    def finished(self, tree: Any, linked: bool = True) -> Any:
        """These results as the caller gets them: part of the caller's graph where that took part, of none otherwise.

        `linked`: derivatives that are constant belong to the graph all the same, so that they can be differentiated again, to zero.
        """
        return mapped(lambda value: self._finished(value, linked), tree)

    def _finished(self, value: Any, linked: bool) -> Any:
        if not isinstance(value, Variable):
            return value
        if value._link is not None and self.outer and self._reached([value])[1]:
            self._hand_over(value)
            return value
        out = value.detach() if value._link is not None else value
        if self.outer and linked:
            for given in leaves(self.given):
                if isinstance(given, Variable) and given._link is not None:
                    out = Independent.apply(out, given)
        return out

    def _hand_over(self, value: Variable) -> None:
        """Put the records of this run that the value needs on the caller's tape."""
        stack: list[Any] = [value._link]
        while stack:
            node = stack.pop()
            if type(node) is Record and node.tape is self.tape:
                node.tape = self.caller
                stack += node.parents or ()

    def whole(self, gradients: Sequence[Variable | None], like: Sequence[Variable] | None = None) -> list[Variable]:
        """The gradients, with zeros where there is none."""
        return [_zeros(x) if g is None else g for g, x in zip(gradients, self.inputs if like is None else like)]

    def in_arguments(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """A value for each input in the structure of the arguments."""
        rest = iter(values)
        return tuple(mapped(lambda _: next(rest), self.arguments))

    def like_outputs(self, values: Sequence[Any]) -> Any:
        rest = iter(values)
        return mapped(lambda _: next(rest), self.result)


def unreached(outputs: Iterable[Variable], nodes: Container[Any], start: int, reached: set[Any] | None = None) -> Any:
    """A node that these outputs depend on which is none of `nodes` and was there at `start`, or None; `reached` gets those of `nodes`."""
    stack = [output._link for output in outputs]
    seen: set[Any] = {None}
    other = None
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in nodes:
            if reached is not None:
                reached.add(node)
        elif type(node) is Record and node.sequence > start:
            stack += node.parents or ()
        else:
            other = node
    return other


def matching(what: str, name: str, tree: Any, structure: Any, like: Sequence[Variable]) -> list[Any]:
    """The leaves of `tree`, tangents or cotangents, as Variables. Raises ShapeError or DtypeError unless they are like these Variables."""
    how = differs(tree, structure)
    if how:
        raise OperandError(f"{what}: the {name}s must have the structure of the {_OF[name]}; got {how}")
    pairs: list[tuple[str, Any]] = []
    mapped(lambda leaf, path: pairs.append((path, leaf)), tree, _paths_of(structure))
    by_path = dict(pairs)
    found = []
    for (path, _), variable in zip(paths(structure), like):
        leaf = by_path[path]
        if isinstance(leaf, (bool, int, float)):
            leaf = torch.tensor(float(leaf), dtype=variable.dtype, device=variable.device)
            leaf = leaf.reshape(variable.shape) if variable.numel() == 1 else leaf
        if not isinstance(leaf, (Tensor, Variable)) and not is_numpy(leaf):
            raise OperandError(f"{what}: the {name}{_at(path)} must be an array; got {leaf!r:.60}")
        leaf = leaf if isinstance(leaf, Variable) else _variable(as_tensor(leaf))
        check_like(f"{what}: the {name}{_at(path)}", leaf, variable._data)
        found.append(leaf)
    return found


_OF = {"tangent": "primals", "cotangent": "value"}


def _paths_of(structure: Any) -> Any:
    rest = iter([path for path, _ in paths(structure)])
    return mapped(lambda _: next(rest), structure)


def _variable(tensor: Tensor) -> Variable:
    return Variable(tensor)


def ones_like(variable: Any) -> Tensor:
    return torch.ones(tuple(variable.shape), dtype=variable.dtype, device=variable.device)


def _zeros(variable: Any) -> Variable:
    return _variable(torch.zeros(tuple(variable.shape), dtype=variable.dtype, device=variable.device))


def _positions(what: str, argnums: Any, count: int) -> tuple[int, ...]:
    """The positions that `argnums` names, each from 0."""
    chosen = range(count) if argnums is None else (argnums,) if isinstance(argnums, int) else argnums
    if not isinstance(chosen, (tuple, list, range)) or not all(isinstance(i, int) and not isinstance(i, bool) for i in chosen):
        raise OperandError(f"{what}: argnums must be an int or a tuple of ints; got {argnums!r:.60}")
    if not chosen:
        raise OperandError(f"{what}: there is no argument to differentiate with respect to; got {count} positional arguments")
    for i in chosen:
        if not -count <= i < count:
            raise RangeError(
                f"{what}: argnums names argument {i}, and {count} positional argument{'s were' if count != 1 else ' was'} given"
            )
    found = tuple(i % count for i in chosen)
    if len(set(found)) != len(found):
        raise OperandError(f"{what}: argnums names an argument twice; got {argnums!r}")
    return found


def explain(run: Pass) -> None:
    """Raise for outputs that depend on none of the inputs, unless they depend on other arguments: then the derivatives are zero.

    Whether they do is seen by running the function on other values, or while capturing, where there are none, by the graph.
    """
    if state.trace is not None:
        chosen, others = False, _linked_to_others(run)
    else:
        chosen, others = _reacts(run, run.argnums), _reacts(run, [i for i in range(len(run.given)) if i not in run.argnums])
    if others and not chosen:
        return
    which = run._named(run.inputs)
    if chosen:
        raise TapeError(
            f"{run.what}: the result changes with {which} but does not belong to its graph: something in the function detached it, "
            "such as detach(), data, numpy(), item(), no_grad, or an op without a gradient"
        )
    raise TapeError(
        f"{run.what}: the result does not depend on {which}; if it should, look for detach(), data, item() or no_grad in the function"
    )


def _linked_to_others(run: Pass) -> bool:
    """Whether the outputs depend on arguments that are not differentiated."""
    own = lambda leaf: independent(leaf) if isinstance(leaf, Variable) and leaf.dtype.is_floating_point else leaf  # noqa: E731
    args = [arg if i in run.argnums else mapped(own, arg) for i, arg in enumerate(run.given)]
    return any(output._link is not None for output in leaves(run._called(args)[0]) if isinstance(output, Variable))


def _reacts(run: Pass, positions: Sequence[int]) -> bool:
    """Whether the function gives something else for other values of these arguments."""

    def other(leaf: Any) -> Any:
        floating = isinstance(leaf, Variable) and leaf.dtype.is_floating_point
        return wrap(leaf._data * 1.0625 + 0.03125, None) if floating else leaf

    args = [mapped(other, arg) if i in positions else arg for i, arg in enumerate(run.given)]
    if not positions:
        return False
    try:
        before, after = ([v._data for v in leaves(run._called(given)[0])] for given in (run.given, args))
        return len(before) == len(after) and not all(map(torch.equal, before, after))
    except HotgradError:
        return False


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a plain tensor of shape {tuple(output.shape)}"
    return f"the number {output!r}" if isinstance(output, (bool, int, float)) else f"{type(output).__name__} ({output!r:.60})"


def _at(path: str) -> str:
    return f" at {path}" if path else ""


def _name(f: Any) -> str:
    if not callable(f):
        raise OperandError(f"a transform takes a function first; got {f!r:.60}")
    return name_of(f)
