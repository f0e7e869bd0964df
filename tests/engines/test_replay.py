"""The replay engine: the same as each op's forward, bit for bit, on memory that is allocated once."""

from __future__ import annotations

import itertools
import math
from random import Random
from typing import Any

import pytest
import torch
from building import Build, interpret
from torch import Tensor

import hotgrad as hg
from hotgrad.core.domains import Booleans, Integers, Interval
from hotgrad.core.primitive import Primitive
from hotgrad.engines.replay import Replay
from hotgrad.program.memory import assign_buffers


def bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal to the last bit, with NaN equal to NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = (t.clone(memory_format=torch.contiguous_format).reshape(-1) for t in (a, b))
    same = (a == b) & (a.signbit() == b.signbit()) if a.dtype.is_floating_point else a == b
    return bool((same | ((a != a) & (b != b))).all())


# ------------------------------------------------------------------------------------------------------------- all ops


def drawn(domain: Any, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if isinstance(domain, Booleans):
        return torch.rand(shape, generator=generator) < 0.5
    if isinstance(domain, Integers):
        return torch.randint(domain.low, domain.high + 1, shape, generator=generator)
    x = torch.randn(shape, generator=generator, dtype=dtype)
    low, high = domain.low, domain.high
    if math.isfinite(low) and math.isfinite(high):
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=dtype)
    return x.abs() + low + 0.01 if math.isfinite(low) else x


BROADCAST = {
    1: [((),), ((3,),), ((2, 3),), ((4, 5, 6),), ((0, 2),), ((33, 25),)],
    2: [((), ()), ((3,), (3,)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((), (4, 5)), ((0, 2), (2,)), ((20, 25), (20, 25)), ((5, 4), ())],
    3: [((2, 3), (2, 3), (2, 3)), ((3,), (2, 3), ()), ((20, 1), (25,), (20, 25))],
}


def cases(op: type[Primitive]) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Operands (shapes, tensors, numbers) and options on which to try an op."""
    if hasattr(op, "operands") and isinstance(op.operands(), list):
        return list(op.operands())
    names = list(op.options)
    values = [op.options[name] for name in names]
    return [(shapes, dict(zip(names, chosen))) for shapes in BROADCAST[op.arity or 1] for chosen in itertools.product(*values)]


def feed(replay: Replay, inputs: Any, scalars: Any = ()) -> None:
    """Give a step its inputs, numbers and random numbers."""
    for buffer, tensor in zip(replay.inputs, inputs):
        buffer.copy_(tensor)
    for buffer in replay.draws:
        torch.rand(buffer.shape, out=buffer)
    replay.scalars[:] = scalars


def strided(tensor: Tensor) -> list[Tensor]:
    """The same values in several layouts."""
    layouts = [tensor]
    if tensor.ndim > 1:
        layouts.append(tensor.transpose(0, -1).contiguous().transpose(0, -1))
    if tensor.ndim:
        layouts.append(torch.stack([tensor, tensor], -1)[..., 0])
    return layouts


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(name for name, op in hg.primitives().items() if op.__module__.startswith("hotgrad.ops.")))
def test_every_op(name: str, dtype: torch.dtype, fuse: bool) -> None:
    """On all that its declaration draws, in several layouts, with inputs, numbers and scalars."""
    op = hg.primitives()[name]
    generator = torch.Generator().manual_seed(0)
    ran = 0
    for operands, options in cases(op):
        domains = [*op.domain, *[Interval()] * len(operands)]
        tensors = [drawn(domains[i], o, dtype, generator) if isinstance(o, tuple) else o for i, o in enumerate(operands)]
        for layout in range(3):
            build = Build()
            given: list[Tensor] = []
            values: list[Any] = []
            for tensor in tensors:
                if not isinstance(tensor, Tensor):
                    values.append(tensor)
                    continue
                layouts = strided(tensor)
                given.append(layouts[layout % len(layouts)])
                values.append(build.input(given[-1]))
            try:
                out = build.run(op, *values, **options)
            except (IndexError, ValueError, TypeError, RuntimeError, NotImplementedError):
                continue  # not a case for this shape or dtype
            second = build.run("Mul", out, 0.5) if dtype.is_floating_point and out.dtype == dtype else out
            build.code.outputs = [out, second]
            replay = Replay(build.code, fuse)
            for _ in range(2):
                for buffer, tensor in zip(replay.inputs, given):
                    buffer.copy_(tensor)
                replay.step()
            ran += 1
            for value, result in zip(build.code.outputs, replay.outputs):
                wanted = build.values[value]
                # a fused sum, and on some processors a product of operands in another order of memory, adds in another order
                adds = (fuse and op.name == "Sum") or (layout == 1 and op.name in ("MatMul", "Einsum"))
                near = adds and torch.allclose(wanted, result, rtol=1e-5, atol=1e-5)
                assert near or bits(wanted, result), (operands, options, layout, wanted, result, replay.source())
    assert ran or dtype is torch.bfloat16


# ------------------------------------------------------------------------------------------------------------ programs


def compare(build: Build, fuse: bool, steps: int = 3, tolerance: float = 0.0) -> Replay:
    """Run a program by the interpreter and by replay, with other inputs at each step, and compare outputs and states."""
    code = build.code
    generator = torch.Generator().manual_seed(1)
    start = [s.tensor.clone() for s in code.states]
    replay = Replay(code, fuse)
    for s, tensor in zip(code.states, start):
        assert bits(s.tensor, tensor), "making a Replay changed a state"
    draws = [[torch.randn(v.shape, generator=generator).to(v.dtype) for v in code.inputs] for _ in range(steps)]
    numbers = [[0.1 + 0.05 * k + i for i in range(len(code.scalars))] for k in range(steps)]
    expected = [(interpret(code, *given), [s.tensor.clone() for s in code.states]) for given in zip(draws, numbers)]
    for s, tensor in zip(code.states, start):
        s.tensor.copy_(tensor)
    for inputs, scalars, (outputs, states) in zip(draws, numbers, expected):
        feed(replay, inputs, scalars)
        replay.step()
        pairs = [*zip(outputs, replay.outputs), *zip(states, [s.tensor for s in code.states])]
        for wanted, got in pairs:
            wanted = torch.as_tensor(wanted, dtype=got.dtype)
            if tolerance:
                scale = max(float(wanted.nan_to_num().abs().max()), 1e-30) if wanted.numel() else 1.0
                assert torch.allclose(wanted, got, rtol=0, atol=tolerance * scale, equal_nan=True), f"{code}\n{replay.source()}"
            else:
                assert bits(wanted, got), f"{code}\n{replay.source()}\n{wanted}\n{got}"
    return replay


def test_random_programs(count: Any) -> None:
    for seed in range(count(300, 10_000)):
        try_random_program(seed)


def try_random_program(seed: int) -> None:
    """Elementwise ops, views and reductions of inputs, states and scalars; anything may be an output or any state's new value."""
    random = Random(seed)
    build = Build()
    generator = torch.Generator().manual_seed(seed)
    scalars = [build.scalar(0.5), build.scalar(1.5)]
    arrays = [build.input(torch.randn(3, 3, generator=generator)), build.constant(torch.randn(3, 3, generator=generator))]
    arrays += [
        build.state(torch.randn(3, 3, generator=generator).t() if i == 2 else torch.randn(3, 3, generator=generator)) for i in range(3)
    ]
    first = len(arrays)
    for _ in range(random.randint(1, 14)):
        a = random.choice(arrays[-4:] if random.random() < 0.6 else arrays)
        b = random.choice(arrays[-4:] if random.random() < 0.5 else arrays)
        kind = random.randrange(12)
        if kind < 3:
            arrays.append(build.run(random.choice(["Add", "Sub", "Mul", "Maximum"]), a, b))
        elif kind < 4:
            arrays.append(build.run("AddScaled", a, b, random.choice([*scalars, 0.25])))
        elif kind < 5:
            op = random.choice(["Add", "Mul", "Sub", "Div"])
            number = random.choice([*scalars, 0.3, 2])
            arrays.append(build.run(op, *((a, number) if random.random() < 0.6 else (number, a))))
        elif kind < 7:
            arrays.append(build.run(random.choice(["Tanh", "ReLU", "Neg", "Abs", "Sin"]), a))
        elif kind < 8:
            arrays.append(build.run("Permute", a, dims=(1, 0)))
        elif kind < 9:
            arrays.append(build.run("Expand", build.run("GetItem", a, index=random.randrange(3)), shape=(3, 3)))
        elif kind < 10:
            arrays.append(build.run("Expand", build.run("Sum", a, dim=random.choice([0, 1, -1]), keepdim=True), shape=(3, 3)))
        elif kind < 11:
            arrays.append(build.run("MatMul", a, b))
        else:
            scalars.append(build.run(random.choice(["Mul", "Sub"]), random.choice(scalars), random.choice([*scalars, 0.5])))
    build.code.outputs = [random.choice(arrays[-6:]) for _ in range(random.randint(1, 3))] + random.sample(scalars, random.randint(0, 1))
    for state in arrays[first - 3 : first]:
        if random.random() < 0.8:
            build.update(state, random.choice(arrays[-5:] if random.random() < 0.7 else arrays))
    compare(build, fuse=False)
    compare(build, fuse=True, tolerance=1e-5)


def test_states_that_swap_and_outputs_of_every_kind() -> None:
    build = Build()
    x, c = build.input(torch.ones(3)), build.constant(torch.tensor([1.0, 2.0, 3.0]))
    w, v, u = (build.state(torch.full((3,), float(i))) for i in range(3))
    build.update(w, v)
    build.update(v, w)
    build.update(u, build.run("Add", u, x))
    build.code.outputs = [w, v, build.code.states[2].update or u, x, c, u]
    for fuse in (False, True):
        compare(build, fuse)


def test_outputs_are_there_until_the_next_step() -> None:
    """They do not change with the states, nor when the next inputs come in."""
    build = Build()
    x, w = build.input(torch.ones(3)), build.state(torch.zeros(3))
    new = build.run("Add", w, x)
    build.update(w, new)
    build.code.outputs = [x, new, w]
    replay = Replay(build.code)
    feed(replay, [torch.ones(3)])
    replay.step()
    build.code.states[0].tensor.zero_()
    feed(replay, [torch.full((3,), 5.0)])
    assert [float(output[0]) for output in replay.outputs] == [1.0, 1.0, 0.0]


def test_scalars_are_computed_in_double_precision() -> None:
    build = Build()
    x, s = build.input(torch.ones(2)), build.scalar(0.1)
    rate = build.run("Div", build.run("Neg", s), 3)
    rest = build.run("Sub", 1.0, rate)
    power = build.run("Mul", rest, rest)
    build.code.outputs = [build.run("AddScaled", x, x, rate), build.run("Mul", power, x), build.run("Div", x, power), power, rate]
    for fuse in (False, True):
        replay = compare(build, fuse)
        assert float(replay.outputs[3]) == (1.0 - -replay.scalars[0] / 3) * (1.0 - -replay.scalars[0] / 3)


def test_draws_are_new_at_each_step() -> None:
    build = Build()
    value = build.draw(100, generator=torch.Generator().manual_seed(0))
    build.code.outputs = [build.run("GreaterEqual", value, 0.5)]
    replay, generator = Replay(build.code), torch.Generator().manual_seed(0)
    for _ in range(3):
        build.code.draws[0].fill(replay.draws[0])
        replay.step()
        assert torch.equal(replay.outputs[0], torch.rand(100, generator=generator) >= 0.5)


class Doubled(Primitive, register=False):
    """An op that says nothing of how to compute it into a given tensor."""

    forward = staticmethod(lambda a, b, *, times=2: a * times + b)
    vjps = (lambda g, out, a, b, times: g * times, lambda g, out, a, b, times: g)


def test_ops_without_kernels_are_listed() -> None:
    build = Build()
    x, s = build.input(torch.ones(2)), build.scalar(0.1)
    build.code.outputs = [build.run(Doubled, x, s), build.run("Einsum", x, x, equation="i,i->")]
    for fuse in (False, True):
        assert compare(build, fuse).allocating == ["Doubled", "Einsum"]


class Row(Primitive, register=False):
    """An op of a user that is a view."""

    forward = staticmethod(lambda a: a[0])
    vjps = (lambda g, out, a: hg.ops.PutItem.apply(g, shape=tuple(a.shape), index=0),)


def test_views_cost_nothing() -> None:
    build = Build()
    x = build.input(torch.ones(3, 4))
    view = build.run("Expand", build.run(Row, build.run("Permute", x, dims=(1, 0))), shape=(2, 3))
    build.code.outputs = [build.run("Exp", view)]
    replay = compare(build, False)
    assert replay.source().count("\n") == 2 and not replay.allocating


def test_a_layout_that_cannot_be_written_to() -> None:
    """An expanded input, and an op that returns an expanded result."""

    class Ones(Primitive, register=False):
        forward = staticmethod(lambda a: (a * 0 + 1)[:1].expand(a.shape))
        vjps = (None,)

    build = Build()
    x = build.input(torch.ones(1, 3).expand(2, 3))
    build.code.outputs = [x, build.run(Ones, x), build.run("Add", x, build.run(Ones, x))]
    for fuse in (False, True):
        compare(build, fuse)


# ------------------------------------------------------------------------------------------------------------ training


def training(n: int = 12) -> tuple[Build, Any, Any]:
    """A step of a small network by hand: its program, and the same in eager hotgrad."""
    generator = torch.Generator().manual_seed(0)
    build = Build()
    x, y, rate = build.input(torch.rand(n, 3, generator=generator)), build.input(torch.rand(n, 2, generator=generator)), build.scalar(0.1)
    weights = [torch.randn(shape, generator=generator) for shape in ((3, 8), (8,), (8, 2), (2,))]
    w1, b1, w2, b2 = (build.state(weight) for weight in weights)
    hidden = build.run("ReLU", build.run("Add", build.run("MatMul", x, w1), b1))
    out = build.run("Tanh", build.run("Add", build.run("MatMul", hidden, w2), b2))
    error = build.run("Sub", out, y)
    loss = build.run("Mean", build.run("Pow", error, 2))
    ones = build.constant(torch.ones(()))
    g = build.run("Mul", build.run("Expand", build.run("Div", ones, 2 * n), shape=(n, 2)), build.run("Add", error, error))
    g = build.run("TanhGrad", g, out)
    gradients = [build.run("MatMul", build.run("Permute", hidden, dims=(1, 0)), g), build.run("Sum", g, dim=(0,))]
    g = build.run("ReLUGrad", build.run("MatMul", g, build.run("Permute", w2, dims=(1, 0))), hidden)
    gradients = [build.run("MatMul", build.run("Permute", x, dims=(1, 0)), g), build.run("Sum", g, dim=(0,)), *gradients]
    down = build.run("Neg", rate)
    for w, gradient in zip((w1, b1, w2, b2), gradients):
        build.update(w, build.run("AddScaled", w, gradient, down))
    build.code.outputs = [loss, out]
    parameters = [hg.Parameter(weight.clone()) for weight in weights]
    optimizer = hg.optim.SGD(parameters, lr=0.1)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = hg.functional.mse((((x @ parameters[0] + parameters[1]).relu()) @ parameters[2] + parameters[3]).tanh(), y)
        loss.backward()
        optimizer.step()
        return loss.data

    return build, parameters, step


@pytest.mark.parametrize("fuse", [False, True])
def test_a_training_step_is_that_of_eager(fuse: bool) -> None:
    build, parameters, step = training()
    replay = Replay(build.code, fuse)
    addresses = [state.tensor.data_ptr() for state in build.code.states]
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        x, y = torch.rand(12, 3, generator=generator), torch.rand(12, 2, generator=generator)
        feed(replay, [x, y], [0.1])
        replay.step()
        loss = step(x, y)
        pairs = [(replay.outputs[0], loss), *((state.tensor, p.data) for state, p in zip(build.code.states, parameters))]
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) if fuse else bits(a, b) for a, b in pairs)
    assert [state.tensor.data_ptr() for state in build.code.states] == addresses and not replay.allocating
    before = assign_buffers(replay.code).before
    assert replay.memory < before if fuse else replay.memory <= before


def allocations(step: Any, steps: int) -> list[int]:
    """The sizes in bytes of what some steps allocate."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        for _ in range(steps):
            step()
    events = profile.profiler.kineto_results.events()
    return [event.nbytes() for event in events if event.name() == "[memory]" and event.nbytes() > 0]


@pytest.mark.parametrize("fuse", [False, True])
def test_a_step_allocates_nothing(fuse: bool) -> None:
    assert max(allocations(lambda: torch.randn(100), 1)) >= 400  # the profile sees allocations
    build, _, _ = training()
    replay = Replay(build.code, fuse)
    assert max(allocations(replay.step, 10), default=0) <= 64


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("name", sorted(name for name, op in hg.primitives().items() if op.__module__.startswith("hotgrad.ops.")))
def test_no_op_allocates(name: str) -> None:
    """But for those that say so."""
    op = hg.primitives()[name]
    generator = torch.Generator().manual_seed(0)
    domains = [*op.domain, *[Interval()] * 10]
    tried = cases(op)
    for operands, options in tried[:: max(1, len(tried) // 20)]:
        build = Build()
        values = [drawn(domains[i], o, torch.float32, generator) if isinstance(o, tuple) else o for i, o in enumerate(operands)]
        values = [
            build.input(value.mT if value.ndim > 1 and value.shape[-1] == value.shape[-2] else value)
            if isinstance(value, Tensor)
            else value
            for value in values
        ]
        try:
            build.code.outputs = [build.run(op, *values, **options)]
        except (IndexError, ValueError, TypeError, RuntimeError):
            continue
        replay = Replay(build.code, False)
        assert replay.allocating or max(allocations(replay.step, 1), default=0) <= 64, (operands, options)
        assert not replay.allocating or hg.primitives()[name].allocates


def test_memory_is_flat(count: Any) -> None:
    resource = pytest.importorskip("resource")
    build, _, _ = training()
    replay = Replay(build.code)
    for _ in range(1000):
        replay.step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count(5_000, 100_000)):
        replay.step()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024  # kilobytes on Linux, fewer elsewhere


def test_torchs_own_modes_are_left_alone() -> None:
    """Also where a step fails."""
    build, _, _ = training()
    replay = Replay(build.code)
    replay.step()
    replay.inputs[0].resize_(0)
    with pytest.raises(RuntimeError):
        replay.step()
    x = torch.ones(1, requires_grad=True)
    (x * 2).backward()
    assert x.grad is not None and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert not any(state.tensor.is_inference() for state in build.code.states)


def test_writes_to_states_are_counted() -> None:
    build, _, _ = training()
    replay = Replay(build.code)
    versions = [state.tensor._version for state in build.code.states]
    replay.step()
    assert all(state.tensor._version > version for state, version in zip(build.code.states, versions))
