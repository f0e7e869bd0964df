"""Module: parameters, buffers and sub-modules found by looking at its attributes.

Nothing is registered behind the scenes: what a module has is what stands in its attributes, and in lists, tuples and dicts
there, however nested. So a module's `__init__` need not call the base's, and layers may be added at any time.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, TypeVar

import torch
from torch import Tensor

from hotgrad.core.in_place import forward_pass
from hotgrad.core.variable import Parameter, Variable
from hotgrad.errors import DtypeError, HotgradError, NestingError, OperandError, ShapeError
from hotgrad.modules.parameters import LazyParameter, fits, pattern, replace, size_lazy
from hotgrad.ops.composites import destination

M = TypeVar("M", bound="Module")


class Module:
    """Base of all layers and models. Subclass it, set Parameters and Modules as attributes, and define `forward`.

    Parameters and Modules in lists, tuples and dicts count too, nested ones included; one that is reachable by several names
    counts once, by its first. `training` is True in train mode; `generator` is what Dropout and lazy layers draw from, None
    for torch's global one.

    >>> class Net(hg.Module):
    ...     def __init__(self):
    ...         self.layers = [hg.Linear(2, 8), hg.Linear(8, 1)]
    ...     def forward(self, x):
    ...         return self.layers[1](self.layers[0](x).relu())
    >>> net = Net()
    >>> net(torch.zeros(5, 2)).shape
    torch.Size([5, 1])
    >>> [name for name, parameter in net.named_parameters()]
    ['layers.0.weight', 'layers.0.bias', 'layers.1.weight', 'layers.1.bias']
    """

    training: bool = True
    generator: torch.Generator | None = None
    _buffers: tuple[str, ...] = ()
    # How many axes each row of its input has at least; 0: any number, each element counts alone; None: it cannot tell.
    _row_axes: int | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module computes; every subclass defines its own."""
        raise OperandError(f"{type(self).__name__} defines no `forward`, so it cannot be called")

    @forward_pass
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.forward(*args, **kwargs)
        except RecursionError as error:
            if isinstance(error, HotgradError):
                raise
            raise NestingError(
                f"{type(self).__name__}.forward: calls nest deeper than Python's limit of {sys.getrecursionlimit()}; each Module within a Module "
                "takes two or three. Nest less, for example with all layers in one Sequential, or raise sys.setrecursionlimit"
            ) from error

    # ---- what it holds

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """This module, named "", and all modules in it by dotted name, each once."""
        return ((name, module) for name, module, _ in self._walk())

    def _walk(self) -> Iterator[tuple[str, Module, list[tuple[str, Parameter | Module]]]]:
        """What `named_modules` gives, and what each holds."""
        seen: set[int] = set()
        ahead: list[tuple[str, Module]] = [("", self)]  # a stack rather than recursion: nesting may be deep
        while ahead:
            prefix, module = ahead.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            items = held(module)
            yield prefix, module, items
            ahead += [(joined(prefix, name), value) for name, value in reversed(items) if isinstance(value, Module)]

    def modules(self) -> Iterator[Module]:
        """This module and all modules in it, each once."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly in it, each once."""
        seen: set[int] = {id(self)}
        for name, value in held(self):
            if isinstance(value, Module) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def children(self) -> Iterator[Module]:
        """The modules directly in it, each once."""
        return (module for _, module in self.named_children())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All Parameters by dotted name, frozen ones included, each once."""
        seen: set[int] = set()
        for prefix, _, items in self._walk():
            for name, value in items:
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    yield joined(prefix, name), value

    def parameters(self) -> Iterator[Parameter]:
        """All Parameters, frozen ones included, each once.

        >>> sum(p.numel() for p in hg.Linear(3, 2).parameters())
        8
        """
        return (parameter for _, parameter in self.named_parameters())

    def register_buffer(self, name: str, tensor: Tensor) -> None:
        """Make `tensor` the attribute `name`, as state that is saved and moved with the module but not trained.

        Raises OperandError for what is no tensor.
        """
        if not isinstance(tensor, Tensor):
            raise OperandError(f"a buffer must be a tensor; got {type(tensor).__name__} for {name!r}")
        setattr(self, name, tensor)
        if name not in self._buffers:
            self._buffers = (*self._buffers, name)

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """All buffers by dotted name."""
        for prefix, module in self.named_modules():
            for name in module._buffers:
                yield joined(prefix, name), getattr(module, name)

    # ---- modes

    def train(self: M, mode: bool = True) -> M:
        """Switch to train mode: Dropout drops, BatchNorm uses the batch's statistics. Returns the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: M) -> M:
        """Switch to eval mode. Returns the module."""
        return self.train(False)

    def freeze(self: M) -> M:
        """Exclude all parameters from training: no gradients are computed for them, and optimizers leave them alone.

        >>> layer = hg.Linear(2, 2).freeze()
        >>> [p.requires_grad for p in layer.parameters()]
        [False, False]
        """
        for parameter in self.parameters():
            parameter.requires_grad = False
        return self

    def unfreeze(self: M) -> M:
        """Include all parameters in training again. Returns the module."""
        for parameter in self.parameters():
            parameter.requires_grad = True
        return self

    def zero_grad(self) -> None:
        """Set the `grad` of all parameters to None."""
        for parameter in self.parameters():
            parameter.grad = None

    def use_generator(self: M, generator: torch.Generator | None) -> M:
        """Let everything in it that draws random numbers draw them from `generator`; None for torch's global one."""
        for module in self.modules():
            module.generator = generator
        return self

    # ---- first values

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw new first values for this module's own parameters and buffers; layers with any define it. See `reset_parameters`."""
        own = [name for name, value in held(self) if isinstance(value, Parameter)]
        if own or self._buffers:
            raise OperandError(
                f"{type(self).__name__} has state of its own ({', '.join((*own, *self._buffers))}) but no method `initialize(generator)` "
                "to draw it anew; define one"
            )

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all first values anew, in the order of `modules()`, and forget gradients. Lazy layers not sized yet stay so.

        Raises OperandError, with nothing changed, if a module has parameters of its own and no `initialize`.

        >>> layer = hg.Linear(2, 2)
        >>> layer.reset_parameters(torch.Generator().manual_seed(0))
        """
        modules = list(self.modules())
        for module in modules:
            if type(module).initialize is Module.initialize:
                module.initialize(generator)
        for module in modules:
            module.initialize(generator)

    # ---- state

    def _state(self) -> dict[str, Tensor | Parameter]:
        parameters: dict[str, Tensor | Parameter] = {}
        buffers: dict[str, Tensor | Parameter] = {}
        seen: set[int] = set()
        for prefix, module, items in self._walk():
            for name, value in items:
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    parameters[joined(prefix, name)] = value
            for name in module._buffers:
                buffers[joined(prefix, name)] = getattr(module, name)
        return {**parameters, **buffers}

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, as tensors that share the model's memory; clone them to keep them.

        Raises TapeError while a lazy layer is not sized.

        >>> list(hg.Linear(3, 2).state_dict())
        ['weight', 'bias']
        """
        return {name: value.data if isinstance(value, Variable) else value for name, value in self._state().items()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy the values of `state` into parameters and buffers, in place, converted to their dtypes. Sizes lazy layers.

        Raises ShapeError, listing all entries that are missing, unexpected or of the wrong shape, and then nothing has
        changed. `strict=False` lets missing and unexpected ones pass.

        >>> hg.Linear(3, 2).load_state_dict({"weight": torch.zeros(2, 2), "scale": torch.ones(1)})
        Traceback (most recent call last):
        hotgrad.errors.ShapeError: the state does not fit Linear(3, 2):
          missing: bias
          unexpected: scale
          wrong shape: weight is (2, 2), expected (3, 2)
        """
        own = self._state()
        wrong, given = [], {}
        for name, value in state.items():
            if isinstance(value, (Tensor, Variable)):
                given[name] = value.data if isinstance(value, Variable) else value
            else:
                wrong.append(f"no tensor: {name} is {type(value).__name__}")
        if strict:
            wrong += [f"missing: {name}" for name in own if name not in state]
            wrong += [f"unexpected: {name}" for name in given if name not in own]
        for name, value in own.items():
            if name in given:
                shape = tuple(given[name].shape)
                if not (fits(value, shape) if isinstance(value, Variable) else tuple(value.shape) == shape):
                    expected = pattern(value) if isinstance(value, Variable) else tuple(value.shape)
                    wrong.append(f"wrong shape: {name} is {shape}, expected {expected}")
                elif given[name].is_complex():
                    wrong.append(f"complex values: {name}")
        if wrong:
            raise ShapeError(f"the state does not fit {type(self).__name__}{self._short()}:\n  " + "\n  ".join(wrong))
        for name, value in own.items():
            if name in given:
                if isinstance(value, LazyParameter):
                    size_lazy(value, given[name].shape)
                (value.data if isinstance(value, Variable) else value).copy_(given[name])

    def to(self: M, *args: Any, dtype: torch.dtype | None = None, device: Any = None) -> M:
        """Convert floating parameters and buffers to a dtype, move all to a device, in place. Returns the module.

        >>> hg.Linear(3, 2).to(torch.float64).weight.dtype
        torch.float64
        """
        dtype, device = destination(args, dtype, device)
        if dtype is not None and not dtype.is_floating_point:
            raise DtypeError(f"a module's parameters must have a floating dtype; got {dtype}")

        def converted(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        for parameter in self.parameters():
            if isinstance(parameter, LazyParameter):
                like = converted(torch.empty(0, dtype=parameter.dtype, device=parameter.device))
                parameter._accumulator.dtype, parameter._accumulator.device = like.dtype, like.device
            else:
                replace(parameter, converted(parameter.data))
        for module in self.modules():
            for name in module._buffers:
                setattr(module, name, converted(getattr(module, name)))
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """What copy.deepcopy makes of any object, but one module after the other: it would recurse as deep as they are nested."""
        copies = []
        for module in self.modules():
            if id(module) not in memo and type(module).__deepcopy__ is Module.__deepcopy__:
                reduced: Any = module.__reduce_ex__(4)
                make, args, *content = reduced
                memo[id(module)] = copied = make(*args) if args == (type(module),) else make(*copy.deepcopy(args, memo))
                copies.append((copied, content))
        for copied, content in copies:
            _fill(
                copied,
                *[None if part is None else copy.deepcopy(list(part) if isinstance(part, Iterator) else part, memo) for part in content],
            )
        return memo[id(self)]

    # ---- how it looks

    def extra_repr(self) -> str:
        """The settings that `repr` shows; layers define it."""
        return ""

    def _short(self) -> str:
        return f"({self.extra_repr()})"

    def _rows(self) -> list[tuple[str, str, str, str]]:
        """One row per module in it: its name, what it is, the shapes of its own parameters, their count."""
        rows, seen = [], set()
        for path, module, items in self._walk():
            shapes, count = [], 0
            for name, value in items:
                if isinstance(value, Parameter):
                    shapes.append(
                        f"{name} {pattern(value)}{'' if value.requires_grad else ' frozen'}{' shared' if id(value) in seen else ''}"
                    )
                    if id(value) not in seen and not isinstance(value, LazyParameter):
                        count += value.numel()
                    seen.add(id(value))
            rows.append((path, type(module).__name__ + module._short(), ", ".join(shapes), f"{count:,}" if count else ""))
        return rows if rows[0][2] or len(rows) == 1 else rows[1:]

    def _total(self) -> str:
        sized = [p for p in self.parameters() if not isinstance(p, LazyParameter)]
        total, frozen = sum(p.numel() for p in sized), sum(p.numel() for p in sized if not p.requires_grad)
        lazy = len(list(self.parameters())) - len(sized)
        notes = [f"{frozen:,} frozen"] * bool(frozen) + [f"{lazy} not sized yet"] * bool(lazy)
        return f"{total:,} parameters" + (f" ({', '.join(notes)})" if notes else "")

    def __repr__(self) -> str:
        if not any(True for _ in self.children()):
            return type(self).__name__ + self._short()
        widths = [max(map(len, column)) for column in zip(*self._rows())]
        lines = []
        for *cells, count in self._rows():
            lines.append("  " + "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths)), count.rjust(widths[3])]).rstrip())
        return "\n".join([f"{type(self).__name__}: {self._total()}", *lines])

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        head = "".join(f"<th>{title}</th>" for title in ("name", "module", "parameters", "count"))
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self._rows())
        return f"<table><caption>{escape(type(self).__name__)}: {self._total()}</caption><tr>{head}</tr>{body}</table>"


# Most of what attributes hold; to pass these by makes the walk through a model half as long.
_ATOMS = frozenset((int, float, str, bool, type(None), Tensor, torch.Generator))


def held(owner: Module) -> list[tuple[str, Parameter | Module]]:
    """The Parameters and Modules in a module's attributes, and in lists, tuples and dicts there, by dotted name."""
    found: list[tuple[str, Parameter | Module]] = []
    # the containers that are being looked through, the innermost last
    open_: list[tuple[str, Any, Iterator[Any]]] = [("", vars(owner), iter(list(vars(owner).items())))]
    while open_:
        prefix, _, items = open_[-1]
        for key, value in items:
            if type(value) in _ATOMS:
                continue
            if isinstance(value, (Parameter, Module)):
                found.append((f"{prefix}{key}", value))
            elif isinstance(value, (list, tuple, dict)) and value and not any(value is outer for _, outer, _ in open_):
                inner: Any = value.items() if isinstance(value, dict) else enumerate(value)
                open_.append((f"{prefix}{key}.", value, iter(list(inner))))
                break
        else:
            open_.pop()
    return found


def _fill(thing: Any, state: Any = None, items: Any = None, pairs: Any = None, *rest: Any) -> None:
    """Give a new object the state that `__reduce_ex__` told, as pickle does."""
    if state is not None and hasattr(thing, "__setstate__"):
        thing.__setstate__(state)
    elif state is not None:
        attributes, slots = state if isinstance(state, tuple) else (state, None)
        vars(thing).update(attributes or {})
        for name, value in (slots or {}).items():
            setattr(thing, name, value)
    for item in items or ():
        thing.append(item)
    for key, value in pairs or ():
        thing[key] = value


def joined(prefix: str, name: str) -> str:
    """A dotted name."""
    return f"{prefix}.{name}" if prefix else name
