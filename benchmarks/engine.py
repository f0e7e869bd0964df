"""The groups about the engine itself: `imports`, `op`, `chain`, `memory`, `check`, `second`. Each gives its Group as a dict."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import hotgrad as hg
from measure import Group, in_fresh_process, interleaved, repeated, timed
from network import Problem
from steps import jax_pieces


def imports(quick: bool) -> dict[str, Any]:
    """Seconds to import, each time in a new process."""
    group = Group("seconds to import", ("torch",), "torch's")
    names = {"torch": ["torch"], "hotgrad, torch included": ["hotgrad"], "hotgrad after torch": ["torch", "hotgrad"]}
    contenders = {name: lambda modules=modules: in_fresh_process("imported:seconds", *modules) for name, modules in names.items()}
    group.add("import", interleaved(contenders, 2 if quick else 9))
    return dataclasses.asdict(group)


# ------------------------------------------------------------------------------------------------------------------------ op

OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "matmul": lambda a, b: a @ b,
    "relu": lambda a, b: a.relu(),
}


def op(quick: bool) -> dict[str, Any]:
    """One op on operands that require gradients: recording it, and walking back from it too."""
    group = Group("one op", ("hotgrad",), "hotgrad's")
    contenders = {}
    for label, rows, columns in (("1 element", 1, 1), ("100x25", 100, 25)):
        for name, operation in OPERATIONS.items():
            shapes = ((rows, columns), (columns, columns) if name == "matmul" else (rows, columns))
            for backward in (False, True):
                for who in ("hotgrad", "torch.autograd"):
                    operands = [torch.randn(shape) for shape in shapes]
                    leaves: list[Any] = [hg.Variable(t, True) if who == "hotgrad" else t.requires_grad_() for t in operands]
                    work = one_op(operation, leaves, torch.ones(rows, columns), backward)
                    contenders[f"{name}, {label}, {'and backward' if backward else 'forward'}", who] = repeated(work, 0.005)
    for (case, who), values in interleaved(contenders, 7 if quick else 31).items():
        group.add(case, {who: values})
    return dataclasses.asdict(group)


def one_op(operation: Callable[[Any, Any], Any], leaves: list[Any], seed: Tensor, backward: bool) -> Callable[[], Any]:
    """What is repeated."""
    a, b = leaves

    def both() -> None:
        operation(a, b).backward(seed)
        a.grad = b.grad = None

    return both if backward else lambda: operation(a, b)


# --------------------------------------------------------------------------------------------------------------------- chain


def chain(quick: bool) -> dict[str, Any]:
    """Graphs that are deep or wide: seconds to record them, walk back and free them."""
    group = Group("long and wide graphs, recorded, walked and freed", ("hotgrad",), "hotgrad's")
    makers: dict[str, Callable[[Any], Any]] = {"hotgrad": lambda t: hg.Variable(t, True), "torch.autograd": lambda t: t.requires_grad_()}
    works: dict[str, Callable[[Callable[[Any], Any], int], None]] = {
        "chain of {} ops": deep,
        "one leaf {} times": wide,
        "{} losses": losses,
    }
    for text, work in works.items():
        for n in (1000, 10_000) if work is losses else (100_000,) if quick else (100_000, 1_000_000):
            contenders = {who: lambda make=make, work=work, n=n: timed(lambda: work(make, n)) for who, make in makers.items()}
            group.add(text.format(f"{n:,}"), interleaved(contenders, 1 if quick or n == 1_000_000 else 3))
    group.notes.append("losses: walked back from the oldest to the newest after all have been recorded")
    return dataclasses.asdict(group)


def deep(make: Callable[[Any], Any], n: int) -> None:
    """x + 1 + 1 + ..."""
    x = y = make(torch.ones(()))
    for _ in range(n):
        y = y + 1.0
    y.backward()
    if float(x.grad) != 1:
        raise RuntimeError(f"the derivative of a chain of sums is {float(x.grad)}")


def wide(make: Callable[[Any], Any], n: int) -> None:
    """x + x + x + ..."""
    x = y = make(torch.ones((), dtype=torch.float64))
    for _ in range(n - 1):
        y = y + x
    y.backward()
    if float(x.grad) != n:
        raise RuntimeError(f"the derivative of {n} times x is {float(x.grad)}")


def losses(make: Callable[[Any], Any], n: int) -> None:
    """Many losses of one weight."""
    w, a = make(torch.ones(25, 25)), torch.ones(20, 25)
    recorded = [((a @ w) ** 2).mean() for _ in range(n)]
    for loss in recorded:
        loss.backward()


# -------------------------------------------------------------------------------------------------------------------- memory

LAYERS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "relu(h @ w + b)": lambda h, z, c: z.relu(),
    "h + tanh(h @ w + b)": lambda h, z, c: h + z.tanh(),
    "with constants": lambda h, z, c: (z * c).tanh() * 0.5 + c,
    "elementwise chain": lambda h, z, c: ((z.exp() - 1.0) / (c + 1.0)).tanh(),
}


def memory(quick: bool) -> dict[str, Any]:
    """Peak of the tensors' bytes, as torch's profiler saw them, of forward and backward through 20 layers, 256 x 256."""
    group = Group("peak memory of 20 layers, 256 x 256, forward and backward", ("hotgrad",), "hotgrad's", unit="B")
    for name, layer in LAYERS.items():
        group.add(name, {who: [float(peak(layer, who == "hotgrad"))] for who in ("hotgrad", "torch.autograd")})
    return dataclasses.asdict(group)


def peak(layer: Callable[[Any, Any, Any], Any], ours: bool) -> int:
    """The highest sum of bytes above what was there before."""
    generator = torch.Generator().manual_seed(0)
    size, depth = 256, 20
    weights = [torch.randn(size, size, generator=generator) / 16 for _ in range(depth)]
    biases = [torch.zeros(size) for _ in range(depth)]
    x, c = torch.randn(size, size, generator=generator), torch.rand(size, size, generator=generator)
    parameters: list[Any] = [hg.Variable(p, True) if ours else p.requires_grad_() for p in weights + biases]

    def work() -> None:
        h: Any = x
        for w, b in zip(parameters[:depth], parameters[depth:]):
            h = layer(h, h @ w + b, c)
        loss = ((h - c) ** 2).mean()
        del h
        loss.backward()
        for p in parameters:
            p.grad = None

    work()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events: Any = profiled.profiler.kineto_results.events()
    total = highest = 0
    for event in events:
        if event.name() == "[memory]":
            total += event.nbytes()
            highest = max(highest, total)
    return highest


# --------------------------------------------------------------------------------------------------------------------- check


def check(quick: bool) -> dict[str, Any]:
    """Checking an op's rules, and checking one function, where torch has a checker too."""
    if importlib.util.find_spec("hypothesis") is None:
        return dataclasses.asdict(Group("checking gradients", missing={"hotgrad.testing": "not installed: hypothesis"}))
    import hotgrad.testing as ht

    group = Group("checking gradients", ("hotgrad.testing",), "hotgrad's")
    for name in ("Mul", "MatMul", "Softmax") if quick else ("Mul", "MatMul", "Softmax", "Sum", "Tanh"):
        checking = functools.partial(ht.check_op, hg.primitives()[name], seed=0)
        group.add(f"check_op({name})", interleaved({"hotgrad.testing": functools.partial(timed, checking)}, 1 if quick else 3))

    def network(x: Any, w: Any, v: Any) -> Any:
        return ((x @ w).tanh() @ v).exp().sum()

    inputs = [torch.randn(shape, dtype=torch.float64) / 3 for shape in ((4, 3), (3, 5), (5, 2))]
    for order in (1, 2):
        leaves = [t.clone().requires_grad_() for t in inputs]
        torchs: Any = torch.autograd.gradcheck if order == 1 else torch.autograd.gradgradcheck
        ours = functools.partial(ht.check_gradients, network, *inputs, order=order, seed=0)
        theirs = functools.partial(torchs, network, leaves)
        work = {"hotgrad.testing": functools.partial(timed, ours), "torch.autograd": functools.partial(timed, theirs)}
        for warm_up in work.values():
            warm_up()
        group.add(f"a function of three matrices, order {order}", interleaved(work, 3 if quick else 9))
    group.notes.append("order 2 of hotgrad checks orders 1 and 2; torch's is gradgradcheck")
    return dataclasses.asdict(group)


# -------------------------------------------------------------------------------------------------------------------- second


def second(quick: bool) -> dict[str, Any]:
    """Of the reference network: the product of the Hessian and a vector, and the gradient of the gradient's squared norm."""
    group = Group("second derivatives of the network", ("hotgrad",), "hotgrad's")
    for problem in (Problem(20, 25, 1000), Problem(256, 128, 4096))[: 1 if quick else 2]:
        x, y = (t[: problem.batch] for t in problem.data())
        for what in ("Hessian times vector", "gradient of the gradient's square"):
            contenders = {
                "hotgrad": hotgrad_second(problem, x, y, what),
                "hotgrad replay": hotgrad_second(problem, x, y, what, "replay"),
                "hotgrad native": hotgrad_second(problem, x, y, what, "native"),
                "torch.autograd": torch_second(problem, x, y, what),
            }
            if importlib.util.find_spec("jax"):
                contenders["JAX jit"] = jax_second(problem, x, y, what)
            else:
                group.missing["JAX jit"] = "not installed: jax"
            values = {name: work() for name, work in contenders.items()}
            for name, value in values.items():
                if abs(value / values["torch.autograd"] - 1) > 1e-3:
                    group.failed.append(f"{name}: {what} at {problem.name} gives {value}, torch {values['torch.autograd']}")
            samples = interleaved({name: repeated(work, 0.02) for name, work in contenders.items()}, 5 if quick else 15)
            group.add(f"{what}, {problem.name}", samples)
    return dataclasses.asdict(group)


def objective(parameters: list[Any], x: Any, y: Any) -> Any:
    """The loss, written the same for Variables and tensors."""
    for i, (w, b) in enumerate(zip(parameters[:4], parameters[4:])):
        x = x @ w + b
        x = x.relu() if i < 3 else x.tanh()
    return ((x - y) ** 2).mean()


def summed(parts: list[Any]) -> Any:
    """All of them added."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def hotgrad_second(problem: Problem, x: Tensor, y: Tensor, what: str, engine: str = "eager") -> Callable[[], float]:
    """By gradients of gradients; gives the first weight's sum."""
    weights, biases = problem.parameters()
    parameters = [hg.Variable(p, True) for p in weights + biases]
    ones = [torch.ones_like(p.data) for p in parameters]

    def derivatives(x: Any, y: Any) -> Any:
        first: Any = hg.gradients(objective(parameters, x, y), parameters, create_graph=True)
        factors: Any = ones if what.startswith("Hessian") else first
        product: Any = hg.gradients(summed([(g * f).sum() for g, f in zip(first, factors)]), parameters, allow_unused=True)
        return product

    run = derivatives if engine == "eager" else hg.capture(derivatives, x, y).to(engine).run
    return lambda: float(run(x, y)[0].sum())


def torch_second(problem: Problem, x: Tensor, y: Tensor, what: str) -> Callable[[], float]:
    """The same with torch.autograd.grad."""
    weights, biases = problem.parameters()
    parameters = [p.requires_grad_() for p in weights + biases]
    ones = [torch.ones_like(p) for p in parameters]

    def work() -> float:
        first = torch.autograd.grad(objective(parameters, x, y), parameters, create_graph=True)
        factors: Any = ones if what.startswith("Hessian") else first
        return float(torch.autograd.grad(summed([(g * f).sum() for g, f in zip(first, factors)]), parameters)[0].sum())

    return work


def jax_second(problem: Problem, x: Tensor, y: Tensor, what: str) -> Callable[[], float]:
    """Jitted; the product is forward over reverse."""
    import jax
    import jax.numpy as jnp

    (weights, biases), _ = jax_pieces(problem)
    parameters = [*weights, *biases]
    ones = [jnp.ones_like(p) for p in parameters]
    x_, y_ = jnp.array(x.numpy()), jnp.array(y.numpy())

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        for i, (w, b) in enumerate(zip(parameters[:4], parameters[4:])):
            x = x @ w + b
            x = jax.nn.relu(x) if i < 3 else jnp.tanh(x)
        return jnp.mean((x - y) ** 2)

    @jax.jit
    def product(parameters: Any, x: Any, y: Any) -> Any:
        return jax.jvp(lambda p: jax.grad(loss)(p, x, y), (parameters,), (ones,))[1]

    @jax.jit
    def of_norm(parameters: Any, x: Any, y: Any) -> Any:
        return jax.grad(lambda p: summed([(g * g).sum() for g in jax.grad(loss)(p, x, y)]))(parameters)

    derivative = product if what.startswith("Hessian") else of_norm

    def work() -> float:
        return float(derivative(parameters, x_, y_)[0].sum())

    return work
