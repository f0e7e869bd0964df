"""The native engine against plain torch: every op's own examples, special values, chains, updates and many steps in a call."""

from __future__ import annotations

import itertools
import math
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from building import Build, interpret
from torch import Tensor

import hotgrad as hg
from hotgrad.core import primitive
from hotgrad.engines.native import csource, structured
from hotgrad.engines.native.compiler import find_compiler
from hotgrad.engines.native.csource import standalone
from hotgrad.engines.native.engine import Native, NativeError

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")

ops = hg.ops
NONE = torch.zeros(1, 0, dtype=torch.float64)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
GENERATOR = torch.Generator().manual_seed(0)


class Example(Build):
    """A program, and what torch computes for each of its values."""

    def once(self, native: Native) -> list[Tensor]:
        """The outputs of one run, then the states."""
        code = self.code
        scalars = torch.tensor([[self.values[s] for s in code.scalars]], dtype=torch.float64) if code.scalars else NONE
        outputs = [torch.full((1, *v.shape), 77).to(v.dtype) for v in code.outputs]
        native.run([self.values[v] for v in code.inputs], None, 1, scalars, [], outputs)
        return [o[0] for o in outputs] + [s.tensor for s in code.states if s.update is not None]

    def check(self, native: Native, what: str = "") -> None:
        for value, got in zip(self.code.results(), self.once(native)):
            close(got, torch.as_tensor(self.values[value], dtype=value.dtype), f"{what}\n{self.code}")


def close(got: Tensor, expected: Tensor, what: str) -> None:
    assert got.shape == expected.shape and got.dtype is expected.dtype, what
    if not expected.is_floating_point():
        assert torch.equal(got, expected), f"{what}\n{got}\n{expected}"
        return
    finite = expected[expected.isfinite()].abs()
    limit = TOLERANCE[expected.dtype] * max(float(finite.max()) if finite.numel() else 0.0, 1e-30)
    same = (got == expected) | (got.isnan() & expected.isnan()) | (expected.isfinite() & ((got - expected).abs() <= limit))
    assert bool(same.all()), f"{what}\n{got}\n{expected}"


def check_together(examples: Sequence[tuple[str, Example]], options: Sequence[str] = ("-O0",)) -> None:
    """Compile and check many, by default without optimisation, which would take minutes."""
    for start in range(0, len(examples), 300):
        part = examples[start : start + 300]
        for (what, example), native in zip(part, Native.prepare([e.code for _, e in part], options=options)):
            example.check(native, what)


def drawn(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, domain: Any = None) -> Tensor:
    if isinstance(domain, hg.Booleans):
        return torch.rand(shape, generator=GENERATOR) > 0.5
    low, high = -2.0, 2.0
    if isinstance(domain, hg.Interval):
        low, high = max(domain.low, -2.0), min(domain.high, 2.0)
    return (torch.rand(shape, generator=GENERATOR, dtype=torch.float64) * (high - low) + low).to(dtype)


def one(op: Any, operands: Sequence[Any], options: dict[str, Any], dtype: torch.dtype = torch.float32) -> Example | None:
    """A program of one op, None where torch refuses the operands."""
    example = Example()
    domains = [*op.domain, *[None] * len(operands)]
    tensors = [drawn(o, dtype, d) if isinstance(o, tuple) else o for o, d in zip(operands, domains)]
    given = [example.input(t) if isinstance(t, Tensor) else t for t in tensors]
    try:
        example.code.outputs.append(example.run(op, *given, **options))
    except Exception:
        return None
    return example


BROADCAST = [
    ((), ()), ((1,), (1,)), ((3,), ()), ((25,), (25,)), ((2, 3), (3,)), ((4, 1), (1, 5)), ((20, 25), (25,)), ((20, 25), (20, 1)), ((100, 2), (2,)),
    ((0, 3), (3,)), ((2, 3, 9), (3, 1)), ((2, 1, 4, 5), (3, 1, 5)), ((17, 1), (17, 1)), ((1, 1), (1, 1)), ((5, 0), ()),
]  # fmt: skip
# Ops that run on eager and replay alone, which their texts say.
WITHOUT = {op.name for op in hg.primitives().values() if op.__module__ == "hotgrad.ops.decompositions"}
WITHOUT |= {"Erfinv", "Lgamma", "Digamma", "Polygamma", "ArgSort", "TopK", "CumArg"}
SHAPES = [(), (1,), (3,), (25,), (2, 3), (20, 25), (5, 1), (0, 3), (2, 3, 4), (3, 17, 40), (2, 1, 3, 2), (70, 130), (300,)]


def op_examples(share: int) -> list[tuple[str, Example]]:
    """One of `share` cases of every op with many."""
    found: list[tuple[str, Example | None]] = []
    for name, op in hg.primitives().items():
        for dtype in (torch.float32, torch.float64) if op.native else ():
            cases: list[tuple[Any, dict[str, Any]]] = []
            choices = op.options if isinstance(op.options, dict) else {}
            options = [dict(zip(choices, c)) for c in itertools.product(*choices.values())] if choices else [{}]
            if hasattr(op, "operands"):
                cases = list(op.operands())
            elif op.elementwise:
                shapes = {1: [(s,) for s in SHAPES], 2: BROADCAST, 3: [(a, b, a) for a, b in BROADCAST]}[op.arity or 1]
                cases = [(s, o) for s in shapes for o in options]
            else:
                cases = [((s,), o) for s in SHAPES for o in options]
            if len(cases) > 30:
                cases = cases[len(found) % share :: share]
            found += [(f"{name} {[getattr(o, 'shape', o) for o in c]} {o}", one(op, c, o, dtype)) for c, o in cases]
    return [(what, example) for what, example in found if example is not None]


def test_every_op_computes_what_torch_computes(thorough: bool) -> None:
    examples = op_examples(1 if thorough else 13)
    # Independent is in the graph alone: programs do without
    assert {e.code.instructions[0].op.name for _, e in examples} == set(hg.primitives()) - {"Independent"} - WITHOUT
    check_together(examples)


SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40, -1e-40, 1e-310, 1.0, -1.0, 0.5, -2.5, 3e38, -3e38, 1e308, 88.0, -104.0, 710.0]


def test_special_values() -> None:
    examples = []
    for name, op in hg.primitives().items():
        if not op.elementwise or not op.native or name == "Where" or isinstance(next(iter(op.domain), None), hg.Booleans):
            continue
        for dtype in (torch.float32, torch.float64):
            numbers = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
            if name in ("Sin", "Cos", "Tan"):
                numbers = numbers[numbers.abs() < 1e6]
            if name in ("Remainder", "Fmod", "FloorDivide"):  # torch's give NaN where the quotient overflows
                size = numbers.abs()
                numbers = numbers[(size == 0) | ~((size < torch.finfo(dtype).tiny) | ((size > 1e30) & size.isfinite()))]
            options: dict[str, Any] = {"min": -1.0, "max": 1.0} if name == "Clip" else {"decimals": 0} if name == "Round" else {}
            example = Example()
            a, b = example.input(numbers.reshape(-1, 1)), example.input(numbers)
            operands = [a, b] if op.arity == 2 else [a, b, -0.5] if name == "AddScaled" else [a]
            example.code.outputs.append(example.run(op, *operands, **options))
            examples.append((name, example))
            if op.arity == 2:
                for number in (2.0, -1, 0.5, 3, -0.5, -2, 0, 1, 1.7, math.inf):
                    by_number = one(op, (numbers, number), {})
                    if by_number is not None:
                        examples.append((f"{name} {number}", by_number))
    check_together(examples, options=())


def test_reductions_of_every_set_of_axes() -> None:
    examples = []
    for shape in [(4,), (3, 5), (20, 25), (2, 3, 4), (2, 3, 4, 9), (3, 1, 33), (40, 3, 2)]:
        for count in range(1, len(shape) + 1):
            for axes in itertools.combinations(range(len(shape)), count):
                for op, keepdim in itertools.product((ops.Sum, ops.Amax, ops.LogSumExp, ops.Norm), (False, True)):
                    example = Example()
                    example.code.outputs.append(example.run(op, example.input(drawn(shape)), dim=axes, keepdim=keepdim))
                    examples.append((f"{op.name} {shape} {axes}", example))
                turned = Example()
                a = turned.run(ops.Permute, turned.input(drawn(shape)), dims=tuple(reversed(range(len(shape)))))
                turned.code.outputs.append(turned.run(ops.Sum, a, dim=axes))
                examples.append((f"transposed {shape} {axes}", turned))
    for dtype in (torch.bool, torch.int64, torch.int32):
        for op, axes in itertools.product((ops.Sum, ops.Amax, ops.Amin), (None, 0, 1)):
            example = Example()
            numbers = torch.randint(-3, 4, (5, 19), generator=GENERATOR)
            example.code.outputs.append(
                example.run(op, example.input((numbers > 0) if dtype is torch.bool else numbers.to(dtype)), dim=axes)
            )
            examples.append((f"{op.name} of {dtype} {axes}", example))
    for number in (math.nan, math.inf, -math.inf):
        for op in (ops.Amax, ops.Amin, ops.LogSumExp, ops.Softmax, ops.LogSoftmax, ops.Sum):
            for dim in (0, 1):
                tensor = drawn((11, 12))
                tensor[3, 4] = number
                tensor[:, 7] = number
                example = Example()
                example.code.outputs.append(example.run(op, example.input(tensor), dim=dim))
                examples.append((f"{op.name} {number} {dim}", example))
    check_together(examples)


def test_matrix_products() -> None:
    examples = []
    sizes = [
        (1, 1, 1),
        (3, 25, 4),
        (7, 2, 25),
        (20, 25, 25),
        (25, 20, 25),
        (5, 30, 33),
        (13, 400, 70),
        (1, 50, 9),
        (50, 9, 1),
        (6, 0, 3),
        (2, 1, 100),
    ]
    for (m, k, n), dtype in itertools.product(sizes, (torch.float32, torch.float64)):
        for turn_a, turn_b in itertools.product((False, True), repeat=2):
            for batch in ((), (3,)):
                example = Example()
                a = example.input(drawn((*batch, k, m) if turn_a else (*batch, m, k), dtype))
                b = example.input(drawn((n, k) if turn_b else (k, n), dtype))
                if turn_a:
                    a = example.run(ops.Permute, a, dims=(0, 2, 1) if batch else (1, 0))
                if turn_b:
                    b = example.run(ops.Permute, b, dims=(1, 0))
                example.code.outputs.append(example.run(ops.MatMul, a, b))
                examples.append((f"{m} {k} {n} {turn_a} {turn_b} {batch}", example))
    check_together(examples, options=())


def test_dtypes_promote_as_in_torch() -> None:
    examples = []
    tensors = [torch.tensor([1, 2, 3]), torch.tensor([True, False, True]), torch.tensor([0.5, -1.5, 2.0])]
    tensors += [
        torch.tensor([0.1, 1.5, 2.5], dtype=torch.float64),
        torch.tensor(2),
        torch.tensor(0.1, dtype=torch.float64),
        torch.tensor([1, 5, 9], dtype=torch.int32),
    ]
    for op in (ops.Add, ops.Mul, ops.Div, ops.Less, ops.Equal, ops.Maximum, ops.Sub):
        for a, b in itertools.product([*tensors, 2, 0.1], repeat=2):
            example = Example()
            operands = [example.input(o) if isinstance(o, Tensor) else o for o in (a, b)]
            if not example.code.inputs:
                continue
            try:
                example.code.outputs.append(example.run(op, *operands))
            except Exception:
                continue
            examples.append((f"{op.name} {a} {b}", example))
    for a, dtype in itertools.product(tensors, (torch.float32, torch.float64, torch.int64, torch.bool)):
        example = Example()
        example.code.outputs.append(example.run(ops.Cast, example.input(a), dtype=dtype))
        examples.append((f"cast {a} {dtype}", example))
    check_together(examples)


def perceptron(batch: int, sizes: Sequence[int], dtype: torch.dtype = torch.float32, momentum: float = 0.0) -> Example:
    """A step of training: ReLU layers, tanh at the end, mean squared error, gradient descent."""
    make = Example()
    x, y = make.input(drawn((batch, sizes[0]), dtype)), make.input(drawn((batch, sizes[-1]), dtype))
    rate = make.scalar(0.05)
    layers = [(make.state(drawn((a, b), dtype) / math.sqrt(a)), make.state(drawn((b,), dtype) / 10)) for a, b in itertools.pairwise(sizes)]
    h, saved = x, []
    for i, (w, b) in enumerate(layers):
        out = make.run(ops.ReLU if i < len(layers) - 1 else ops.Tanh, make.run(ops.Add, make.run(ops.MatMul, h, w), b))
        saved.append((h, w, b, out))
        h = out
    d = make.run(ops.Sub, h, y)
    loss = make.run(ops.Mean, make.run(ops.Mul, d, d), dim=None)
    g = make.run(ops.Mul, d, 2.0 / (batch * sizes[-1]))
    step = make.run(ops.Neg, rate)
    for i, (h_in, w, b, out) in reversed(list(enumerate(saved))):
        g = make.run(ops.ReLUGrad if i < len(layers) - 1 else ops.TanhGrad, g, out)
        grads = [(b, make.run(ops.Sum, g, dim=(0,))), (w, make.run(ops.MatMul, make.run(ops.Permute, h_in, dims=(1, 0)), g))]
        if i:
            g = make.run(ops.MatMul, g, make.run(ops.Permute, w, dims=(1, 0)))
        for p, grad in grads:
            if momentum:
                v = make.state(drawn(p.shape, dtype))
                grad = make.run(ops.Add, make.run(ops.Mul, v, momentum), grad)
                make.update(v, grad)
            make.update(p, make.run(ops.AddScaled, p, grad, step))
    make.code.outputs += [loss, h]
    return make


def test_many_steps_of_training() -> None:
    for dtype, momentum, sizes, batch in (
        (torch.float32, 0.0, [2, 25, 25, 25, 2], 20),
        (torch.float64, 0.9, [3, 30, 17, 1], 7),
        (torch.float32, 0.9, [9, 1, 64, 5], 33),
    ):
        ours, theirs = (perceptron(batch, sizes, dtype, momentum) for _ in range(2))
        for a, b in zip(ours.code.states, theirs.code.states):
            b.tensor.copy_(a.tensor)
        native = Native(ours.code)
        x, y = drawn((50, sizes[0]), dtype), drawn((50, sizes[-1]), dtype)
        steps = 30
        order = torch.randint(0, 50, (steps * batch,), generator=GENERATOR)
        rates = torch.rand(steps, 1, dtype=torch.float64, generator=GENERATOR) / 20
        losses, last = torch.zeros(steps, dtype=dtype), torch.zeros(1, batch, sizes[-1], dtype=dtype)
        native.run([x, y], order, 10, rates[:10].clone(), [], [losses[:10], last])
        native.run([x, y], order[10 * batch :], 20, rates[10:].clone(), [], [losses[10:], last])
        for s in range(steps):
            rows = order[s * batch : (s + 1) * batch]
            loss, out = interpret(theirs.code, [x[rows], y[rows]], rates[s].tolist())
            close(losses[s], loss, "loss")
        close(last[0], out, "output")
        for a, b in zip(ours.code.states, theirs.code.states):
            close(a.tensor, b.tensor, "state")


def test_states_that_depend_on_each_other() -> None:
    """Exchanged, shifted, unchanged, given out before they change, and views of each other."""
    make = Example()
    a, b, c, d = (make.state(drawn((3, 5))) for _ in range(4))
    e = make.state(drawn((5, 3)))
    make.update(a, b)
    make.update(b, a)
    make.update(c, make.run(ops.Add, c, make.run(ops.Permute, e, dims=(1, 0))))
    make.update(d, make.run(ops.Mul, d, 2.0))
    make.update(e, make.run(ops.Permute, c, dims=(1, 0)))
    make.code.outputs += [a, d, make.run(ops.Sum, d, dim=(0,)), e]
    make.check(Native(make.code))
    shared = Example()
    a, b = (shared.state(drawn((3, 5))) for _ in range(2))
    new = shared.run(ops.Add, shared.run(ops.Mul, a, 0.5), b)
    shared.update(a, new)
    shared.update(b, new)
    shared.code.outputs += [new, new, b]
    shared.check(Native(shared.code))


def test_scalars_constants_draws_and_kinds_of_outputs() -> None:
    make = Example()
    x = make.input(drawn((4, 6)))
    rate, other = make.scalar(0.5), make.scalar(3.0)
    derived = make.run(ops.Div, make.run(ops.Sub, 1.0, make.run(ops.Mul, rate, rate)), other)
    constant = make.constant(drawn((6,)))
    scaled = make.run(ops.Mul, x, derived)
    make.code.outputs += [make.run(ops.AddScaled, scaled, constant, rate), derived, constant, x, x]
    make.check(Native(make.code))
    noise = Example()
    x = noise.input(drawn((4, 6)))
    draw = noise.draw(4, 6)
    noise.code.outputs.append(noise.run(ops.Mul, noise.run(ops.Cast, noise.run(ops.Less, draw, 0.5), dtype=torch.float32), x))
    given, out = torch.rand(3, 4, 6), torch.zeros(3, 4, 6)
    Native(noise.code).run([noise.values[x]], None, 3, NONE, [given], [out])
    assert torch.equal(out, (given < 0.5).float() * noise.values[x])


def test_a_state_of_other_strides_and_the_last_output_alone() -> None:
    make = Example()
    w = make.state(drawn((3, 4)))
    make.code.states[0].holder = make.values[w].t().contiguous().t()
    new = make.run(ops.Mul, w, 2.0)
    make.update(w, new)
    make.code.outputs += [new, new]
    last, every = torch.zeros(1, 3, 4), torch.zeros(3, 3, 4)
    Native(make.code).run([], None, 3, NONE, [], [last, every])
    assert torch.equal(last[0], 8 * make.values[w]) and torch.equal(make.code.states[0].tensor, last[0]) and torch.equal(every[2], last[0])


def random_program(seed: int) -> Example:
    """A program of views, chains, reductions and products in any order."""
    g = torch.Generator().manual_seed(seed)

    def pick(n: int) -> int:
        return int(torch.randint(0, n, (), generator=g))

    make = Example()
    dtype = (torch.float32, torch.float64)[pick(2)]
    m, n = 1 + pick(9), 1 + pick(20)
    pool = [
        make.input(drawn((m, n), dtype)),
        make.input(drawn((n,), dtype)),
        make.state(drawn((m, n), dtype)),
        make.input(drawn((n, m), dtype)),
    ]
    state = pool[2]
    unary = [ops.Tanh, ops.ReLU, ops.Neg, ops.Square, ops.Sigmoid, ops.Abs, ops.Exp, ops.Sin]
    binary = [ops.Add, ops.Sub, ops.Mul, ops.Maximum, ops.ReLUGrad, ops.TanhGrad]
    while len(make.code.instructions) < 8 + pick(20):
        a, b = pool[pick(len(pool))], pool[pick(len(pool))]
        kind = pick(10)
        try:
            if kind < 2:
                new = make.run(unary[pick(len(unary))], a)
            elif kind < 5:
                new = make.run(binary[pick(len(binary))], a, b)
            elif kind == 5:
                new = make.run(ops.Permute, a, dims=tuple(reversed(range(a.ndim))))
            elif kind == 6:
                new = make.run((ops.Sum, ops.Mean, ops.Amax, ops.Softmax)[pick(4)], a, dim=pick(a.ndim))
            elif kind == 7:
                new = make.run(ops.MatMul, a, b)
            elif kind == 8:
                new = make.run(ops.Where, make.run(ops.Less, a, b), a, 0.5)
            else:
                new = make.run(ops.Reshape, a, shape=(-1, a.shape[0])) if pick(2) else make.run(ops.Flip, a, dims=(0,))
        except Exception:
            continue
        result = make.values[new]
        if result.numel() and float(result.abs().max()) < 1e3 and bool(result.isfinite().all()):
            pool.append(new)
    for value in reversed(pool):
        if value.shape == state.shape:
            make.update(state, value)
            break
    make.code.outputs += [pool[-1], pool[-1 - pick(3)], pool[pick(len(pool))]]
    return make


def test_random_programs(count: Callable[[int, int], int]) -> None:
    examples = [(f"seed {seed}", random_program(seed)) for seed in range(count(40, 2000))]
    for fuse in (True, False):
        for start in range(0, len(examples), 100):
            part = examples[start : start + 100]
            for (what, example), native in zip(part, Native.prepare([e.code for _, e in part], fuse=fuse, options=("-O1",))):
                for state in example.code.states:
                    state.tensor.copy_(example.values[state.value])
                example.check(native, what)


@pytest.mark.parametrize("size", [16, 64])
def test_vectors_of_other_machines(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csource, "vector_bytes", lambda: size)
    examples = [("perceptron", perceptron(batch, [3, 25, 17, 1], dtype)) for batch in (3, 20) for dtype in TOLERANCE]
    check_together(examples + [(f"seed {seed}", random_program(seed)) for seed in range(20)])


def test_threads_with_a_native_each_do_not_meet() -> None:
    examples = [perceptron(20, [2, 25, 25, 2]) for _ in range(4)]
    for example in examples[1:]:
        for a, b in zip(examples[0].code.states, example.code.states):
            b.tensor.copy_(a.tensor)
    natives = [Native(example.code) for example in examples]
    data = [examples[0].values[v] for v in examples[0].code.inputs]
    rates = torch.full((1, 1), 0.01, dtype=torch.float64)

    def work(native: Native) -> None:
        native.run(data, None, 3000, rates, [], [torch.zeros(3000), torch.zeros(1, 20, 2)])

    work(natives[0])
    threads = [threading.Thread(target=work, args=(native,)) for native in natives[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for example in examples[1:]:
        assert all(torch.equal(a.tensor, b.tensor) for a, b in zip(examples[0].code.states, example.code.states))


def test_what_has_no_native_form_is_named() -> None:
    class Odd(hg.Primitive):
        """No native form."""

        forward = staticmethod(torch.neg)
        vjps = (None,)

    class Cube(hg.Primitive):
        """A user's op with one."""

        forward = staticmethod(lambda a, *, times=1.0: times * a * a * a)
        vjps = (None,)
        native = "{times} * {a} * {a} * {a}"

    for op, options, given, match in (
        (Odd, {}, drawn((3,)), "Odd has no native form"),
        (ops.MatMul, {}, torch.ones(2, 2, dtype=torch.int64), "MatMul of torch.int64"),
        (ops.Neg, {}, drawn((3,)).half(), "float16"),
    ):
        make = Example()
        operand = make.input(given)
        make.code.outputs.append(make.run(op, *([operand] * (op.arity or 1)), **options))
        with pytest.raises(NativeError, match=match):
            Native(make.code)
    make = Example()
    make.code.outputs.append(make.run(Cube, make.input(drawn((7,))), times=0.5))
    make.check(Native(make.code))


def test_wrong_tensors_are_refused() -> None:
    make = Example()
    make.code.outputs.append(make.run(ops.Neg, make.input(drawn((2, 3)))))
    native = Native(make.code)
    out = torch.zeros(1, 2, 3)
    for sources, order, outputs in (
        ([torch.zeros(2, 4)], None, [out]),
        ([torch.zeros(2, 3, dtype=torch.float64)], None, [out]),
        ([torch.zeros(2, 3)], None, [torch.zeros(1, 3, 2)]),
        ([torch.zeros(5, 3)], torch.tensor([0]), [out]),
        ([torch.zeros(5, 3)], torch.tensor([0, 5]), [out]),
        ([], None, [out]),
    ):
        with pytest.raises(hg.errors.HotgradError):
            native.run(sources, order, 1, NONE, [], outputs)


CONVOLUTIONS = ("Convolution", "ConvolutionInput", "ConvolutionWeight", "PoolArgMax")


def shown_programs() -> list[Example]:
    programs = [perceptron(7, [2, 25, 9, 3], dtype, 0.9) for dtype in (torch.float32, torch.float64)]
    for name in (
        "Gather",
        "ScatterAdd",
        "GetItem",
        "PutItem",
        "Pad",
        "Fold",
        "Cumsum",
        "Softmax",
        "Var",
        "MatMul",
        "Prod",
        "Cat",
        *CONVOLUTIONS,
    ):
        op = hg.primitives()[name]
        cases = list(op.operands()) if hasattr(op, "operands") else [(((5, 19),), {"dim": 1}), (((5, 19),), {"dim": 0})]
        programs += [made for operands, options in cases[-4:] if (made := one(op, operands, options)) is not None]
    return programs + [random_program(seed) for seed in range(4)]


def test_sanitizers_and_warnings_find_nothing(tmp_path: Path) -> None:
    compiler = find_compiler()
    assert compiler is not None
    text, program = tmp_path / "program.c", tmp_path / "program"
    text.write_text(standalone([example.code for example in shown_programs()]))
    command = [
        compiler.path,
        *compiler.native,
        "-std=c11",
        "-O1",
        "-g",
        "-Wall",
        "-Wextra",
        "-Werror",
        str(text),
        "-o",
        str(program),
        "-lm",
    ]
    done = subprocess.run([*command, "-fsanitize=address,undefined", "-fno-sanitize-recover"], capture_output=True, text=True)
    if "asan" in done.stderr or "ubsan" in done.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert done.returncode == 0, done.stderr[:3000]
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:3000]


def test_ops_may_name_all_that_the_engine_has() -> None:
    assert set(structured.KERNELS) == set(primitive.KERNELS)
