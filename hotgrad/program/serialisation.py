"""Programs as files: the instructions as JSON text, and the tensors beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.primitive import primitives
from hotgrad.errors import FileError, HotgradError
from hotgrad.files import read, write
from hotgrad.program.instructions import KINDS, Code, Draw, Instruction, State, Value

_FIELDS = {"text": str, "tensors": list}


def save(path: str | os.PathLike[str], code: Code, structure: Any, dtype: torch.dtype | None) -> None:
    """Write a program to `path`, with the present contents of its states. `dtype`: torch's default one when it was captured."""
    writer = _Writer()
    text = {
        "values": [],
        "default dtype": writer.encode(dtype if _promotes(code) else None),
        "inputs": writer.encode(code.inputs),
        "scalars": writer.encode(code.scalars),
        "draws": writer.encode([draw.value for draw in code.draws]),
        "constants": writer.encode(list(code.constants.items())),
        "states": writer.encode([(state.value, state.tensor, state.update) for state in code.states]),
        "instructions": [
            {"op": i.op.name, "operands": writer.encode(i.operands), "options": writer.encode(i.options), "out": writer.encode(i.out)}
            for i in code.instructions
        ],
        "outputs": writer.encode(code.outputs),
        "structure": writer.encode(structure),
    }
    text["values"] = writer.values
    write(path, "program", {"text": json.dumps(text, indent=1), "tensors": writer.tensors})


def load(path: str | os.PathLike[str]) -> tuple[Code, Any, torch.dtype | None]:
    """The program that `save` wrote, with states of its own, the structure of what it returns, and torch's default dtype that it needs,
    if it needs one.

    Nothing in the file is executed. Raises FileError for a file that is broken, foreign, needs an op that is not declared, or another
    default dtype.
    """
    content = read(path, "program", _FIELDS)
    try:
        text = json.loads(content["text"])
        values = [_value(**entry) for entry in text["values"]]
        decode = _reader(values, content["tensors"])
        states = [State(value, tensor.clone(), update) for value, tensor, update in decode(text["states"])]
        draws = [Draw(value, None) for value in decode(text["draws"])]
        code = Code(decode(text["inputs"]), decode(text["scalars"]), draws, dict(decode(text["constants"])), states)
        named = {name: op for op in primitives().values() for name in (*op.aliases, op.name)}
        for entry in text["instructions"]:
            if entry["op"] not in named:
                raise FileError(f"{path} needs the op {entry['op']}, which is not declared; import what declares it")
            options = decode(entry["options"])
            code.instructions.append(Instruction(named[entry["op"]], tuple(decode(entry["operands"])), options, decode(entry["out"])))
        code.outputs = decode(text["outputs"])
        dtype = decode(text["default dtype"])
        if dtype not in (None, torch.get_default_dtype()):
            raise FileError(
                f"{path} turns integers into torch's default dtype, which was {dtype} when it was captured and is "
                f"{torch.get_default_dtype()} now; call torch.set_default_dtype({dtype}) before loading it"
            )
        _check(code)
        structure = decode(text["structure"])
        if not code.outputs or sorted(_numbers(structure)) != list(range(len(code.outputs))):
            raise ValueError(f"the structure {structure!r} is not one of {len(code.outputs)} outputs")
        return code, structure, dtype
    except FileError:
        raise
    except (HotgradError, ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise FileError(f"{path} is broken: {type(error).__name__}: {error}") from None


def _promotes(code: Code) -> bool:
    """Whether a result has torch's default dtype, as that of integers and a fraction: floats of none, and no dtype is given."""

    def floating(operand: Any) -> bool:
        return isinstance(operand, Value) and operand.kind != "scalar" and operand.dtype.is_floating_point

    return any(
        i.out.kind != "scalar"
        and i.out.dtype.is_floating_point
        and not any(map(floating, i.operands))
        and not any(isinstance(option, torch.dtype) for option in i.options.values())
        for i in code.instructions
    )


class _Writer:
    """Everything in JSON: what JSON does not have as a one-entry dict that names its kind."""

    def __init__(self) -> None:
        self.values: list[dict[str, Any]] = []
        self.tensors: list[Tensor] = []
        self._places: dict[Value, int] = {}

    def encode(self, thing: Any) -> Any:
        if isinstance(thing, Value):
            if thing not in self._places:
                self._places[thing] = len(self.values)
                looks = {"kind": thing.kind, "shape": list(thing.shape), "dtype": str(thing.dtype), "device": str(thing.device)}
                self.values.append({**looks, "stride": list(thing.stride), "name": thing.name})
            return {"value": self._places[thing]}
        if isinstance(thing, Tensor):
            self.tensors.append(thing.detach().clone())
            return {"tensor": len(self.tensors) - 1}
        if isinstance(thing, dict):
            return {"dict": [[self.encode(key), self.encode(value)] for key, value in thing.items()]}
        if isinstance(thing, tuple):
            return {"tuple": [self.encode(item) for item in thing]}
        if isinstance(thing, list):
            return [self.encode(item) for item in thing]
        if isinstance(thing, slice):
            return {"slice": [self.encode(part) for part in (thing.start, thing.stop, thing.step)]}
        if isinstance(thing, torch.dtype):
            return {"dtype": str(thing)}
        if isinstance(thing, torch.device):
            return {"device": str(thing)}
        if thing is Ellipsis:
            return {"ellipsis": True}
        if thing is None or isinstance(thing, (bool, int, float, str)):
            return thing
        raise FileError(f"a program with the option {thing!r:.60} cannot be saved")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r} is no dtype")
    return found


def _value(kind: str, shape: list[int], dtype: str, device: str, stride: list[int], name: str) -> Value:
    whole = all(isinstance(n, int) and n >= 0 for n in (*shape, *stride))
    if kind not in KINDS or not whole or len(shape) != len(stride) or not isinstance(name, str):
        raise ValueError(f"{kind!r} of shape {shape!r} and strides {stride!r} is no value")
    return Value(kind, tuple(shape), _dtype(dtype), torch.device(device), tuple(stride), name)


def _reader(values: list[Value], tensors: list[Any]) -> Callable[[Any], Any]:
    kinds: dict[str, Callable[[Any], Any]] = {
        "value": lambda place: values[place],
        "tensor": lambda place: tensors[place],
        "dict": lambda pairs: {decode(key): decode(value) for key, value in pairs},
        "tuple": lambda items: tuple(decode(item) for item in items),
        "slice": lambda parts: slice(*map(decode, parts)),
        "dtype": _dtype,
        "device": torch.device,
        "ellipsis": lambda _: Ellipsis,
    }

    def decode(thing: Any) -> Any:
        if isinstance(thing, list):
            return [decode(item) for item in thing]
        if isinstance(thing, dict):
            ((kind, content),) = thing.items()
            return kinds[kind](content)
        return thing

    return decode


def _numbers(structure: Any) -> Iterator[int]:
    """The numbers that stand for arrays in a structure."""
    if isinstance(structure, int):
        yield structure
    else:
        for item in structure.values() if isinstance(structure, dict) else structure or ():
            yield from _numbers(item)


def _check(code: Code) -> None:
    """Raise unless every value is defined before it is used and is what its op gives: the ops are run on zeros to see that."""
    known: dict[Value, Any] = dict.fromkeys(code.scalars, 1.0)
    for value, tensor in [*code.constants.items(), *((state.value, state.tensor) for state in code.states)]:
        if tuple(tensor.shape) != value.shape or tensor.dtype != value.dtype:
            raise ValueError(f"a tensor does not look like {value!r}")
    for value in [*code.inputs, *(draw.value for draw in code.draws), *code.constants, *(state.value for state in code.states)]:
        known[value] = (
            code.constants[value] if value in code.constants else torch.zeros(value.shape, dtype=value.dtype, device=value.device)
        )
    for instruction in code.instructions:
        operands = [known[operand] if isinstance(operand, Value) else operand for operand in instruction.operands]
        out = instruction.out
        if out in known:
            raise ValueError("a value is computed twice")
        if out.kind == "scalar":
            known[out] = 1.0
            continue
        result = instruction.op.forward(*operands, **instruction.options)
        if tuple(result.shape) != out.shape or result.dtype != out.dtype:
            raise ValueError(f"{instruction.op.name} gives {tuple(result.shape)} {result.dtype}, not {out!r}")
        known[out] = result
    missing = [value for value in code.results() if value not in known]
    if missing:
        raise ValueError("a result is never computed")
