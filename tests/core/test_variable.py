"""Variables: what they wrap, what they tell, how they are copied, and what they refuse."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from graphs import leaf

import hotgrad as hg
from hotgrad import Variable

pytestmark = pytest.mark.usefixtures("tape")

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


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
    assert x.to(None).dtype is torch.float32
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


def test_a_gradient_may_be_a_variable() -> None:
    x = leaf([1.0, 2.0])
    x.grad = given = hg.Variable([5.0, 6.0])
    assert x.grad is given
    (x * 2).sum().backward()
    assert x.grad.tolist() == [7.0, 8.0]
