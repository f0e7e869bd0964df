"""The checker: right rules pass, wrong ones fail with a message that says what is wrong; what strategies draw."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch

import hotgrad as hg
from hotgrad import __main__, testing
from hotgrad.engines.native.compiler import find_compiler
from hotgrad.testing import GradientError, check_gradients, check_op, cli


def variant(base: Any, **fields: Any) -> Any:
    """`base` with a wrong declaration."""
    fields.setdefault("reads", (" ".join((*base.operand_names, "out")),) * len(base.operand_names))
    return types.new_class("Wrong", (base,), {"register": False}, lambda namespace: namespace.update(fields))


# ---------------------------------------------------------------------------------------------------------- right passes


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (hg.relu, [0.0, 1e-7, -1e-7, 2.0]),
        (hg.amax, [2.0, 2.0, 2.0, 1.0]),
        (lambda x: (x * x).sum(), [1e4, -9999.3, 12345.6]),
        (lambda x: 1 / x, [0.01, -0.01]),
        (lambda x: x.abs().sum(), [0.0, 1.0]),
        (lambda x: hg.maximum(x, x.flip((0,))).sum(), [1.0, 1.0]),
        (lambda x: hg.norm(x), [0.0, 0.0]),
        (lambda x: x.reshape(1, -1) @ x, [0.5, 2.0]),
        (lambda x: (x.exp(), x.sum()), [0.5, 2.0]),
        (lambda x: (x - 1e8).sum(), [0.5, 2.0]),
    ],
)
def test_right_gradients_pass(f: Any, x: list[float]) -> None:
    report = check_gradients(f, torch.tensor(x, dtype=torch.float64), order=2)
    assert report.compared > 0


# ------------------------------------------------------------------------------------------------- inputs of any magnitude

ANYWHERE: dict[str, Any] = {
    "square": lambda x: (x * x).sum(),
    "norm": lambda x: hg.norm(x),
    "logarithm": lambda x: x.abs().log().sum(),
    "reciprocal": lambda x: 1 / x,
    "kinked": lambda x: x.relu(),
    "product": lambda x: x.reshape(-1, 1) @ x.reshape(1, -1),
}


class Slanted(hg.Primitive, register=False):
    """a * a with a wrong rule."""

    forward = staticmethod(lambda a: a * a)
    vjps = (lambda g, out, a: g * a * 7,)


@pytest.mark.parametrize("size", [1e-60, 1e-10, 1e6, 1e8, 1e10, 1e20, 1e60])
def test_inputs_of_any_magnitude(size: float) -> None:
    x = torch.tensor([1.3, -0.4, 0.7], dtype=torch.float64) * size
    for name, f in ANYWHERE.items():
        assert check_gradients(f, x, order=2).compared > 0, name
    if size > 1:
        for wrong in (lambda a: Slanted.apply(a).sum(), Slanted.apply, lambda a: a * a.detach()):
            with pytest.raises(GradientError, match="differences give"):
                check_gradients(wrong, x)


@pytest.mark.parametrize("size", [1e6, 1e8, 1e10, 1e12, 1e20])
def test_what_varies_faster_than_inputs_are_spaced_is_no_mistake(size: float) -> None:
    x = torch.tensor([1.3, -0.4, 0.7], dtype=torch.float64) * size
    for f in (hg.sin, lambda x: x.sin().sum(), lambda x: x.cos() * 3 + x.sin()):
        try:
            check_gradients(f, x)
        except GradientError as error:
            assert error.kind == "unresolved"  # either is right


@pytest.mark.parametrize(
    ("f", "x", "why"),
    [
        (lambda a: a.log().sum(), [-1.0, -1.0], "1 of the 1 elements of the result are NaN or infinite"),
        (lambda a: a.exp(), [1e4, 1e5], "2 of the 2 elements of the result"),
        (lambda a: a.tanh(), [float("nan")], "1 of the 1 elements of input 0 are NaN or infinite"),
        (lambda a: a.sin(), [1e12, 1e13], "no difference is resolved in float64"),
        (lambda a: a.sum() + 1e30, [1.0, float("inf")], "input 0"),
    ],
)
def test_where_nothing_can_be_compared(f: Any, x: list[float], why: str) -> None:
    with pytest.raises(GradientError, match=f"none of the gradients could be compared: .*{why}"):
        check_gradients(f, torch.tensor(x))


def test_nothing_to_compare() -> None:
    assert check_gradients(lambda a: a.sum(), torch.zeros(0)).compared == 0
    with pytest.raises(hg.errors.OperandError, match=r"takes a function of Variables.*got 3"):
        check_gradients(3, torch.ones(2))  # type: ignore[arg-type]


def test_modules_are_checked_with_respect_to_their_parameters() -> None:
    model = hg.Linear(3, 2)
    before = model.weight.data.clone()
    report = check_gradients(model, torch.randn(4, 3), order=2)
    assert report.compared > 2 * (12 + 6 + 2)
    assert model.weight.data.dtype == torch.float32
    assert torch.equal(model.weight.data, before)
    assert model.weight.grad is None


def test_a_module_with_a_wrong_gradient_fails() -> None:
    class Detached(hg.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = hg.Parameter(torch.ones(2))

        def forward(self, x: Any) -> Any:
            return x * self.w * self.w.detach()

    with pytest.raises(GradientError, match=r"gradient of w\[0\]"):
        check_gradients(Detached(), torch.tensor([1.0, 2.0]))


def test_constants_are_not_checked_and_nothing_to_check_is_an_error() -> None:
    a, b = hg.Variable([1.0, 2.0], requires_grad=True), hg.Variable([3.0, 4.0])
    report = check_gradients(lambda a, b: a * b.detach(), a, b)
    assert report.compared
    with pytest.raises(hg.OperandError, match="nothing to check"):
        check_gradients(lambda b: b, b)
    with pytest.raises(hg.OperandError, match="input 0 must be a tensor"):
        check_gradients(lambda b: b, 3.0)


def test_random_functions_are_refused() -> None:
    with pytest.raises(GradientError, match="different results"):
        check_gradients(lambda x: x * torch.rand(2, dtype=torch.float64), torch.ones(2))


def test_nothing_is_left_behind() -> None:
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    before, registered, warnings = x.clone(), dict(hg.primitives()), torch.get_rng_state()
    check_gradients(hg.tanh, x)
    check_op(hg.ops.Var, max_examples=10)
    assert torch.equal(x, before)
    assert dict(hg.primitives()) == registered
    assert torch.equal(torch.get_rng_state(), warnings)


def test_the_same_seed_draws_the_same() -> None:
    first, again, other = (check_op(hg.ops.Mul, max_examples=10, seed=seed) for seed in (3, 3, 4))
    assert (first.compared, first.worst) == (again.compared, again.worst)
    assert (first.compared, first.worst) != (other.compared, other.worst)


def test_no_false_alarm(count: Callable[[int, int], int]) -> None:
    """On right rules, 20,000 examples in the thorough run."""
    ops = list(hg.ops.CLASSES.values())
    each = count(2, 1 + 20_000 // len(ops))
    examples = sum(check_op(op, max_examples=each, seed=20).examples for op in ops)
    assert examples > 0.9 * each * len(ops)
    assert testing.check_programs(count(50, 5000), seed=20).compared


# ------------------------------------------------------------------------------------------------------------ wrong fails

WRONG = [
    ("a factor", hg.ops.Exp, {"vjps": (lambda g, out, a: g * out * 1.001,)}, "factor of 1.001"),
    ("a sign", hg.ops.Sin, {"vjps": (lambda g, out, a: -g * a.cos(),)}, "sign"),
    ("writes into its cotangent", hg.ops.Neg, {"vjps": (lambda g, out, a: -g.mul_(1.0) * 1.0 if isinstance(g, torch.Tensor) else -g,)}, "wrote into the cotangent"),
    ("rules swapped", hg.ops.Mul, {"vjps": (lambda g, out, a, b: g * a, lambda g, out, a, b: g * b)}, "swapped"),
    ("cotangent ignored", hg.ops.Square, {"vjps": (lambda g, out, a: (g * 0 + 1) * 2 * a,)}, "cotangent"),
    ("second order", hg.ops.Square, {"vjps": (lambda g, out, a: g * 2 * (a if isinstance(a, torch.Tensor) else a.detach()),)}, "second order only"),
    ("memory shared", hg.ops.Add, {"fresh": True}, "shares memory"),
    ("wrong count", hg.ops.Mean, {"vjps": (lambda g, out, a, dim, keepdim: hg.ops.Mean.rule(g, out, a, dim, keepdim) * max(a.numel(), 1) / max(a.numel() - 1, 1),)}, "wrong count"),
    ("kink", hg.ops.ReLU, {"vjps": (lambda g, out, a: hg.where(a >= 0, g, 0.0),)}, "kink"),
    ("zero", hg.ops.Tanh, {"vjps": (lambda g, out, a: 0.0,)}, "gives zero"),
    ("float32", hg.ops.Square, {"vjps": (lambda g, out, a: (g * (a + a)).to(torch.float32),)}, "float32"),
    ("transposed", hg.ops.Permute, {"vjps": (lambda g, out, a, dims: g if tuple(g.shape) == tuple(a.shape) else hg.ops.Permute.rule(g, out, a, dims),)}, "transposed|wrong places"),
    ("raises", hg.ops.Exp, {"vjps": (lambda g, out, a: g.nonsense(),)}, "raised AttributeError"),
    ("too little read", hg.ops.Exp, {"reads": ("",)}, "out"),
    ("mask multiplied", hg.ops.Where, {"vjps": (None, lambda g, out, condition, a, b: g * condition, lambda g, out, condition, a, b: g * ~condition)}, "mask must select"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "fields", "said"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_wrong_rules_fail_and_are_diagnosed(base: Any, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(GradientError, match=said) as caught:
        check_op(variant(base, **fields))
    assert "Wrong" in str(caught.value)


def test_a_rule_right_only_when_nothing_is_broadcast_fails() -> None:
    def averaged(g: Any, out: Any, a: Any, b: Any) -> Any:
        r = g * b
        return r if tuple(r.shape) == tuple(a.shape) else r / max(r.numel() // max(a.numel(), 1), 1)

    with pytest.raises(GradientError, match=r"wrong count, or a broadcast .* is not undone|factor"):
        check_op(variant(hg.ops.Mul, vjps=(averaged, hg.ops.Mul.vjps[1])))


def test_messages_hold_code_that_runs_and_fails() -> None:
    Wrong = variant(hg.ops.Mul, vjps=(lambda g, out, a, b: g * b + 1.0, hg.ops.Mul.vjps[1]))
    with pytest.raises(GradientError) as caught:
        check_op(Wrong)
    message = str(caught.value)
    assert "gradient of a" in message
    code = textwrap.dedent(message.split("the smallest input found:\n")[1])
    names: dict[str, Any] = {"hg": hg, "torch": torch, "Wrong": Wrong}
    exec(code, names)
    assert names["a"].grad is not None
    assert not torch.equal(names["a"].grad, names["b"].data * torch.ones_like(names["a"].data))
    assert caught.value.elements <= 4


@pytest.mark.parametrize("t", [testing.strategies.laid_out(torch.arange(6.0).reshape(2, 3), kind) for kind in range(5)])
def test_tensors_print_as_code_with_their_layout(t: torch.Tensor) -> None:
    again = eval(testing.report.tensor_code(t), {"torch": torch})
    assert torch.equal(again, t)
    assert again.is_contiguous() == t.is_contiguous()
    assert (again.stride(0) == 0) == (t.stride(0) == 0)


def test_an_op_that_refuses_what_is_drawn_fails() -> None:
    class Picky(hg.Primitive, register=False):
        @staticmethod
        def forward(a: Any) -> Any:
            if a.ndim != 17:
                raise ValueError("no")
            return a

        vjps = (lambda g, out, a: g,)

    with pytest.raises(GradientError, match="refused"):
        check_op(Picky)


def test_required_options_must_be_declared() -> None:
    class Needs(hg.Primitive, register=False):
        forward = staticmethod(lambda a, *, k: a * k)
        vjps = (lambda g, out, a, k: g * k,)

    with pytest.raises(hg.DeclarationError, match="required option 'k'"):
        check_op(Needs)
    Needs.options = {"k": [2.0, 3.0]}
    assert check_op(Needs).compared


def test_unstable_ops_that_claim_otherwise_fail() -> None:
    class Naive(hg.Primitive, register=False):
        """log(sum(exp))."""

        stable = True
        forward = staticmethod(lambda a: a.exp().sum().log())
        vjps = (lambda g, out, a: g * a.exp() / out.exp(),)

    with pytest.raises(GradientError, match="declared stable"):
        check_op(Naive)


def test_check_all_tells_every_failure() -> None:
    assert [r.name for r in testing.check_all(["Mul", "Exp"], max_examples=3, oracle=True)] == ["Mul", "Exp"]
    with pytest.raises(hg.OperandError, match="no primitive is named 'Nonsense'"):
        testing.check_all(["Nonsense"])


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["Mul", "Less"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["op", "examples", "orders", "slopes", "worst", "error", "native", "seconds"]
    assert printed[1].split()[:4] == ["Mul", "25", "1,", "2"]
    assert printed[2].split()[0] == "Less"


def test_the_table_shows_failures(capsys: pytest.CaptureFixture[str]) -> None:
    class WrongSine(hg.Primitive):
        forward = staticmethod(torch.sin)
        vjps = (lambda g, out, a: g * a.sin(),)

    assert cli.main(["WrongSine"]) == 1
    assert "WRONG" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------- strategies


def _drawn(strategy: Any, n: int = 200) -> list[Any]:
    found: list[Any] = []

    testing.check.explore(strategy, found.append, n, 1, False)
    return found


def test_shapes_of_every_class_are_drawn() -> None:
    found = [shape for shape, _ in _drawn(st.tuples(testing.shapes(), st.integers(0, 10**9)))]  # no draw is given twice
    share = {
        "0-d": sum(not s for s in found),
        "empty": sum(0 in s for s in found),
        "size 1": sum(1 in s for s in found),
        "square": sum(len(s) > 1 and len(set(s)) == 1 and s[0] > 1 for s in found),
    }
    assert all(n > 0.03 * len(found) for n in share.values()), share
    assert share["square"] > 0.12 * len(found)
    assert {len(s) for s in found} == {0, 1, 2, 3}


def test_broadcastable_shapes_broadcast() -> None:
    found = _drawn(testing.broadcastable_shapes(3))
    for drawn in found:
        torch.broadcast_shapes(*drawn)
    assert any(len({len(s) for s in drawn}) > 1 for drawn in found)


def test_tensors_stay_in_their_domain_and_have_every_layout() -> None:
    found = _drawn(testing.tensors(domain=hg.Interval(0.0, 1.0)))
    assert all(bool(((t >= 0) & (t <= 1)).all()) for t in found)
    assert any(not t.is_contiguous() for t in found)
    assert any(t.storage_offset() for t in found)
    assert any(t.ndim and t.stride(0) == 0 and t.shape[0] > 1 for t in found)
    assert {t.dtype for t in _drawn(testing.tensors((2,), hg.Integers(0, 3)), 10)} == {torch.int64}
    assert {v.requires_grad for v in _drawn(testing.variables((2,)), 30)} == {True, False}


def test_programs_run_print_and_are_differentiable() -> None:
    for program in _drawn(testing.programs(), 60):
        names: dict[str, Any] = {"hg": hg}
        exec(str(program), names)
        inputs = [torch.rand(shape, dtype=torch.float64) for shape in program.inputs]
        assert torch.equal(names["program"](*inputs), program(*inputs))


# ----------------------------------------------------------------------------------------------------------------- borders


def test_without_hypothesis_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['hypothesis'] = None; import hotgrad\ntry: import hotgrad.testing\nexcept ImportError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install hypothesis" in done.stdout


def test_the_rest_of_hotgrad_does_without_it() -> None:
    code = "import sys, hotgrad; print(any(m.startswith(('hypothesis', 'hotgrad.testing')) for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ------------------------------------------------------------------------------------------------------- what is checked


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("Sinc", r"no primitive is named 'Sinc'; did you mean 'Sin'\? There are .*Mul"),
        ("mul", r"no primitive is named 'mul'; did you mean 'Mul'\?"),
        ("xyzzy", r"no primitive is named 'xyzzy'\. There are"),
        (torch.sin, r"got <built-in method sin .*; for the op Sin give check_op\('Sin'\).*check_gradients\(f, \*inputs\)"),
        (torch.nn.functional.relu, r"for the op ReLU give check_op\('ReLU'\)"),
        (hg.sin, r"for the op Sin give"),
        (hg.ops.Exp.apply, r"for the op Exp give"),
        (hg.ops.Mul(), r"for the op Mul give"),
        (torch.special.sinc, r"takes a Primitive class or its name; got .* The gradients of any function"),
        (torch.nn.ReLU(), r"for the op ReLU give"),
        (hg.Primitive, r"takes a Primitive class or its name"),
        (None, r"takes a Primitive class or its name; got None\."),
    ],
)
def test_what_is_no_primitive_is_refused_with_what_to_give(given: Any, said: str) -> None:
    with pytest.raises(hg.errors.OperandError, match=said):
        check_op(given)


def test_primitives_are_taken_by_name() -> None:
    assert check_op("Mul", max_examples=3).name == "Mul"
    with pytest.raises(hg.errors.OperandError, match="did you mean 'Softmax'"):
        testing.check_all(["Exp", "Sofmax"])


@pytest.mark.parametrize(
    ("rule", "reads"),
    [
        (lambda g, out, a: g * a.exp(), ""),
        (lambda g, out, a: g * torch.exp(a), ""),
        (lambda g, out, a: torch.cat([g, a]), ""),
        (lambda g, out, a: g * len(a), ""),
        (lambda g, out, a: g * out, "a"),
        (lambda g, out, a: g * out.abs(), "a"),
        (lambda g, out, a: g * a.exp() if out else -g, "a"),
    ],
)
def test_the_report_names_what_reads_lacks(rule: Any, reads: str) -> None:
    wrong = types.new_class("Own", (hg.Primitive,), {"register": False}, lambda body: body.update(
        forward=staticmethod(lambda a: a.exp()), vjps=(rule,), reads=reads,
    ))  # fmt: skip
    with pytest.raises(GradientError, match=f"`reads`, now '{reads}'"):
        check_op(wrong, shrink=False)


# ---------------------------------------------------------------------------------------------------------- native forms


def own(native: str, forward: Any, *rules: Any, **fields: Any) -> Any:
    fields |= {"native": native, "forward": staticmethod(forward), "vjps": rules}
    return types.new_class("Own", (hg.Primitive,), {"register": False}, lambda body: body.update(fields))


def double(native: str) -> Any:
    return own(native, lambda a: a * 2, lambda g, out, a: g * 2)


needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="needs a C compiler")


@needs_compiler
@pytest.mark.parametrize(
    "op",
    [
        double("{a} + {a}"),
        own("{a} - {b} / 2", lambda a, b: a - b / 2, lambda g, out, a, b: g, lambda g, out, a, b: -g / 2),
        own("matmul", lambda a, b: a @ b, lambda g, out, a, b: g @ b.mT, lambda g, out, a, b: a.mT @ g, signature="(m,k),(k,n)->(m,n)"),
        *map(hg.primitives().get, ("Where", "Clip", "Softplus", "Softmax", "Gather")),
    ],
)
def test_right_native_forms_pass(op: Any) -> None:
    assert check_op(op, order=1, max_examples=8, native=True).native >= 4
    assert check_op(op, order=1, max_examples=3).native == 0


@needs_compiler
@pytest.mark.parametrize(
    ("op", "said"),
    [
        (double("{a} * 3"), r"Own: its native form '\{a\} \* 3' is not what forward computes: for a = .* natively, and .* by forward"),
        (double("{a} * 2.00001"), "is not what forward computes"),
        (double("{a} * (1 + ({a} != 0.5))"), "for a = 0.5 "),
        (double("{a} == {a} ? 2 * {a} : 0"), "for a = nan .* is 0 natively, and nan by forward"),
        (double("fmin(2 * {a}, 1e299)"), "for a = 1e.300 "),
        (double("2 * fmin({a}, 8e307)"), "for a = inf "),
        (double("copysign(2 * {a}, 1)"), "for a = -"),
        (double("{a} ** 2"), r"its native form .* cannot be used: the C compiler .* failed"),
        (double("twice({a})"), "its native form calls 'twice', which is not known"),
        (own("{b} - {a}", lambda a, b: a - b, lambda g, out, a, b: g, lambda g, out, a, b: -g), "for a = .*, b = "),
        (own("exp({a}) / (1 + exp({a}))", torch.sigmoid, lambda g, out, a: g * out * (1 - out)), "is nan natively, and 1 by forward"),
        (
            own("{k} * {a}", lambda a, *, k: a + k, lambda g, out, a, k: g, options={"k": [2.0, 3.0]}),
            "is not what forward computes",
        ),
        (
            own("log({a} + 1e-290)", lambda a: a.log(), lambda g, out, a: g / a, domain=(hg.Interval(0.0),)),
            "for a = 0.0 .*, and -inf by forward",
        ),
        (own("sum", lambda a: a.mean(), lambda g, out, a: g.expand(a.shape) / a.numel(), operands=lambda: [([(3,)], {})]), "Own"),
    ],
)
def test_wrong_native_forms_are_caught(op: Any, said: str) -> None:
    check_op(op, order=1, max_examples=8)
    with pytest.raises(GradientError, match=said):
        check_op(op, order=1, max_examples=8, native=True)


def test_without_a_native_form_there_is_nothing_to_check() -> None:
    with pytest.raises(hg.errors.OperandError, match="Own declares no `native` form"):
        check_op(double(""), native=True)


@needs_compiler
def test_the_command_checks_native_forms(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["Neg"], native=True) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-2] == "6"
    monkeypatch.setattr(hg.ops.Neg, "native", "{a}")
    assert __main__.main(["check", "Neg"]) == 0
    assert __main__.main(["check", "Neg", "--native"]) == 1
    assert "WRONG: native" in (said := capsys.readouterr().out) and "its native form '{a}' is not what forward computes" in said


def test_an_oracle_that_raises_is_told() -> None:
    def refusing(a: Any, b: Any) -> Any:
        raise IndexError("none of these")

    with pytest.raises(GradientError, match="torch's function raises what forward computes: IndexError: none of these"):
        check_op(hg.ops.Mul, oracle=refusing)
