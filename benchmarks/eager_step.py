"""The eager training step: hotgrad against torch.autograd on the same expressions, and torch.nn with torch.optim.

    python benchmarks/eager_step.py [--runs 3]

The network is batch x 2 -> width -> width -> width -> 2 with ReLU three times and Tanh, mean squared error, plain gradient
descent; float32, one thread. hotgrad and torch.autograd update with the same `_foreach_add_`. Peers that are installed and are
interleaved with them: HIPS autograd, MyGrad. Each run is a new process; within it every contender takes turns, and the median
of its turns counts. Printed are the medians over the runs, in microseconds, and how many times faster hotgrad is.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import hotgrad as hg

SIZES = ((20, 25, 100, 15), (100, 25, 100, 15), (256, 128, 20, 9), (1024, 512, 2, 9))  # batch, width, steps a turn, turns
RATE = 0.01


def network(batch: int, width: int) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = (2, width, width, width, 2)
    weights = [torch.randn(m, n, generator=generator) / m**0.5 for m, n in itertools.pairwise(sizes)]
    biases = [torch.zeros(n) for n in sizes[1:]]
    x = torch.rand(batch, 2, generator=generator)
    y = torch.sign(torch.randn(batch, 2, generator=generator))
    return weights, biases, x, y


def hotgrad_step(batch: int, width: int) -> Callable[[], Any]:
    weights, biases, x_data, y_data = network(batch, width)
    weights_, biases_ = [hg.Variable(w, True) for w in weights], [hg.Variable(b, True) for b in biases]
    parameters, x, y = weights_ + biases_, hg.Variable(x_data), hg.Variable(y_data)

    def step() -> Any:
        h = x
        for i, (w, b) in enumerate(zip(weights_, biases_)):
            h = h @ w + b
            h = h.relu() if i < 3 else h.tanh()
        loss = ((h - y) ** 2).mean()
        loss.backward()
        torch._foreach_add_([p.data for p in parameters], [p.grad for p in parameters], alpha=-RATE)
        for p in parameters:
            p.grad = None
        return loss

    return step


def torch_autograd_step(batch: int, width: int) -> Callable[[], Any]:
    weights, biases, x, y = network(batch, width)
    parameters = [p.requires_grad_() for p in weights + biases]

    def step() -> Any:
        h = x
        for i, (w, b) in enumerate(zip(weights, biases)):
            h = h @ w + b
            h = h.relu() if i < 3 else h.tanh()
        loss = ((h - y) ** 2).mean()
        loss.backward()
        with torch.no_grad():
            torch._foreach_add_(parameters, [p.grad for p in parameters], alpha=-RATE)
        for p in parameters:
            p.grad = None
        return loss.detach()

    return step


def torch_nn_step(batch: int, width: int) -> Callable[[], Any]:
    weights, biases, x, y = network(batch, width)
    layers: list[torch.nn.Module] = []
    for i, (w, b) in enumerate(zip(weights, biases)):
        linear = torch.nn.Linear(*w.shape)
        with torch.no_grad():
            linear.weight.copy_(w.mT)
            linear.bias.copy_(b)
        layers += [linear, torch.nn.ReLU() if i < 3 else torch.nn.Tanh()]
    model, criterion = torch.nn.Sequential(*layers), torch.nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step() -> Any:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def hips_autograd_step(batch: int, width: int) -> Callable[[], Any]:
    import autograd
    import autograd.numpy as np

    weights, biases, x, y = network(batch, width)
    parameters = [p.numpy() for p in weights + biases]
    x_, y_ = x.numpy(), y.numpy()

    def objective(parameters: list[Any]) -> Any:
        h = x_
        for i in range(4):
            h = h @ parameters[i] + parameters[4 + i]
            h = np.maximum(h, 0) if i < 3 else np.tanh(h)
        return np.mean((h - y_) ** 2)

    both = autograd.value_and_grad(objective)

    def step() -> Any:
        loss, gradients = both(parameters)
        for p, g in zip(parameters, gradients):
            p -= RATE * g
        return loss

    return step


def mygrad_step(batch: int, width: int) -> Callable[[], Any]:
    import mygrad as mg

    weights, biases, x, y = network(batch, width)
    weights_, biases_ = [mg.tensor(w.numpy().copy()) for w in weights], [mg.tensor(b.numpy().copy()) for b in biases]
    x_, y_ = mg.tensor(x.numpy(), constant=True), mg.tensor(y.numpy(), constant=True)

    def step() -> Any:
        h = x_
        for i, (w, b) in enumerate(zip(weights_, biases_)):
            h = mg.matmul(h, w) + b
            h = mg.maximum(h, 0) if i < 3 else mg.tanh(h)
        loss = ((h - y_) ** 2).mean()
        loss.backward()
        value = loss.item()
        for p in weights_ + biases_:
            array = p.data
            array -= RATE * p.grad
            p.null_grad()
        return value

    return step


CONTENDERS = {
    "hotgrad": (hotgrad_step, None),
    "torch.autograd": (torch_autograd_step, None),
    "torch.nn": (torch_nn_step, None),
    "HIPS autograd": (hips_autograd_step, "autograd"),
    "MyGrad": (mygrad_step, "mygrad"),
}


def installed() -> list[str]:
    return [name for name, (_, package) in CONTENDERS.items() if package is None or importlib.util.find_spec(package)]


def measure() -> dict[str, dict[str, float]]:
    """Microseconds a step, by size and contender, in this process."""
    torch.set_num_threads(1)
    result = {}
    for batch, width, steps, turns in SIZES:
        contenders = {name: CONTENDERS[name][0](batch, width) for name in installed()}
        times: dict[str, list[float]] = {name: [] for name in contenders}
        losses = {name: [float(step()) for _ in range(20)][-1] for name, step in contenders.items()}
        if max(losses.values()) - min(losses.values()) > 1e-4:
            raise RuntimeError(f"the contenders do not compute the same: {losses}")
        for _ in range(turns):
            for name, step in contenders.items():
                started = time.perf_counter()
                for _ in range(steps):
                    step()
                times[name].append((time.perf_counter() - started) / steps * 1e6)
        result[f"{batch}x{width}"] = {name: statistics.median(values) for name, values in times.items()}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3, help="processes to take the median over")
    parser.add_argument("--once", action="store_true", help="measure in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure()))
        return
    missing = [name for name in CONTENDERS if name not in installed()]
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, one thread, float32, {arguments.runs} runs")
    print(f"not installed: {', '.join(missing) or 'none'}\n")
    command = [sys.executable, __file__, "--once"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # numpy's too
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=one_thread).stdout)
        for _ in range(arguments.runs)
    ]
    print(f"{'batch x width':15s}" + "".join(f"{name:>24s}" for name in installed()))
    for size in runs[0]:
        cells = []
        for name in installed():
            microseconds = statistics.median(run[size][name] for run in runs)
            ratio = statistics.median(run[size][name] / run[size]["hotgrad"] for run in runs)
            cells.append(f"{microseconds:14,.1f} us {ratio:5.2f}x")
        print(f"{size:15s}" + "".join(f"{cell:>24s}" for cell in cells))


if __name__ == "__main__":
    main()
