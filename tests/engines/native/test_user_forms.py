"""The native form of a user's op is compared with its forward before it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hotgrad as hg
from hotgrad.engines.native.compiler import find_compiler
from hotgrad.engines.native.engine import native_form

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="there is no C compiler")


def declared(native: str, forward: Callable[..., Tensor], operands: int = 1, **fields: Any) -> Any:
    rules = (lambda g, out, *_, **__: g,) * operands
    return type("Own", (hg.Primitive,), {"native": native, "forward": staticmethod(forward), "vjps": rules, **fields}, register=False)


RIGHT = [
    ("{a} * 2", lambda a: a * 2, {}),
    ("{a} * sigmoid({a})", lambda a: a * torch.sigmoid(a), {}),
    ("{a} <= 0 ? 0 : {a} * {a}", lambda a: a.relu() ** 2, {}),
    ("log({a})", lambda a: a.log(), {"domain": (hg.Interval(0.0),)}),
    ("sqrt({a}) + {slope}", lambda a, *, slope=0.5: a.sqrt() + slope, {"domain": (hg.Interval(0.0, 4.0),)}),
    ("0.5 * {a} * (1 + tanh(0.7978845608 * ({a} + 0.044715 * {a} * {a} * {a})))",
     lambda a: torch.nn.functional.gelu(a, approximate="tanh"), {}),
    ("exp({a}) - 1", lambda a: torch.expm1(a), {}),  # less exact, but not another function
    ("floor({a} * 3)", lambda a: torch.floor(a * 3), {}),
    ("atan2({a}, {b})", lambda a, b: torch.atan2(a, b), {}),
    ("exp({a})", lambda a: a.exp(), {}),
    ("log1p({a})", lambda a: a.log1p(), {}),  # NaN below -1, by both
    ("{a} / (1 + exp(-{a}))", lambda a: torch.nn.functional.silu(a), {}),
    ("1 / (1 + exp(-{a}))", lambda a: torch.sigmoid(a), {}),
    ("{a} > 20 ? {a} : log1p(exp({a}))", lambda a: torch.nn.functional.softplus(a), {}),
    ("{a} * tanh(log1p(exp({a})))", lambda a: torch.nn.functional.mish(a), {}),
    ("{a} > 0 ? {a} : exp({a}) - 1", lambda a: torch.nn.functional.elu(a), {}),
    ("{a} / (1 + fabs({a}))", lambda a: torch.nn.functional.softsign(a), {}),
    ("sqrt({a} * {a} + 1) - {a}", lambda a: 1 / ((a * a + 1).sqrt() + a), {"domain": (hg.Interval(0.0, 1e6),)}),
    ("sin({a})", lambda a: a.sin(), {}),
    ("1 / {a}", lambda a: a.reciprocal(), {}),
    ("{a} * {a} * {b}", lambda a, b: a * (a * b), {}),
    ("{a} / {b}", lambda a, b: a / b, {}),
    ("sum", lambda a: a.sum(), {}),
]  # fmt: skip
WRONG = [
    ("{a} * 3", lambda a: a * 2, {}),
    ("-({a} * 2)", lambda a: a * 2, {}),
    ("{a} * 1.001", lambda a: a * 1.0, {}),
    ("{a} + 1e-4", lambda a: a + 0.0, {}),
    ("{a} < 0 ? 0 : {a}", lambda a: torch.where(a < 1.5, 0.0, a), {}),
    ("sqrt({a})", lambda a: a.sqrt() + 1e-3 * (a > 3), {"domain": (hg.Interval(0.0, 4.0),)}),
    ("{b} - {a}", lambda a, b: a - b, {}),
    ("({a} > 20 ? 0 : {a})", lambda a: a * 1, {}),
    ("({a} < -600 ? 0 : {a})", lambda a: a * 1, {}),
    ("({a} > 5e5 ? 0 : {a})", lambda a: a * 1, {}),
    ("({a} > 1e20 ? 1e20 : {a})", lambda a: a * 1, {}),
    ("(fabs({a}) > 0 && fabs({a}) < 2e-8 ? 1 : {a} * 2)", lambda a: a * 2, {}),
    ("({a} == 3 ? 4 : {a})", lambda a: a * 1, {}),
    ("log(1 + exp({a}))", lambda a: torch.nn.functional.softplus(a), {}),  # infinite where forward is not
    ("exp({a} > 80 ? 80 : {a})", lambda a: a.exp(), {}),  # finite where forward is not
    ("({a} > 50 ? 0 : {a})", lambda a: a * 1, {"domain": (hg.Interval(40.0, 60.0),)}),
    ("({a} > 1020 ? 0 : {a})", lambda a: a * 1, {"domain": (hg.Interval(1000.0),)}),
    ("{a} + ({b} > 20 ? 20 : {b})", lambda a, b: a + b, {}),
    ("({a} > 20 && {b} > 20 ? 0 : {a} + {b})", lambda a, b: a + b, {}),
    ("{a} * {slope}", lambda a, *, slope=0.5: a / slope, {}),
    ("sum", lambda a: a.mean(), {}),
    ("amax", lambda a: a.amin(), {}),
]  # fmt: skip


def program(op: Any, forward: Callable[..., Tensor], dtype: torch.dtype) -> Any:
    names = forward.__code__.co_varnames[: forward.__code__.co_argcount]
    return hg.capture(lambda *xs: op.apply(*xs), *(torch.rand(4, dtype=dtype) for _ in names))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("native", "forward", "fields"), RIGHT, ids=[native for native, *_ in RIGHT])
def test_a_right_form_runs(native: str, forward: Callable[..., Tensor], fields: dict[str, Any], dtype: torch.dtype) -> None:
    op = declared(native, forward, forward.__code__.co_argcount, **fields)
    x = [torch.linspace(0.1, 0.9, 4, dtype=dtype)] * forward.__code__.co_argcount
    found = program(op, forward, dtype).to("native")(*x)
    assert torch.allclose(found, forward(*x), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("native", "forward", "fields"), WRONG, ids=[native for native, *_ in WRONG])
def test_a_wrong_form_is_refused(native: str, forward: Callable[..., Tensor], fields: dict[str, Any], dtype: torch.dtype) -> None:
    op = declared(native, forward, forward.__code__.co_argcount, **fields)
    with pytest.raises(
        hg.EngineError, match=r"Own: its native form .* is not what forward computes: for a = .* natively, and .* by forward"
    ):
        program(op, forward, dtype).to("native")


def test_the_message_names_the_input_and_both_values() -> None:
    op = declared("{a} * 3", lambda a: a * 2)
    with pytest.raises(hg.EngineError, match=r"for a = 1\.0 element \(2,\) of the result is 3 natively, and 2 by forward"):
        hg.capture(lambda x: op.apply(x), torch.rand(4)).to("native")


def test_a_form_is_tried_on_more_than_the_one_element_of_its_program() -> None:
    op = declared("({a} > 20 ? 0 : {a})", lambda a: a * 1)
    with pytest.raises(hg.EngineError, match="is not what forward computes"):
        hg.capture(lambda x: op.apply(x), torch.tensor(1.0)).to("native")
    op = declared("{a} * ({b} > 20 ? 0 : {b})", lambda a, b: a * b, operands=2)
    with pytest.raises(hg.EngineError, match="is not what forward computes"):
        hg.capture(lambda x, y: op.apply(x, y), torch.ones(3), torch.tensor(1.0)).to("native")


def test_integers_are_tried_beyond_small_ones() -> None:
    op = declared("({b} > 20 ? 0 : {a})", lambda a, b: a * 1, operands=2)
    with pytest.raises(hg.EngineError, match="is not what forward computes"):
        hg.capture(lambda x, y: op.apply(x, y), torch.ones(3), torch.ones(3, dtype=torch.int64)).to("native")


def test_a_forward_that_refuses_large_values_is_compared_on_small_ones() -> None:
    def below(a: Tensor) -> Tensor:
        if bool((a.abs() > 12).any()):
            raise ValueError("too large")
        return a * 2

    op = declared("{a} == 10 ? 1 : {a} * 2", below)
    with pytest.raises(hg.EngineError, match="is not what forward computes"):
        hg.capture(lambda x: op.apply(x), torch.ones(3)).to("native")


def test_what_forward_refuses_is_left_to_the_program() -> None:
    def only_small(a: Tensor) -> Tensor:
        if bool((a.abs() > 1).any()):
            raise ValueError("too large")
        return a * 2

    op = declared("{a} * 2", only_small)
    assert hg.capture(lambda x: op.apply(x), torch.rand(4)).to("native")(torch.ones(4)).tolist() == [2.0] * 4


def test_an_op_whose_forward_is_not_elementwise_is_tried_on_the_shapes_of_the_program() -> None:
    op = declared("{a} * 2", lambda a: a.mul(2) if a.ndim == 2 else a.foo())
    assert hg.capture(lambda x: op.apply(x), torch.rand(2, 3)).to("native")(torch.ones(2, 3)).sum() == 12
    op = declared("{a} * 2", lambda a: a.mul(3) if a.ndim == 2 else a.foo())
    with pytest.raises(hg.EngineError, match="Own"):
        hg.capture(lambda x: op.apply(x), torch.rand(2, 3)).to("native")


def test_a_native_form_by_itself() -> None:
    op = declared("{a} * 3 + {shift}", lambda a, *, shift=1.0: a * 2 + shift)
    for operand, options, result in ((torch.tensor([1.0, 2.0]), {}, [4.0, 7.0]), (torch.tensor(1.0).double(), {"shift": 0.5}, 3.5)):
        form, engine = native_form(op, [operand], options)
        assert form.run(engine).tolist() == result
    with pytest.raises(hg.EngineError, match="no native form"):
        native_form(declared("", lambda a: a * 2), [torch.ones(2)], {})


def test_a_form_may_be_a_function_of_ops_to_any_depth() -> None:
    class Centred(hg.Primitive, register=False):
        """`a` less its mean."""

        forward = staticmethod(lambda a, *, dim: a - a.mean(dim, keepdim=True))
        vjps = (lambda g, out, a, dim: g - g.mean(dim, True),)
        reads = ("",)
        native = staticmethod(lambda a, *, dim: a - a.mean(dim, True))

    class Spread(hg.Primitive, register=False):
        """The softmax of what is centred, and a table added."""

        forward = staticmethod(lambda a: torch.softmax(a - a.mean(-1, keepdim=True), -1) + torch.arange(4.0))
        vjps = (None,)
        native = staticmethod(lambda a: hg.softmax(Centred.apply(a, dim=-1), -1) + torch.tensor([0.0, 1.0, 2.0, 3.0]))

    x = torch.randn(3, 4)
    program = hg.capture(lambda x: Spread.apply(x) * 2.0, x)
    assert torch.allclose(program.to("native")(x), program(x), atol=1e-6)


OUTSIDE = hg.Parameter([2.0])


@pytest.mark.parametrize(
    ("native", "message"),
    [
        (lambda a: a * 3.0, "is not what forward computes"),
        (lambda a: NotImplemented, "Doubled of float32\\(4,\\) has no native form"),
        (lambda a: a.sum(), "its native function gave float32\\(\\); forward gives float32\\(4,\\)"),
        (lambda a: 2.0, "its native function gave 2.0"),
        (lambda a: a * float(a.sum()), "Doubled: its native function failed: a value was read while capturing"),
        (lambda a: a * torch.rand(4), "Doubled: its native function failed: torch's 'rand'"),
        (lambda a, b: a, "Doubled: its native function failed"),
        (lambda a: a * OUTSIDE, "it may read neither Parameters nor buffers"),
        (lambda a: hg.functional.dropout(a, 0.5), "nor draw random numbers"),
    ],
)
def test_functions_that_are_no_forms_are_refused(native: Any, message: str) -> None:
    class Doubled(hg.Primitive, register=False):
        """Twice `a`."""

        forward = staticmethod(lambda a: a * 2)
        vjps = (lambda g, out, a: g * 2,)

    Doubled.native = staticmethod(native)
    with pytest.raises(hg.EngineError, match=message):
        hg.capture(lambda x: Doubled.apply(x), torch.randn(4)).to("native")
    assert hg.tape() is not None and hg.primitives()


def test_a_function_may_add_up_integers_as_doubles() -> None:
    class Total(hg.Primitive, register=False):
        """The sum of whole numbers or truth values, as a double."""

        forward = staticmethod(lambda a: a.to(torch.float64).sum())
        vjps = (None,)
        native = staticmethod(lambda a: a.to(torch.float64).sum())

    for x in (torch.arange(7), torch.arange(7) > 2, torch.rand(3, 5), torch.arange(4, dtype=torch.int32)):
        program = hg.capture(lambda a: Total.apply(a), x)
        assert torch.equal(program.to("native")(x), program(x)) or x.is_floating_point()
