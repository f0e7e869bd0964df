"""Whole training by hotgrad's `fit`, and as a careful user would write it for each peer.

A function `make(problem, shuffle)` builds everything anew and returns a Trainer. Each epoch shuffles, gathers its batches by the
permutation, takes a step on each, and adds up the losses, which are read once, at the end of the epoch.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import hotgrad as hg
import steps
from network import RATE, Problem
from steps import Contender


@dataclass
class Trainer:
    """`train(epochs)` goes on training and gives each epoch's mean loss; `parameters()` are weights (in, out), then biases.

    `ran`: the engine of hotgrad's that did it.
    """

    train: Callable[[int], list[float]]
    parameters: Callable[[], list[Any]]
    ran: str = ""


def hotgrad_model(problem: Problem) -> hg.Sequential:
    """The network with the problem's weights, its loss and its optimizer."""
    layers: list[Any] = []
    for i, (w, b) in enumerate(zip(*problem.parameters())):
        linear = hg.Linear(*w.shape)
        linear.load_state_dict({"weight": w, "bias": b})
        layers += [linear, hg.ReLU() if i < 3 else hg.Tanh()]
    return hg.Sequential(layers, "mse", hg.optim.SGD(lr=RATE))


def hotgrad_fit(engine: str, problem: Problem, shuffle: bool) -> Trainer:
    """`Sequential.fit` on one engine."""
    model = hotgrad_model(problem)
    model.use_generator(torch.Generator().manual_seed(0))
    x, y = problem.data()

    def train(epochs: int) -> list[float]:
        history = model.fit(x, y, epochs=epochs, batch_size=problem.batch, shuffle=shuffle, engine=engine, verbose=0)
        trainer.ran = history.engine
        return [row["loss"] for row in history]

    state = model.state_dict
    trainer = Trainer(train, lambda: [p for kind in ("weight", "bias") for name, p in state().items() if name.endswith(kind)])
    return trainer


def torch_loop(make: Callable[[Problem], steps.Stepper], problem: Problem, shuffle: bool) -> Trainer:
    """A loop over a step of torch's kind; the losses are summed without reading them."""
    stepper = make(problem)
    x, y = problem.data()

    def train(epochs: int) -> list[float]:
        losses = []
        for _ in range(epochs):
            order = torch.randperm(problem.rows) if shuffle else torch.arange(problem.rows)
            total = torch.zeros(())
            for rows in torch.split(order, problem.batch):
                total += stepper.step(x.index_select(0, rows), y.index_select(0, rows))
            losses.append(total.item() / problem.steps)
        return losses

    return Trainer(train, stepper.parameters)


def numpy_loop(make: Callable[[Problem], steps.Stepper], problem: Problem, shuffle: bool) -> Trainer:
    """A loop over a step of numpy's kind."""
    stepper = make(problem)
    x, y = (t.numpy() for t in problem.data())
    generator = np.random.default_rng(0)

    def train(epochs: int) -> list[float]:
        losses = []
        for _ in range(epochs):
            order = generator.permutation(problem.rows) if shuffle else np.arange(problem.rows)
            total = 0.0
            for rows in order.reshape(problem.steps, problem.batch):
                total += stepper.step(x[rows], y[rows])
            losses.append(float(total) / problem.steps)
        return losses

    return Trainer(train, stepper.parameters)


def jax_loop(problem: Problem, shuffle: bool, donate: bool = False) -> Trainer:
    """A jitted step, called from Python for each batch; it gathers its rows and adds up the loss itself."""
    import jax
    import jax.numpy as jnp

    parameters, plain = steps.jax_pieces(problem)
    x, y = (jnp.array(t.numpy()) for t in problem.data())
    key = jax.random.key(0)

    @functools.partial(jax.jit, donate_argnums=(0, 1) if donate else ())
    def step(parameters: Any, total: Any, order: Any, x: Any, y: Any, i: Any) -> Any:
        rows = jax.lax.dynamic_slice_in_dim(order, i * problem.batch, problem.batch)
        parameters, loss = plain(parameters, x[rows], y[rows])
        return parameters, total + loss

    permuted = jax.jit(lambda key: jax.random.permutation(key, problem.rows))

    def train(epochs: int) -> list[float]:
        nonlocal parameters, key
        losses = []
        for _ in range(epochs):
            key, used = jax.random.split(key)
            order = permuted(used) if shuffle else jnp.arange(problem.rows)
            total = jnp.zeros(())
            for i in range(problem.steps):
                parameters, total = step(parameters, total, order, x, y, i)
            losses.append(float(total) / problem.steps)
        return losses

    return Trainer(train, lambda: [*parameters[0], *parameters[1]])


def jax_scan(problem: Problem, shuffle: bool) -> Trainer:
    """One jitted function an epoch: it draws the permutation and scans over the batches, gathering the rows of each."""
    import jax
    import jax.numpy as jnp

    parameters, plain = steps.jax_pieces(problem)
    x, y = (jnp.array(t.numpy()) for t in problem.data())
    key = jax.random.key(0)

    @functools.partial(jax.jit, donate_argnums=(0,))
    def epoch(parameters: Any, key: Any, x: Any, y: Any) -> Any:
        key, used = jax.random.split(key)
        order = jax.random.permutation(used, problem.rows) if shuffle else jnp.arange(problem.rows)
        batches = order.reshape(problem.steps, problem.batch)
        parameters, losses = jax.lax.scan(lambda parameters, rows: plain(parameters, x[rows], y[rows]), parameters, batches)
        return parameters, key, losses.mean()

    def train(epochs: int) -> list[float]:
        nonlocal parameters, key
        losses = []
        for _ in range(epochs):
            parameters, key, loss = epoch(parameters, key, x, y)
            losses.append(float(loss))
        return losses

    return Trainer(train, lambda: [*parameters[0], *parameters[1]])


def scikit_learn(problem: Problem, shuffle: bool) -> Trainer:
    """MLPRegressor: solver sgd without momentum or penalty, never stopping early. Its output has no Tanh."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    settings: dict[str, Any] = {"solver": "sgd", "momentum": 0.0, "alpha": 0.0, "learning_rate_init": RATE, "tol": 0.0}
    settings |= {"n_iter_no_change": 10**9, "warm_start": True, "max_iter": 1, "shuffle": shuffle, "random_state": 0}
    model = MLPRegressor(hidden_layer_sizes=(problem.width,) * 3, batch_size=problem.batch, **settings)
    x, y = (t.numpy() for t in problem.data())

    def train(epochs: int) -> list[float]:
        model.max_iter = epochs
        done = len(getattr(model, "loss_curve_", ()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, y)
        losses = [2 * float(loss) for loss in model.loss_curve_[done:]]  # it halves the squares
        if len(losses) != epochs:
            raise RuntimeError(f"scikit-learn ran {len(losses)} epochs of {epochs}")
        return losses

    train(1)  # makes the arrays that the weights are written to
    weights, biases = problem.parameters()
    model.coefs_, model.intercepts_ = [w.numpy() for w in weights], [b.numpy() for b in biases]
    return Trainer(train, lambda: [*model.coefs_, *model.intercepts_])


ENGINES = ("eager", "replay", "native", "auto")
TRAINERS = {
    **{f"hotgrad {engine}": Contender(functools.partial(hotgrad_fit, engine)) for engine in ENGINES},
    "torch.nn": Contender(functools.partial(torch_loop, steps.torch_nn)),
    "torch.nn, fused SGD": Contender(functools.partial(torch_loop, functools.partial(steps.torch_nn, fused=True))),
    "torch.compile, module": Contender(functools.partial(torch_loop, functools.partial(steps.torch_nn, compiled=True))),
    "torch.compile, step": Contender(functools.partial(torch_loop, steps.torch_compiled)),
    "JAX jit": Contender(jax_loop, "jax"),
    "JAX jit, donated": Contender(functools.partial(jax_loop, donate=True), "jax"),
    "JAX scan": Contender(jax_scan, "jax"),
    "HIPS autograd": Contender(functools.partial(numpy_loop, steps.hips_autograd), "autograd"),
    "MyGrad": Contender(functools.partial(numpy_loop, steps.mygrad), "mygrad"),
    "scikit-learn": Contender(scikit_learn, "sklearn", "no Tanh at the output"),
}
