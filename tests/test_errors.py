"""Bad input: each kind raises its class, which is also a built-in one, says what was got and what to do, and loses nothing."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from graphs import leaf

import hotgrad as hg
from hotgrad import Variable, errors

pytestmark = pytest.mark.usefixtures("tape")


def setitem(v: Any) -> None:
    v[0] = 1.0


def setattribute(v: Any, name: str, value: Any) -> None:
    setattr(v, name, value)


def op(reads: Any = None, *rules: Any, **fields: Any) -> Any:
    body: dict[str, Any] = {"forward": staticmethod(lambda a: a * 1), "vjps": rules or (lambda g, out, a: g,), **fields}
    if reads is not None:
        body["reads"] = reads
    return type("Declared", (hg.Primitive,), body, register=False)


def scaled() -> Any:
    body = {"forward": staticmethod(lambda a, *, k: a * k), "vjps": (lambda g, out, a, k: g * k,)}
    return type("Scaled", (hg.Primitive,), body, register=False)


def redeclare_mul() -> Any:
    return type("Mul", (hg.Primitive,), {"forward": staticmethod(lambda a: a), "vjps": (None,)})


# For each line of bad input: what is called with x (3,), m (2, 3), s (), all requiring gradients, n (3,) that does not and the
# intermediate y = x * 2; the class, the built-in it must also be, and what the message must name.
Case = tuple[str, Callable[[Any], Any], type[Exception], type[Exception], str]
CASES: list[Case] = [
    # integer or bool data with requires_grad; complex data
    ("int data", lambda e: Variable([1, 2], requires_grad=True), hg.DtypeError, TypeError, r"floating.*int64\(2,\).*to\(torch.float32\)"),
    ("bool data", lambda e: Variable(True, requires_grad=True), hg.DtypeError, TypeError, r"floating.*bool"),
    ("int Parameter", lambda e: hg.Parameter([1, 2]), hg.DtypeError, TypeError, "floating"),
    ("requires_grad later", lambda e: setattribute(Variable([1]), "requires_grad", True), hg.DtypeError, TypeError, "floating"),
    ("complex data", lambda e: Variable(torch.ones(2) * 1j), hg.DtypeError, TypeError, r"complex64\(2,\).*real and imaginary"),
    ("complex operand", lambda e: e.x * 1j, hg.DtypeError, TypeError, "Mul.*1j"),
    ("complex tensor operand", lambda e: e.x * torch.ones(3) * 1j, hg.DtypeError, TypeError, "Mul.*complex"),
    ("complex cast", lambda e: e.x.to(torch.complex64), hg.HotgradError, TypeError, "Cast.*complex"),
    # shapes that do not broadcast or multiply
    ("broadcast", lambda e: e.m + leaf([1.0, 2.0]), hg.ShapeError, ValueError, r"Add: got a = float32\(2, 3\), b = float32\(2,\).*broadcast.*(reshape|unsqueeze)"),
    ("broadcast raw", lambda e: e.m * torch.ones(4), hg.ShapeError, ValueError, r"Mul.*\(2, 3\).*\(4,\)"),
    ("broadcast left", lambda e: torch.ones(4) / e.m, hg.ShapeError, ValueError, r"Div: got a = float32\(4,\), b = float32\(2, 3\)"),
    ("where", lambda e: hg.where(torch.ones(4) > 0, e.x, 0.0), hg.ShapeError, ValueError, r"Where.*condition = bool\(4,\).*a = float32\(3,\)"),
    ("maximum", lambda e: hg.maximum(e.x, leaf([1.0, 2.0])), hg.ShapeError, ValueError, "Maximum.*broadcast"),
    ("matmul inner", lambda e: e.m @ e.m, hg.ShapeError, ValueError, r"MatMul: got a = float32\(2, 3\), b = float32\(2, 3\).*\(3\) must equal.*\(2\)"),
    ("matmul vector", lambda e: e.m @ leaf([1.0, 2.0]), hg.ShapeError, ValueError, r"MatMul.*\(3\).*only axis of b \(2\)"),
    ("matmul scalar", lambda e: e.m @ e.s, hg.ShapeError, ValueError, r"MatMul.*scalar.*Use \*"),
    ("matmul batches", lambda e: leaf(torch.ones(2, 2, 3)) @ leaf(torch.ones(5, 3, 2)), hg.ShapeError, ValueError, r"batch.*\(2,\).*\(5,\)"),
    ("matmul dtypes", lambda e: e.m @ torch.ones(3, 2, dtype=torch.float64), hg.DtypeError, TypeError, r"MatMul.*float32\(2, 3\).*float64\(3, 2\).*to\(dtype\)"),
    ("reshape", lambda e: e.m.reshape(4, 2), hg.ShapeError, ValueError, r"Reshape.*\(2, 3\).*shape=\(4, 2\)"),
    ("expand", lambda e: e.m.expand(4, 3), hg.ShapeError, ValueError, r"Expand.*\(2, 3\).*shape=\(4, 3\)"),
    ("cat", lambda e: hg.cat([e.m, leaf(torch.ones(2, 2))]), hg.ShapeError, ValueError, r"Cat.*tensors\[0\] = float32\(2, 3\).*tensors\[1\] = float32\(2, 2\)"),
    ("stack", lambda e: hg.stack([e.x, e.m]), hg.ShapeError, ValueError, "Stack"),
    ("einsum", lambda e: hg.einsum("ij,jk->ik", e.m, e.m), hg.ShapeError, ValueError, r"Einsum.*\(2, 3\).*equation='ij,jk->ik'"),
    ("mT", lambda e: e.x.mT, hg.ShapeError, ValueError, r"last two axes.*\(3,\)"),
    ("flatten", lambda e: e.m.flatten(1, 0), hg.ShapeError, ValueError, r"flatten.*\(2, 3\)"),
    ("unfold", lambda e: e.x.unfold(0, 9, 1), hg.HotgradError, ValueError, "Unfold.*size=9"),
    # a seed gradient of the wrong shape, dtype or device; non-scalar backward without a seed
    ("seed shape", lambda e: e.y.backward(torch.ones(2)), hg.ShapeError, ValueError, r"seed gradient must have shape \(3,\); got \(2,\)"),
    ("seed one element for several", lambda e: e.y.backward(1.0), hg.ShapeError, ValueError, r"\(3,\); got \(\)"),
    ("seed broadcastable", lambda e: e.y.backward(torch.ones(1, 3)), hg.ShapeError, ValueError, r"\(3,\); got \(1, 3\)"),
    ("seed dtype", lambda e: e.y.backward(torch.ones(3, dtype=torch.float64)), hg.DtypeError, TypeError, r"float32; got torch.float64.*to\("),
    ("seed int", lambda e: e.y.backward(torch.ones(3, dtype=torch.int64)), hg.DtypeError, TypeError, "int64"),
    ("seed numpy dtype", lambda e: e.y.backward(torch.ones(3, dtype=torch.float64).numpy()), hg.DtypeError, TypeError, "float64"),
    ("seed Variable dtype", lambda e: e.y.backward(leaf([1.0, 1.0, 1.0], torch.float64)), hg.DtypeError, TypeError, "float64"),
    ("seed device", lambda e: e.y.backward(torch.ones(3, device="meta")), hg.DeviceError, ValueError, r"must be on cpu; got meta.*to\('cpu'\)"),
    ("seed complex", lambda e: e.y.backward([1j, 1, 1]), hg.DtypeError, TypeError, "complex"),
    ("seed of torch's graph", lambda e: e.y.backward(torch.ones(3, requires_grad=True)), hg.OperandError, TypeError, r"seed.*torch gradient.*detach\(\)"),
    ("seed sparse", lambda e: e.y.backward(torch.ones(3).to_sparse()), hg.OperandError, TypeError, r"dense.*to_dense\(\)"),
    ("seed text", lambda e: e.y.backward("ones"), hg.OperandError, TypeError, "got str"),
    ("gradients, seed shape", lambda e: hg.gradients(e.y, e.x, torch.ones(2)), hg.ShapeError, ValueError, r"\(3,\); got \(2,\)"),
    ("no seed", lambda e: e.y.backward(), hg.ShapeError, ValueError, r"shape \(3,\).*(sum|mean)\(\).*backward\(gradient\)"),
    ("no seed, no elements", lambda e: leaf([]).backward(), hg.ShapeError, ValueError, r"\(0,\)"),
    # backward on something that needs no gradient
    ("backward on a constant", lambda e: e.n.sum().backward(), hg.TapeError, RuntimeError, r"requires a gradient.*requires_grad=True"),
    ("backward of no_grad's result", lambda e: hg.no_grad(lambda: e.x.sum())().backward(), hg.TapeError, RuntimeError, "outside no_grad"),
    ("gradients of a tensor", lambda e: hg.gradients(e.x.data, e.x), hg.HotgradError, Exception, "Variable"),
    ("gradients for a constant", lambda e: hg.gradients(e.y.sum(), e.n), hg.TapeError, RuntimeError, "input 0.*requires_grad=True"),
    # an axis out of range or given twice
    ("sum axis", lambda e: e.m.sum(2), hg.AxisError, IndexError, r"Sum: got a = float32\(2, 3\), dim=2.*axis 2.*-2 to 1"),
    ("sum axis negative", lambda e: e.m.sum(-3), hg.AxisError, IndexError, "axis -3"),
    ("sum of a scalar", lambda e: e.s.sum(1), hg.AxisError, IndexError, "axis 1.*-1 or 0"),
    ("sum axis twice", lambda e: e.m.sum((0, 0)), hg.AxisError, IndexError, r"\(0, 0\).*twice"),
    ("sum axis twice, from both ends", lambda e: e.m.sum((1, -1)), hg.AxisError, IndexError, r"\(1, -1\).*twice"),
    *(
        (f"{name} axis", lambda e, name=name: getattr(e.m, name)(dim=5), hg.AxisError, IndexError, "axis 5")
        for name in ("mean", "var", "std", "amax", "amin", "prod", "cumsum", "logsumexp", "softmax", "log_softmax", "norm", "squeeze", "unsqueeze")
    ),
    *(
        (f"{name} axis twice", lambda e, name=name: getattr(e.m, name)(dim=(0, 0)), hg.AxisError, IndexError, "twice")
        for name in ("mean", "var", "std", "amax", "amin", "logsumexp", "norm", "squeeze")
    ),
    ("transpose", lambda e: e.m.transpose(0, 2), hg.AxisError, IndexError, "axis 2"),
    ("permute too few", lambda e: e.m.permute(0), hg.AxisError, IndexError, r"Permute.*2 axes once.*\(0,\)"),
    ("permute twice", lambda e: e.m.permute(0, 0), hg.AxisError, IndexError, r"\(0, 0\)"),
    ("flip", lambda e: e.m.flip(2), hg.AxisError, IndexError, r"Flip.*axis 2"),
    ("flip twice", lambda e: e.m.flip((0, 0)), hg.AxisError, IndexError, r"Flip.*\(0, 0\).*twice"),
    ("unfold axis", lambda e: e.m.unfold(4, 1, 1), hg.AxisError, IndexError, "Unfold.*axis 4"),
    ("cat axis", lambda e: hg.cat([e.m, e.m], 3), hg.AxisError, IndexError, "Cat.*dim=3"),
    ("stack axis", lambda e: hg.stack([e.m, e.m], 4), hg.AxisError, IndexError, "Stack.*dim=4"),
    ("flatten axis", lambda e: e.m.flatten(0, 2), hg.AxisError, IndexError, "axis 2"),
    ("axis of a kind", lambda e: e.m.sum(1.0), hg.OperandError, TypeError, "Sum.*integer; got 1.0"),
    ("axis a bool", lambda e: e.m.sum(True), hg.OperandError, TypeError, "integer; got True"),
    ("index", lambda e: e.x[3], hg.AxisError, IndexError, r"GetItem: got a = float32\(3,\), index=3"),
    ("index list", lambda e: e.x[[0, 7]], hg.AxisError, IndexError, "GetItem"),
    ("too many indices", lambda e: e.x[0, 0], hg.AxisError, IndexError, r"GetItem.*index=\(0, 0\)"),
    ("index mask", lambda e: e.x[torch.ones(4) > 0], hg.AxisError, IndexError, r"GetItem.*bool\(4,\)"),
    ("index of floats", lambda e: e.x[torch.ones(2)], hg.OperandError, TypeError, "GetItem.*integer or bool.*float32"),
    ("index text", lambda e: e.x["a"], hg.OperandError, TypeError, "GetItem.*'a'"),
    ("negative step", lambda e: e.x[::-1], hg.HotgradError, ValueError, "GetItem.*-1.*step"),
    # reductions without identity over nothing
    *(
        (f"{name} of nothing", lambda e, name=name: getattr(leaf(torch.zeros(0, 3)), name)(), hg.ShapeError, ValueError, r"\(0, 3\).*no elements")
        for name in ("amax", "amin", "max", "min")
    ),
    ("amax over an empty axis", lambda e: leaf(torch.zeros(2, 0)).amax(1), hg.ShapeError, ValueError, r"Amax.*\(2, 0\).*dim=1"),
    # float() and bool() of several elements
    ("float", lambda e: float(e.x), hg.ShapeError, ValueError, r"one element.*\(3,\).*sum\(\)"),
    ("bool", lambda e: bool(e.x), hg.ShapeError, ValueError, "one element"),
    ("int", lambda e: int(e.m), hg.ShapeError, ValueError, "one element"),
    ("item", lambda e: e.m.item(), hg.ShapeError, ValueError, r"\(2, 3\)"),
    ("len", lambda e: len(e.s), hg.OperandError, TypeError, "0-d"),
    ("iteration", lambda e: list(e.s), hg.OperandError, TypeError, "0-d"),
    # assigning into a Variable
    ("setitem", lambda e: setitem(e.x), hg.TapeError, RuntimeError, r"where\(.*cat/stack.*v\.data"),
    ("setitem of an intermediate", lambda e: setitem(e.y), hg.TapeError, RuntimeError, "cannot be assigned"),
    ("data of an intermediate", lambda e: setattribute(e.y, "data", torch.ones(3)), hg.TapeError, RuntimeError, "leaves only.*Mul"),
    ("requires_grad of an intermediate", lambda e: setattribute(e.y, "requires_grad", False), hg.TapeError, RuntimeError, r"leaves only.*detach\(\)"),
    ("numpy", lambda e: e.x.numpy(), hg.TapeError, RuntimeError, r"detach\(\)"),
    # copies and pickles of non-leaf Variables
    ("copy", lambda e: copy.copy(e.y), hg.TapeError, RuntimeError, r"leaf.*copied.*detach\(\)"),
    ("deepcopy", lambda e: copy.deepcopy(e.y), hg.TapeError, RuntimeError, r"leaf.*copied.*detach\(\)"),
    ("pickle", lambda e: pickle.dumps(e.y), hg.TapeError, RuntimeError, r"leaf.*pickled.*detach\(\)"),
    # an operand that requires a torch gradient
    ("torch gradient", lambda e: e.x + torch.ones(3, requires_grad=True), hg.OperandError, TypeError, r"Add.*\(3,\).*torch gradient.*Variable.*detach\(\)"),
    ("torch gradient, raw", lambda e: hg.exp(torch.ones(3, requires_grad=True)), hg.OperandError, TypeError, "Exp.*torch gradient"),
    ("other operands", lambda e: e.x + "text", hg.OperandError, TypeError, "Add.*numpy arrays and numbers; got str"),
    ("no operands", lambda e: hg.cat([]), hg.OperandError, TypeError, "cat.*non-empty"),
    ("too few operands", lambda e: hg.ops.Where.apply(e.x > 0, e.x), hg.OperandError, TypeError, r"Where: takes 3 operands \(condition, a, b\); got 2"),
    ("unknown option", lambda e: e.x.sum(axis=0), hg.OperandError, TypeError, "Sum: unknown option 'axis'; it takes dim, keepdim"),
    ("option twice", lambda e: e.x.sum(0, dim=0), hg.OperandError, TypeError, "Sum: option 'dim' is given twice"),
    ("too many options", lambda e: e.x.softmax(0, None, 1), hg.OperandError, TypeError, r"Softmax.*1 options \(dim\)"),
    ("missing option", lambda e: e.x.softmax(), hg.OperandError, TypeError, "Softmax: missing option 'dim'"),
    ("clip without limits", lambda e: e.x.clip(), hg.OperandError, TypeError, "Clip.*min, max or both"),
    ("clip to text", lambda e: e.x.clip("0"), hg.OperandError, TypeError, "Clip.*limits must be numbers"),
    ("condition of floats", lambda e: hg.where(torch.ones(3), e.x, 0.0), hg.HotgradError, TypeError, r"Where.*condition = float32\(3,\)"),
    ("pad mode", lambda e: e.x.pad((1, 1), "reflect"), hg.OperandError, TypeError, "Pad.*'constant'; got 'reflect'"),
    ("norm order", lambda e: e.x.norm("nuc"), hg.OperandError, TypeError, "Norm.*'nuc'"),
    ("an axis that is a class", lambda e: e.m.flatten(int), hg.OperandError, TypeError, "an axis must be an integer; got <class 'int'>"),
    ("axis of strings", lambda e: e.m.transpose(0, np.array(["a"])), hg.OperandError, TypeError, "an axis must be an integer"),
    ("axis of a matrix", lambda e: e.m.squeeze(np.ones((2, 2))), hg.OperandError, TypeError, "an axis must be an integer"),
    ("new axis of no integer", lambda e: e.m.unsqueeze(int), hg.OperandError, TypeError, "an axis must be an integer"),
    ("gradients of nothing", lambda e: hg.gradients(e.x.sum(), None), hg.OperandError, TypeError, "gradients: inputs must be a Variable or several; got None"),
    ("gradients of a number", lambda e: hg.gradients(3, e.x), hg.OperandError, TypeError, "gradients: outputs must be a Variable or several; got 3"),
    ("rate of a matrix", lambda e: hg.optim.SGD(lr=torch.ones(2, 2)), hg.SettingError, ValueError, "lr must be a finite number"),
    ("complex rate", lambda e: hg.optim.SGD(lr=torch.tensor(1j)), hg.SettingError, ValueError, "lr must be a finite number"),
    ("reduction of an array", lambda e: hg.CrossEntropy(np.ones((2, 2))), hg.SettingError, ValueError, "unknown reduction"),
    ("reduction of a tensor", lambda e: hg.MSE(torch.ones(2, 2)), hg.SettingError, ValueError, "unknown reduction"),
    ("layer beyond count", lambda e: hg.Linear(2**70), hg.SettingError, ValueError, "out_features must be from 1 to 2"),
    ("option beyond count", lambda e: scaled().apply(e.x, k=10**30), hg.SettingError, ValueError, r"Scaled: got a = float32\(3,\), k=10000"),
    # primitives: declarations
    ("native of a number", lambda e: op(native=5), hg.DeclarationError, TypeError, "`native` must be a C expression.*got 5"),
    ("native with a brace", lambda e: op(native="{a"), hg.DeclarationError, TypeError, "`native` must have each name in a pair of braces"),
    ("no forward", lambda e: type("P", (hg.Primitive,), {"vjps": (None,)}), hg.DeclarationError, TypeError, r"test_errors\.P: declares no `forward`"),
    ("no rules", lambda e: type("P", (hg.Primitive,), {"forward": staticmethod(lambda a: a)}), hg.DeclarationError, TypeError, "no gradient rules; give `vjps`"),
    ("too many rules", lambda e: op(None, lambda g, out, a: g, lambda g, out, a: g), hg.DeclarationError, TypeError, r"1 operands \(a\).*as many rules"),
    ("reads nothing that is", lambda e: op("b"), hg.DeclarationError, TypeError, r"`reads` names \['b'\]; it may name a, out"),
    ("reads too many", lambda e: op(("a", "a")), hg.DeclarationError, TypeError, "1 rules.*as many entries"),
    ("name taken", lambda e: redeclare_mul(), hg.DeclarationError, TypeError, r"taken by hotgrad\.ops\.arithmetic\.Mul"),
    # primitives: rules
    ("rule of a wrong shape", lambda e: op(None, lambda g, out, a: torch.ones(2)).apply(e.y).sum().backward(), hg.RuleError, RuntimeError, r"Declared: the rule for 'a' of shape \(3,\) returned shape \(2,\)"),
    ("rule that reads too much", lambda e: op("", lambda g, out, a: g * a).apply(e.y).sum().backward(), hg.RuleError, RuntimeError, r"rule for 'a' uses 'a'.*`reads`, now ''"),
    ("rule that reads out", lambda e: op("a", lambda g, out, a: g * out).apply(e.y).sum().backward(), hg.RuleError, RuntimeError, r"'out'.*`reads`, now 'a'"),
    ("rule without a result", lambda e: op(None, lambda g, out, a: None).apply(e.y).sum().backward(), hg.RuleError, RuntimeError, "returned NoneType"),
    ("no rule", lambda e: op(None, None).apply(e.y), hg.TapeError, RuntimeError, r"Declared.*not differentiable|backward"),
    # walking
    ("freed", lambda e: (e.y.sum().backward(), e.y.sum().backward()), hg.TapeError, RuntimeError, "freed.*retain_graph=True"),
    ("retain_grad of a constant", lambda e: e.n.retain_grad(), hg.TapeError, RuntimeError, "requires_grad=True"),
]  # fmt: skip
FAILS_LATE = {"no rule", "freed"}  # told apart below: nothing is wrong with a part of the call


@pytest.mark.parametrize(
    ("name", "call", "error", "builtin", "message"),
    [c for c in CASES if c[0] not in FAILS_LATE],
    ids=[c[0] for c in CASES if c[0] not in FAILS_LATE],
)
def test_bad_input(name: str, call: Callable[[Any], Any], error: type[Exception], builtin: type[Exception], message: str) -> None:
    e = SimpleNamespace(x=leaf([1.0, 2.0, 3.0]), m=leaf(torch.arange(6.0).reshape(2, 3)), s=leaf(4.0), n=Variable([1.0, 2.0, 3.0]))
    e.y = e.x * 2
    before = {key: v.data.clone() for key, v in vars(e).items()}
    registered = dict(hg.primitives())
    with pytest.raises(error) as caught:
        call(e)
    assert isinstance(caught.value, hg.HotgradError) and isinstance(caught.value, builtin)
    text = str(caught.value)
    assert re.search(message, text, re.DOTALL), text
    del caught
    recorded = [record.op.name for record in hg.tape()]
    assert recorded in (["Mul"], []) or "rule" in name, recorded  # [] where a backward used the graph up
    for key, v in vars(e).items():
        assert v.grad is None and torch.equal(v.data, before[key]) and v.data._version == 0
    assert dict(hg.primitives()) == registered


@pytest.mark.parametrize("name", sorted(FAILS_LATE))
def test_bad_walks(name: str) -> None:
    x = leaf([1.0, 2.0])
    if name == "freed":
        y = (x * x).sum()
        y.backward()
        grad = x.grad.clone()
        with pytest.raises(hg.TapeError, match=r"freed.*Sum.*retain_graph=True"):
            y.backward()
        assert torch.equal(x.grad, grad)
    else:
        silent = op(None, None)
        assert not silent.apply(x).requires_grad  # no operand can get a gradient
        with pytest.raises(hg.TapeError, match="needs a Variable that requires a gradient"):
            silent.apply(x).sum().backward()
        assert x.grad is None


def test_gradients_of_arrays_are_not_lost_by_bad_ones() -> None:
    x = leaf([1.0, 2.0])
    x.grad = torch.tensor([5.0, 6.0])
    y = (x * x).sum()
    for call in (
        lambda: y.backward(torch.ones(2)),
        lambda: hg.gradients(y, x, torch.ones(3)),
        lambda: y.backward(torch.tensor(1.0, dtype=torch.float64)),
    ):
        with pytest.raises(hg.HotgradError):
            call()
        assert x.grad.tolist() == [5.0, 6.0]
    y.backward()  # a seed that does not fit uses nothing up
    assert x.grad.tolist() == [7.0, 10.0]


def test_errors_of_others_come_out_as_they_are() -> None:
    class Own(Exception):
        pass

    def raising(a: Any) -> Any:
        raise Own("mine")

    with pytest.raises(Own, match=r"^mine$"):
        op(None, forward=staticmethod(raising)).apply(leaf([1.0]))

    def out_of_memory(a: Any) -> Any:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError, match=r"^no memory$"):
        op(None, forward=staticmethod(out_of_memory)).apply(leaf([1.0]))

    def ours(a: Any) -> Any:
        raise hg.ShapeError("too small")

    with pytest.raises(hg.ShapeError, match=r"^Declared: got a = float32\(1,\); too small$"):
        op(None, forward=staticmethod(ours)).apply(leaf([1.0]))

    def keyboard(a: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        op(None, forward=staticmethod(keyboard)).apply(leaf([1.0]))
    assert len(hg.tape()) == 0


def test_the_cause_is_kept() -> None:
    with pytest.raises(hg.ShapeError) as caught:
        leaf([1.0, 2.0]) + leaf([1.0, 2.0, 3.0])
    assert isinstance(caught.value.__cause__, RuntimeError)


# ----------------------------------------------------------------------------------------------------------------- the tree


def tree() -> dict[str, str]:
    """Class to built-in, as the docstring of errors.py draws them."""
    return dict(re.findall(r"[├└]── (\w+)\s+\((\w+)\)", errors.__doc__ or ""))


def test_the_error_tree_is_the_one_drawn() -> None:
    real = {
        name: cls.__bases__[1].__name__
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, hg.HotgradError) and cls is not hg.HotgradError
    }
    assert tree() == real
    for name, builtin in real.items():
        cls = getattr(errors, name)
        if name == "RangeError":
            assert cls.__bases__ == (hg.AxisError, hg.DataError)
            continue
        assert cls.__bases__[0] is hg.HotgradError, "the tree has one level"
        assert issubclass(cls, getattr(__builtins__ if inspect.ismodule(__builtins__) else SimpleNamespace(**__builtins__), builtin))
        assert cls.__doc__
    assert (errors.__doc__ or "").split("\n")[2] == "HotgradError"


def test_all_errors_are_public_and_picklable() -> None:
    for name in [*tree(), "HotgradError"]:
        assert getattr(hg, name) is getattr(errors, name) and name in hg.__all__
        error = getattr(errors, name)("said")
        assert str(pickle.loads(pickle.dumps(error))) == "said"


# -------------------------------------------------------------------------------------------------------- without assertions

# Compiles hotgrad alone as `python -O` would: with all of torch that takes many seconds where no bytecode is kept.
HOTGRAD_ALONE = """
import sys
from importlib.machinery import FileFinder, SourceFileLoader
class Optimising(SourceFileLoader):
    def get_code(self, name):
        if not name.startswith("hotgrad"):
            return super().get_code(name)
        return compile(self.get_data(self.path), self.path, "exec", dont_inherit=True, optimize=1)
import torch
sys.path_hooks.insert(0, FileFinder.path_hook((Optimising, [".py"])))
sys.path_importer_cache.clear()
"""
OPTIMISED = """
import torch, hotgrad as hg
x = hg.Variable([1.0, 2.0, 3.0], requires_grad=True)
y = x * 2
cases = [
    (hg.DtypeError, lambda: hg.Variable([1, 2], requires_grad=True)),
    (hg.ShapeError, lambda: x + hg.Variable([1.0, 2.0])),
    (hg.ShapeError, lambda: x @ torch.ones(2, 2)),
    (hg.ShapeError, lambda: y.backward()),
    (hg.DtypeError, lambda: y.backward(torch.ones(3, dtype=torch.float64))),
    (hg.AxisError, lambda: x.sum(1)),
    (hg.AxisError, lambda: x.sum((0, 0))),
    (hg.ShapeError, lambda: hg.amax(torch.zeros(0))),
    (hg.ShapeError, lambda: float(x)),
    (hg.TapeError, lambda: x.__setitem__(0, 1.0)),
    (hg.TapeError, lambda: __import__("copy").copy(y)),
    (hg.OperandError, lambda: x + torch.ones(3, requires_grad=True)),
    (hg.DeclarationError, lambda: type("Mul", (hg.Primitive,), {"forward": staticmethod(abs), "vjps": (None,)})),
]
for expected, call in cases:
    try:
        call()
    except expected:
        continue
    raise SystemExit(f"no {expected.__name__}")
y.sum().backward()
w = y.sum()
try:
    w.backward()
except hg.TapeError:
    print("all", len(cases), x.grad.tolist())
"""


def test_checks_work_without_assertions(thorough: bool) -> None:
    program = ["-O", "-c", OPTIMISED] if thorough else ["-c", HOTGRAD_ALONE + OPTIMISED]
    result = subprocess.run([sys.executable, *program], capture_output=True, text=True, check=False)
    assert result.stdout.split("\n")[0] == "all 13 [2.0, 2.0, 2.0]", result.stderr
