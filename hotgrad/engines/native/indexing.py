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
class Along(Kernel):
    """out[i] = a[i], with index[i] in place of a's i along `axis`; with `add` out[i] += a[i], with it in place of out's; with
    `replace` out[i] = a[i] in the same way.

    `number`: what is noted of a wrong index, besides its value.
    """

    axis: int = 0
    number: int = 0
    add: bool = False
    replace: bool = False

    def lines(self) -> Iterator[str]:
        a, index, out = self.reads[0], self.reads[1], self.writes[0]
        sparse, dense = (out, a) if self.add or self.replace else (a, out)
        nest = Nest.over(index.shape, [index.strides, dense.strides, _without(sparse.strides, self.axis)])
        size, stride = (sparse.shape[self.axis], sparse.strides[self.axis]) if sparse.shape else (1, 0)
        chosen, other = sparse.at(added(nest.terms(2), scaled("at", stride))), dense.at(nest.terms(1))
        body = [
            f"const int64_t at = {index.at(nest.terms(0))};",
            f"if (at >= 0 && at < {size}) {f'{chosen} += {other}' if self.add else f'{chosen} = {other}' if self.replace else f'{other} = {chosen}'};",
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
