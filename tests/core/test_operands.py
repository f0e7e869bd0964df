"""What may stand beside a Variable: operands on either side of an operator, and arguments of torch's own functions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from graphs import leaf

import hotgrad as hg
from hotgrad import Variable

pytestmark = pytest.mark.usefixtures("tape")

# --------------------------------------------------------------------------------------------------- operands of all kinds

ARITHMETIC: list[Callable[[Any, Any], Any]] = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
OTHERS: list[Any] = [
    2,
    2.5,
    torch.tensor([1.0, 3.0]),
    torch.tensor(2.0),
    torch.tensor([1, 3]),
    torch.tensor([[1.0], [2.0]], dtype=torch.float64),
    np.array([1.0, 3.0]),
    np.array([1.0, 3.0], dtype=np.float32),
    np.array([1, 3]),
    np.array(2.0),
    np.float64(2.0),
    np.float32(2.0),
    np.int64(2),
    Variable([1.0, 3.0]),
    torch.nn.Parameter(torch.tensor([1.0, 3.0]), requires_grad=False),
]


def as_torch(value: Any) -> Any:
    if isinstance(value, Variable):
        return value.data
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.shape):
        return value.item()  # a numpy scalar counts as a number
    return torch.tensor(value) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("other", OTHERS, ids=lambda o: f"{type(o).__name__}-{getattr(o, 'dtype', '')}-{getattr(o, 'shape', '')}")
@pytest.mark.parametrize("op", ARITHMETIC)
@pytest.mark.parametrize("left", [True, False])
def test_operands_on_either_side(op: Callable[[Any, Any], Any], other: Any, left: bool) -> None:
    x = leaf([1.5, 2.5])
    t = x.data.clone().requires_grad_()
    y = op(other, x) if left else op(x, other)
    expected = op(as_torch(other), t) if left else op(t, as_torch(other))
    assert type(y) is Variable
    assert y.dtype is expected.dtype
    torch.testing.assert_close(y.data, expected.detach())
    y.backward(torch.ones_like(y.data))
    expected.backward(torch.ones_like(expected))
    assert x.grad.dtype is torch.float32
    torch.testing.assert_close(x.grad, t.grad)


@pytest.mark.parametrize("true", [True, np.bool_(True)])
def test_bools_count_as_numbers_where_torch_takes_them(true: Any) -> None:
    x = leaf([1.5, 2.5])
    for y in (x + true, true * x, x / true, true / x * x * x, x**true):
        assert type(y) is Variable and y.dtype is torch.float32
    for call in (partial(operator.sub, x, true), partial(operator.sub, true, x)):  # as in torch
        with pytest.raises(hg.HotgradError, match=r"Sub.*bool"):
            call()


@pytest.mark.parametrize(
    "other", [torch.eye(2), np.eye(2, dtype=np.float32), Variable(torch.eye(2)), torch.ones(2), np.ones(2, dtype=np.float32)]
)
def test_matmul_on_either_side(other: Any) -> None:
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    for y, expected in ((x @ other, x.data @ as_torch(other)), (other @ x, as_torch(other) @ x.data)):
        assert type(y) is Variable and y.previous_op is hg.ops.MatMul
        assert torch.equal(y.data, expected)


@pytest.mark.parametrize("op", [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne])
@pytest.mark.parametrize(
    "other", [2, 2.0, torch.tensor([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]), np.float64(2.0), Variable([3.0, 2.0, 1.0])]
)
def test_comparisons_give_plain_bools(op: Callable[[Any, Any], Any], other: Any) -> None:
    x = leaf([1.0, 2.0, 3.0])
    before = len(hg.tape())
    for y, expected in ((op(x, other), op(x.data, as_torch(other))), (op(other, x), op(as_torch(other), x.data))):
        assert type(y) is torch.Tensor and y.dtype is torch.bool
        assert torch.equal(y, expected)
    assert len(hg.tape()) == before


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "text",
        [1.0, 2.0],
        (1.0, 2.0),
        {},
        object(),
        np.array(["a", "b"]),
        np.array([None, 1.0]),
        np.add,
        np.datetime64("2020-01-01"),
        range(2),
    ],
    ids=lambda b: type(b).__name__,
)
@pytest.mark.parametrize("op", ARITHMETIC)
def test_other_operands_are_refused(op: Callable[[Any, Any], Any], bad: Any) -> None:
    x = leaf([1.0, 2.0])
    before = len(hg.tape())
    with pytest.raises(hg.OperandError):
        op(x, bad)
    with pytest.raises(TypeError):
        op(bad, x)
    assert len(hg.tape()) == before and x.grad is None


@pytest.mark.parametrize("bad", [1j, np.complex64(1j), np.array([1j, 2j]), torch.tensor([1j, 2j])], ids=lambda b: type(b).__name__)
def test_complex_operands_are_refused(bad: Any) -> None:
    x = leaf([1.0, 2.0])
    calls: list[Callable[[], Any]] = [lambda: x * bad, lambda: bad * x, lambda: hg.mul(bad, x), lambda: x.to(torch.complex64)]
    for call in calls:
        with pytest.raises(hg.HotgradError) as caught:
            call()
        assert isinstance(caught.value, TypeError) and "complex" in str(caught.value)


def test_an_operand_of_torchs_graph_is_refused() -> None:
    x, t = leaf([1.0, 2.0]), torch.ones(2, requires_grad=True)
    for call in (
        lambda: x + t,
        lambda: t + x,
        lambda: t @ x,
        lambda: hg.exp(t),
        lambda: hg.add(t, torch.ones(2)),
        lambda: hg.add(torch.ones(2), t),
        lambda: hg.cat([x, t]),
        lambda: hg.where(x > 0, t, x),
        lambda: hg.sum(t),
        lambda: hg.mul(t * 2, 3.0),
        lambda: x < t,
    ):
        with pytest.raises(hg.OperandError, match=r"requires a torch gradient.*(Variable|detach)"):
            call()
    assert len(hg.tape()) == 0


REFUSALS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: Variable([1, 2]) ** -1, TypeError, r"Pow: got a = int64\(2,\), b = -1; .*negative integer powers"),
    (lambda: Variable([True]).relu(), TypeError, r"ReLU: got a = bool\(1,\); "),
    (lambda: Variable([1, 2]).norm(), TypeError, r"Norm: got a = int64\(2,\), p=2\.0"),
    (lambda: leaf([1.0, 2.0]).pad((1,)), TypeError, r"Pad: got .* pad=\(1,\).*even"),
    (lambda: leaf([1.0, 2.0]).unfold(0, 1, -1), TypeError, r"Unfold: got .* step=-1; step is -1 but must be > 0"),
    (lambda: hg.einsum("i-j->", leaf([1.0, 2.0])), TypeError, r"Einsum: got operands\[0\] = float32\(2,\), equation='i-j->'"),
    (lambda: hg.einsum("i->ii", leaf([1.0, 2.0])), TypeError, "Einsum: got"),
    (lambda: leaf([1.0]).softplus(beta=None), TypeError, "Softplus: got .* beta must be a number; got None"),
    (lambda: leaf([1.0]).softplus(1.0, "a"), TypeError, "Softplus: got .* threshold must be a number; got 'a'"),
    (lambda: leaf([1.0, 2.0]).std(correction="a"), TypeError, "Std: got .* correction must be a number; got 'a'"),
    (lambda: leaf([1.0, 2.0]).flip(dims=None), TypeError, "Flip: got .* dims must be an axis"),
    (lambda: leaf([1.0]).to(dtype=float), TypeError, "Cast: got .* dtype must be a torch.dtype; got <class 'float'>"),
    (lambda: hg.mul(10**400, 1), ValueError, "Mul: got a = 10"),
    (lambda: leaf([1.0]) * 10**400, ValueError, "Mul: got a = float32"),
    (lambda: leaf([1.0]) * torch.ones(1).to_sparse(), TypeError, "Mul: only dense tensors"),
    (lambda: leaf([1.0]) * np.array(["a"]), TypeError, "Mul: expected a tensor"),
    (lambda: leaf([1.0, 2.0]).sum(torch.tensor(0)), TypeError, r"Sum: got .* an axis must be an integer; got tensor\(0\)"),
    (lambda: leaf([1.0, 2.0]).sum(Variable(0)), TypeError, "Sum: got .*(integer|plain value)"),
    (lambda: hg.cat([leaf([1.0])], Variable(0)), TypeError, "Cat: got .* option 'dim' must be a plain value; got a Variable"),
    (lambda: hg.relu(torch.tensor([True])), TypeError, r"ReLU: got a = bool\(1,\)"),
    (lambda: hg.gather(leaf([1.0]), 0, 0.5), TypeError, r"The order is gather\(a, dim, index\)"),
    (lambda: hg.gather(leaf([1.0]), 0, torch.tensor([0], device="meta")), ValueError, "Gather: got .* different devices"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(REFUSALS)))
def test_what_torch_refuses_names_the_op_and_its_operands(case: int) -> None:
    call, kind, message = REFUSALS[case]
    with pytest.raises(hg.HotgradError, match=message) as caught:
        call()
    assert isinstance(caught.value, kind) and len(hg.tape()) == 0


@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_torchs_values_and_gradients(dtype: torch.dtype, inside: bool) -> None:
    w, v = leaf([[0.5, -1.0], [2.0, 0.25]]), leaf([[1.0, 0.5], [0.25, 2.0]])
    a, b = (t.data.clone().requires_grad_() for t in (w, v))
    for x, y in ((w, v), (a, b)):
        with torch.autocast("cpu", dtype=dtype):
            z = ((x @ y).tanh() @ y[0]).sum()
            if inside:
                z.backward()
        assert z.dtype is dtype
        if not inside:
            z.backward()
    for ours, theirs in ((w, a), (v, b)):
        assert ours.grad.dtype is torch.float32
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0.02, atol=0.01)


def test_numpy_never_makes_an_object_array() -> None:
    x, constant = leaf([1.0, 2.0]), Variable([1.0, 2.0])
    array: Any = np.ones(2)
    assert type(array * x) is Variable
    for call in (
        lambda: np.add(np.ones(2), x),
        lambda: np.exp(x),
        lambda: np.asarray(x),
        lambda: np.array([x, x]),
        lambda: np.dot(np.ones(2), x),
        lambda: np.stack([x, x]),
        lambda: np.concatenate([np.ones(2), x]),
        lambda: np.sum(x),
        lambda: np.mean(x),
        lambda: array.__iadd__(x),
    ):
        with pytest.raises((TypeError, hg.TapeError)):
            call()
    array = np.asarray(constant)
    assert array.dtype == np.float32 and np.shares_memory(array, constant.data.numpy())
    assert np.asarray(constant, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(constant), constant.data.numpy())
    assert np.array([constant, constant]).dtype == np.float32
    with pytest.raises(hg.TapeError, match=r"detach\(\)"):
        x.numpy()
    assert x.detach().numpy().tolist() == [1.0, 2.0]
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        assert np.shares_memory(np.array(constant, copy=False), constant.data.numpy())
        with pytest.raises(ValueError, match="copy is needed"):
            np.array(constant, dtype=np.float64, copy=False)


def test_raw_in_raw_out() -> None:
    t = torch.tensor([1.0, 4.0])
    for raw in (
        hg.exp(t),
        hg.sum(t, 0),
        hg.add(t, 1.0),
        hg.mul(2.0, 3.0),
        hg.sqrt(np.array([4.0])),
        hg.cat([t, t]),
        hg.exp(1.0),
        hg.where(t > 1, t, 0.0),
    ):
        assert type(raw) is torch.Tensor
    assert type(hg.exp(Variable(t))) is Variable
    assert hg.mul(2, 3).item() == 6 and hg.mul(2, 3).dtype is torch.int64


# --------------------------------------------------------------------------------------------------------- torch functions

X = torch.tensor([[0.3, 1.7], [2.2, 0.6]], dtype=torch.float64)
DISPATCHED: list[Callable[[Any], Any]] = [
    torch.exp, torch.abs, torch.neg, torch.tanh, torch.sigmoid, torch.relu, torch.square, torch.erf, torch.log, torch.sign,
    torch.sum, torch.mean, torch.prod, torch.norm, torch.var, torch.std, torch.max, torch.min, torch.absolute, torch.negative,
    torch.nn.functional.relu, torch.nn.functional.softplus, torch.nn.functional.tanh,
    torch.flatten, torch.squeeze,
    lambda x: torch.sum(x, 0), lambda x: torch.sum(x, dim=(0, 1), keepdim=True), lambda x: torch.var(x, 0, False), lambda x: torch.std(x, dim=1),
    lambda x: torch.softmax(x, 1), lambda x: torch.log_softmax(x, dim=0), lambda x: torch.nn.functional.softmax(x, dim=1),
    lambda x: torch.nn.functional.log_softmax(x, 1), lambda x: torch.nn.functional.pad(x, (1, 2)), lambda x: torch.nn.functional.pad(x, (1, -1), value=3.0),
    lambda x: torch.norm(x, 3, 0), lambda x: torch.logsumexp(x, 0), lambda x: torch.amax(x, 1), lambda x: torch.cumsum(x, 0),
    lambda x: torch.add(x, 1), lambda x: torch.mul(X, x), lambda x: torch.pow(2, x), lambda x: torch.pow(x, 2), lambda x: torch.true_divide(x, x),
    lambda x: torch.subtract(X, x), lambda x: torch.multiply(x, 2), lambda x: torch.matmul(X, x), lambda x: X @ x, lambda x: X - x, lambda x: X / x, lambda x: X**x,
    lambda x: torch.maximum(x, X.flip(1)), lambda x: torch.minimum(X.flip(1), x), lambda x: torch.clip(x, 0.5, 2), lambda x: torch.clamp(x, min=0.5),
    lambda x: torch.where(X > 1, x, 0.0), lambda x: torch.where(X > 1, X, x), lambda x: torch.cat([X, x], 1), lambda x: torch.stack([x, X]),
    lambda x: torch.concatenate([x, x]), lambda x: torch.einsum("ij,jk->ki", x, X), lambda x: torch.transpose(x, 0, 1), lambda x: torch.swapaxes(x, 0, 1),
    lambda x: torch.permute(x, (1, 0)), lambda x: torch.reshape(x, (4,)), lambda x: torch.unsqueeze(x, 0), lambda x: torch.flip(x, (0,)),
]  # fmt: skip


@pytest.mark.parametrize("function", DISPATCHED)
def test_torch_functions_dispatch(function: Callable[[Any], Any]) -> None:
    x, t = Variable(X.clone(), requires_grad=True), X.clone().requires_grad_()
    y, expected = function(x), function(t)
    assert type(y) is Variable and y.requires_grad
    torch.testing.assert_close(y.data, expected.detach())
    seed = torch.rand_like(expected.detach())
    y.backward(seed)
    expected.backward(seed)
    torch.testing.assert_close(x.grad, t.grad)


def test_torchs_axis_is_its_dim() -> None:
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    assert torch.cat([a, b], axis=0).tolist() == [1.0, 2.0, 3.0, 4.0]  # type: ignore[call-overload]
    assert torch.sum(torch.stack([a, b], 0), axis=1).tolist() == [3.0, 7.0]  # type: ignore[call-overload]


def test_where_on_a_tensor_takes_its_operands_as_torch_does() -> None:
    """`input.where(condition, other)`, and `torch.where(condition, input, other)`."""
    condition, t = torch.tensor([True, False]), torch.tensor([3.0, 4.0])
    forms: list[Callable[[Any, Any], Any]] = [
        lambda a, b: a.where(condition, b), lambda a, b: a.where(condition, other=b), lambda a, b: torch.where(condition, a, b),
        lambda a, b: hg.where(condition, a, b), lambda a, b: torch.Tensor.where(a, condition, b) if isinstance(a, torch.Tensor) else a.where(condition, b),
    ]  # fmt: skip
    for form in forms:
        for a, b in ((leaf([1.0, 2.0]), t), (t, leaf([1.0, 2.0])), (leaf([5.0, 6.0]), leaf([1.0, 2.0]))):
            y = form(a, b)
            assert y.tolist() == [a[0].item(), b[1].item()]
            y.backward(torch.ones(2))
            assert not isinstance(a, Variable) or a.grad.tolist() == [1.0, 0.0]
            assert not isinstance(b, Variable) or b.grad.tolist() == [0.0, 1.0]
    flags = torch.tensor([True, True])
    assert flags.where(condition, leaf([0.0, 0.0])).tolist() == [1.0, 0.0]  # a mask as the left operand is a value there


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("stft", "declare a Primitive"), ("cat", r"hg\.cat"), ("add_", "in place"), ("histc", r"\.data"), ("cuda", r'to\("cuda"\)'),
    ],
)  # fmt: skip
def test_a_missing_method_says_what_to_use(name: str, instead: str) -> None:
    x = leaf([1.0, 2.0])
    assert not hasattr(x, name) and getattr(x, name, None) is None
    with pytest.raises(hg.NoMethodError, match=f"a Variable has no '{name}'.*{instead}"):
        getattr(x, name)
    with pytest.raises(AttributeError, match="'Parameter' object has no attribute 'fooo'"):
        _ = hg.Parameter([1.0]).fooo


@pytest.mark.parametrize("requires_grad", [True, False])
def test_joining_variables_by_a_constructor_names_stack(requires_grad: bool) -> None:
    x = Variable([1.0, 2.0], requires_grad)
    constructors: list[Callable[[], Any]] = [
        lambda: torch.tensor(x), lambda: torch.tensor([x[0], x[1]]), lambda: torch.as_tensor([x]), lambda: Variable([x[0], x[1]]), lambda: Variable([x, x]),
        lambda: hg.Parameter([x[0], 1.0]), lambda: torch.FloatTensor([x[0]]), lambda: x + hg.mul([x[0], x[1]], 1.0),
    ]  # fmt: skip
    if requires_grad:
        constructors += [lambda: np.array([x, x]), lambda: np.asarray(x[0]), lambda: np.stack([x, x])]
    for construct in constructors:
        with pytest.raises(hg.HotgradError, match=r"hg\.stack\(\[v0, v1\]\)"):
            construct()


REFUSED: list[tuple[str, Callable[[Any], Any]]] = [
    ("i0", torch.special.i0), ("mode", torch.mode), ("lu", torch.linalg.lu), ("rand_like", torch.rand_like), ("fft_fft", torch.fft.fft),
    ("exp", lambda x: torch.exp(x, out=torch.zeros(2, 2))), ("exp", lambda x: torch.exp(X, out=x)), ("scatter", lambda x: x.scatter(0, X.long(), x, reduce="add")),
    ("relu", lambda x: torch.nn.functional.relu(x, inplace=True)), ("Where", torch.where), ("eig", torch.linalg.eig),
]  # fmt: skip


@pytest.mark.parametrize(("name", "function"), REFUSED)
def test_torch_functions_without_counterpart_raise_and_name_themselves(name: str, function: Callable[[Any], Any]) -> None:
    x = Variable(X.clone(), requires_grad=True)
    with pytest.raises(TypeError) as caught:
        function(x)
    assert name in str(caught.value)
    assert torch.equal(x.data, X) and x.grad is None


@pytest.mark.parametrize(
    "function",
    [torch.tensor, torch.as_tensor, torch.from_numpy, torch.FloatTensor, lambda x: torch.tensor([x, x]), lambda x: X.new_tensor(x)],
)
def test_constructors_do_not_detach_silently(function: Callable[[Any], Any]) -> None:
    for x in (leaf([1.0, 2.0]), leaf([1.0])):
        with pytest.raises((TypeError, RuntimeError)):
            function(x)


def test_tensors_cannot_be_written_with_variables() -> None:
    x = leaf([1.0, 2.0])

    writers: list[Callable[[Any], Any]] = [
        *(lambda t, name=name: getattr(operator, name)(t, x) for name in ("iadd", "isub", "imul", "itruediv", "ipow")),
        lambda t: t.add_(x), lambda t: t.copy_(x), lambda t: t.mul_(x), lambda t: t.fill_(x[0]), lambda t: t.addcmul_(x, x), lambda t: operator.setitem(t, 0, x[0]),
    ]  # fmt: skip
    for write in writers:
        t = torch.zeros(2)
        with pytest.raises(hg.TapeError, match=r"t = t \S+ v"):
            write(t)
        assert t.tolist() == [0.0, 0.0] and t._version == 0


def test_variables_cannot_be_written() -> None:
    x = leaf([1.0, 2.0])
    with pytest.raises(hg.TapeError, match=r"where.*cat/stack.*data"):
        x[0] = 3.0
    with pytest.raises(hg.TapeError):
        x[x > 1] = 0.0
    assert x.tolist() == [1.0, 2.0] and x.data._version == 0
    y = x * 1
    kept = y
    y += 1.0  # makes a new Variable
    assert y is not kept and kept.tolist() == [1.0, 2.0]


def test_too_many_or_too_few_arguments() -> None:
    x = leaf([1.0])
    with pytest.raises(hg.OperandError, match="Tanh: got more arguments than its operands"):
        x.tanh(3)
    with pytest.raises(hg.OperandError, match=r"Where: takes 3 operands \(condition, a, b\); got 1"):
        hg.ops.Where.apply(x)
    with pytest.raises(hg.OperandError, match="the equation as a string"):
        hg.einsum(x, "i->i")
    with pytest.raises(hg.OperandError, match="the equation as a string"):
        hg.einsum("i->i")
    with pytest.raises(hg.OperandError, match="names 2 operands; got 1"):
        hg.einsum("i,i->i", x)
