"""Variables: what they wrap, what they tell, what stands on either side of an operator, and what they refuse."""

from __future__ import annotations

import copy
import gc
import io
import operator
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import hotgrad as hg
from hotgrad import Variable

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def _tape() -> Iterator[None]:
    """A tape of its own for each test, on which others' leftovers do not show."""
    gc.freeze()  # what is there already need not be looked through for records
    with hg.Tape():
        yield
    gc.unfreeze()


def leaf(data: Any, dtype: torch.dtype | None = None, name: str | None = None) -> Any:
    return Variable(torch.tensor(data, dtype=dtype), requires_grad=True, name=name)


# ---------------------------------------------------------------------------------------------------------- construction


def test_a_tensor_is_wrapped_without_a_copy() -> None:
    t = torch.tensor([1.0, 2.0])
    v = Variable(t)
    assert v.data.data_ptr() == t.data_ptr()
    t[0] = 5.0
    assert v.data[0] == 5.0


def test_a_tensor_of_torchs_graph_is_detached() -> None:
    t = torch.ones(2, requires_grad=True)
    for wrapped in (Variable(t), Variable(t * 2), Variable(torch.nn.Parameter(torch.ones(2)))):
        assert not wrapped.data.requires_grad
        assert wrapped.data.grad_fn is None
        assert not wrapped.requires_grad
    v = Variable(t, requires_grad=True)
    (v * v).sum().backward()
    assert t.grad is None
    assert torch.equal(v.grad, torch.full((2,), 2.0))


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (1.5, torch.float32, ()),
        (3, torch.int64, ()),
        (True, torch.bool, ()),
        ([1.0, 2.0], torch.float32, (2,)),
        ([[1, 2], [3, 4]], torch.int64, (2, 2)),
        ([], torch.float32, (0,)),
        ((1.0, 2.0), torch.float32, (2,)),
        (np.ones((2, 3)), torch.float64, (2, 3)),
        (np.ones(2, dtype=np.float16), torch.float16, (2,)),
        (np.float32(2.0), torch.float32, ()),
        (np.int64(2), torch.int64, ()),
        (np.array(2.0), torch.float64, ()),
    ],
)
def test_data_of_other_kinds(data: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    v = Variable(data)
    assert v.dtype is dtype
    assert v.shape == shape


def test_numpy_arrays_are_copied() -> None:
    array = np.zeros(2)
    v = Variable(array)
    array[0] = 7.0
    assert v.tolist() == [0.0, 0.0]


def test_a_variable_without_gradient_can_be_wrapped_again() -> None:
    v = Variable([1.0])
    assert Variable(v).data is v.data


def test_attributes() -> None:
    x = leaf([[1.0, 2.0, 3.0]], name="x")
    assert (x.shape, x.dtype, x.device, x.ndim, x.dim(), x.numel()) == ((1, 3), torch.float32, torch.device("cpu"), 2, 2, 3)
    assert (x.size(), x.size(1), x.size(-1)) == ((1, 3), 3, 3)
    assert x.is_leaf and x.requires_grad and x.previous_op is None and x.grad is None and x.name == "x"
    assert x.T.shape == (3, 1) and x.mT.shape == (3, 1)
    y = x * 2
    assert not y.is_leaf and y.requires_grad and y.previous_op is hg.ops.Mul and y.name is None
    y.name = "y"
    assert y.name == "y" and "name='y'" in repr(y)
    y.sum().backward()
    assert y.previous_op is hg.ops.Mul
    assert not y.is_leaf
    constant = Variable([1.0]) * 2
    assert constant.is_leaf and not constant.requires_grad and constant.previous_op is None


def test_requires_grad_can_be_switched_on_leaves() -> None:
    x = leaf([1.0, 2.0])
    x.requires_grad = False
    assert not (x * 2).requires_grad
    x.requires_grad = True
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]
    x.requires_grad = False
    assert x.grad.tolist() == [2.0, 2.0]


def test_hash_and_identity() -> None:
    x, y = leaf([1.0]), leaf([1.0])
    assert len({x, y, x}) == 2
    assert {x: 1}[x] == 1
    for stranger in (None, "text", (1.0,), int):
        assert (x == stranger) is False and (x != stranger) is True


def test_assigning_data() -> None:
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    x.data = torch.tensor([10.0, 20.0])
    y.backward()  # the record keeps the old tensor
    assert x.grad.tolist() == [2.0, 4.0]
    assert (x * 1).tolist() == [10.0, 20.0]
    for wrong, error in (
        (torch.zeros(3), hg.ShapeError),
        (torch.zeros(2, dtype=torch.float64), hg.DtypeError),
        (torch.zeros(2, device="meta"), hg.DeviceError),
    ):
        with pytest.raises(error, match="data must"):
            x.data = wrong
    assert x.tolist() == [10.0, 20.0]
    y = x * 2
    with pytest.raises(hg.TapeError, match=r"leaves only.*Mul"):
        y.data = torch.zeros(2)


def test_assigning_grad() -> None:
    x = leaf([1.0, 2.0])
    x.grad = torch.ones(2)
    (x * 3).sum().backward()
    assert x.grad.tolist() == [4.0, 4.0]
    for wrong, error in (
        (torch.zeros(3), hg.ShapeError),
        (torch.zeros(2, dtype=torch.float64), hg.DtypeError),
        (torch.zeros(2, device="meta"), hg.DeviceError),
        ([1.0, 2.0], hg.OperandError),
        (1.0, hg.OperandError),
    ):
        with pytest.raises(error, match="grad must"):
            x.grad = wrong
    assert x.grad.tolist() == [4.0, 4.0]
    x.zero_grad()
    assert x.grad is None


@pytest.mark.parametrize("given", [torch.ones(1).expand(2), torch.ones(2, requires_grad=True), torch.ones(2, 2).T[0]])
def test_any_tensor_assigned_as_grad_can_be_added_to(given: torch.Tensor) -> None:
    x, y = leaf([1.0, 2.0]), leaf([1.0, 2.0])
    y.grad = given
    (x * y).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0]
    assert y.grad.tolist() == [2.0, 3.0]
    assert not y.grad.requires_grad


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
    lambda x: torch.maximum(x, X), lambda x: torch.minimum(X, x), lambda x: torch.clip(x, 0.5, 2), lambda x: torch.clamp(x, min=0.5),
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


REFUSED: list[tuple[str, Callable[[Any], Any]]] = [
    ("floor", torch.floor), ("argmax", torch.argmax), ("isnan", torch.isnan), ("linear", lambda x: torch.nn.functional.linear(X, x)),
    ("gelu", torch.nn.functional.gelu), ("zeros_like", torch.zeros_like), ("allclose", lambda x: torch.allclose(x, X)), ("bmm", lambda x: torch.bmm(x, x)),
    ("exp", lambda x: torch.exp(x, out=torch.zeros(2, 2))), ("exp", lambda x: torch.exp(X, out=x)), ("add", lambda x: torch.add(x, x, alpha=2)),
    ("div", lambda x: torch.div(x, x, rounding_mode="floor")), ("Sum", lambda x: torch.sum(x, dtype=torch.float32)), ("max", lambda x: torch.max(x, 0)),
    ("relu", lambda x: torch.nn.functional.relu(x, inplace=True)), ("Softmax", lambda x: torch.softmax(x, 0, torch.float32)),
    ("special_erf", torch.special.erf), ("linalg_inv", torch.linalg.inv), ("Clip", lambda x: torch.clip(X, x[0, 0])), ("Where", torch.where),
    ("Unfold", lambda x: torch.nn.functional.unfold(x, 2)), ("full", lambda x: torch.full((2,), x[0, 0])), ("masked_fill", lambda x: X.masked_fill(X > 1, x[0, 0])),
]  # fmt: skip


@pytest.mark.parametrize(("name", "function"), REFUSED)
def test_torch_functions_without_counterpart_raise_and_name_themselves(name: str, function: Callable[[Any], Any]) -> None:
    x = Variable(X.clone(), requires_grad=True)
    with pytest.raises(hg.OperandError) as caught:
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
        with pytest.raises(hg.TapeError, match="t = t \\+ v"):
            write(t)
        assert t.tolist() == [0.0, 0.0] and t._version == 0


def test_variables_cannot_be_written() -> None:
    x = leaf([1.0, 2.0])
    with pytest.raises(hg.TapeError, match=r"where.*cat/stack.*data"):
        x[0] = 3.0
    with pytest.raises(hg.TapeError):
        x[x > 1] = 0.0
    assert x.tolist() == [1.0, 2.0] and x.data._version == 0
    y = x
    y += 1.0  # makes a new Variable
    assert y is not x and x.tolist() == [1.0, 2.0]


# ------------------------------------------------------------------------------------------------------- values for Python


def test_iteration_gives_rows_of_the_graph() -> None:
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    a, b = x
    (a * 10 + b).sum().backward()
    assert x.grad.tolist() == [[10.0, 10.0], [1.0, 1.0]]
    assert len(x) == 2 and len(list(x[0])) == 2
    assert float(sum(leaf([1.0, 2.0, 3.0]))) == 6.0
    assert 2.0 in leaf([1.0, 2.0]) and 5.0 not in leaf([1.0, 2.0])
    assert list(Variable(torch.zeros(0, 3))) == []
    for call in (len, list):
        with pytest.raises(hg.OperandError, match="0-d"):
            call(leaf(1.0))


@pytest.mark.parametrize("data", [2.0, [2.0], [[2.0]]])
def test_one_element_converts(data: Any) -> None:
    x = leaf(data)
    assert (float(x), int(x), bool(x), x.item(), f"{x:.2f}") == (2.0, 2, True, 2.0, "2.00")
    assert not bool(leaf(0.0))
    assert Variable(7).item() == 7 and isinstance(Variable(7).item(), int)
    assert f"{x}" == repr(x)


@pytest.mark.parametrize("convert", [float, int, bool, Variable.item, lambda v: f"{v:.2f}"])
@pytest.mark.parametrize("shape", [(2,), (0,), (2, 2), (1, 0)])
def test_several_or_no_elements_do_not_convert(convert: Callable[[Any], Any], shape: tuple[int, ...]) -> None:
    with pytest.raises(hg.ShapeError, match="one element") as caught:
        convert(Variable(torch.zeros(shape)))
    assert isinstance(caught.value, ValueError) and str(shape) in str(caught.value)


def test_repr_tells_origin() -> None:
    assert repr(Variable([1.0])) == "Variable([1.])"
    assert repr(leaf([1.0], name="w")) == "Variable([1.], requires_grad=True, name='w')"
    assert repr(leaf([1.0]) * 2) == "Variable([2.], op=Mul)"
    assert repr(hg.Parameter([1.0])) == "Parameter([1.], requires_grad=True)"


def test_detach_shares_data_and_leaves_the_graph() -> None:
    x = leaf([1.0, 2.0])
    d = (x * 2).detach()
    assert not d.requires_grad and d.is_leaf and not (d * 3).requires_grad
    assert x.detach().data is x.data


# ------------------------------------------------------------------------------------------------------ copying and pickling


def through_pickle(v: Variable) -> Variable:
    return pickle.loads(pickle.dumps(v))  # type: ignore[no-any-return]


def through_torch(v: Variable) -> Variable:
    file = io.BytesIO()
    torch.save(v, file)
    file.seek(0)
    return torch.load(file, weights_only=False)  # type: ignore[no-any-return]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, through_pickle, through_torch])
@pytest.mark.parametrize("kind", [Variable, hg.Parameter])
@pytest.mark.parametrize("dtype", FLOATS)
def test_leaves_can_be_copied(duplicate: Callable[[Variable], Variable], kind: type[Variable], dtype: torch.dtype) -> None:
    x = kind(torch.tensor([1.0, 2.0], dtype=dtype), requires_grad=True, name="x")
    (x * 3).sum().backward()
    y = duplicate(x)
    assert type(y) is kind and y.name == "x" and y.requires_grad and y.dtype is dtype
    assert torch.equal(y.data, x.data) and torch.equal(y.grad, x.grad)
    assert (y.data.data_ptr() == x.data.data_ptr()) is (duplicate is copy.copy)
    (x * 3).sum().backward()
    assert y.grad.tolist() == [3.0, 3.0]
    (y * 2).sum().backward()
    assert x.grad.tolist() == [6.0, 6.0] and y.grad.tolist() == [5.0, 5.0]
    frozen = duplicate(kind(torch.ones(1), requires_grad=False))
    assert not frozen.requires_grad and frozen.grad is None and frozen.name is None


def test_deepcopy_keeps_shared_variables_shared() -> None:
    x = leaf([1.0])
    a, b = copy.deepcopy([x, x])
    assert a is b and a is not x


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_other_variables_refuse_to_be_copied(duplicate: Callable[[Variable], Any]) -> None:
    x = leaf([1.0, 2.0])
    y = x * 2
    with pytest.raises(hg.TapeError, match=r"only leaf Variables.*detach\(\)"):
        duplicate(y)
    if duplicate is not copy.copy:
        with pytest.raises(hg.TapeError):
            duplicate([y])  # type: ignore[arg-type]
    duplicate(y.detach())
    (x * x).sum().backward(create_graph=True)
    with pytest.raises(hg.TapeError):
        duplicate(x)  # its grad belongs to a graph


# --------------------------------------------------------------------------------------------------------- dtypes, devices


@pytest.mark.parametrize("dtype", FLOATS)
def test_floating_dtypes_may_require_gradients(dtype: torch.dtype) -> None:
    x = leaf([1.0, 2.0, 3.0], dtype)
    y = ((x * x + 1) / 2 - x).sum()
    assert y.dtype is dtype
    y.backward()
    assert x.grad.dtype is dtype and x.grad.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool])
def test_other_dtypes_may_not(dtype: torch.dtype) -> None:
    with pytest.raises(hg.DtypeError, match="floating"):
        Variable(torch.ones(2, dtype=dtype), requires_grad=True)
    v = Variable(torch.ones(2, dtype=dtype))
    with pytest.raises(hg.DtypeError, match="floating"):
        v.requires_grad = True
    assert not v.requires_grad
    assert (v * leaf([1.0, 2.0])).requires_grad


@pytest.mark.parametrize("first", FLOATS)
@pytest.mark.parametrize("second", FLOATS)
@pytest.mark.parametrize("create_graph", [False, True])
def test_mixed_dtypes_promote_and_gradients_come_back_in_the_leafs_own(first: torch.dtype, second: torch.dtype, create_graph: bool) -> None:
    a, b = leaf([1.0, 2.0], first), leaf([[3.0], [4.0]], second)
    s = leaf(2.0, torch.float64)  # 0-d: does not promote
    y = a * b + s * a
    assert y.dtype is torch.promote_types(first, second)
    y.backward(torch.ones_like(y.data), create_graph=create_graph)
    assert (a.grad.dtype, b.grad.dtype, s.grad.dtype) == (first, second, torch.float64)
    assert (a.grad.tolist(), b.grad.tolist(), s.grad.tolist()) == ([11.0, 11.0], [[3.0], [3.0]], 6.0)


def test_to() -> None:
    x = leaf([1.5, 2.5])
    y = x.to(torch.float64)
    assert y.previous_op is hg.ops.Cast and y.dtype is torch.float64
    (y * 2).sum().backward()
    assert x.grad.dtype is torch.float32 and x.grad.tolist() == [2.0, 2.0]
    assert x.to("cpu", torch.float16).dtype is torch.float16
    assert x.to(torch.zeros(1, dtype=torch.bfloat16)).dtype is torch.bfloat16
    assert x.to(Variable(torch.zeros(1, dtype=torch.float64))).dtype is torch.float64
    assert x.to(dtype=torch.float64).dtype is torch.float64
    assert x.to(torch.device("meta")).device.type == "meta"
    whole = x.to(torch.int64)
    assert whole.tolist() == [1, 2] and not whole.requires_grad
    for wrong in (1.5, object(), True):
        with pytest.raises(hg.OperandError, match="to:"):
            x.to(wrong)
    with pytest.raises((hg.HotgradError, RuntimeError)):
        x.to("nowhere")


def test_operands_on_different_devices() -> None:
    x = leaf([1.0, 2.0])
    far = torch.ones(2, device="meta")
    calls: list[Callable[[], Any]] = [lambda: x + far, lambda: far * x, lambda: hg.maximum(x, far)]
    for call in calls:
        with pytest.raises(hg.DeviceError, match=r"cpu.*meta|meta.*cpu") as caught:
            call()
        assert isinstance(caught.value, ValueError) and "to(device)" in str(caught.value)
    assert len(hg.tape()) == 0


@pytest.mark.parametrize("device", ["cpu", "meta"] + (["cuda"] if torch.cuda.is_available() else []))
def test_gradients_stay_on_the_leafs_device(device: str) -> None:
    x = Variable(torch.ones(2, 3, device=device), requires_grad=True)
    w = Variable(torch.ones(3, 4, device=device), requires_grad=True)
    ((x @ w).tanh() * 2).sum().backward()
    assert x.grad.device == x.device and x.grad.shape == (2, 3)
    assert w.grad.device == w.device and w.grad.shape == (3, 4)
    if device == "cuda":
        scalar = leaf(2.0)  # 0-d, on the CPU, joins any device
        (x * scalar).sum().backward()
        assert scalar.grad.device.type == "cpu" and scalar.grad.item() == 6.0


# -------------------------------------------------------------------------------------------------------------- what it refuses


def test_data_that_is_refused() -> None:
    for data, error in (
        (torch.tensor([1j]), hg.DtypeError),
        (np.array([1j]), hg.DtypeError),
        (1j, hg.DtypeError),
        ("text", hg.OperandError),
        (None, hg.OperandError),
        (object(), hg.OperandError),
        ([[1.0], [1.0, 2.0]], hg.OperandError),
        (np.array([None]), hg.OperandError),
        ({"a": 1}, hg.OperandError),
        (torch.eye(2).to_sparse(), hg.OperandError),
    ):
        with pytest.raises(error) as caught:
            Variable(data)
        assert isinstance(caught.value, TypeError)


def test_wrapping_never_loses_a_graph() -> None:
    x = leaf([1.0, 2.0])
    for data in (x, x * 2, [x[0], x[1]]):
        with pytest.raises(hg.OperandError):
            Variable(data)


def test_inference_tensors_are_refused() -> None:
    with torch.inference_mode():
        t = torch.ones(2)
    for call in (lambda: Variable(t), lambda: leaf([1.0, 2.0]) * t, lambda: leaf([1.0, 2.0]).backward(t)):
        with pytest.raises(hg.OperandError, match=r"inference.*clone"):
            call()
    x = leaf([1.0, 2.0])
    with torch.inference_mode(), pytest.raises(hg.OperandError, match="inference"):
        x.exp()
    y = x.sum()
    with torch.inference_mode(), pytest.raises(hg.TapeError, match="inference"):
        y.backward()
    y.backward()
    assert x.grad.tolist() == [1.0, 1.0]
