"""Passes: small functions from a program to an equal one that costs less. Those that change bits are `fuse_matmul_add` and `sum_rows_by_product`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotgrad.ops.arithmetic import Add
from hotgrad.ops.products import AddMM, MatMul
from hotgrad.ops.reductions import Sum
from hotgrad.ops.shaping import Alias, Independent, Permute
from hotgrad.program.constants import Constants
from hotgrad.program.instructions import Code, Instruction, Value
from hotgrad.program.memory import evaluate


def simplified(code: Code, constants: Constants | None = None) -> Code:
    """All the passes that change no bits, one after the other. `constants`: those of the program, which are to keep up with them.

    >>> c, y = Value.like("constant", torch.ones(2)), Value.like("result", torch.ones(2))
    >>> print(simplified(Code(constants={c: torch.ones(2)}, instructions=[Instruction(hg.ops.Exp, (c,), {}, y)], outputs=[y])))
    constants: c0 float32(2,)
    outputs: c0
    """
    if constants is None:
        return remove_dead(fold_constants(merge_common(code)))
    return remove_dead(fold_constants(merge_common(code, constants), constants))


def remove_dead(code: Code) -> Code:
    """The program without the instructions, and the constants, that no result needs.

    >>> x, y = Value.like("input", torch.ones(2)), Value.like("result", torch.ones(2))
    >>> print(remove_dead(Code([x], instructions=[Instruction(hg.ops.Exp, (x,), {}, y)], outputs=[x])))
    inputs: x0 float32(2,)
    outputs: x0
    """
    needed = set(code.results())
    kept: list[Instruction] = []
    for instruction in reversed(code.instructions):
        if instruction.out in needed:
            kept.append(instruction)
            needed.update(instruction.reads())
    code = code.replaced(kept[::-1])
    code.constants = {value: tensor for value, tensor in code.constants.items() if value in needed}
    return code


def merge_common(code: Code, constants: Constants | None = None) -> Code:
    """The program with each instruction, and each constant, in it once: the first of those of equal op, operands and options.

    Constants are one if they are one tensor; of `constants`, those that nobody else can write to also if their contents are equal.

    >>> x, y, z = (Value.like(kind, torch.ones(2)) for kind in ("input", "result", "result"))
    >>> print(merge_common(Code([x], instructions=[Instruction(hg.ops.Exp, (x,), {}, out) for out in (y, z)], outputs=[y, z])))
    inputs: x0 float32(2,)
      %0 = Exp(x0)  float32(2,)
    outputs: %0, %0
    """
    first: dict[Any, Value] = {}
    same: dict[Value, Value] = {}
    for value, tensor in code.constants.items():
        mine = constants is not None and value in constants.own
        same[value] = first.setdefault(_key(tensor) if mine else (id, id(tensor)), value)
    kept: list[Instruction] = []
    for instruction in code.instructions:
        if instruction.op is Independent or (instruction.op is Alias and not instruction.options["barrier"]):
            same[instruction.out] = same.get(instruction.operands[0], instruction.operands[0])
            continue
        operands = tuple(same.get(o, o) if isinstance(o, Value) else _key(o) for o in instruction.operands)
        key = (instruction.op, operands, _key(instruction.options))
        found = same[instruction.out] = first.setdefault(key, instruction.out)
        if found is instruction.out:
            kept.append(instruction)
    merged = code.replaced(kept, lambda value: same.get(value, value))
    merged.constants = {value: tensor for value, tensor in code.constants.items() if same[value] is value}
    if constants is not None:
        constants.merged = {value: same[value] for value in code.constants if same[value] is not value}
    return merged


def _key(thing: Any) -> Any:
    """Something hashable that is equal for equal things alone: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if isinstance(thing, Tensor):
        if thing.numel() > 4096:  # not worth the time
            return (Tensor, id(thing))
        content = bytes(thing.cpu().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).tolist())
        return (Tensor, thing.dtype, thing.device, tuple(thing.shape), thing.stride(), content)
    if isinstance(thing, (tuple, list)):
        return (type(thing), *map(_key, thing))
    if isinstance(thing, dict):
        return tuple((name, _key(value)) for name, value in thing.items())
    if isinstance(thing, slice):
        return (slice, _key(thing.start), _key(thing.stop), _key(thing.step))
    if isinstance(thing, (bool, int, float)):
        return (type(thing), repr(thing))
    try:
        hash(thing)
    except TypeError:
        return (id, id(thing))
    return (type(thing), thing)


def fold_constants(code: Code, kept_up: Constants | None = None) -> Code:
    """The program with instructions of constants and numbers alone computed now, each by its op's own forward; `kept_up` learns of them.

    What would need more memory than it reads, such as an Expand, stays. Arithmetic is never reordered.

    >>> c, y = Value.like("constant", torch.ones(2)), Value.like("result", torch.ones(2))
    >>> code = fold_constants(Code(constants={c: torch.ones(2)}, instructions=[Instruction(hg.ops.Add, (c, 1), {}, y)], outputs=[y]))
    >>> code.constants[code.outputs[0]]
    tensor([2., 2.])
    """
    constants: dict[Value, Any] = dict(code.constants)
    kept: list[Instruction] = []
    became: dict[Value, Value] = {}
    folds: list[Instruction] = []
    for instruction in code.instructions:
        reads = [became.get(value, value) for value in instruction.reads()]
        if instruction.out.kind == "scalar" or any(value not in constants for value in reads):
            kept.append(instruction)
            continue
        operands = tuple(became.get(o, o) if isinstance(o, Value) else o for o in instruction.operands)
        result = evaluate(Instruction(instruction.op, operands, instruction.options, instruction.out), constants)
        if result.numel() > max([64, *(constants[value].numel() for value in reads)]):
            kept.append(instruction)
            continue
        value = became[instruction.out] = Value.like("constant", result, instruction.out.name)
        constants[value] = result
        folds.append(Instruction(instruction.op, operands, instruction.options, value))
    folded = code.replaced(kept, lambda value: became.get(value, value))
    folded.constants = constants
    if kept_up is not None:
        kept_up.fold_with(folds, constants)
    return folded


def fuse_matmul_add(code: Code) -> Code:
    """The program with each product of two matrices that is only read by the sum with a bias made one AddMM with it.

    >>> x, y, z = (Value.like(kind, torch.ones(2, 2)) for kind in ("input", "result", "result"))
    >>> steps = [Instruction(hg.ops.MatMul, (x, x), {}, y), Instruction(hg.ops.Add, (y, x), {}, z)]
    >>> print(fuse_matmul_add(Code([x], instructions=steps, outputs=[z])))
    inputs: x0 float32(2, 2)
      %0 = AddMM(x0, x0, x0)  float32(2, 2)
    outputs: %0
    """
    uses: dict[Value, int] = {}
    for value in [v for i in code.instructions for v in i.reads()] + code.results():
        uses[value] = uses.get(value, 0) + 1
    products = {i.out: i for i in code.instructions if i.op is MatMul and uses.get(i.out) == 1 and i.out.dtype.is_floating_point}
    fused: dict[Value, Instruction] = {}
    gone: set[Value] = set()
    for instruction in code.instructions:
        if instruction.op is not Add or not all(isinstance(o, Value) and o.kind != "scalar" for o in instruction.operands):
            continue
        for product, bias in (instruction.operands, instruction.operands[::-1]):
            made = products.get(product)
            if made is not None and product.shape == instruction.out.shape and _fits(made, bias):
                fused[instruction.out] = Instruction(AddMM, (bias, *made.operands), {}, instruction.out)
                gone.add(product)
                break
    return code.replaced([fused.get(i.out, i) for i in code.instructions if i.out not in gone])


def sum_rows_by_product(code: Code) -> Code:
    """The program with sums over the rows of a matrix, such as a bias's gradient, as products with a vector of ones: half the time.

    >>> x, y = Value.like("input", torch.ones(3, 2)), Value.like("result", torch.ones(2))
    >>> steps = [Instruction(hg.ops.Sum, (x,), {"dim": 0, "keepdim": False}, y)]
    >>> print(sum_rows_by_product(Code([x], instructions=steps, outputs=[y])))
    inputs: x0 float32(3, 2)
    constants: c0 float32(3,)
      %0 = Permute(x0, dims=(1, 0))  float32(2, 3)
      %1 = MatMul(%0, c0)            float32(2,)
    outputs: %1
    """
    made: list[Instruction] = []
    constants = dict(code.constants)
    ones: dict[tuple[int, torch.dtype, torch.device], Value] = {}
    for instruction in code.instructions:
        out, options = instruction.out, instruction.options
        a = instruction.operands[0] if instruction.operands else None
        if (
            instruction.op is Sum
            and isinstance(a, Value)
            and a.ndim == 2
            and a.numel()
            and a.dtype in (torch.float32, torch.float64)
            and options["dim"] in (0, (0,), -2, (-2,))
            and not options["keepdim"]
        ):
            key = (a.shape[0], a.dtype, a.device)
            if key not in ones:
                vector = torch.ones(a.shape[0], dtype=a.dtype, device=a.device)
                ones[key] = Value.like("constant", vector)
                constants[ones[key]] = vector
            turned = Value("result", a.shape[::-1], a.dtype, a.device, a.stride[::-1])
            made.append(Instruction(Permute, (a,), {"dims": (1, 0)}, turned))
            instruction = Instruction(MatMul, (turned, ones[key]), {}, out)
        made.append(instruction)
    new = code.replaced(made)
    new.constants = constants
    return new


def _fits(product: Instruction, bias: Value) -> bool:
    matrices = all(isinstance(o, Value) and o.ndim == 2 and o.dtype == bias.dtype for o in product.operands)
    return matrices and bias.dtype == product.out.dtype and bias.device == product.out.device and bias.ndim <= 2
