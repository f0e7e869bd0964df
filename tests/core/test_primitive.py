"""Declaring ops: the form, every way to get it wrong, and what rules may read and return."""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from graphs import leaf

import hotgrad as hg
from hotgrad import Variable
from hotgrad.core import operators
from hotgrad.core.methods import WRITERS, Methods

pytestmark = pytest.mark.usefixtures("tape")


@pytest.fixture(autouse=True)
def _operators() -> Iterator[None]:
    """No operator is left behind."""
    providers = dict(operators._PROVIDERS)
    yield
    for name in set(operators._PROVIDERS) - set(providers):
        del operators._PROVIDERS[name]
        delattr(Methods, name)
        if WRITERS.pop(f"__i{name[2:]}", None):
            delattr(Methods, f"__i{name[2:]}")


def declare(called: str = "Declared", /, *, register: bool = False, **body: Any) -> Any:
    if "forward" in body:
        body["forward"] = staticmethod(body["forward"])
    if "vjp" in body:
        body["vjp"] = staticmethod(body["vjp"])
    return type(called, (hg.Primitive,), {"__module__": __name__, **body}, register=register)


def one(rule: Any, reads: Any = None, forward: Callable[..., Any] = lambda a: a * 1) -> Any:
    return declare(forward=forward, vjps=(rule,), **({} if reads is None else {"reads": reads}))


# ---------------------------------------------------------------------------------------------------------------- the form


def test_the_form_of_the_documentation() -> None:
    class Length(hg.Primitive):
        """sqrt(a^2 + b^2), element by element."""

        domain = (hg.Interval(0.5), hg.Interval(0.5))

        @staticmethod
        def forward(a: Any, b: Any) -> Any:
            return torch.hypot(a, b)

        vjps = (lambda g, out, a, b: g * a / out, lambda g, out, a, b: g * b / out)
        reads = ("a out", "b out")

    assert hg.primitives()["Length"] is Length
    assert (Length.name, Length.function, Length.arity, Length.operand_names, Length.defaults) == ("Length", "length", 2, ("a", "b"), {})
    assert Length.differentiable and Length.apply.__name__ == "length" and Length.apply.__doc__ == Length.__doc__
    x, y = leaf([3.0, 5.0]), leaf([4.0, 12.0])
    z = Length.apply(x, y)
    assert z.tolist() == [5.0, 13.0] and z.previous_op is Length
    z.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([3 / 5, 5 / 13]))
    torch.testing.assert_close(y.grad, torch.tensor([4 / 5, 12 / 13]))
    (first,) = hg.gradients(Length.apply(x, y).sum(), x, create_graph=True)
    assert first is not None
    (second,) = hg.gradients(first.sum(), x)
    assert second is not None
    torch.testing.assert_close(second.data, torch.tensor([16 / 125, 144 / 2197]))
    assert type(Length.apply(torch.ones(1), torch.ones(1))) is torch.Tensor
    assert type(Length.apply(torch.ones(1), np.array([4.0]))) is torch.Tensor


def test_options_are_keyword_only_and_reach_the_rules() -> None:
    class Scaled(hg.Primitive, register=False):
        @staticmethod
        def forward(a: Any, *, by: float, shift: float = 0.0) -> Any:
            return a * by + shift

        vjps = (lambda g, out, a, by, shift: g * by,)
        reads = ("",)

    x = leaf([1.0, 2.0])
    assert Scaled.defaults == {"by": inspect.Parameter.empty, "shift": 0.0}
    for y in (Scaled.apply(x, 3.0), Scaled.apply(x, by=3.0), Scaled.apply(x, 3.0, 0.0), Scaled.apply(x, 3.0, shift=0.0)):
        x.zero_grad()
        y.sum().backward()
        assert x.grad.tolist() == [3.0, 3.0]
    with pytest.raises(hg.OperandError, match="Scaled: missing option 'by'"):
        Scaled.apply(x)
    with pytest.raises(hg.OperandError, match="unknown option 'factor'; it takes by, shift"):
        Scaled.apply(x, 3.0, factor=1)
    assert "Scaled" not in hg.primitives()


def test_any_number_of_operands() -> None:
    seen: list[int] = []

    def rule(index: int, g: Any, out: Any, *tensors: Any, weight: float) -> Any:
        seen.append(index)
        return g * weight * (index + 1)

    weighted = declare(forward=lambda *tensors, weight=1.0: sum((i + 1) * t for i, t in enumerate(tensors)) * weight, vjp=rule, reads="")
    assert weighted.arity is None and weighted.operand_names == ("tensors",)
    x, constant, y = leaf([1.0, 2.0]), torch.ones(2), leaf([3.0, 4.0])
    weighted.apply(x, constant, y, x, weight=2.0).sum().backward()
    assert seen == [0, 2, 3] and x.grad.tolist() == [10.0, 10.0] and y.grad.tolist() == [6.0, 6.0]
    product = declare(forward=lambda *ts: ts[0] * ts[1], vjp=lambda index, g, out, *ts: g * ts[1 - index], reads="ts")
    z = product.apply(x, y)
    assert len(z._link.saved()) == 2


def test_abstract_bases_are_no_ops() -> None:
    class Base(hg.Primitive, abstract=True):
        vjps = (lambda g, out, a: g * 2,)
        reads = ("",)

    class Child(Base, register=False):
        forward = staticmethod(lambda a: a * 2)

    assert "Base" not in hg.primitives() and not hasattr(Base, "apply")
    x = leaf([1.0])
    Child.apply(x).backward()
    assert x.grad.tolist() == [2.0]


def test_kernels_that_do_not_tell_their_parameters() -> None:
    exp = one(lambda g, out, a: g * out, ("out",), torch.exp)
    assert exp.operand_names == ("a",)
    logaddexp = declare(forward=torch.logaddexp, vjps=(lambda g, out, x, y: g * (x - out).exp(), lambda g, out, x, y: g * (y - out).exp()))
    assert logaddexp.operand_names == ("x", "y")
    a, b = leaf([1.0]), leaf([2.0])
    logaddexp.apply(a, b).backward()
    assert a.grad.item() + b.grad.item() == pytest.approx(1.0)
    nothing = declare(forward=torch.eq, vjps=(None, None))
    assert nothing.operand_names == ("a", "b") and not nothing.differentiable


def test_the_registry_is_read_only_and_in_order() -> None:
    before = list(hg.primitives())
    declare("Later", register=True, forward=lambda a: a * 1, vjps=(hg.zero,), reads="")
    assert list(hg.primitives()) == [*before, "Later"]
    with pytest.raises(TypeError):
        operator.setitem(hg.primitives(), "Mul", hg.ops.Add)  # type: ignore[call-overload]


def test_a_name_may_be_given() -> None:
    declare("Anything", register=True, name="Chosen", function="", forward=lambda a: a * 1, vjps=(hg.zero,), reads="")
    assert "Chosen" in hg.primitives() and "Anything" not in hg.primitives()
    assert not hasattr(hg, "chosen")


# ------------------------------------------------------------------------------------------------------- wrong declarations

ONE: dict[str, Any] = {"forward": lambda a: a * 1, "vjps": (None,)}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("a native form of other operands", {**ONE, "native": "{a} + {b}"}, r"`native` names {b}; it may name a$"),
    ("a native form with a slip", {"forward": lambda left: left, "vjps": (None,), "native": "-{lef}"}, "did you mean 'left'"),
    ("an unknown kernel", {**ONE, "native": "reshap"}, "`native` is 'reshap', which is no kernel .* did you mean 'reshape'"),
    ("native is a number", {**ONE, "native": 3}, "`native` must be a C expression"),
    ("a field with a slip", {**ONE, "vjp_": 1, "read": ""}, "'vjp_' is no field of a declaration; did you mean 'vjp"),
    ("another field with a slip", {**ONE, "element_wise": True}, "did you mean 'elementwise'"),
    ("operator", {**ONE, "operator": ("__neg__",)}, "did you mean 'operators'"),
    ("no forward", {"vjps": (None,)}, "declares no `forward`"),
    ("forward is no function", {"forward": None, "vjps": (None,)}, "declares no `forward`"),
    ("no rules", {"forward": lambda a: a}, "declares no gradient rules; give `vjps`"),
    ("both forms", {"forward": lambda a: a, "vjps": (None,), "vjp": lambda index, g, out, a: g}, "declares both `vjps` and `vjp`"),
    ("too few rules", {"forward": lambda a, b: a, "vjps": (None,)}, r"has 2 operands \(a, b\), so `vjps` must be a tuple of as many rules"),
    ("too many rules", {"forward": lambda a: a, "vjps": (None, None)}, r"has 1 operands \(a\)"),
    ("no tuple", {"forward": lambda a: a, "vjps": [None]}, "must be a tuple"),
    ("a bare rule", {"forward": lambda a: a, "vjps": lambda g, out, a: g}, "must be a tuple"),
    ("a rule that is none", {"forward": lambda a: a, "vjps": (2.0,)}, "the rule for 'a' is 2.0, not a function"),
    (
        "a rule of too few parameters",
        {"forward": lambda a, b: a, "vjps": (lambda g, out, a: g, None)},
        r"rule for 'a' must take \(g, out, a, b\)",
    ),
    (
        "a rule of too many",
        {"forward": lambda a: a, "vjps": (lambda g, out, a, b: g,)},
        r"must take \(g, out, a\); it takes \(g, out, a, b\)",
    ),
    ("a rule without the option", {"forward": lambda a, *, p: a, "vjps": (lambda g, out, a: g,)}, r"must take \(g, out, a, p\)"),
    ("starred with vjps", {"forward": lambda *a: a, "vjps": (None,)}, "any number of operands; give one `vjp"),
    ("vjp without star", {"forward": lambda a: a, "vjp": lambda index, g, out, a: g}, r"`forward` must take `\*operands`"),
    ("vjp with another operand", {"forward": lambda a, *b: a, "vjp": lambda index, g, out, *a: g}, "no other operand"),
    ("reads too many", {"forward": lambda a: a, "vjps": (None,), "reads": ("", "")}, "1 rules, so `reads` must have as many entries"),
    ("reads too few", {"forward": lambda a, b: a, "vjps": (None, None), "reads": ("a",)}, "2 rules, so `reads`"),
    ("reads nothing that is", {"forward": lambda a: a, "vjps": (None,), "reads": ("a x y",)}, r"names \['x', 'y'\]; it may name a, out"),
    ("reads an option", {"forward": lambda a, *, p: a, "vjps": (None,), "reads": "p"}, r"names \['p'\]"),
    ("domain", {"forward": lambda a: a, "vjps": (None,), "domain": (hg.Interval(), hg.Interval())}, "1 operands, but `domain` has 2"),
    (
        "options",
        {"forward": lambda a, *, p: a, "vjps": (None,), "options": {"q": [1]}},
        r"`options` names \['q'\], but `forward` takes \['p'\]",
    ),
    ("options of none", {"forward": lambda a: a, "vjps": (None,), "options": {"q": [1]}}, "takes no options"),
    ("operators a string", {"forward": lambda a, b: a, "vjps": (None, None), "operators": "__lshift__"}, "must be a tuple of names"),
    (
        "operator of another op",
        {"forward": lambda a, b: a, "vjps": (None, None), "operators": ("__lshift__", "__add__")},
        "operator __add__ is taken by Add",
    ),
    (
        "operator of Variable",
        {"forward": lambda a, b: a, "vjps": (None, None), "operators": ("__setitem__",)},
        "operator __setitem__ is taken by Variable",
    ),
    ("method of an op", {"forward": lambda a: a, "vjps": (None,), "operators": ("tanh",)}, "operator tanh is taken"),
    ("attribute", {"forward": lambda a: a, "vjps": (None,), "operators": ("data",)}, "operator data is taken by Variable"),
    (
        "name taken",
        {"forward": lambda a: a, "vjps": (None,), "name": "Mul"},
        r"name is taken by hotgrad\.ops\.arithmetic\.Mul; choose another",
    ),
]


@pytest.mark.parametrize(("body", "message"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_declarations_raise_and_leave_nothing(body: dict[str, Any], message: str) -> None:
    before, methods, tanh = dict(hg.primitives()), set(vars(Methods)), Variable.tanh
    body = dict(body)
    if body.get("forward", 0) is None:
        body["forward"] = 3
        with pytest.raises(hg.DeclarationError, match=message):
            type("Wrong", (hg.Primitive,), {"__module__": __name__, **body})
        return
    with pytest.raises(hg.DeclarationError) as caught:
        declare("Wrong", register=True, **body)
    assert isinstance(caught.value, TypeError)
    assert re.search(message, str(caught.value)), caught.value
    assert "Wrong" in str(caught.value) or body.get("name", "?") in str(caught.value)
    assert dict(hg.primitives()) == before and set(vars(Methods)) == methods and Variable.tanh is tanh
    assert not hasattr(Variable, "__lshift__")


# ----------------------------------------------------------------------------------------------------- names, replacement


def test_a_class_of_the_same_module_and_name_replaces_the_earlier_one() -> None:
    x = leaf([1.0, 2.0])
    first = declare("Again", register=True, forward=operator.floordiv, vjps=(hg.zero, None), reads="", operators=("__lshift__",))
    y = x << 2
    assert y.previous_op is first
    second = declare(
        "Again",
        register=True,
        forward=lambda a, b: a * b,
        vjps=(lambda g, out, a, b: g * b, None),
        reads=("b", ""),
        operators=("__lshift__",),
    )
    assert hg.primitives()["Again"] is second and (x << 2).tolist() == [2.0, 4.0] and (x << 2).previous_op is second
    y.sum().backward()  # recorded with the first, walked with the first
    assert x.grad.tolist() == [0.0, 0.0]


def test_any_other_class_may_not_take_the_name() -> None:
    first = declare("Mine", register=True, forward=lambda a: a * 1, vjps=(hg.zero,), reads="")
    for changed in ({"__module__": "elsewhere"}, {"__qualname__": "Outer.Mine"}):
        with pytest.raises(hg.DeclarationError, match=rf"name is taken by {re.escape(__name__)}\.Mine"):
            declare("Mine", register=True, forward=lambda a: a * 1, vjps=(hg.zero,), reads="", **changed)
    assert hg.primitives()["Mine"] is first
    free = declare("Mine", register=False, forward=lambda a: a * 1, vjps=(hg.zero,), reads="", __module__="elsewhere")
    assert hg.primitives()["Mine"] is first and free is not first


def test_a_failed_redeclaration_keeps_the_earlier_one() -> None:
    first = declare("Kept", register=True, forward=operator.floordiv, vjps=(hg.zero, None), reads="", operators=("__lshift__",))
    with pytest.raises(hg.DeclarationError, match="taken by Add"):
        declare("Kept", register=True, forward=operator.floordiv, vjps=(hg.zero, None), reads="", operators=("__lshift__", "__add__"))
    assert hg.primitives()["Kept"] is first and (leaf([3.0]) << 2).previous_op is first


# ---------------------------------------------------------------------------------------------------------------- operators


def test_operators_on_both_sides() -> None:
    declare(
        "FloorDiv", register=True, forward=operator.floordiv, vjps=(hg.zero, hg.zero), reads="", operators=("__lshift__", "__rlshift__")
    )
    x = leaf([2.0, 5.0])
    assert (x << 2).tolist() == [1.0, 2.0]
    for nine in (9, torch.tensor(9.0), np.array([9.0, 9.0])):
        assert (nine << x).tolist() == [4.0, 1.0]
    declare("Less1", register=True, forward=lambda a: 1 - a, vjps=(lambda g, out, a: -g,), reads="", operators=("__floor__",))
    math.floor(x).sum().backward()
    assert x.grad.tolist() == [-1.0, -1.0]
    declare("Rounded", register=True, forward=torch.round, vjps=(hg.zero,), reads="", operators=("__round__",))
    assert round(leaf([1.6])).tolist() == [2.0]


def test_ops_that_are_not_registered_provide_no_operators() -> None:
    declare(forward=operator.floordiv, vjps=(None, None), operators=("__lshift__",))
    with pytest.raises(TypeError):
        leaf([1.0]) << 2


def test_plain_ops_give_plain_tensors() -> None:
    is_odd = declare(forward=lambda a: a % 2 == 1, vjps=(None,), plain=True)
    y = is_odd.apply(leaf([1.0, 2.0]))
    assert type(y) is torch.Tensor and y.tolist() == [True, False]


def test_results_of_other_dtypes_are_not_recorded() -> None:
    count = declare(forward=lambda a, *, scale=1: (a > 0).sum() * scale, vjps=(hg.zero,), reads="")
    y = count.apply(leaf([1.0, -1.0]), 3)
    assert type(y) is Variable and y.item() == 3 and not y.requires_grad
    assert len(hg.tape()) == 0


# -------------------------------------------------------------------------------------------------------- reads, stand-ins


def test_stand_ins_know_shape_dtype_and_device() -> None:
    seen: list[Any] = []

    def rule(g: Any, out: Any, a: Any, b: Any) -> Any:
        seen.append([(v.shape, v.dtype, v.device, v.ndim, v.numel()) for v in (a, b)])
        assert out is None
        return g * 2

    op = declare(forward=lambda a, b: a * 2 + 0 * b, vjps=(rule, None), reads="")
    expected = [((2, 3), torch.float64, torch.device("cpu"), 2, 6), ((3,), torch.float32, torch.device("cpu"), 1, 3)]
    for a in (leaf(torch.ones(2, 3), torch.float64), leaf(torch.ones(2, 3), torch.float64) * 1):
        op.apply(a, torch.ones(3)).sum().backward()
        op.apply(a.detach() * leaf(1.0), Variable(torch.ones(3))).sum().backward(create_graph=True)
    assert seen == [expected] * 4


USES: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("g * a", lambda g, a: g * a), ("a * g", lambda g, a: a * g), ("a + 1", lambda g, a: a + 1), ("1 - a", lambda g, a: 1 - a), ("-a", lambda g, a: -a), ("a ** 2", lambda g, a: a**2),
    ("2 ** a", lambda g, a: 2**a), ("g @ a", lambda g, a: g @ a), ("g / a", lambda g, a: g / a), ("abs", lambda g, a: abs(a)), ("a[0]", lambda g, a: a[0]), ("a > 0", lambda g, a: a > 0),
    ("a == 0", lambda g, a: a == 0), ("a.exp()", lambda g, a: a.exp()), ("a.data", lambda g, a: a.data), ("torch.exp(a)", lambda g, a: torch.exp(a)), ("hg.exp(a)", lambda g, a: hg.exp(a)),
    ("hg.mul(g, a)", lambda g, a: hg.mul(g, a)), ("hg.where", lambda g, a: hg.where(torch.tensor(True), g, a)), ("torch.where", lambda g, a: torch.where(torch.tensor(True), a, 0.0)),
    ("iteration", lambda g, a: sum(a)), ("float(a)", lambda g, a: g * float(a)), ("a.sum()", lambda g, a: g * a.sum()), ("hg.stack", lambda g, a: hg.stack([g, a])), ("a != 0", lambda g, a: a != 0),
]  # fmt: skip


@pytest.mark.parametrize(("text", "use"), USES, ids=[use[0] for use in USES])
@pytest.mark.parametrize("create_graph", [False, True])
def test_using_what_is_not_declared_names_the_missing_entry(text: str, use: Callable[[Any, Any], Any], create_graph: bool) -> None:
    op = declare(forward=lambda a, b: a + b, vjps=(lambda g, out, a, b: g, lambda g, out, a, b: use(g, a)), reads=("", "b"))
    for a, b in ((leaf([1.0, 2.0]), leaf([3.0, 4.0])), (leaf([1.0, 2.0]) * 1, leaf([3.0, 4.0])), (torch.ones(2), leaf([3.0, 4.0]))):
        with pytest.raises(hg.RuleError, match=r"Declared: the rule for 'b' uses 'a'.*entry in `reads`, now 'b'"):
            op.apply(a, b).sum().backward(create_graph=create_graph)
        assert b.grad is None


@pytest.mark.parametrize("create_graph", [False, True])
def test_using_an_undeclared_out_names_it(create_graph: bool) -> None:
    for use in (lambda g, out: g * out, lambda g, out: hg.mul(out, g), lambda g, out: out.exp(), lambda g, out: -out):
        with pytest.raises(hg.RuleError, match=r"rule for 'a'.*'out'.*`reads`, now 'a'"):
            one(lambda g, out, a, use=use: use(g, out), "a").apply(leaf([1.0])).backward(create_graph=create_graph)


def test_the_index_of_a_variadic_rule_is_named() -> None:
    op = declare(forward=lambda *ts: ts[0] + ts[1], vjp=lambda index, g, out, *ts: g * ts[0].exp(), reads="")
    with pytest.raises(hg.RuleError, match=r"rule for ts\[1\] uses 'ts'"):
        op.apply(torch.ones(1), leaf([1.0])).backward()


def test_errors_of_the_rule_itself_come_out() -> None:
    def wrong(g: Any, out: Any, a: Any) -> Any:
        return g.no_such_method()

    with pytest.raises(AttributeError, match="no_such_method"):
        one(wrong, "a").apply(leaf([1.0])).backward()

    def typed(g: Any, out: Any, a: Any) -> Any:
        return g * "text"

    with pytest.raises(TypeError):
        one(typed).apply(leaf([1.0])).backward()


def test_default_reads_everything() -> None:
    op = declare(forward=lambda a, b: a * b, vjps=(lambda g, out, a, b: g * b, lambda g, out, a, b: g * a))
    assert op.reads == ("a b out", "a b out")
    y = op.apply(leaf([1.0]), torch.ones(1))
    assert len(y._link.saved()) == 3


# --------------------------------------------------------------------------------------------------------- what rules return


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda g: None, "returned NoneType"),
        (lambda g: 1.0, r"returned float \(1.0\)"),
        (lambda g: 3, "returned int"),
        (lambda g: np.ones(3), "returned ndarray"),
        (lambda g: "text", "returned str"),
        (lambda g: [1.0, 1.0, 1.0], "returned list"),
        (lambda g: torch.ones(3, dtype=torch.int64), "returned torch.int64; a gradient must be of a floating dtype"),
        (lambda g: torch.ones(3) > 0, "returned torch.bool"),
        (lambda g: torch.ones(2), r"shape \(3,\) returned shape \(2,\), to which \(3,\) does not broadcast"),
        (lambda g: torch.ones(()), r"returned shape \(\)"),
        (lambda g: torch.ones(1), r"returned shape \(1,\)"),
        (lambda g: torch.ones(3, 1), r"returned shape \(3, 1\)"),
    ],
)
def test_what_a_rule_may_not_return(result: Callable[[Any], Any], message: str, create_graph: bool) -> None:
    x, w = leaf([1.0, 2.0, 3.0]), leaf([1.0, 2.0, 3.0])
    y = (one(lambda g, out, a: result(g)).apply(x) * w).sum()
    with pytest.raises(hg.RuleError, match=f"Declared: the rule for 'a'.*{message}") as caught:
        y.backward(create_graph=create_graph)
    assert isinstance(caught.value, RuntimeError)
    assert x.grad is None and w.grad is None


def test_a_rule_may_not_return_a_variable_where_it_got_tensors() -> None:
    x, stranger = leaf([1.0, 2.0]), leaf([1.0, 2.0])
    with pytest.raises(hg.RuleError, match="returned Variable"):
        one(lambda g, out, a: g * stranger).apply(x).sum().backward()
    one(lambda g, out, a: g * stranger).apply(x).sum().backward(create_graph=True)
    assert x.grad.tolist() == [1.0, 2.0] and x.grad.requires_grad


@pytest.mark.parametrize("create_graph", [False, True])
def test_what_a_rule_may_return(create_graph: bool) -> None:
    for result, expected in (
        (lambda g: 0, [0.0, 0.0]),
        (lambda g: 0.0, [0.0, 0.0]),
        (lambda g: torch.tensor([3.0, 4.0]), [3.0, 4.0]),  # a constant also where a graph is wanted
        (lambda g: torch.tensor([3.0, 4.0], dtype=torch.float64), [3.0, 4.0]),
        (lambda g: torch.ones(5, 2), [5.0, 5.0]),  # broadcasting is undone
        (lambda g: torch.ones(4, 5, 2), [20.0, 20.0]),
    ):
        x = leaf([1.0, 2.0])
        one(lambda g, out, a, result=result: result(g)).apply(x).sum().backward(create_graph=create_graph)
        grad = x.grad.data if create_graph else x.grad
        assert grad.tolist() == expected and grad.dtype is torch.float32 and grad.is_contiguous()


def test_the_zero_rule() -> None:
    assert hg.zero(None, None) == 0.0
    op = declare(forward=lambda a, b: a * b, vjps=(hg.zero, lambda g, out, a, b: g * a), reads=("", "a"))
    x, y = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    op.apply(x, y).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0] and y.grad.tolist() == [1.0, 2.0]


def test_none_rules() -> None:
    op = declare(forward=lambda a, b: a * b, vjps=(lambda g, out, a, b: g * b, None), reads=("b", ""))
    x, y = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    op.apply(x, y.data).sum().backward()
    assert x.grad.tolist() == [3.0, 4.0]
    z = op.apply(x, y)
    (g,) = hg.gradients(z.sum(), x, retain_graph=True)  # not asked for y's
    assert g is not None and g.tolist() == [3.0, 4.0]
    with pytest.raises(
        hg.TapeError, match=r"Declared is not differentiable with respect to 'b', which requires a gradient; use detach\(\)"
    ):
        z.sum().backward()
    never = declare(forward=lambda a: a * 1, vjps=(None,))
    assert not never.apply(x).requires_grad and not never.differentiable


def test_rules_with_options_by_default_of_the_option() -> None:
    op = declare(forward=lambda a, *, n=2: a * n, vjps=(lambda g, out, a, n: g * n,), reads="")
    x = leaf([1.0])
    op.apply(x).backward()
    op.apply(x, n=5).backward()
    assert x.grad.tolist() == [7.0]


def test_domains() -> None:
    assert hg.Interval() == (-float("inf"), float("inf")) and hg.Integers(1, 3) == (1, 3) and hg.Booleans() == ()
    for op in hg.primitives().values():
        assert op.domain == () or op.arity is None or len(op.domain) == op.arity


def test_an_operator_gives_augmented_assignment_too() -> None:
    v = hg.Variable([5.0, 7.0])
    alias = v
    v %= torch.tensor([3.0, 4.0])
    assert alias.tolist() == [2.0, 3.0]


# ---- what a user's forward and rules did is looked at, at each call


def declared(forward: Any, rule: Any = lambda g, out, a: g, **fields: Any) -> Any:
    members = {"__doc__": "One.", "forward": staticmethod(forward), "vjps": (rule,), **fields}
    return type("Looked", (hg.Primitive,), members, register=False)


def calls(op: Any, *operands: Any) -> Iterator[Callable[[], Any]]:
    """The ways to call it: recorded, not recorded, plain, in a capture."""
    yield lambda: op.apply(*[Variable(x.clone(), requires_grad=True) for x in operands])
    yield lambda: op.apply(*[Variable(x.clone()) for x in operands])
    yield lambda: op.apply(*[x.clone() for x in operands])
    yield lambda: hg.capture(op.apply, *[x.clone() for x in operands])


ONES = torch.tensor([1.0, -2.0, 3.0])


@pytest.mark.parametrize(
    "forward",
    # on Python 3.13 torch.Tensor.neg_ names its operand
    [lambda a: a.mul_(2), lambda a: a.mul_(2) * 1, lambda a: a.clamp_(min=0) + 1, torch.Tensor.neg_, lambda a: a[:1].zero_()],
)
def test_a_forward_that_writes_into_its_operand_is_refused(forward: Any) -> None:
    for call in calls(declared(forward), ONES):
        with pytest.raises(hg.RuleError, match=r"Looked: forward wrote into its operand (a|self); compute a new tensor"):
            call()


def test_the_operand_that_forward_wrote_into_is_named() -> None:
    both = (lambda g, out, a, b: g,) * 2
    for call in calls(declared(lambda a, b: a + b.mul_(2), vjps=both), ONES, ONES):
        with pytest.raises(hg.RuleError, match="operand b;"):
            call()
    members = {"__doc__": "Any.", "forward": staticmethod(lambda *xs: xs[0] + xs[2].mul_(2)), "vjp": lambda index, g, out, *xs: g}
    several = type("Several", (hg.Primitive,), members, register=False)
    for call in calls(several, ONES, ONES, ONES):
        with pytest.raises(hg.RuleError, match=r"Several: forward wrote into its operand xs\[2\]"):
            call()
    scaled = declared(lambda a, *, by=2: a.mul_(by), lambda g, out, a, by: g * by)
    with pytest.raises(hg.RuleError, match="operand a;"):
        scaled.apply(Variable(ONES.clone()), by=3)


@pytest.mark.parametrize(
    "forward, error, said",
    [
        (lambda a: None, hg.RuleError, "NoneType"),
        (lambda a: (a, a), hg.RuleError, "tuple"),
        (lambda a: 2.0, hg.RuleError, "float"),
        (lambda a: np.ones(3), hg.RuleError, "ndarray"),
        (lambda a: Variable([1.0]), hg.RuleError, "Variable"),
        (lambda a: (a * 1).requires_grad_(), hg.RuleError, "requires a torch gradient"),
        (lambda a: a * 1j, hg.DtypeError, "complex"),
        (lambda a: torch.ones(3, device="meta"), hg.RuleError, "meta"),
        (torch.Tensor.to_sparse, hg.RuleError, "sparse"),
    ],
)
def test_a_forward_that_gives_no_plain_tensor_is_refused(forward: Any, error: type[Exception], said: str) -> None:
    for call in calls(declared(forward), ONES):
        with pytest.raises(error, match=f"(?s)Looked: forward returned .*{said}"):
            call()


@pytest.mark.parametrize("forward", [lambda a: a, lambda a: a[...], lambda a: a.detach()])
def test_a_forward_may_give_its_operand_or_a_view(forward: Any) -> None:
    op = declared(forward)
    for call in list(calls(op, ONES))[:3]:
        assert call().tolist() == ONES.tolist()
    assert hg.capture(op.apply, ONES)(ONES * 2).tolist() == (ONES * 2).tolist()


@pytest.mark.parametrize(
    "result, said",
    [
        (lambda: torch.ones(3, requires_grad=True), "requires a torch gradient"),
        (lambda: torch.ones(3, device="meta"), "meta"),
        (lambda: torch.ones(3).to_sparse(), "sparse"),
        (lambda: torch.ones(3) * 1j, "complex"),
        (lambda: Variable(torch.ones(3, device="meta")), "meta"),
    ],
)
def test_a_rule_that_gives_no_plain_tensor_is_refused(result: Any, said: str) -> None:
    members = {"__doc__": "Any.", "forward": staticmethod(lambda *xs: xs[0] * 2), "vjp": lambda index, g, out, *xs: result()}
    for op in declared(lambda a: a * 2, lambda g, out, a: result()), type("Several", (hg.Primitive,), members, register=False):
        for create_graph in (False, True):
            x = Variable(ONES.clone(), requires_grad=True)
            with pytest.raises(hg.RuleError, match=f"{op.name}: the rule for (a|xs).* returned .*{said}"):
                op.apply(x).sum().backward(create_graph=create_graph)
            assert x.grad is None


def test_what_holds_no_values_may_give_the_same() -> None:
    x = Variable(torch.ones(3, device="meta"), requires_grad=True)
    declared(lambda a: a * 2, lambda g, out, a: g * 2).apply(x).backward(torch.ones(3, device="meta"))
    assert x.grad.is_meta
