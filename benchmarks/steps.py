"""One training step of each contender, as code of its own kind would be written.

A function `make(problem)` builds everything anew and returns a Stepper, whose parameters its steps change.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import hotgrad as hg
from network import RATE, Problem


@dataclass
class Stepper:
    """`step(x, y)` trains on one batch and gives its loss; `parameters()` are weights (in, out), then biases.

    `array` turns a tensor into what `step` takes.
    """

    step: Callable[[Any, Any], Any]
    parameters: Callable[[], list[Any]]
    array: Callable[[Tensor], Any] = lambda t: t


@dataclass(frozen=True)
class Contender:
    """How to make one, the package it needs, and what it computes otherwise than the rest, if anything."""

    make: Callable[..., Any]
    needs: str = "torch"
    differs: str = ""

    @property
    def missing(self) -> str:
        """Why it cannot run, or nothing."""
        return "" if importlib.util.find_spec(self.needs) else f"not installed: {self.needs}"


def hotgrad_tape(problem: Problem) -> Stepper:
    """Expressions on Variables; the update is the same kernel as in `torch_autograd`."""
    weights, biases = ([hg.Variable(p, requires_grad=True) for p in part] for part in problem.parameters())
    parameters = weights + biases

    def step(x: Any, y: Any) -> Any:
        h = x
        for i, (w, b) in enumerate(zip(weights, biases)):
            h = h @ w + b
            h = h.relu() if i < 3 else h.tanh()
        loss = ((h - y) ** 2).mean()
        loss.backward()
        torch._foreach_add_([p.data for p in parameters], [p.grad for p in parameters], alpha=-RATE)
        for p in parameters:
            p.grad = None
        return loss

    return Stepper(step, lambda: [p.data for p in parameters], hg.Variable)


def torch_autograd(problem: Problem) -> Stepper:
    """The same expressions on tensors."""
    weights, biases = ([p.requires_grad_() for p in part] for part in problem.parameters())
    parameters = weights + biases

    def step(x: Tensor, y: Tensor) -> Tensor:
        h = x
        for i, (w, b) in enumerate(zip(weights, biases)):
            h = h @ w + b
            h = h.relu() if i < 3 else h.tanh()
        loss = ((h - y) ** 2).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            torch._foreach_add_(parameters, [p.grad for p in parameters], alpha=-RATE)  # type: ignore[misc]
        for p in parameters:
            p.grad = None
        return loss.detach()

    return Stepper(step, lambda: [p.detach() for p in parameters])


def torch_nn(problem: Problem, fused: bool | None = None, compiled: bool = False) -> Stepper:
    """torch.nn with torch.optim, the module compiled or not."""
    layers: list[torch.nn.Module] = []
    for i, (w, b) in enumerate(zip(*problem.parameters())):
        linear = torch.nn.Linear(*w.shape)
        with torch.no_grad():
            linear.weight.copy_(w.mT)
            linear.bias.copy_(b)
        layers += [linear, torch.nn.ReLU() if i < 3 else torch.nn.Tanh()]
    model, criterion = torch.nn.Sequential(*layers), torch.nn.MSELoss()
    run: Any = torch.compile(model, dynamic=False) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, fused=fused)

    def step(x: Tensor, y: Tensor) -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = criterion(run(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def parameters() -> list[Any]:
        state = model.state_dict()
        return [p.mT for name, p in state.items() if name.endswith("weight")] + [p for name, p in state.items() if name.endswith("bias")]

    return Stepper(step, parameters)


def torch_compiled(problem: Problem) -> Stepper:
    """Forward, backward and update as one compiled function."""
    weights, biases = problem.parameters()

    def objective(weights: list[Tensor], biases: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        for i, (w, b) in enumerate(zip(weights, biases)):
            x = torch.addmm(b, x, w)
            x = x.relu() if i < 3 else x.tanh()
        return ((x - y) ** 2).mean()

    @functools.partial(torch.compile, fullgraph=True, dynamic=False)
    def whole(weights: list[Tensor], biases: list[Tensor], x: Tensor, y: Tensor) -> Any:
        gradients, loss = torch.func.grad_and_value(objective, argnums=(0, 1))(weights, biases, x, y)
        for parameter, gradient in zip(weights + biases, gradients[0] + gradients[1]):
            parameter.sub_(gradient, alpha=RATE)
        return loss

    def step(x: Tensor, y: Tensor) -> Any:
        with torch.no_grad():
            return whole(weights, biases, x, y)

    return Stepper(step, lambda: weights + biases)


def jax_pieces(problem: Problem) -> tuple[Any, Callable[[Any, Any, Any], Any]]:
    """The parameters on JAX's device, and `step(parameters, x, y) -> (parameters, loss)`, not jitted."""
    import jax
    import jax.numpy as jnp

    weights, biases = problem.parameters()
    parameters = [jnp.array(w.numpy()) for w in weights], [jnp.array(b.numpy()) for b in biases]

    def objective(parameters: Any, x: Any, y: Any) -> Any:
        for i, (w, b) in enumerate(zip(*parameters)):
            x = x @ w + b
            x = jax.nn.relu(x) if i < 3 else jnp.tanh(x)
        return jnp.mean((x - y) ** 2)

    def step(parameters: Any, x: Any, y: Any) -> Any:
        loss, gradients = jax.value_and_grad(objective)(parameters, x, y)
        return jax.tree.map(lambda p, g: p - RATE * g, parameters, gradients), loss

    return parameters, step


def jax_jit(problem: Problem) -> Stepper:
    """A jitted step."""
    import jax

    parameters, plain = jax_pieces(problem)
    jitted = jax.jit(plain)

    def step(x: Any, y: Any) -> Any:
        nonlocal parameters
        parameters, loss = jitted(parameters, x, y)
        return loss

    return Stepper(step, lambda: [*parameters[0], *parameters[1]], lambda t: jax.numpy.array(t.numpy()))


def hips_autograd(problem: Problem) -> Stepper:
    """`value_and_grad` of HIPS autograd; the arrays are updated in place."""
    import autograd  # type: ignore[import-untyped]
    import autograd.numpy as anp  # type: ignore[import-untyped]

    weights, biases = problem.parameters()
    parameters = [p.numpy() for p in weights + biases]

    def objective(parameters: list[Any], x: Any, y: Any) -> Any:
        for i in range(4):
            x = x @ parameters[i] + parameters[4 + i]
            x = anp.maximum(x, 0) if i < 3 else anp.tanh(x)
        return anp.mean((x - y) ** 2)

    both = autograd.value_and_grad(objective)

    def step(x: Any, y: Any) -> Any:
        loss, gradients = both(parameters, x, y)
        for p, g in zip(parameters, gradients):
            p -= RATE * g
        return loss

    return Stepper(step, lambda: parameters, lambda t: t.numpy())


def mygrad(problem: Problem) -> Stepper:
    """MyGrad's tensors; their arrays are updated in place between the graphs."""
    mg: Any = importlib.import_module("mygrad")
    weights, biases = ([mg.tensor(p.numpy()) for p in part] for part in problem.parameters())
    parameters = weights + biases

    def step(x: Any, y: Any) -> Any:
        h = x
        for i, (w, b) in enumerate(zip(weights, biases)):
            h = mg.matmul(h, w) + b
            h = mg.maximum(h, 0) if i < 3 else mg.tanh(h)
        loss = ((h - y) ** 2).mean()
        loss.backward()
        value = loss.item()  # before the graph is cleared
        for p in parameters:
            array = p.data
            array -= RATE * p.grad
            p.null_grad()
        return value

    return Stepper(step, lambda: [p.data for p in parameters], lambda t: t.numpy().copy())  # MyGrad asks for an array's owner


STEPS = {
    "hotgrad": Contender(hotgrad_tape),
    "torch.autograd": Contender(torch_autograd),
    "torch.nn": Contender(torch_nn),
    "torch.compile, module": Contender(functools.partial(torch_nn, compiled=True)),
    "torch.compile, step": Contender(torch_compiled),
    "JAX jit": Contender(jax_jit, "jax"),
    "HIPS autograd": Contender(hips_autograd, "autograd"),
    "MyGrad": Contender(mygrad, "mygrad"),
}
