"""Programs saved and loaded: the same numbers, in another process too, and an error for every file that is not one."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad import files, nn, optim

pytestmark = pytest.mark.usefixtures("native_in_full_runs")

ENGINES = ["replay", "native"]
QUICK = {"test_states_are_the_files_own", "test_statistics_that_a_program_updates"}
engines = pytest.mark.parametrize("engine", ENGINES)

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
T, ROWS = torch.arange(4.0), torch.tensor([2, 0])


def network() -> hg.Sequential:
    model = hg.Sequential(hg.Linear(4, 6), nn.BatchNorm1d(6), hg.ReLU(), hg.Linear(6, 2))
    model.reset(0)
    return model


def gradients(x: Any) -> Any:
    y = (x * x).tanh()
    return {"y": y, "g": hg.gradients(y.sum(), (x,))}


FUNCTIONS: dict[str, tuple[Callable[..., Any], Any]] = {
    "arithmetic": (lambda x: (x * 2 + T).tanh() / 3 - x**2, X),
    "gradients": (gradients, hg.Variable(X, requires_grad=True)),
    "structure": (lambda x: {"a": [x, (x * 2, None)], 3: x.sum(), ("k", 1): x[0]}, X),
    "indices": (lambda x: (x[ROWS], x[:, 1:3], x[..., None], x[-1], x[::2]), X),
    "options": (lambda x: (x.sum((0, 1), keepdim=True), x.reshape(4, 3), x.T, x.clip(None, 0.5), hg.pad(x, (1, 2)), hg.norm(x, float("inf"))), X),
    "dtypes": (lambda x: (x.to(torch.float64), x > 0, hg.where(x > 0, x, 0.0)), X),
    "einsum": (lambda x: hg.einsum("ij,kj->ik", x, x), X),
    "infinity": (lambda x: (x + float("inf"), x * float("nan"), x - 0.0), X),
    "integers": (lambda i: i * 2 + 1, torch.arange(4)),
    "empty": (lambda x: (x * 2, x.sum()), torch.zeros(0, 3)),
    "the input": (lambda x: x, X),
    "a constant": (lambda x: (x, hg.Variable([1.0, 2.0])), X),
    "eval": (network().eval(), X),
    "convolution": (nn.Conv2d(1, 2, 2), torch.ones(1, 1, 3, 3)),
}  # fmt: skip


def tensors(result: Any) -> list[torch.Tensor]:
    if isinstance(result, (tuple, list)):
        return [t for item in result for t in tensors(item)]
    return [t for value in result.values() for t in tensors(value)] if isinstance(result, dict) else [] if result is None else [result]


def same(a: Any, b: Any) -> bool:
    return len(tensors(a)) == len(tensors(b)) and all(
        x.dtype == y.dtype and x.shape == y.shape and torch.equal(x.nan_to_num(7.5), y.nan_to_num(7.5))
        for x, y in zip(tensors(a), tensors(b))
    )


@engines
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_loaded_program_gives_the_same(name: str, engine: str, tmp_path: Path) -> None:
    f, x = FUNCTIONS[name]
    program = hg.capture(f, x).to(engine, fuse=False)
    program.save(tmp_path / "program")
    loaded = hg.Program.load(tmp_path / "program", engine, fuse=False)
    assert str(loaded) == str(program)
    data = x.data if isinstance(x, hg.Variable) else x
    for given in (data, data * 2):
        expected, found = program(given), loaded(given)
        assert same(expected, found)
        assert repr(expected) == repr(found), "the structure too"
    assert same(program(data), hg.Program.load(tmp_path / "program").to(engine, fuse=False)(data))


@engines
def test_in_another_process(engine: str, tmp_path: Path) -> None:
    model = network().eval()
    program = hg.capture(model, X).to(engine)
    program.save(tmp_path / "program")
    torch.save((X, program(X)), tmp_path / "expected")
    code = f"""
import torch, hotgrad as hg
x, y = torch.load({str(tmp_path / "expected")!r}, weights_only=True)
print(torch.equal(hg.Program.load({str(tmp_path / "program")!r}, {engine!r})(x), y))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@engines
def test_states_are_the_files_own(engine: str, tmp_path: Path) -> None:
    w = hg.Parameter([1.0, 2.0])
    program = hg.capture(lambda x: x * w, torch.ones(2))
    w.data.add_(1)
    program.save(tmp_path / "program")
    w.data.zero_()
    one, two = (hg.Program.load(tmp_path / "program", engine) for _ in range(2))
    assert one(torch.ones(2)).tolist() == [2.0, 3.0]
    (state,) = one.states.values()
    state.mul_(10)
    assert one(torch.ones(2)).tolist() == [20.0, 30.0]
    assert two(torch.ones(2)).tolist() == [2.0, 3.0]
    assert program(torch.ones(2)).tolist() == [0.0, 0.0]


@engines
def test_statistics_that_a_program_updates(engine: str, tmp_path: Path) -> None:
    layer = nn.BatchNorm1d(4)
    program = hg.capture(layer, X).to(engine, fuse=False)
    program.save(tmp_path / "program")
    loaded = hg.Program.load(tmp_path / "program", engine, fuse=False)
    for i in range(3):
        assert same(program(X * i), loaded(X * i))
    assert all(torch.equal(a, b) for a, b in zip(program.states.values(), loaded.states.values()))
    assert not torch.equal(layer.running_mean, torch.zeros(4))


@engines
def test_random_numbers_come_from_the_global_generator(engine: str, tmp_path: Path) -> None:
    layer = nn.Dropout(0.5)
    program = hg.capture(layer, torch.ones(40)).to(engine)
    program.save(tmp_path / "program")
    loaded = hg.Program.load(tmp_path / "program", engine)
    results = []
    for run in (program, loaded):
        torch.manual_seed(1)
        results.append((run(torch.ones(40)), run(torch.ones(40))))
    assert same(*results) and not same(*results[0])


def test_steps_of_optimizers_cannot_be_saved(tmp_path: Path) -> None:
    w = hg.Parameter([1.0, 2.0])
    optimizer = optim.SGD([w], lr=0.1)

    def f(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (w * x).sum()
        loss.backward()
        optimizer.step()
        return loss

    with pytest.raises(hg.CaptureError, match="optimizer"):
        hg.capture(f, torch.ones(2)).save(tmp_path / "program")
    assert not list(tmp_path.iterdir())


def test_the_same_errors_at_calls(tmp_path: Path) -> None:
    hg.capture(lambda x: x * 2, X).save(tmp_path / "program")
    loaded = hg.Program.load(tmp_path / "program")
    with pytest.raises(hg.ShapeError, match=r"\(2,\).*\(3, 4\)"):
        loaded(torch.ones(2))
    with pytest.raises(hg.DtypeError):
        loaded(X.double())
    with pytest.raises(hg.OperandError):
        loaded()
    with pytest.raises(hg.SettingError):
        hg.Program.load(tmp_path / "program", "repaly")


# ------------------------------------------------------------------------------------------------ files that are none


def test_files_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises((hg.FileError, FileNotFoundError), match="file"):
        hg.Program.load(path)
    network().save(path)
    with pytest.raises(hg.FileError, match="file"):
        hg.Program.load(path)
    for content in (b"", b"text", b"PK\x03\x04broken", bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(hg.FileError, match="file"):
            hg.Program.load(path)
    torch.save({"some": "dict"}, path)
    with pytest.raises(hg.FileError, match="file"):
        hg.Program.load(path)
    hg.capture(lambda x: x * 2, X).save(path)
    with pytest.raises(hg.FileError):
        network().load(path)


def test_truncated_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    hg.capture(network().eval(), X).save(path)
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(hg.FileError, match="file"):
            hg.Program.load(path)


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """The file with its text changed."""
    content = torch.load(path, weights_only=True)
    text = json.loads(content["text"])
    change(text)
    files.write(path, "program", {"text": json.dumps(text), "tensors": content["tensors"]})  # with a digest that fits


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an unknown op": lambda t: t["instructions"][0].update(op="Nothing"),
    "no op": lambda t: t["instructions"][0].pop("op"),
    "fewer operands": lambda t: t["instructions"][0]["operands"]["tuple"].pop(),
    "another option": lambda t: t["instructions"][-1].update(options={"dict": [["dims", 3]]}),
    "code for an op": lambda t: t["instructions"][0].update(op="__import__('os').system('false')"),
    "a place out of range": lambda t: t["instructions"][0].update(operands={"tuple": [{"value": 99}, 2]}),
    "a negative place": lambda t: t["instructions"][0].update(operands={"tuple": [{"value": -1}, 2]}),
    "no instructions": lambda t: t.update(instructions=[]),
    "the order": lambda t: t["instructions"].reverse(),
    "another shape": lambda t: t["values"][0].update(shape=[3, 5]),
    "a negative size": lambda t: t["values"][0].update(shape=[-3, 4]),
    "a huge size": lambda t: t["values"][-1].update(shape=[10**9, 10**9]),
    "another dtype": lambda t: t["values"][0].update(dtype="torch.nothing"),
    "no dtype": lambda t: t["values"][0].update(dtype="load"),
    "another device": lambda t: t["values"][0].update(device="somewhere"),
    "another kind": lambda t: t["values"][0].update(kind="thing"),
    "no inputs": lambda t: t.pop("inputs"),
    "other outputs": lambda t: t.update(outputs=[{"value": 99}]),
    "no outputs": lambda t: t.update(outputs=[]),
    "structure": lambda t: t.update(structure=5),
    "structure of objects": lambda t: t.update(structure={"object": "os"}),
    "a list for a dict": lambda t: t.update(constants=[1, 2, 3]),
    "a missing tensor": lambda t: t.update(constants=[{"tuple": [{"value": 0}, {"tensor": 77}]}]),
    "another default dtype": lambda t: t.update({"default dtype": "float32"}),
    "no default dtype": lambda t: t.pop("default dtype"),
    "not a dict": lambda t: t.clear(),
}


@pytest.mark.parametrize("name", EDITS)
def test_broken_texts(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    hg.capture(lambda x: ((x * 2).tanh() + T).sum(0), X).save(path)
    hg.Program.load(path)
    edited(path, EDITS[name])
    with pytest.raises(hg.FileError, match="file"):
        hg.Program.load(path)


def test_a_users_op_must_be_declared(tmp_path: Path) -> None:
    class Tripled(hg.Primitive):
        """Three times `a`."""

        @staticmethod
        def forward(a: torch.Tensor) -> torch.Tensor:
            return a * 3

        vjps = (lambda g, out, a: g * 3,)

    path = tmp_path / "file"
    hg.capture(lambda x: Tripled.apply(x), X).save(path)
    assert torch.equal(hg.Program.load(path)(X), X * 3)
    from hotgrad.core import primitive

    del primitive._REGISTRY["Tripled"]
    with pytest.raises(hg.FileError, match="Tripled"):
        hg.Program.load(path)

    class Thrice(hg.Primitive):
        """The same under another name."""

        forward = staticmethod(lambda a: a * 3)
        vjps = (lambda g, out, a: g * 3,)
        aliases = ("Tripled",)

    assert torch.equal(hg.Program.load(path)(X), X * 3) and Thrice.name == "Thrice"


def test_saving_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    hg.capture(lambda x: x * 2, X).save(path)
    hg.capture(lambda x: x * 3, X).save(str(path))
    assert torch.equal(hg.Program.load(path)(X), X * 3)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with pytest.raises(OSError):
        hg.capture(lambda x: x * 2, X).save(tmp_path / "nowhere" / "file")


def test_pickles_and_copies_say_save() -> None:
    program = hg.capture(lambda x: x * 2, X)
    for refused in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(hg.OperandError, match=r"a Program cannot be pickled or copied.*program\.save\(path\)"):
            refused(program)
    with pytest.raises(hg.OperandError, match=r"program\.save"):
        pickle.dumps({"model": network(), "program": [program]})
    assert torch.equal(program(X), X * 2)


@engines
def test_another_default_dtype(engine: str, tmp_path: Path) -> None:
    """It does not matter where no result has it, and is refused where one has."""
    hg.capture(lambda x: x * 2 + 0.5, X).save(tmp_path / "floats")
    hg.capture(lambda i: (i * 2, i.to(torch.float32) / 3), ROWS).save(tmp_path / "given")
    hg.capture(lambda i: i * 0.1, ROWS).save(tmp_path / "promoted")
    early = [hg.Program.load(tmp_path / name, engine) for name in ("floats", "given", "promoted")]
    torch.set_default_dtype(torch.float64)
    try:
        late = [hg.Program.load(tmp_path / name, engine) for name in ("floats", "given")]
        for floats, given in (early[:2], late):
            assert torch.equal(floats(X), X * 2 + 0.5)
            assert same(given(ROWS), (ROWS * 2, ROWS.float() / 3))
        with pytest.raises(hg.FileError, match=r"promoted.*which was torch.float32.*set_default_dtype\(torch.float32\)"):
            hg.Program.load(tmp_path / "promoted", engine)
        with pytest.raises(hg.CaptureError, match=r"default dtype was torch.float32"):
            early[2](ROWS)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(early[2](ROWS), ROWS * 0.1)
    assert torch.equal(late[0](X), X * 2 + 0.5)
