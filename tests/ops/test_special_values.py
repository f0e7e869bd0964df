"""Exact tables for kinks, ties, bounds, infinities, NaN, overflow and emptiness, and agreement with torch where torch agrees."""

# mypy: disallow-untyped-calls=False, disable-error-code="attr-defined"

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad import Variable
from hotgrad.engines.native.compiler import find_compiler
from hotgrad.testing import conventions

INF, NAN = math.inf, math.nan
# made here, since a function to be captured makes no tensors
ZEROS = {n: torch.zeros(n, dtype=torch.float64) for n in (2, 3, 5, 7)}
ZERO_ONE = torch.tensor([0.0, 1.0], dtype=torch.float64)
ONE, TWO = torch.tensor([1.0]), torch.tensor([2.0])


def leaf(data: Any, dtype: torch.dtype = torch.float64) -> Any:
    return Variable(torch.as_tensor(data, dtype=dtype).clone(), requires_grad=True)


def same(value: Any, expected: Any) -> None:
    """Exactly equal to rounding, with NaN equal to NaN and infinities to themselves."""
    expected = torch.as_tensor(expected, dtype=value.dtype)
    torch.testing.assert_close(value, expected.reshape(value.shape), rtol=1e-12, atol=1e-12, equal_nan=True)


def slopes(f: Callable[[Any], Any], at: Any, seed: Any = None, create_graph: bool = False) -> Any:
    """The gradient of `f` element by element."""
    x = leaf(at)
    y = f(x)
    y.backward(torch.ones_like(y.data) if seed is None else seed, create_graph=create_graph)
    return x.grad.data if create_graph else x.grad


def curvature(f: Callable[[Any], Any], at: Any) -> Any:
    """The second derivative of the sum of `f`, element by element where f acts so."""
    x = leaf(at)
    (first,) = hg.gradients(f(x).sum(), x, create_graph=True)
    assert first is not None
    (second,) = hg.gradients(first.sum(), x, allow_unused=True) if first.requires_grad else (None,)
    return torch.zeros_like(x.data) if second is None else second.data


def agrees_with_torch(f: Callable[..., Any], *data: Any, second_order: bool = False) -> None:
    ours = [leaf(d) for d in data]
    theirs = [torch.as_tensor(d, dtype=torch.float64).clone().requires_grad_() for d in data]
    y, expected = f(*ours), f(*theirs)
    same(y.data, expected.detach())
    if second_order:  # and of linear functions too
        y, expected = y * y + y, expected * expected + expected
    seed = torch.linspace(0.5, 2.0, max(expected.numel(), 1), dtype=torch.float64)[: expected.numel()].reshape(expected.shape)
    if not second_order:
        y.backward(seed)
        expected.backward(seed)
    else:
        firsts = hg.gradients(y, ours, seed, create_graph=True)
        references = torch.autograd.grad(expected, theirs, seed, create_graph=True)
        for gradients in (firsts, references):
            total: Any = sum((g * (g + 1.0)).sum() for g in gradients if g is not None)
            total.backward()
    for v, t in zip(ours, theirs):
        same(v.grad, torch.zeros_like(t) if t.grad is None else t.grad)


# --------------------------------------------------------------------------------------------------------------------- pow

#     base, exponent, d/dbase, d/dexponent
POW = [
    (0.0, 0.0, 0.0, 0.0),
    (0.0, 1.0, 1.0, 0.0),
    (0.0, 2.0, 0.0, 0.0),
    (0.0, 3.0, 0.0, 0.0),
    (0.0, 0.5, INF, 0.0),
    (0.0, 1.5, 0.0, 0.0),
    (2.0, 0.0, 0.0, math.log(2)),
    (2.0, 1.0, 1.0, 2 * math.log(2)),
    (2.0, 2.0, 4.0, 4 * math.log(2)),
    (2.0, -1.0, -0.25, 0.5 * math.log(2)),
    (4.0, 0.5, 0.25, 2 * math.log(4)),
    (4.0, -0.5, -0.0625, 0.5 * math.log(4)),
    (1.0, 5.0, 5.0, 0.0),
    (-2.0, 0.0, 0.0, NAN),
    (-2.0, 1.0, 1.0, NAN),
    (-2.0, 2.0, -4.0, NAN),
    (-2.0, 3.0, 12.0, NAN),
    (-2.0, -1.0, -0.25, NAN),
    (-2.0, 0.5, NAN, NAN),
]


@pytest.mark.parametrize(("base", "exponent", "d_base", "d_exponent"), POW)
def test_pow(base: float, exponent: float, d_base: float, d_exponent: float) -> None:
    for create_graph in (False, True):
        same(slopes(lambda x: x**exponent, [base], create_graph=create_graph), [d_base])
        same(slopes(lambda x: x ** torch.tensor([exponent], dtype=torch.float64), [base], create_graph=create_graph), [d_base])
        same(slopes(lambda y: base**y, [exponent], create_graph=create_graph), [d_exponent])
        x, y = leaf([base]), leaf([exponent])
        (x**y).backward(create_graph=create_graph)
        got_x, got_y = (x.grad.data, y.grad.data) if create_graph else (x.grad, y.grad)
        same(got_x, [d_base])
        same(got_y, [d_exponent])
    if exponent == int(exponent):
        same(slopes(lambda x: x ** int(exponent), [base]), [d_base])
        same(slopes(lambda x: x ** torch.tensor([int(exponent)]), [base]), [d_base])
    same((leaf([base]) ** exponent).data, torch.tensor([base], dtype=torch.float64) ** exponent)


def test_pow_of_a_number_zero_and_negative_exponents() -> None:
    same(slopes(lambda y: 0.0**y, [0.0, 1.0, 2.5]), [0.0, 0.0, 0.0])
    same((0.0 ** leaf([0.0, 1.0, -1.0])).data, [1.0, 0.0, INF])
    assert not slopes(lambda y: 0.0**y, [-1.0]).isfinite().any()


def test_powers_of_integers_have_the_precision_of_the_result() -> None:
    y = leaf([0.5, -1.5])
    (torch.tensor([3, 7]) ** y).backward(torch.ones(2, dtype=torch.float64))
    same(y.grad, [3**0.5 * math.log(3), 7**-1.5 * math.log(7)])
    x = leaf([1.5, 0.3])
    (x ** torch.tensor([3, -2])).backward(torch.ones(2, dtype=torch.float64))
    same(x.grad, [3 * 1.5**2, -2 * 0.3**-3])


def rpow(exponent: float, base: Any) -> Any:
    return base**exponent


def test_pow_to_second_order_with_numbers() -> None:
    for exponent, expected in ((0, [0.0, 0.0]), (1, [0.0, 0.0]), (2, [2.0, 2.0]), (3, [0.0, 12.0]), (4, [0.0, 48.0])):
        for number in (exponent, float(exponent)):
            same(curvature(partial(rpow, number), [0.0, 2.0]), expected)


def test_a_constant_exponents_rule_does_not_run() -> None:
    x = leaf([-1.0, 0.0, 2.0])  # whose logarithm is NaN and infinite
    exponent = Variable(torch.tensor([2.0, 2.0, 2.0], dtype=torch.float64))
    (x**exponent).sum().backward()
    same(x.grad, [-2.0, 0.0, 4.0])
    assert exponent.grad is None


# ------------------------------------------------------------------------------------------------- kinks, ties and bounds

KINKS: list[tuple[str, Callable[[Any], Any], list[float], list[float]]] = [
    ("maximum, number first", lambda x: hg.maximum(1.0, x), [0.0, 1.0, 2.0, -INF], [0, 0.5, 1, 0]),
    ("minimum, number first", lambda x: hg.minimum(1.0, x), [0.0, 1.0, 2.0, -INF], [1, 0.5, 0, 1]),
    ("max with NaN", hg.max, [1.0, NAN, 2.0], [NAN] * 3),
    ("min with NaN", hg.min, [1.0, NAN, 2.0], [NAN] * 3),
    ("norm p=3 that overflows", lambda x: hg.norm(x, 3), [1e200, -1e200, 1.0], [NAN, NAN, 0]),
    ("norm p=4 that overflows", lambda x: hg.norm(x, 4), [1e200, -1e200, 1.0], [NAN, NAN, 0]),
    ("norm p=3 whose sum overflows", lambda x: hg.norm(x, 3), [5e102, -5e102, 1.0], [NAN, NAN, 0]),
    ("norm p=3 beside infinity", lambda x: hg.norm(x, 3), [INF, 1.0, 0.0], [NAN, 0, 0]),
    ("norm p=-2", lambda x: hg.norm(x, -2), [1e-200, 0.0, -3.0], [0, 0, 0]),
    ("norm p=-1 beside infinity", lambda x: hg.norm(x, -1), [INF, 1.0, 1.0], [0, 0.25, 0.25]),
    ("power 0 of everything", lambda x: x ** ZEROS[7], [0.0, -0.0, 1e-310, -2.0, INF, NAN, 3.0], [0] * 7),
    ("power of 0", lambda x: 0.0**x, [0.0, 1e-310, 1.0, INF], [0] * 4),
    ("power of infinity", lambda x: INF**x, [-1.0, -INF], [0, 0]),
    ("prod with infinity", hg.prod, [INF, 2.0, 3.0], [6, INF, INF]),
    ("amax, all tied", hg.amax, [2.0, 2.0, 2.0, 2.0], [0.25] * 4),
    ("max of infinities", hg.amax, [INF, 1.0, INF], [0.5, 0, 0.5]),
    ("sqrt", hg.sqrt, [0.0, 4.0, INF], [INF, 0.25, 0]),
    ("log", hg.log, [0.0, 2.0, INF], [INF, 0.5, 0]),
    ("reciprocal", hg.reciprocal, [INF, 2.0], [0, -0.25]),
    ("where, unselected side infinite", lambda x: hg.where(x > 0, x, x.detach().sqrt()), [-1.0, 4.0], [0, 1]),
]


@pytest.mark.parametrize("op", [op for op in hg.primitives().values() if op.kinks], ids=lambda op: op.name)
def test_kinks_are_what_the_op_declares(op: Any) -> None:
    """The ops' own declarations, here also where the gradient is recorded."""
    assert conventions.check(op) == []
    for operands, options, g, wanted in itertools.chain.from_iterable(op.kinks.values()):
        values = [
            v if isinstance(v, (int, float)) else torch.tensor(v, dtype=torch.bool if v == [True, False] else torch.float64)
            for v in operands
        ]
        leaves = [hg.Variable(v, requires_grad=True) if w is not None else v for v, w in zip(values, wanted)]
        inputs = [leaf for leaf, w in zip(leaves, wanted) if w is not None]
        seed = torch.tensor(g, dtype=torch.float64)
        grads = hg.gradients(op.apply(*leaves, **options), inputs, seed, create_graph=True)
        for grad, right in zip(grads, [w for w in wanted if w is not None]):
            same(grad.data, right)  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "f", "at", "expected"), KINKS, ids=[case[0] for case in KINKS])
def test_further_values_at_kinks(name: str, f: Callable[[Any], Any], at: list[float], expected: list[float]) -> None:
    same(slopes(f, at), expected)
    same(slopes(f, at, create_graph=True), expected)


def test_maximum_of_two_variables_shares_ties() -> None:
    for f, wins in ((hg.maximum, [0.0, 0.5, 1.0]), (hg.minimum, [1.0, 0.5, 0.0])):
        a, b = leaf([1.0, 2.0, 3.0]), leaf([2.0, 2.0, 2.0])
        f(a, b).sum().backward()
        same(a.grad, wins)
        same(b.grad, [1 - w for w in wins])


def test_ties_per_row_and_along_both_axes() -> None:
    x = leaf([[1.0, 1.0], [0.0, 1.0]])
    hg.amax(x, 1).sum().backward()
    same(x.grad, [[0.5, 0.5], [0.0, 1.0]])
    x.zero_grad()
    hg.amax(x, (0, 1), True).sum().backward()
    same(x.grad, [[1 / 3, 1 / 3], [0.0, 1 / 3]])


@pytest.mark.parametrize(
    "f", [hg.relu, lambda x: x.clip(0, 1), lambda x: hg.maximum(x, 0.0), lambda x: hg.minimum(x, 0.0), lambda x: hg.where(x > 0, x, 0.0)]
)
def test_masks_select_and_never_multiply(f: Callable[[Any], Any]) -> None:
    """An infinite cotangent does not make NaN where the gradient does not pass."""
    grad = slopes(f, [-1.0, 0.5, 3.0], seed=torch.full((3,), INF, dtype=torch.float64))
    assert not grad.isnan().any() and set(grad.tolist()) <= {0.0, INF}


CONSTANTS: list[tuple[Callable[[Any], Any], list[Any]]] = [
    (hg.std, [2.0, 2.0, 2.0]),
    (hg.norm, [0.0, 0.0]),
    (lambda x: hg.norm(x, 1), [0.0, -0.0]),
    (lambda x: hg.norm(x, 0.5), [0.0, 0.0]),
    (lambda x: hg.norm(x, 3), [0.0, 0.0]),
    (lambda x: hg.norm(x, 4), [0.0, 0.0]),
    (lambda x: hg.norm(x, -1), [0.0, 3.0]),
    (lambda x: hg.norm(x, INF), [0.0, 0.0]),
    (lambda x: hg.norm(x, -INF), [0.0, 3.0]),
    (lambda x: x.abs().sum(), [0.0, -0.0]),
    (lambda x: (x ** ZEROS[2]).sum() - 2, [0.0, 3.0]),
    (lambda x: (0.0**x).sum(), [1.0, 2.0]),
    (lambda x: x.relu().sum(), [-1.0, 0.0]),
    (lambda x: (x.clip(0, 1) - 1).sum(), [2.0, 3.0]),
]


@pytest.mark.parametrize("case", range(len(CONSTANTS)))
@pytest.mark.parametrize(
    "outer", [lambda y: 1 / y, lambda y: y.log(), lambda y: y.sqrt(), lambda y: y**-0.5], ids=["1/", "log", "sqrt", "power"]
)
def test_a_gradient_that_is_zero_by_convention_stays_zero_whatever_comes_from_outside(case: int, outer: Callable[[Any], Any]) -> None:
    """The value is 0, so what is around it has an infinite derivative there."""
    f, at = CONSTANTS[case]
    assert f(leaf(at)).item() == 0.0
    for create_graph in (False, True):
        same(slopes(lambda x: outer(f(x)), at, create_graph=create_graph), [0.0] * len(at))


@pytest.mark.parametrize("cotangent", [INF, -INF, NAN])
def test_what_is_off_the_diagonal_gets_nothing(cotangent: float) -> None:
    seed = torch.tensor([cotangent, 2.0], dtype=torch.float64)
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    hg.einsum("ii->i", x).backward(seed)
    same(x.grad, [[cotangent, 0.0], [0.0, 2.0]])
    y = leaf(torch.ones(2, 2, 3, 2))
    hg.einsum("iiji->ij", y).backward(torch.full((2, 3), cotangent, dtype=torch.float64))
    assert int((y.grad != 0).sum()) == 6 and y.grad[0, 0, 1, 0].isfinite().item() is False


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 9])
def test_products_beside_infinities_to_second_order(n: int) -> None:
    """The product of all but the infinite one has finite derivatives, and no other is NaN."""
    x = leaf([INF, *range(2, n + 1)])
    first = hg.gradients(hg.prod(x), x, create_graph=True)[0]
    assert first is not None
    same(first.data, [math.factorial(n), *[INF] * (n - 1)])
    if n > 1:
        (second,) = hg.gradients(first.sum(), x)
        assert second is not None
        others = INF if n > 2 else 1.0
        same(second.data, [sum(math.factorial(n) / k for k in range(2, n + 1)), *[others] * (n - 1)])


def test_mixed_derivatives_of_powers() -> None:
    """d2/dx dy x**y = x**(y-1) (1 + y log x), at y = 0 too."""
    at = [0.5, 2.0, 3.0, 2.0, 4.0, 0.0], [0.0, 0.0, 1.0, 3.0, -0.5, 2.0]
    x, y = leaf(at[0]), leaf(at[1])
    (first,) = hg.gradients((x**y).sum(), x, create_graph=True)
    (mixed,) = hg.gradients(first.sum(), y)  # type: ignore[union-attr]
    same(mixed.data, [a ** (b - 1) * (1 + b * math.log(a)) if a else 0.0 for a, b in zip(*at)])  # type: ignore[union-attr]


SMOOTH: list[tuple[str, Callable[[Any], Any], list[float], list[float]]] = [
    ("huber", lambda x: hg.functional.huber(x, ZEROS[5], "sum"), [0.0, -0.0, 0.5, -0.5, 3.0], [1, 1, 1, 1, 0]),
    ("huber 0.1", lambda x: hg.functional.huber(x, ZEROS[3], "sum", 0.1), [0.0, 0.05, 3.0], [1, 1, 0]),
    ("mse", lambda x: hg.functional.mse(x, ZEROS[2], "sum"), [0.0, 1.0], [2, 2]),
    ("softplus", hg.softplus, [0.0, -1000.0, 1000.0], [0.25, 0, 0]),
    ("gelu", hg.functional.gelu, [0.0], [math.sqrt(2 / math.pi)]),
    ("bce", lambda x: hg.functional.bce_with_logits(x, ZERO_ONE, "sum"), [0.0, 0.0], [0.25, 0.25]),
    ("sigmoid", hg.sigmoid, [0.0, 1000.0], [0, 0]),
    ("tanh", hg.tanh, [0.0, 1000.0], [0, 0]),
    ("norm p=3", lambda x: hg.norm(x, 3), [0.0, 2.0], [0, 0]),
    ("norm p=2", lambda x: hg.norm(x, 2), [0.0, 2.0], [0.5, 0]),
    ("square", hg.square, [0.0], [2]),
    ("power 2", lambda x: x**TWO, [0.0], [2]),
    ("power 1", lambda x: x**ONE, [0.0], [0]),
    ("var", hg.var, [1.0, 1.0], [0, 0]),
]


@pytest.mark.parametrize(("name", "f", "at", "expected"), SMOOTH, ids=[case[0] for case in SMOOTH])
def test_second_derivatives_where_kinks_might_be_suspected(
    name: str, f: Callable[[Any], Any], at: list[float], expected: list[float]
) -> None:
    same(curvature(f, at), expected)


@pytest.mark.parametrize("engine", ["replay", "native"])
def test_engines_agree_with_eager_at_special_values(engine: str) -> None:
    if engine == "native" and find_compiler() is None:
        pytest.skip("there is no C compiler")
    cases = [(f, at, 1) for _, f, at, _ in KINKS] + [(f, at, 2) for _, f, at, _ in SMOOTH]
    cases += [(partial(inverse, f), at, 1) for f, at in CONSTANTS]

    def derivatives(*leaves: Any) -> list[Any]:
        found = []
        for x, (f, _, order) in zip(leaves, cases):
            y = f(x)
            for remaining in reversed(range(order)):
                slope = hg.gradients(y.sum(), x, create_graph=remaining > 0, allow_unused=True)[0] if y.requires_grad else None
                y = x * 0.0 if slope is None else slope
            found.append(y)
        return found

    leaves = [leaf(at) for _, at, _ in cases]
    program = hg.capture(derivatives, *leaves).to(engine)
    for value, expected in zip(program(*(x.data for x in leaves)), derivatives(*leaves)):
        same(value, expected.data)


def inverse(f: Callable[[Any], Any], x: Any) -> Any:
    return 1 / f(x)


def test_norms_of_even_order_are_smooth_where_an_element_is_zero() -> None:
    x = leaf([0.0, 2.0])
    g = hg.norm(x, 4)
    for _ in range(4):
        (g,) = hg.gradients(g.sum(), x, create_graph=True)  # type: ignore[assignment]
    same(g.data[0], 6 / 2.0**3)  # (x**4 + a**4)**(1/4) = a + x**4 / (4 a**3) + ...


@pytest.mark.parametrize("probability", [0.0, 0.25])
def test_cross_entropy_of_probabilities_with_impossible_classes(probability: float) -> None:
    """0 log 0 is 0."""
    x, y = leaf([[-INF, 0.0, 0.0]]), leaf([[0.0, probability, 1 - probability]])
    loss = hg.functional.cross_entropy(x, y)
    loss.backward()
    same(loss.data, math.log(2))
    same(x.grad, [[0.0, 0.5 - probability, probability - 0.5]])
    same(y.grad, [[0.0, math.log(2), math.log(2)]])
    assert hg.functional.cross_entropy(x, torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)).item() == INF


def test_where_keeps_the_unselected_sides_infinities_out() -> None:
    x = leaf([0.0, 4.0])
    a = x.sqrt()
    hg.where(x > 0, a, 1.0).sum().backward()
    assert math.isnan(x.grad[0]) or x.grad[0] == 0.0  # 0 * inf arises in sqrt's own rule, as in torch
    t = torch.tensor([0.0, 4.0], dtype=torch.float64, requires_grad=True)
    torch.where(t > 0, t.sqrt(), 1.0).sum().backward()
    same(x.grad, t.grad)


# -------------------------------------------------------------------------------------------------------------------- NaN


@pytest.mark.parametrize(
    "f",
    [
        hg.relu,
        abs,
        hg.exp,
        hg.tanh,
        hg.sigmoid,
        hg.sqrt,
        hg.log,
        lambda x: x.clip(0, 1),
        lambda x: hg.maximum(x, 0.0),
        lambda x: hg.minimum(x, 0.0),
        hg.softplus,
        lambda x: x**2,
    ],
)
def test_nan_stays_nan(f: Callable[[Any], Any]) -> None:
    assert f(leaf([NAN, 1.0])).data.isnan().tolist() == [True, False]


def test_nan_in_the_cotangent_goes_where_the_gradient_goes() -> None:
    seed = torch.tensor([NAN, 1.0], dtype=torch.float64)
    for f in (hg.exp, hg.tanh, hg.relu, abs, hg.sqrt, lambda x: x * 2, lambda x: x.clip(0, 5), lambda x: hg.maximum(x, 0.5)):
        assert slopes(f, [1.0, 2.0], seed=seed).isnan().tolist() == [True, False]


def test_relu_passes_at_nan_as_in_torch() -> None:
    agrees_with_torch(hg_or_torch("relu"), [NAN, -1.0, 2.0])


def test_reductions_carry_nan() -> None:
    for f in (hg.sum, hg.mean, hg.amax, hg.amin, hg.prod, hg.var, hg.norm, lambda x: hg.logsumexp(x, 0)):
        assert f(leaf([NAN, 1.0, 2.0])).data.isnan().all()


# -------------------------------------------------------------------------------------------------------------- overflow


def hg_or_torch(name: str, *args: Any, **options: Any) -> Callable[..., Any]:
    """The function of that name: hotgrad's on Variables, torch's on tensors."""

    def f(*operands: Any) -> Any:
        ours = any(isinstance(x, Variable) for x in operands)
        function = getattr(hg, name) if ours else getattr(torch, name, None) or getattr(torch.nn.functional, name)
        return function(*operands, *args, **options)

    return f


BIG = [-1e4, -800.0, -30.0, 0.0, 30.0, 800.0, 1e4]


@pytest.mark.parametrize(
    ("name", "args"),
    [("sigmoid", ()), ("tanh", ()), ("softplus", ()), ("softmax", (0,)), ("log_softmax", (0,)), ("logsumexp", (0,)), ("erf", ())],
)
def test_no_overflow(name: str, args: tuple[Any, ...]) -> None:
    for dtype in (torch.float32, torch.float64):
        x = leaf(BIG, dtype)
        y = getattr(hg, name)(x, *args)
        y.backward(torch.ones_like(y.data))
        assert y.data.isfinite().all() and x.grad.isfinite().all()
    agrees_with_torch(hg_or_torch(name, *args), BIG)
    agrees_with_torch(hg_or_torch(name, *args), [0.1, -0.7, 3.0], second_order=True)


def test_sums_of_huge_exponentials() -> None:
    x = leaf([1000.0, 1000.0])
    y = hg.logsumexp(x, 0)
    y.backward()
    same(y.data, 1000.0 + math.log(2))
    same(x.grad, [0.5, 0.5])
    same(hg.softmax(leaf([1e308, 1e308]), 0).data, [0.5, 0.5])
    same(hg.softplus(leaf([-1000.0, 1000.0])).data, [0.0, 1000.0])


def test_logsumexp_of_minus_infinity() -> None:
    for create_graph in (False, True):
        same(slopes(lambda x: hg.logsumexp(x, 0), [-INF, 0.0, -INF], create_graph=create_graph), [0.0, 1.0, 0.0])
        same(slopes(lambda x: hg.logsumexp(x, 0), [-INF, -INF], create_graph=create_graph), [0.0, 0.0])
    assert hg.logsumexp(leaf([-INF, -INF]), 0).item() == -INF
    assert hg.logsumexp(leaf([INF, 0.0]), 0).item() == INF
    x = leaf([[-INF, -INF], [0.0, -INF]])
    hg.logsumexp(x, 1).sum().backward()
    same(x.grad, [[0.0, 0.0], [1.0, 0.0]])


def test_softmax_with_masked_entries() -> None:
    agrees_with_torch(hg_or_torch("softmax", 0), [-INF, 0.0, 1.0])
    same(hg.log_softmax(leaf([-INF, 0.0]), 0).data, [-INF, 0.0])


def test_expm1_and_log1p_keep_small_digits() -> None:
    for f, derivative in ((hg.expm1, 1.0), (hg.log1p, 1.0)):
        x = leaf([1e-20])
        y = f(x)
        y.backward()
        same(y.data, [1e-20])
        same(x.grad, [derivative])
    assert slopes(hg.expm1, [-50.0])[0].item() == pytest.approx(math.exp(-50.0), rel=1e-12)


def test_norms_neither_overflow_nor_underflow_in_their_gradients() -> None:
    for scale in (1e-100, 1e100):
        grad = slopes(lambda x: hg.norm(x, 3), [scale, -scale])
        assert grad.isfinite().all()
        same(grad, [2.0 ** (-2 / 3), -(2.0 ** (-2 / 3))])


# --------------------------------------------------------------------------------------------------------- norm, std and prod at 0


@pytest.mark.parametrize("p", [2, 2.0, "fro", 1, 1.5, 3, 0, INF, -INF])
def test_the_norm_of_zeros(p: Any) -> None:
    x = leaf([0.0, 0.0])
    y = hg.norm(x, p)
    y.backward()
    assert y.item() == 0.0
    same(x.grad, [0.0, 0.0])


@pytest.mark.parametrize("p", [2, 1, 1.5, 3, INF, -INF, 0.5, -1])
def test_norms_agree_with_torch(p: float) -> None:
    def norm(x: Any) -> Any:
        return hg.norm(x, p, (0, 1)) if isinstance(x, Variable) else torch.linalg.vector_norm(x, p, (0, 1))

    agrees_with_torch(norm, [[3.0, -4.0], [1.0, 2.5]])


def test_norms_where_some_elements_are_zero() -> None:
    for p in (1.5, 2, 3):
        same(slopes(partial(hg.norm, p=p), [0.0, 2.0]), [0.0, 1.0])
    rows = leaf([[0.0, 0.0], [3.0, 4.0]])
    hg.norm(rows, 2, 1).sum().backward()
    same(rows.grad, [[0.0, 0.0], [0.6, 0.8]])


def test_the_deviation_of_equal_elements() -> None:
    for create_graph in (False, True):
        same(slopes(hg.std, [2.0, 2.0, 2.0], create_graph=create_graph), [0.0, 0.0, 0.0])
        same(slopes(hg.var, [2.0, 2.0, 2.0], create_graph=create_graph), [0.0, 0.0, 0.0])
    x = leaf([[1.0, 1.0], [1.0, 3.0]])
    x.std(1).sum().backward()
    assert x.grad[0].tolist() == [0.0, 0.0] and x.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
def test_var_and_std_of_too_few() -> None:
    assert hg.var(leaf([1.0])).data.isnan() and hg.std(leaf([1.0])).data.isnan()
    assert hg.var(leaf([1.0]), correction=0).item() == 0.0
    assert hg.var(leaf([1.0, 2.0]), correction=2).data.isinf() or hg.var(leaf([1.0, 2.0]), correction=2).data.isnan()
    assert slopes(hg.var, [1.0]).isnan().all()


PRODUCTS = [[2.0, 3.0, 4.0], [0.0, 3.0, 4.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [5.0], [0.0], [-1.0, 0.0, 2.0, 3.0, 0.5]]


@pytest.mark.parametrize("at", PRODUCTS)
def test_products_with_zeros(at: list[float]) -> None:
    for create_graph in (False, True):
        expected = [math.prod(at[:i] + at[i + 1 :]) for i in range(len(at))]
        same(slopes(hg.prod, at, create_graph=create_graph), expected)
    x = leaf(at)
    (first,) = hg.gradients(hg.prod(x), x, create_graph=True)
    assert first is not None
    for i in range(len(at)):
        expected = [0.0 if j == i else math.prod(v for k, v in enumerate(at) if k not in (i, j)) for j in range(len(at))]
        (row,) = hg.gradients(first[i], x, retain_graph=True, allow_unused=True) if first.requires_grad else (None,)
        same(torch.zeros(len(at), dtype=torch.float64) if row is None else row.data, expected)


def test_products_along_an_axis_with_zeros() -> None:
    table = [[0.0, 2.0, 3.0], [4.0, 0.0, 0.0], [1.0, 5.0, 6.0]]
    for dim in (0, 1, -1):
        agrees_with_torch(hg_or_torch("prod", dim), table)
        agrees_with_torch(hg_or_torch("prod", dim, keepdim=True), table)


# ------------------------------------------------------------------------------------------------------ reductions over nothing


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_reductions_over_nothing(shape: tuple[int, ...]) -> None:
    for f, value in ((hg.sum, 0.0), (hg.prod, 1.0), (lambda x: hg.norm(x, 2), 0.0), (hg.mean, NAN), (hg.var, NAN), (hg.std, NAN)):
        x = leaf(torch.zeros(shape))
        y = f(x)
        same(y.data, value)
        y.backward()
        assert x.grad.shape == shape
    x = leaf(torch.zeros(shape))
    y = hg.logsumexp(x, None)
    assert y.item() == -INF
    y.backward()
    assert x.grad.shape == shape


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
def test_reductions_over_an_empty_axis_of_several() -> None:
    for f, value in (
        (hg.sum, 0.0),
        (hg.prod, 1.0),
        (hg.mean, NAN),
        (lambda x, dim: hg.logsumexp(x, dim), -INF),
        (lambda x, dim: hg.norm(x, 2, dim), 0.0),
    ):
        x = leaf(torch.zeros(3, 0))
        y = f(x, 1)
        same(y.data, [value] * 3)
        y.backward(torch.ones_like(y.data))
        assert x.grad.shape == (3, 0)
        assert f(leaf(torch.zeros(3, 0)), 0).shape == (0,)


@pytest.mark.parametrize("f", [hg.amax, hg.amin, hg.max, hg.min, lambda x: hg.norm(x, INF), lambda x: hg.amax(x, 1)])
def test_reductions_without_identity_over_nothing(f: Callable[[Any], Any]) -> None:
    x = leaf(torch.zeros(2, 0))
    with pytest.raises(hg.ShapeError):
        f(x)
    assert x.grad is None
    if f in (hg.amax, hg.amin):
        assert f(leaf(torch.zeros(0, 2)), 1).shape == (0,)


def test_scalars_count_as_one_element_with_one_axis() -> None:
    for f in (
        hg.sum,
        hg.mean,
        hg.prod,
        hg.amax,
        hg.amin,
        hg.norm,
        lambda x: x.sum(0),
        lambda x: x.mean(-1),
        lambda x: x.cumsum(0),
        lambda x: hg.logsumexp(x, 0),
    ):
        x = leaf(3.0)
        y = f(x)
        y.backward()
        assert y.shape == () and x.grad.item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: hg.softmax(x, 1),
        lambda x: hg.log_softmax(x, 0),
        lambda x: hg.cumsum(x, 1),
        lambda x: x.flip(0),
        lambda x: x.reshape(0, 2),
        lambda x: hg.cat([x, x], 1),
    ],
)
def test_ops_on_no_elements(f: Callable[[Any], Any]) -> None:
    x = leaf(torch.zeros(2, 0))
    y = f(x)
    y.backward(torch.ones_like(y.data))
    assert x.grad.shape == (2, 0)


# ----------------------------------------------------------------------------------------------------------- matmul and einsum

MATMUL = [
    ((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((5, 2, 3), (3,)), ((3,), (5, 3, 2)), ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)), ((5, 1, 2, 3), (6, 3, 4)), ((1, 2, 3), (5, 3, 4)), ((2, 0), (0, 3)), ((0,), (0,)), ((0,), (0, 2)), ((2, 0), (0,)), ((0, 3), (3, 2)),
    ((0, 2, 3), (3, 4)), ((5, 2, 0), (0, 4)), ((4, 0, 3), (3, 1)), ((1,), (1,)), ((1, 1), (1,)), ((6, 5, 2, 3), (3,)), ((3,), (6, 5, 3, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), MATMUL)
def test_matmul_of_all_shapes(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in (a, b)]
    agrees_with_torch(lambda x, y: x @ y, *data)
    agrees_with_torch(lambda x, y: x @ y, *data, second_order=True)
    x = leaf(data[0])
    assert (x @ data[1]).requires_grad and (x.data @ leaf(data[1])).requires_grad


@pytest.mark.parametrize(("m", "k", "n"), [(512, 64, 2), (256, 32, 11), (256, 32, 12), (512, 64, 1), (512, 31, 2), (512, 2, 64)])
def test_matmul_with_few_columns(m: int, k: int, n: int) -> None:
    """The gradient of the right operand is computed as the transpose of a product; with sizes beside that, too."""
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((m, k), (k, n), (m, n))]
    ours, theirs = [leaf(d) for d in data], [d.clone().requires_grad_() for d in data]
    for a, b, c in (ours, theirs):
        ((a @ b).tanh() * c).sum().backward()
    for v, t in zip(ours, theirs):
        torch.testing.assert_close(v.grad, t.grad, rtol=1e-9, atol=1e-9)
    g = hg.gradients(((ours[0] @ ours[1]) * ours[2]).sum(), ours[:2], create_graph=True)
    expected = torch.autograd.grad(((theirs[0] @ theirs[1]) * theirs[2]).sum(), theirs[:2], create_graph=True)
    second = hg.gradients(sum((x * x).sum() for x in g), ours)
    for v, t in zip(second, torch.autograd.grad(sum((x * x).sum() for x in expected), theirs)):
        torch.testing.assert_close(v.data, t, rtol=1e-9, atol=1e-9)


EINSUM = [
    ("ij,jk->ik", (2, 3), (3, 4)), ("ij,jk", (2, 3), (3, 4)), ("ij->ji", (2, 3)), ("ij->", (2, 3)), ("ij->j", (2, 3)), ("ii->i", (3, 3)), ("ii", (3, 3)), ("ii->", (3, 3)),
    ("iij->j", (3, 3, 2)), ("iij->ij", (3, 3, 2)), ("iii->i", (2, 2, 2)), ("i,i->", (3,), (3,)), ("i,j->ij", (2,), (3,)), ("i,j->", (2,), (3,)), (",->", (), ()), ("i,->i", (3,), ()),
    ("bij,bjk->bik", (4, 2, 3), (4, 3, 2)), ("...ij,...jk->...ik", (4, 2, 3), (4, 3, 2)), ("...ij,jk->...ik", (5, 4, 2, 3), (3, 2)), ("...i,...i->...", (2, 3), (3,)),
    ("...ij,...jk->...ik", (4, 2, 3), (1, 3, 2)), ("i...->...", (3, 2)), ("...->...", (2, 3)), ("...i->i...", (2, 3)), ("ij,ij,ij->i", (2, 3), (2, 3), (2, 3)),
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)), ("ij,ik->jk", (2, 1), (2, 3)), ("ij,ij->ij", (2, 1), (2, 3)), ("ij,ij->ij", (1, 3), (2, 3)), ("ii,i->i", (3, 3), (3,)),
    ("ii,jj->ij", (2, 2), (3, 3)), ("ab,cd->", (2, 3), (3, 2)), ("i,i", (0,), (0,)), ("ij,jk->ik", (2, 0), (0, 3)), (" i j , j -> i ", (2, 3), (3,)), ("...,...->...", (2, 1), (1, 3)),
    ("ij,jk->ik", (2, 3), (1, 2)), ("ij,jk->ik", (2, 1), (3, 2)), ("ij,j,jk->", (2, 3), (1,), (1, 2)), ("ii,ij->j", (3, 3), (1, 2)),
    ("aB,Bc->ac", (2, 3), (3, 2)), ("i...i->...", (3, 2, 3)),
]  # fmt: skip


@pytest.mark.parametrize("case", EINSUM, ids=lambda case: f"{case[0]} {case[1:]}")
def test_einsum(case: tuple[Any, ...]) -> None:
    equation, *shapes = case
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]

    def f(*operands: Any) -> Any:
        return (hg.einsum if isinstance(operands[0], Variable) else torch.einsum)(equation, *operands)

    agrees_with_torch(f, *data)
    agrees_with_torch(f, *data, second_order=True)
    for i in range(len(data)):  # one that needs a gradient among constants
        x = leaf(data[i])
        hg.einsum(equation, *(x if j == i else d for j, d in enumerate(data))).sum().backward()
        assert x.grad.shape == x.shape


# ------------------------------------------------------------------------------------------------------ indexing and shapes


@pytest.mark.parametrize(
    "index",
    [
        0, -1, slice(None), slice(1, None, 2), slice(5, 2), None, Ellipsis, (0, 1), (Ellipsis, 0), (None, slice(None), None), [0, 0, 2], ([0, 1], [1, 1]), torch.tensor([2, 2, 0]),
        torch.tensor([[0, 1], [2, 0]]), (slice(None), torch.tensor([0, 0])), (torch.tensor([0, 0]), torch.tensor([1, 1])), torch.tensor([True, False, True]), torch.zeros(3, 4, dtype=torch.bool),
        (torch.tensor([True, False, True]), 0), [], torch.tensor([], dtype=torch.int64), (0, slice(None), None), (torch.tensor(1), 2), True, False, [True, False, True], (0, None, [1, 1]),
    ],
    ids=repr,
)  # fmt: skip
def test_indices(index: Any) -> None:
    data = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
    agrees_with_torch(lambda x: x[index], data)
    agrees_with_torch(lambda x: x[index] * x[index], data, second_order=True)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.unfold(0, 2, 1), lambda x: x.unfold(1, 3, 2), lambda x: x.flip((0, 1)), lambda x: x.expand(2, 3, 4), lambda x: x.expand(-1, 4), lambda x: x.T, lambda x: x.cumsum(1),
        lambda x: x.reshape(2, -1), lambda x: x.flatten(), lambda x: x.transpose(0, 1), lambda x: x.permute(1, 0), lambda x: x.unsqueeze(1).squeeze(), lambda x: x.mT,
    ],
)  # fmt: skip
def test_shaping_agrees_with_torch(f: Callable[[Any], Any]) -> None:
    data = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
    agrees_with_torch(f, data)
    agrees_with_torch(lambda x: f(x) * f(x), data, second_order=True)


@pytest.mark.parametrize("pad", [(1, 2), (0, 0), (-1, 1), (1, 1, 2, 0), (-1, -1, -1, 0), ()])
def test_padding_agrees_with_torch(pad: tuple[int, ...]) -> None:
    def f(x: Any) -> Any:
        return hg.pad(x, pad, value=2.0) if isinstance(x, Variable) else torch.nn.functional.pad(x, pad, value=2.0)

    agrees_with_torch(f, torch.arange(12.0, dtype=torch.float64).reshape(3, 4))


def test_cat_and_stack_of_odd_shapes() -> None:
    def cat(a: Any, b: Any, dim: int) -> Any:
        return (hg.cat if isinstance(a, Variable) else torch.cat)([a, b], dim)

    agrees_with_torch(lambda a, b: cat(a, b, -1), torch.ones(2, 3), torch.ones(2, 0))
    agrees_with_torch(lambda a, b: cat(a, b, 0), torch.ones(2, 3), torch.zeros(0))
    agrees_with_torch(lambda a, b: cat(a, b, 0), torch.zeros(0), torch.zeros(0))
