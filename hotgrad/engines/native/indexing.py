"""Reading and writing at computed positions, in C.

A wrong index touches no memory: it is noted in the workspace, and ends the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hotgrad.engines.native.kernels import Kernel
from hotgrad.engines.native.layout import Nest, added, scaled


@dataclass(eq=False)
class Table(Kernel):
    """out = a[table], or with `add` out[table] += a, for a table of offsets in the buffer. Reads a and the table."""

    add: bool = False

    def lines(self) -> Iterator[str]:
        a, table, out = self.reads[0], self.reads[1], self.writes[0]
        dense = a if self.add else out
        nest = Nest.over(table.shape, [table.strides, dense.strides])
        place, element = table.at(nest.terms(0)), dense.at(nest.terms(1))
        sparse = (out if self.add else a).buffer.pointer
        line = f"{sparse}[{place}] += {element};" if self.add else f"{element} = {sparse}[{place}];"
        yield from nest.wrap([line], independent=False)


@dataclass(eq=False)
class Gathering(Kernel):
    """out[i] = a[i], with index[i] in place of i's `axis`. `number`: what is noted of a wrong index, besides its value."""

    axis: int = 0
    number: int = 0

    def lines(self) -> Iterator[str]:
        a, index, out = self.reads[0], self.reads[1], self.writes[0]
        others = _without(a.strides, self.axis)
        nest = Nest.over(index.shape, [index.strides, out.strides, others])
        size, stride = (a.shape[self.axis], a.strides[self.axis]) if a.shape else (1, 0)
        element = a.at(added(nest.terms(2), scaled("at", stride)))
        body = [
            f"const int64_t at = {index.at(nest.terms(0))};",
            f"if (at >= 0 && at < {size}) {out.at(nest.terms(1))} = {element};",
            _noted(self.number),
        ]
        yield from _scoped(nest.wrap(body, independent=False))


@dataclass(eq=False)
class Scattering(Kernel):
    """out[i] += g[i], with index[i] in place of i's `axis`. Reads g and the index. `number`: as for Gathering."""

    axis: int = 0
    number: int = 0

    def lines(self) -> Iterator[str]:
        g, index, out = self.reads[0], self.reads[1], self.writes[0]
        nest = Nest.over(index.shape, [index.strides, g.strides, _without(out.strides, self.axis)])
        size, stride = (out.shape[self.axis], out.strides[self.axis]) if out.shape else (1, 0)
        element = out.at(added(nest.terms(2), scaled("at", stride)))
        body = [
            f"const int64_t at = {index.at(nest.terms(0))};",
            f"if (at >= 0 && at < {size}) {element} += {g.at(nest.terms(1))};",
            _noted(self.number),
        ]
        yield from _scoped(nest.wrap(body, independent=False))


def _noted(number: int) -> str:
    return f"else if (!w->wrong[0]) w->wrong[0] = {number}, w->wrong[1] = at;"


def _without(strides: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return tuple(0 if i == axis else s for i, s in enumerate(strides))


def _scoped(lines: Iterator[str]) -> Iterator[str]:
    yield "{"
    yield from ("  " + line for line in lines)
    yield "}"
