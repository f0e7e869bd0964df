"""Expressions and models as text and as drawings: what was computed from what."""

from __future__ import annotations

from typing import Any, NamedTuple

from hotgrad.core.arrays import as_tensor
from hotgrad.core.modes import enable_grad
from hotgrad.core.nodes import Node
from hotgrad.core.records import Record
from hotgrad.core.variable import Variable
from hotgrad.errors import OperandError, TapeError
from hotgrad.modules import Module


class _Item(NamedTuple):
    """One record or leaf of an expression: its text, and the keys of the records and leaves it was computed from."""

    label: str
    leaf: bool
    parents: list[int]
    extras: list[str]  # operands outside the graph: constants and numbers


def graph_repr(x: Any, example: Any = None) -> str:
    """The expression that gave the Variable `x`, or a model's on an `example` input, as text from the result down to the leaves.

    One line per op: its name, the shape of its result, and in brackets the leaves and constants it took. Lines of one branch
    stand under each other; where several branches meet each is indented, and one met again is referred to by its number.
    Without an example a model gives its own repr. Raises TapeError for a Variable whose graph is freed.

    >>> x = hg.Variable([1.0, 2.0], requires_grad=True, name="x")
    >>> print(graph_repr((x.exp() * x.sin()).sum()))
    Sum ()
    Mul (2)
    ├─ Exp (2) [x (2)]
    └─ Sin (2) [x (2)]
    """
    if isinstance(x, Module) and example is None:
        return repr(x)
    return "\n".join(_lines(_expression(x, example)))


def to_mermaid(x: Any, example: Any = None) -> str:
    """The same graph in Mermaid's flowchart language, which many Markdown viewers draw.

    >>> x = hg.Variable(1.0, requires_grad=True, name="x")
    >>> print(to_mermaid(x.exp()))
    flowchart TD
        n1["Exp ()"]
        n0(["x ()"])
        n0 --> n1
    """
    items = _expression(x, example)
    lines = ["flowchart TD"]
    numbers = {key: f"n{len(items) - 1 - i}" for i, key in enumerate(items)}
    for key, item in items.items():
        text = _full(item).replace('"', "'")
        lines.append(f'    {numbers[key]}(["{text}"])' if item.leaf else f'    {numbers[key]}["{text}"]')
    lines += [f"    {numbers[parent]} --> {numbers[key]}" for key, item in items.items() for parent in item.parents]
    return "\n".join(lines)


def to_dot(x: Any, example: Any = None) -> str:
    """The same graph in Graphviz's language, for `dot -Tsvg`.

    >>> x = hg.Variable(1.0, requires_grad=True, name="x")
    >>> print(to_dot(x.exp()))
    digraph {
      n1 [label="Exp ()", shape=box]
      n0 [label="x ()", shape=ellipse]
      n0 -> n1
    }
    """
    items = _expression(x, example)
    numbers = {key: f"n{len(items) - 1 - i}" for i, key in enumerate(items)}
    lines = ["digraph {"]
    for key, item in items.items():
        text = _full(item).replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'  {numbers[key]} [label="{text}", shape={"ellipse" if item.leaf else "box"}]')
    lines += [f"  {numbers[parent]} -> {numbers[key]}" for key, item in items.items() for parent in item.parents]
    return "\n".join([*lines, "}"])


def _full(item: _Item) -> str:
    return item.label + (f" [{', '.join(item.extras)}]" if item.extras else "")


def _shape(value: Any) -> str:
    return "(" + ", ".join(map(str, value.shape)) + ")"


def _expression(x: Any, example: Any) -> dict[int, _Item]:
    """All records and leaves by key: the result first, then the newest first, leaves last."""
    names: dict[int, str] = {}
    if isinstance(x, Module):
        if example is None:
            raise OperandError("a model has no graph of its own; give an example input")
        names = {id(parameter._link): name for name, parameter in x.named_parameters()}
        with enable_grad:
            x = x(example if isinstance(example, Variable) else Variable(as_tensor(example)))
    if not isinstance(x, Variable):
        raise OperandError(f"expected a Variable or a model; got {type(x).__name__}")
    if x._link is None:
        raise TapeError("this Variable needs no gradient, so nothing was recorded; make one of its inputs with requires_grad=True")
    found: dict[int, Any] = {}
    stack: list[Any] = [x._link]
    while stack:
        node = stack.pop()
        if id(node) in found:
            continue
        found[id(node)] = node
        if isinstance(node, Record):
            if node.parents is None:
                raise TapeError(f"the graph was freed by a backward (at {node.op.name}); use retain_graph=True there, or look before it")
            stack += [parent for parent in node.parents if parent is not None]
    records = sorted((node for node in found.values() if isinstance(node, Record)), key=lambda record: -record.sequence)
    leaves = [node for node in found.values() if not isinstance(node, Record)]
    items = {}
    for node in (*records, *leaves):
        if isinstance(node, Record):
            inside = dict.fromkeys(id(parent) for parent in node.parents or () if parent is not None)
            extras = [_constant(value) for parent, value in zip(node.parents or (), node.operands) if parent is None]
            label = f"{node.op.name} {_shape(node)}" + (f" {node.name!r}" if node.name else "")
            items[id(node)] = _Item(label, False, list(inside), extras)
        else:
            items[id(node)] = _Item(f"{names.get(id(node)) or node.name or 'leaf'} {_shape(node)}", True, [], [])
    return items


def _constant(value: Any) -> str:
    return f"constant {_shape(value)}" if isinstance(value, Node) or hasattr(value, "shape") else repr(value)


def _lines(items: dict[int, _Item]) -> list[str]:
    """The text of an expression, without recursion: branches still to be written wait on a stack with their prefixes."""
    uses: dict[int, int] = {}
    for item in items.values():
        for parent in item.parents:
            uses[parent] = uses.get(parent, 0) + (not items[parent].leaf)
    numbers: dict[int, int] = {}
    lines: list[str] = []
    stack = [(next(iter(items)), "", "")]  # what to write, the prefix of its first line, the prefix of the lines below
    while stack:
        key, first, below = stack.pop()
        item = items[key]
        if key in numbers:
            lines.append(f"{first}#{numbers[key]} {item.label}, above")
            continue
        taken = [items[parent].label for parent in item.parents if items[parent].leaf] + item.extras
        mark = ""
        if uses.get(key, 0) > 1:
            numbers[key] = len(numbers) + 1
            mark = f"#{numbers[key]} "
        lines.append(f"{first}{mark}{item.label}" + (f" [{', '.join(taken)}]" if taken else ""))
        branches = [parent for parent in item.parents if not items[parent].leaf]
        if len(branches) == 1:
            stack.append((branches[0], below, below))
            continue
        for i, branch in reversed(list(enumerate(branches))):
            last = i == len(branches) - 1
            stack.append((branch, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  ")))
    return lines
