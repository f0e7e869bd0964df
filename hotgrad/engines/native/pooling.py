"""Where the largest element of each window is, in C: for a vector of neighbouring windows at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from hotgrad.engines.native.builder import Builder
from hotgrad.engines.native.kernels import Context, Kernel
from hotgrad.engines.native.layout import C_TYPES, Nest, Place, added, new_place, scaled
from hotgrad.engines.native.matmul_kernels import mask_type
from hotgrad.program.instructions import Instruction

Sizes = tuple[int, ...]


def pool_argmax(build: Builder, instruction: Instruction, x: Place, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> Place:
    """Lower PoolArgMax."""
    out = build.place_for(instruction.out)
    sizes = x.shape[2:]
    if any(padding):
        room = new_place((*x.shape[:2], *(n + 2 * p for n, p in zip(sizes, padding))), x.dtype, build.context.lanes)
        least = -math.inf if x.dtype.is_floating_point else torch.iinfo(x.dtype).min
        build.pad([f"pad {x.shape}"], x, [(0, 0), (0, 0), *((p, p) for p in padding)], room, least)
        x = room
    build.add(PoolArgMax(build.context, [x], [out], build.note(instruction), sizes, kernel, stride, padding, dilation))
    return out


@dataclass(eq=False)
class PoolArgMax(Kernel):
    """Reads x (n, channels, *padded sizes), and writes (n, channels, *positions): the elements' numbers among `sizes`."""

    sizes: Sizes
    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes

    def lines(self) -> Iterator[str]:
        x, out = self.reads[0], self.writes[0]
        v = self.context.vector(x.dtype) if x.dtype.is_floating_point else 1
        rows = Nest.over(out.shape[:2], [x.strides[:2], out.strides[:2]])
        names = [f"p{axis}" for axis in range(len(self.sizes) - 1)]
        from_ = added(rows.terms(0), *(scaled(p, s * step) for p, s, step in zip(names, self.stride, x.strides[2:])))
        to = added(rows.terms(1), *(scaled(p, step) for p, step in zip(names, out.strides[2:])))
        number = added(*(scaled(p, s * n) for p, s, n in zip(names, self.stride, self._numbers())))
        skipped = added(*map(self._skipped, names, range(len(names))))
        body = [
            f"const {C_TYPES[x.dtype]} *row = {x.address(from_)};",
            f"const long number = {added(number, str(-sum(p * n for p, n in zip(self.padding, self._numbers()))))};",
            f"const long skipped = {skipped or '0'};",
        ]
        width = out.shape[-1]
        whole = width // v * v
        if whole:
            body += [f"for (long j = 0; j < {whole}; j += {v}) {{", *("  " + line for line in self._windows(v, v, to)), "}"]
        if whole < width:
            body += ["{", f"  const long j = {whole};", *("  " + line for line in self._windows(v, width - whole, to)), "}"]
        for name, count in reversed(list(zip(names, out.shape[2:]))):
            body = [f"for (long {name} = 0; {name} < {count}; {name}++) {{", *("  " + line for line in body), "}"]
        yield "{"
        yield from ("  " + line for line in rows.wrap(body, independent=False))
        yield "}"

    def _numbers(self) -> Sizes:
        """How far the numbers of neighbours along each axis are apart."""
        return tuple(math.prod(self.sizes[axis + 1 :]) for axis in range(len(self.sizes)))

    def _skipped(self, position: str, axis: int) -> str:
        """How many numbers further on than a window's first place, which may be in the padding, its first one within is."""
        s, p, d, n = self.stride[axis], self.padding[axis], self.dilation[axis], self._numbers()[axis]
        before = f"({p} - {position} * {s})"
        return f"({before} > 0 ? ({before} + {d - 1}) / {d} * {d * n} : 0)" if p else ""

    def _windows(self, v: int, count: int, to: str) -> Iterator[str]:
        """`count` windows, from that of column j on. A number of the padding's is that of the first place within: it is never larger."""
        x, out = self.reads[0], self.writes[0]
        t, step, last = C_TYPES[x.dtype], self.stride[-1] * x.strides[-1], len(self.sizes) - 1
        value, whole = (f"{t}_v", mask_type(self.context, x.dtype)) if v > 1 else (t, "int64_t")
        columns = [f"(j + {z})" for z in range(v)]

        def lanes(numbers: list[str]) -> str:
            return f"({whole}){{{', '.join(numbers)}}}" if v > 1 else numbers[0]

        for turn, place in enumerate(itertools.product(*map(range, self.kernel))):
            at = [k * d for k, d in zip(place, self.dilation)]
            start = f"row + j * {step} + {sum(i * s for i, s in zip(at, x.strides[2:]))}"
            here = lanes([str(sum(i * n for i, n in zip(at, self._numbers())) + z * self.stride[-1]) for z in range(v)])
            yield f"const {value} h{turn} = {_loaded(self.context, t, v, count, start, step)};"
            if not turn:
                yield f"{value} best = h0;"
                yield f"{whole} at = {here} + ({'int32_t' if t == 'float' else 'int64_t'})skipped;"
                if self.padding[-1]:
                    yield f"at += {lanes([self._skipped(column, last) for column in columns])};"
            elif v > 1:
                yield f"const {whole} more{turn} = (h{turn} > best) | (h{turn} != h{turn});"
                yield f"best = ({value})((more{turn} & ({whole})h{turn}) | (~more{turn} & ({whole})best));"
                yield f"at = (more{turn} & {here}) | (~more{turn} & at);"
            else:
                yield f"if (h{turn} > best) best = h{turn}, at = {here};"
        element = out.at(added(to, "j", "z" if v > 1 else ""))
        if v > 1:
            yield f"for (long z = 0; z < {count}; z++) {element} = number + j * {self.stride[-1]} + at[z];"
        else:
            yield f"{element} = number + j * {self.stride[-1]} + at;"


def _loaded(context: Context, t: str, v: int, count: int, start: str, step: int) -> str:
    """`count` elements, each `step` after the other, as a vector."""
    if v == 1:
        return f"*({start})"
    if count == v and step == 1:
        return f"*(const {t}_v *)({start})"
    if count == v and step == 2:
        pairs = ", ".join(str(2 * z) for z in range(v))
        return f"MIX_{t}(*(const {t}_v *)({start}), *(const {t}_v *)({start} + {v}), {pairs})"
    return f"({t}_v){{" + ", ".join(f"({start})[{min(z, count - 1) * step}]" for z in range(v)) + "}"
