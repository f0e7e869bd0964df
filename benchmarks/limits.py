"""What large and long graphs cost: deep chains, wide fan-out, many losses, forward-only loops, peak memory against torch.autograd.

    python benchmarks/limits.py

Times are CPU seconds of this process and grow with the count: the growth is the point, not the figure. Memory is the peak of
tensor bytes that torch's profiler saw during forward and backward of 20 layers, 256 x 256, as a ratio to torch.autograd's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import hotgrad as hg


def seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def chain(n: int) -> None:
    state: dict[str, Any] = {"x": hg.Variable(1.0, True)}

    def record() -> None:
        y = state["x"]
        for _ in range(n):
            y = y + 1.0
        state["y"] = y

    times = [seconds(record), seconds(lambda: state["y"].backward()), seconds(lambda: state.pop("y"))]
    print(
        f"chain of {n:9,} ops      recorded {times[0]:6.2f} s, walked {times[1]:6.2f} s, freed {times[2]:6.3f} s, dy/dx = {float(state['x'].grad):g}"
    )


def fan_out(n: int) -> None:
    x = hg.Variable(1.0, True)

    def work() -> None:
        y = x
        for _ in range(n - 1):
            y = y + x
        y.backward()

    print(f"one leaf {n:9,} times    recorded and walked {seconds(work):6.2f} s, dy/dx = {float(x.grad):,.0f}")  # type: ignore[arg-type]


def diamond(depth: int) -> None:
    x = y = hg.Variable(1.0, True)
    for _ in range(depth):
        y = y + y
    print(
        f"diamond of depth {depth}        walked {seconds(y.backward) * 1000:6.2f} ms, dy/dx = 2^{torch.as_tensor(x.grad).log2().item():g}"
    )


def losses(n: int) -> None:
    w, a = hg.Variable(torch.ones(25, 25), True), torch.ones(20, 25)
    recorded = [((a @ w) ** 2).mean() for _ in range(n)]
    print(f"{n:9,} losses, oldest first  walked {seconds(lambda: [loss.backward() for loss in recorded]):6.2f} s")


def forward_only(n: int) -> None:
    w, a = hg.Variable(torch.ones(25, 25), True), torch.ones(20, 25)
    most = 0
    with hg.Tape() as tape:
        for i in range(n):
            loss = (a @ w).relu().mean()
            if i % 1000 == 0:
                most = max(most, len(tape))
        del loss
    print(f"{3 * n:9,} ops, no backward      at most {most:,} records on the tape")


def peak(work: Callable[[], None]) -> int:
    work()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    total = highest = 0
    for event in profiled.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            total += event.nbytes()
            highest = max(highest, total)
    return highest


LAYERS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "relu(h @ w + b)": lambda h, z, c: z.relu(),
    "h + tanh(h @ w + b)": lambda h, z, c: h + z.tanh(),
    "with constants": lambda h, z, c: (z * c).tanh() * 0.5 + c,
    "elementwise chain": lambda h, z, c: ((z.exp() - 1.0) / (c + 1.0)).tanh(),
}


def memory(layer: Callable[[Any, Any, Any], Any], ours: bool) -> int:
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

    return peak(work)


def main() -> None:
    torch.set_num_threads(1)
    for n in (250_000, 500_000, 1_000_000):
        chain(n)
    for n in (250_000, 500_000, 1_000_000):
        fan_out(n)
    diamond(60)
    for n in (2_500, 5_000, 10_000):
        losses(n)
    forward_only(20_000)
    for name, layer in LAYERS.items():
        print(f"peak memory, {name:22s} {memory(layer, True) / memory(layer, False):5.3f} of torch.autograd's")


if __name__ == "__main__":
    main()
