"""Convolution and its two gradients in C: sums of shifted rows, which stay in registers.

A tap is an element of a kernel in one channel. What it adds to a row of the result is a row of the input some elements further on,
so a table of these distances says all about kernel, dilation and channels. Where rows are too short to fill vectors, what the taps
see at all positions is copied side by side instead, and the convolution is a matrix product.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from hotgrad.engines.native.builder import Builder
from hotgrad.engines.native.contractions import product
from hotgrad.engines.native.kernels import Context, Fill, Kernel, Transfer
from hotgrad.engines.native.layout import C_TYPES, NativeError, Nest, Place, added, new_place, reshaped, term
from hotgrad.engines.native.matmul_kernels import block, mask_type, panels, row_blocks
from hotgrad.engines.native.reductions import Reduce
from hotgrad.program.instructions import Instruction

Sizes = tuple[int, ...]
ROWS, TAPS = 4, 3  # of the sums of a gradient of kernels that stay in registers
VECTORS = 64  # of g that such a block of sums reads before it makes room for the next, which reads the same images


@dataclass(frozen=True)
class Input:
    """What the kernels see: `windows` (n, groups, *kernel, channels, *positions), a view; `first` (n, groups, *positions), the first
    tap's part, with neighbours side by side, and how far further on the others lie, or None where its rows fill no vectors.

    `spans`: for each position along the first axis, which elements of a kernel along it see more than padding.
    """

    windows: Place
    first: Place | None
    taps: Sizes
    spans: list[tuple[int, int]]

    @classmethod
    def of(cls, build: Builder, windows: Place, axes: int, spans: list[tuple[int, int]]) -> Input:
        """For windows with so many axes of positions, where the last one's neighbours are neighbours in memory if that suits."""
        taps, steps = windows.shape[2:-axes], windows.strides[2:-axes]
        first = windows.view((*windows.shape[:2], *windows.shape[-axes:]), (*windows.strides[:2], *windows.strides[-axes:]))
        offsets = _offsets(taps, steps)
        suits = first.strides[-1] == 1 and _fills(build, first) and _reaches(build, first, offsets)
        return cls(windows, first if suits else None, offsets, spans)


def _offsets(shape: Sizes, strides: Sizes) -> tuple[int, ...]:
    return tuple(sum(i * s for i, s in zip(index, strides)) for index in itertools.product(*map(range, shape)))


def _fills(build: Builder, place: Place) -> bool:
    """Whether the rows fill at least half of their vectors."""
    width, v = place.shape[-1], build.context.vector(place.dtype)
    return width > 1 and 2 * width >= -(-width // v) * v


def _reaches(build: Builder, first: Place, taps: Sizes) -> bool:
    """Whether whole vectors can be read of each row, for each of these taps."""
    whole = _whole(build, first)
    return all(first.view(first.shape, first.strides, end).allows(whole, build.context.lanes) for end in (min(taps), max(taps)))


def _whole(build: Builder, place: Place) -> Sizes:
    """The shape with rows of whole vectors."""
    v = build.context.vector(place.dtype)
    return (*place.shape[:-1], -(-place.shape[-1] // v) * v)


def _seen(build: Builder, x: Place, kernel: Sizes, groups: int, stride: Sizes, padding: Sizes, dilation: Sizes) -> Input:
    """What the kernels of a convolution see of its input."""
    axes, (n, channels, size_of_first) = len(kernel), x.shape[:3]
    if any(padding) or x.strides[-1] != 1:
        room = new_place((n, channels, *(size + 2 * p for size, p in zip(x.shape[2:], padding))), x.dtype, build.context.lanes)
        build.pad([f"pad {x.shape}"], x, [(0, 0), (0, 0), *((p, p) for p in padding)], room)
        x = room
    positions = tuple((size - d * (k - 1) - 1) // s + 1 for size, k, s, d in zip(x.shape[2:], kernel, stride, dilation))
    across = [d * step for d, step in zip(dilation, x.strides[2:])]
    along = [s * step for s, step in zip(stride, x.strides[2:])]
    each = channels // groups
    windows = x.view((n, groups, *kernel, each, *positions), (x.strides[0], each * x.strides[1], *across, x.strides[1], *along))
    shown = [range(-(i * stride[0] - padding[0]), size_of_first - (i * stride[0] - padding[0])) for i in range(positions[0])]
    spans = [_within(seen, kernel[0], dilation[0]) for seen in shown]
    s, d = stride[-1], dilation[-1]
    if s == 1 or not _fills(build, windows):
        return Input.of(build, windows, axes, spans)
    # every s-th element of a row beside each other, so that a row's positions are neighbours
    wide = -(-x.shape[-1] // s)
    apart = new_place((*x.shape[:-1], s, wide), x.dtype, build.context.lanes)
    for phase in range(min(s, x.shape[-1])):
        count = -(-(x.shape[-1] - phase) // s)
        source = x.view((*x.shape[:-1], count), (*x.strides[:-1], s), phase)
        target = apart.view((*x.shape[:-1], count), (*apart.strides[:-2], 1), phase * apart.strides[-2])
        build.add(Transfer(build.context, [source], [target], [f"every {s}th of {x.shape}"]))
    rows = apart.strides[2:-2]
    first = apart.view(
        (n, groups, *positions), (apart.strides[0], each * apart.strides[1], *(s * step for s, step in zip(stride, rows)), 1)
    )
    before = _offsets(kernel[:-1], tuple(d * step for d, step in zip(dilation, rows)))
    last = [k * d % s * apart.strides[-2] + k * d // s for k in range(kernel[-1])]
    taps = tuple(b + e + c * apart.strides[1] for b in before for e in last for c in range(each))
    return Input(windows, first if _reaches(build, first, taps) else None, taps, spans)


def _within(wanted: range, count: int, step: int) -> tuple[int, int]:
    """Which of 0, step, 2 * step, ... up to so many are in a range: the first, and the one after the last.

    >>> _within(range(2, 5), 4, 2)
    (1, 3)
    """
    inside = [i for i in range(count) if i * step in wanted]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _sums(build: Builder, note: list[str], weights: Place, x: Input, out: Place) -> Place:
    """Where the sums over the taps lie: of weights (groups, outs, taps) times what they see, (n, groups, outs, *positions), in `out`
    if that costs no copy."""
    n, groups, outs, *positions = out.shape
    whole = _whole(build, out)
    if x.first is not None and out.allows(whole) and _roomy(out, whole[-1]):
        build.add(Shifted(build.context, [weights, x.first], [out], note, x.taps, x.spans, len(x.taps) // x.windows.shape[2]))
        return out
    axes = len(positions)
    taps = x.windows.shape[2:-axes]
    columns = new_place((groups, math.prod(taps), n * math.prod(positions)), out.dtype, build.context.lanes)
    order = [1, *range(2, 2 + len(taps)), 0, *range(2 + len(taps), 2 + len(taps) + axes)]
    beside = cast(Place, reshaped(columns, (groups, *taps, n, *positions)))
    build.add(Transfer(build.context, [x.windows.permuted(order)], [beside], [f"columns {columns.shape}"]))
    result = new_place((groups, outs, columns.shape[-1]), out.dtype, build.context.lanes)
    product(build, note, weights, columns, result)
    split = cast(Place, reshaped(result, (groups, outs, n, *positions)))
    return split.permuted([2, 0, 1, *range(3, 3 + axes)])


def _roomy(place: Place, row: int) -> bool:
    """Whether rows of so many elements do not reach into each other."""
    return all(n == 1 or abs(s) >= row for n, s in zip(place.shape[:-1], place.strides[:-1]))


def _checked(instruction: Instruction) -> None:
    if not instruction.out.dtype.is_floating_point:
        raise NativeError(f"{instruction.op.name} of {instruction.out.dtype} has no native form")


def _zeros(build: Builder, instruction: Instruction) -> Place:
    out = build.place_for(instruction.out)
    build.add(Fill(build.context, [], [out], [f"fill {out.shape}"], 0.0))
    return out


def _grouped(place: Place, groups: int) -> Place:
    """(n, channels, ...) as (n, groups, channels / groups, ...)."""
    n, channels, *rest = place.shape
    each = channels // groups
    return place.view((n, groups, each, *rest), (place.strides[0], each * place.strides[1], *place.strides[1:]))


def _dense(build: Builder, place: Place, shape: Sizes) -> Place:
    return cast(Place, reshaped(build.copied(place, padded=False), shape))


def convolution(build: Builder, instruction: Instruction, x: Place, weight: Place, groups: int, **how: Sizes) -> Place:
    """Lower Convolution."""
    _checked(instruction)
    if 0 in (*x.shape, *weight.shape, *instruction.out.shape):
        return _zeros(build, instruction)
    out, note = build.place_for(instruction.out), build.note(instruction)
    seen = _seen(build, x, weight.shape[2:], groups, **how)
    last_first = weight.permuted([0, *range(2, len(weight.shape)), 1])
    weights = _dense(build, last_first, (groups, weight.shape[0] // groups, math.prod(weight.shape[1:])))
    found = _sums(build, note, weights, seen, _grouped(out, groups))
    if found.buffer is out.buffer:
        return out
    return cast(Place, reshaped(found, out.shape))


def convolution_input(
    build: Builder,
    instruction: Instruction,
    g: Place,
    weight: Place,
    shape: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Place:
    """Lower ConvolutionInput: a convolution of g with the kernels turned around, for every s-th element along an axis of its own, as
    only every s-th tap has a part in it.
    """
    _checked(instruction)
    if 0 in (*g.shape, *weight.shape, *shape):
        return _zeros(build, instruction)
    kernel, sizes, height = weight.shape[2:], shape[2:], g.shape[2]
    ways = [_phases(*each) for each in zip(sizes, g.shape[2:], kernel, stride, padding, dilation)]
    before = [max([0, *(w.last - w.start for w in axis if w.taps)]) for axis in ways]
    after = [max([0, *(w.start + w.count - w.first - m for w in axis if w.taps)]) for axis, m in zip(ways, g.shape[2:])]
    if any(before) or any(after) or g.strides[-1] != 1:
        room = new_place((*g.shape[:2], *(b + m + a for b, m, a in zip(before, g.shape[2:], after))), g.dtype, build.context.lanes)
        build.pad([f"pad {g.shape}"], g, [(0, 0), (0, 0), *zip(before, after)], room)
        g = room
    whole = all(len(axis) == 1 for axis in ways)
    sparse = not all(w.taps for axis in ways for w in axis)
    out = _zeros(build, instruction) if sparse else build.place_for(instruction.out)
    n, outs = g.shape[0], g.shape[1] // groups
    kernels = weight.view((groups, outs, *weight.shape[1:]), (outs * weight.strides[0], *weight.strides))
    for chosen in itertools.product(*ways):
        if not all(w.taps for w in chosen):
            continue
        counts, taps = tuple(w.count for w in chosen), tuple(w.taps for w in chosen)
        strides = kernels.strides[3:]
        part = kernels.view(
            (*kernels.shape[:3], *taps),
            (*kernels.strides[:3], *(w.every * s for w, s in zip(chosen, strides))),
            sum(w.tap * s for w, s in zip(chosen, strides)),
        )
        turned = part.permuted([0, 2, *range(3, len(part.shape)), 1])
        weights = _dense(build, turned, (groups, shape[1] // groups, outs * math.prod(taps)))
        steps = g.strides[2:]
        windows = g.view(
            (n, groups, *taps, outs, *counts),
            (g.strides[0], outs * g.strides[1], *(-w.shift * s for w, s in zip(chosen, steps)), g.strides[1], *steps),
            sum((w.start - w.first + b) * s for w, b, s in zip(chosen, before, steps)),
        )
        to = _grouped(out, groups)
        to = to.view(
            (*to.shape[:3], *counts),
            (*to.strides[:3], *(st * s for st, s in zip(stride, to.strides[3:]))),
            sum(w.at * s for w, s in zip(chosen, to.strides[3:])),
        )
        room = to if whole else new_place(to.shape, to.dtype, build.context.lanes)
        w, m = chosen[0], height
        spans = [_within(range(j - m + 1, j + 1), w.taps, w.shift) for j in range(w.start - w.first, w.start - w.first + w.count)]
        found = _sums(build, build.note(instruction), weights, Input.of(build, windows, len(kernel), spans), room)
        if found.buffer is not out.buffer:
            build.add(Transfer(build.context, [found], [to], [f"copy {to.shape}"]))
    return out


@dataclass(frozen=True)
class Phase:
    """Along one axis every s-th element of a gradient, `count` of them from element `at` on. It sums over `taps` taps, each `every`
    ones from `tap` on. Element i is g's at start + i less the tap's shift: `first` for the first tap, `shift` more for each further
    one, `last` for the last.
    """

    at: int
    count: int
    start: int
    tap: int
    every: int
    taps: int
    first: int
    shift: int

    @property
    def last(self) -> int:
        return self.first + self.shift * (self.taps - 1)


def _phases(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> list[Phase]:
    """
    >>> _phases(5, 2, 2, 2, 0, 1)[1]
    Phase(at=1, count=2, start=0, tap=1, every=2, taps=1, first=0, shift=1)
    """
    found = []
    common = math.gcd(dilation, stride)
    for phase in range(stride):
        at = (phase - padding) % stride
        if at >= size:
            continue
        fitting = [k for k in range(kernel) if k * dilation % stride == phase]
        tap = fitting[0] if fitting else 0
        found.append(
            Phase(
                at=at,
                count=-(-(size - at) // stride),
                start=(at + padding - phase) // stride,
                tap=tap,
                every=stride // common,
                taps=len(fitting),
                first=tap * dilation // stride,
                shift=dilation // common,
            )
        )
    return found


def convolution_weight(build: Builder, instruction: Instruction, g: Place, x: Place, shape: Sizes, groups: int, **how: Sizes) -> Place:
    """Lower ConvolutionWeight."""
    _checked(instruction)
    if 0 in (*g.shape, *x.shape, *shape):
        return _zeros(build, instruction)
    out, note = build.place_for(instruction.out), build.note(instruction)
    kernel, axes, positions, n = shape[2:], len(shape) - 2, g.shape[2:], g.shape[0]
    seen = _seen(build, x, kernel, groups, **how)
    taps, outs = math.prod(shape[1:]), shape[0] // groups
    if seen.first is not None:
        g = g if g.strides[-1] == 1 and g.allows(_whole(build, g), build.context.lanes) else build.copied(g)
        v = build.context.vector(out.dtype)
        sums = new_place((groups, outs, taps, v), out.dtype, build.context.lanes, padded=False)
        build.add(Fill(build.context, [], [sums], [f"fill {sums.shape}"], 0.0))
        build.add(Gradient(build.context, [_grouped(g, groups), seen.first, sums], [sums], note, seen.taps))
        channels_last = [0, *range(2, 2 + axes), 1]
        lanes = cast(Place, reshaped(sums, (*(shape[i] for i in channels_last), v)))
        to = out.permuted(channels_last)
        build.add(Reduce(build.context, [lanes], [to.view((*to.shape, 1), (*to.strides, 0))], ["lanes"], "sum", (len(shape),)))
        return out
    many = n * math.prod(positions)
    left = _dense(build, _grouped(g, groups).permuted([1, 2, 0, *range(3, 3 + axes)]), (groups, outs, many))
    seen_by = seen.windows.permuted([1, 0, *range(3 + axes, 3 + 2 * axes), *range(2, 3 + axes)])
    right = new_place((groups, many, taps), out.dtype, build.context.lanes)
    build.add(Transfer(build.context, [seen_by], [cast(Place, reshaped(right, seen_by.shape))], [f"rows {right.shape}"]))
    result = new_place((groups, outs, taps), out.dtype, build.context.lanes)
    product(build, note, left, right, result)
    split = cast(Place, reshaped(result, (shape[0], *kernel, shape[1])))
    build.add(Transfer(build.context, [split.permuted([0, 1 + axes, *range(1, 1 + axes)])], [out], [f"copy {shape}"]))
    return out


def _table(context: Context, taps: Sequence[int]) -> str:
    """The name of a table of distances."""
    numbers = ", ".join(map(str, taps))
    name = f"taps_{hashlib.sha1(numbers.encode()).hexdigest()[:16]}"
    context.helpers.setdefault(name, f"static const int32_t {name}[] = {{{numbers}}};\n")
    return name


@dataclass(eq=False)
class Shifted(Kernel):
    """Reads weights (groups, outs, taps) and the first tap's part (n, groups, *positions); writes (n, groups, outs, *positions)."""

    taps: Sizes = ()
    spans: Sequence[tuple[int, int]] = ()
    each: int = 0  # taps of an element of `spans`

    def lines(self) -> Iterator[str]:
        weights, x, out = self.reads[0], self.reads[1], self.writes[0]
        n, groups, outs, *positions = out.shape
        # the last axis is that of vectors, the first of several one of rows that need the same taps, and the others are loops
        several = len(positions) > 1
        inner = range(3 if several else 2, len(x.shape) - 1)
        nest = Nest.over(
            (n, groups, *(x.shape[i] for i in inner)),
            [
                (0, weights.strides[0], *(0 for _ in inner)),
                (*x.strides[:2], *(x.strides[i] for i in inner)),
                (*out.strides[:2], *(out.strides[i + 1] for i in inner)),
            ],
        )
        down = (x.strides[2], out.strides[3]) if several else (0, 0)
        v, table = self.context.vector(out.dtype), _table(self.context, self.taps)
        body: list[str] = []
        for row, rows, low, high in self._runs() if several else [(0, 1, 0, len(self.taps))]:
            for first, count, wide in panels(-(-positions[-1] // v)):
                base = f"z * {wide * v}" if count > 1 else term(first * v)
                lines, done = [], 0
                for size, blocks in row_blocks(outs, wide):
                    step = f"y * {size * weights.strides[1]}" if blocks > 1 else ""
                    left = weights.address(added(nest.terms(0), term(done * weights.strides[1] + low), step))
                    right = x.address(added(nest.terms(1), term(row * down[0]), base))
                    step = f"y * {size * out.strides[2]}" if blocks > 1 else ""
                    to = out.address(added(nest.terms(2), term(done * out.strides[2] + row * down[1]), step, base))
                    name = block(self.context, out.dtype, size, wide, table=True)
                    at = f"{table} + {low}" if low else table
                    steps = f"{left}, 0, {weights.strides[1]}, 1, {right}, {down[0]}, {at}, {to}, {down[1]}, {out.strides[2]}"
                    call = f"{name}({rows}, {high - low}, {steps}, 0);"
                    lines += [f"for (long y = 0; y < {blocks}; y++)", f"  {call}"] if blocks > 1 else [call]
                    done += size * blocks
                body += [f"for (long z = 0; z < {count}; z++) {{", *("  " + line for line in lines), "}"] if count > 1 else lines
        yield from nest.wrap(body, independent=False)

    def _runs(self) -> Iterator[tuple[int, int, int, int]]:
        """Rows that need the same taps: (the first, how many, the first tap, the one after the last)."""
        each = self.each
        row = 0
        for (low, high), same in itertools.groupby(self.spans):
            rows = len(list(same))
            yield row, rows, low * each, high * each
            row += rows


def _gradient(context: Context, dtype: torch.dtype, rows: int, taps: int) -> str:
    """The name of the C function that adds products of so many rows of g with what so many taps see, lane by lane."""
    t, v = C_TYPES[dtype], context.vector(dtype)
    name = f"kernel_gradient_{t}_{rows}x{taps}"
    kind = mask_type(context, dtype)
    cells = [(r, k) for r in range(rows) for k in range(taps)]

    def products(mask: bool) -> list[str]:
        def load(text: str) -> str:
            return f"({t}_v)(*(const {kind} *)({text}) & mask)" if mask else f"*(const {t}_v *)({text})"

        return [
            f"{t}_v " + ", ".join(f"b{k} = {load(f'x{k} + at + z')}" for k in range(taps)) + ", a;",
            " ".join(f"ONCE(b{k});" for k in range(taps)),
            *(f"a = {load(f'p + {r} * go + z')}; " + " ".join(f"s{r}{k} += a * b{k};" for k in range(taps)) for r in range(rows)),
        ]

    lines = [
        f"/* sums[r, k] += g[r, ...] * x[at[k] + ...], {v} columns beside each other, over images, rows and columns. */",
        f"SEPARATE static void {name}(long images, long rows, long width, const {t} *g, long gi, long gy, long go,",
        f"  const {t} *x, long xi, long xy, const int32_t *taps, {t} *sums, long step)",
        "{",
        f"  const long whole = width / {v} * {v};",
        f"  {kind} mask;",
        f"  for (long z = 0; z < {v}; z++) mask[z] = whole + z < width ? -1 : 0;",
        f"  const {t} " + ", ".join(f"*x{k} = x + taps[{k}]" for k in range(taps)) + ";",
        f"  {t}_v " + ", ".join(f"s{r}{k} = *({t}_v *)(sums + {r} * step + {k * v})" for r, k in cells) + ";",
        "  for (long i = 0; i < images; i++)",
        "    for (long y = 0; y < rows; y++) {",
        f"      const {t} *p = g + i * gi + y * gy;",
        "      const long at = i * xi + y * xy;",
        f"      for (long z = 0; z < whole; z += {v}) {{",
        *("        " + line for line in products(False)),
        "      }",
        "      if (whole < width) {",
        "        const long z = whole;",
        *("        " + line for line in products(True)),
        "      }",
        "    }",
        *("  " + " ".join(f"*({t}_v *)(sums + {r} * step + {k * v}) = s{r}{k};" for k in range(taps)) for r in range(rows)),
        "}",
    ]
    context.helpers.setdefault(name, "\n".join(lines) + "\n")
    return name


def _cut(number: int, most: int) -> list[tuple[int, int, int]]:
    """So many as blocks of at most `most`, of nearly the same size: (the first, how many blocks, size).

    >>> _cut(16, 6)
    [(0, 1, 6), (6, 2, 5)]
    """
    blocks = -(-number // most)
    size, more = divmod(number, blocks)
    parts = [(0, more, size + 1), (more * (size + 1), blocks - more, size)]
    return [part for part in parts if part[1]]


@dataclass(eq=False)
class Gradient(Kernel):
    """Reads g (n, groups, outs, *positions) and the first tap's part (n, groups, *positions); adds to sums (groups, outs, taps, lanes)."""

    taps: tuple[int, ...] = ()

    def lines(self) -> Iterator[str]:
        g, x, sums = self.reads[0], self.reads[1], self.writes[0]
        n, groups, outs, *positions = g.shape
        rows, width = (positions[-2] if len(positions) > 1 else 1), positions[-1]
        row = (g.strides[-2], x.strides[-2]) if len(positions) > 1 else (0, 0)
        over = range(2, len(x.shape) - 2)
        nest = Nest.over(
            (groups, *(x.shape[i] for i in over)),
            [
                (g.strides[1], *(g.strides[i + 1] for i in over)),
                (x.strides[1], *(x.strides[i] for i in over)),
                (sums.strides[0], *(0 for _ in over)),
            ],
        )
        table, v = _table(self.context, self.taps), sums.shape[-1]
        body: list[str] = []
        for first_out, out_blocks, size in _cut(outs, ROWS):
            for first_tap, tap_blocks, taps in _cut(len(self.taps), TAPS):
                name = _gradient(self.context, g.dtype, size, taps)
                out, tap = f"({first_out} + y * {size})", f"({first_tap} + z * {taps})"
                left = g.address(added(f"b * {g.strides[0]}", nest.terms(0), f"{out} * {g.strides[2]}"))
                right = x.address(added(f"b * {x.strides[0]}", nest.terms(1)))
                to = sums.address(added(nest.terms(2), f"{out} * {sums.strides[1]}", f"{tap} * {v}"))
                body += [
                    f"for (long y = 0; y < {out_blocks}; y++)",
                    f"  for (long z = 0; z < {tap_blocks}; z++)",
                    f"    {name}(images, {rows}, {width}, {left}, {g.strides[0]}, {row[0]}, {g.strides[2]},",
                    f"      {right}, {x.strides[0]}, {row[1]}, {table} + {tap}, {to}, {sums.strides[1]});",
                ]
        together = min(n, max(4, -(-VECTORS // (rows * -(-width // v)))))
        yield f"for (long b = 0; b < {n}; b += {together}) {{"
        yield f"  const long images = b + {together} < {n} ? {together} : {n} - b;"
        yield from ("  " + line for line in nest.wrap(body, independent=False))
        yield "}"
