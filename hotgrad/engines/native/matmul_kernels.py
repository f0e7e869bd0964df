"""Matrix products in C: blocks of rows and vectors of columns whose sums stay in registers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from hotgrad.engines.native.kernels import Context, Kernel
from hotgrad.engines.native.layout import C_TYPES, Nest, Place, added, new_place, term

PANEL = 4  # vectors of columns at a time
DEPTH = 384  # products summed in one go; more, and the right operand's panel leaves the cache


def _exchange(v: int, distance: int) -> tuple[str, str]:
    """Two vectors mixed so that elements `distance` apart change places: which of their elements, in one row, form each result."""
    low = (e if not e & distance else v + e - distance for e in range(v))
    high = (e + distance if not e & distance else v + e for e in range(v))
    return ", ".join(map(str, low)), ", ".join(map(str, high))


def _distances(v: int) -> list[int]:
    return [2**i for i in range(v.bit_length() - 1)]


def _dots(context: Context, dtype: torch.dtype) -> str:
    """The name of the C function that multiplies a matrix by a vector: a vector of sums for each row, then the sums of these."""
    t, v = C_TYPES[dtype], context.vector(dtype)
    name = f"dots_{t}"
    sums = [
        f"    x{r} = MIX_{t}(x{r}, x{r + d}, {low}) + MIX_{t}(x{r}, x{r + d}, {high});"
        for d in _distances(v)
        for low, high in [_exchange(v, d)]
        for r in range(0, v, 2 * d)
    ]
    rows = range(v)
    lines = [
        "/* out[i * step] = the sum over k of a[i * ai + k] * b[k]. */",
        f"SEPARATE static void {name}(long rows, long depth, const {t} *a, long ai, const {t} *b, {t} *out, long step)",
        "{",
        f"  const long whole = depth / {v} * {v};",
        "  long i = 0;",
        f"  for (; i + {v} <= rows; i += {v}, a += {v} * ai, out += {v} * step) {{",
        f"    {t}_v " + ", ".join(f"x{r} = {{0}}" for r in rows) + ";",
        f"    for (long k = 0; k < whole; k += {v}) {{",
        f"      const {t}_v y = *(const {t}_v *)(b + k);",
        *(f"      x{r} += *(const {t}_v *)(a + {r} * ai + k) * y;" for r in rows),
        "    }",
        *sums,
        "    for (long k = whole; k < depth; k++)",
        f"      x0 += ({t}_v){{" + ", ".join(f"a[{r} * ai + k]" for r in rows) + "} * b[k];",
        f"    for (long z = 0; z < {v}; z++) out[z * step] = x0[z];",
        "  }",
        "  for (; i < rows; i++, a += ai, out += step) {",
        f"    {t}_v x = {{0}};",
        f"    for (long k = 0; k < whole; k += {v}) x += *(const {t}_v *)(a + k) * *(const {t}_v *)(b + k);",
        f"    {t} s = 0;",
        f"    for (long z = 0; z < {v}; z++) s += x[z];",
        "    for (long k = whole; k < depth; k++) s += a[k] * b[k];",
        "    *out = s;",
        "  }",
        "}",
    ]
    context.helpers.setdefault(name, "\n".join(lines) + "\n")
    return name


def block(context: Context, dtype: torch.dtype, rows: int, vectors: int, table: bool = False) -> str:
    """The name of the C function that multiplies `rows` rows by `vectors` vectors of columns at a time.

    `table`: the right operand's rows lie where a table of distances says, else `bk` apart.
    """
    t, v = C_TYPES[dtype], context.vector(dtype)
    name = f"{'correlation' if table else 'product'}_{t}_{rows}x{vectors}"
    if name in context.helpers:
        return name
    cells = [(r, c) for r in range(rows) for c in range(vectors)]
    # of the two factors the fewer ones stay in registers, and the others pass by: together with the sums that fills 16 registers
    load = [f"*(const {t}_v *)(y + {j * v})" for j in range(vectors)]
    if rows < vectors:
        inner = [f"      {t}_v z;", f"      const {t} " + ", ".join(f"a{r} = x[{r} * ai]" for r in range(rows)) + ";"]
        inner += [f"      z = {load[j]}; ONCE(z); " + " ".join(f"s{r}{j} += a{r} * z;" for r in range(rows)) for j in range(vectors)]
    else:
        inner = [f"      {t}_v " + ", ".join(f"b{j} = {load[j]}" for j in range(vectors)) + ";", f"      {t} z;"]
        inner.append("      " + " ".join(f"ONCE(b{j});" for j in range(vectors)))
        inner += [f"      z = x[{r} * ai]; " + " ".join(f"s{r}{j} += z * b{j};" for j in range(vectors)) for r in range(rows)]
    step = ["x += ak", *([] if table else ["y += bk"])]
    lines = [
        f"/* c[i, j] = the sum over k of a[i, k] * b[k, j], for {rows} rows and {vectors} vectors of columns, `blocks` times with an, bn and cn",
        f"   between them; row k of b lies {'at[k]' if table else 'k * bk'} further on. `more`: added to what stands there. */",
        f"SEPARATE static void {name}(long blocks, long depth, const {t} *a, long an, long ai, long ak, const {t} *b, long bn,",
        f"  {'const int32_t *at' if table else 'long bk'}, {t} *c, long cn, long ci, int more)",
        "{",
        "  for (; blocks > 0; blocks--, a += an, b += bn, c += cn) {",
        f"    {t}_v " + ", ".join(f"s{r}{j} = {{0}}" for r, j in cells) + ";",
        "    if (more) {",
        *("      " + " ".join(f"s{r}{j} = *({t}_v *)(c + {r} * ci + {j * v});" for j in range(vectors)) for r in range(rows)),
        "    }",
        f"    const {t} *x = a, *y = b;",
        f"    for (long k = 0; k < depth; k++, {', '.join(step)}) {{",
        *(["      y = b + at[k];"] if table else []),
        *inner,
        "    }",
        *("    " + " ".join(f"*({t}_v *)(c + {r} * ci + {j * v}) = s{r}{j};" for j in range(vectors)) for r in range(rows)),
        "  }",
        "}",
    ]
    context.helpers[name] = "\n".join(lines) + "\n"
    return name


def panels(vectors: int) -> list[tuple[int, int, int]]:
    """How a row of so many vectors is cut: (the first vector, how many panels, vectors of a panel)."""
    found = [(0, vectors // PANEL, PANEL)] if vectors >= PANEL else []
    if vectors % PANEL:
        found.append((vectors // PANEL * PANEL, 1, vectors % PANEL))
    return found


def row_blocks(rows: int, vectors: int) -> list[tuple[int, int]]:
    """How `rows` rows are cut: (rows of a block, how many). Ten to twelve sums stay in registers; a short rest would wait for itself."""
    block = {1: 8, 2: 6, 3: 4, 4: 3}[vectors]
    count, rest = divmod(rows, block)
    if not rest:
        return [(block, count)]
    if count and rest * 2 < block:
        count -= 1
        both = block + rest
        parts = [(block, count), (both - both // 2, 1), (both // 2, 1)]
    else:
        parts = [(block, count), (rest, 1)]
    merged: list[tuple[int, int]] = []
    for size, number in parts:
        if merged and merged[-1][0] == size:
            merged[-1] = (size, merged[-1][1] + number)
        elif number:
            merged.append((size, number))
    return merged


def _transposition(context: Context, dtype: torch.dtype) -> str:
    """The name of the C function that transposes, square after square: three exchanges (of eight lanes) between pairs of vectors each."""
    t, v = C_TYPES[dtype], context.vector(dtype)
    name = f"transpose_{t}"
    lines = [
        "/* to[j, i] = from[i, j] for `rows` times `columns`; of `to` as many rows are written as fill whole vectors. */",
        f"SEPARATE static void {name}(long rows, long columns, const {t} *from, long step, {t} *to, long to_step)",
        "{",
        f"  for (long i = 0; i < rows; i += {v})",
        f"    for (long j = 0; j < columns; j += {v}) {{",
        "      const long last = rows - 1 - i;",
        *(f"      {t}_v x{r} = *(const {t}_v *)(from + (i + ({r} < last ? {r} : last)) * step + j);" for r in range(v)),
        f"      {t}_v y;",
    ]
    for d in _distances(v):
        low, high = _exchange(v, d)
        for a, b in ((f"x{r}", f"x{r + d}") for r in range(v) if not r & d):
            lines.append(f"      y = MIX_{t}({a}, {b}, {low}); {b} = MIX_{t}({a}, {b}, {high}); {a} = y;")
    lines += [f"      *({t}_v *)(to + (j + {r}) * to_step + i) = x{r};" for r in range(v)] + ["    }", "}"]
    context.helpers.setdefault(name, "\n".join(lines) + "\n")
    return name


def mask_type(context: Context, dtype: torch.dtype) -> str:
    """The name of the C type of vectors of whole numbers, or masks, as wide as those of this type."""
    t = C_TYPES[dtype]
    attributes = f"vector_size({context.vector_bytes}), aligned({dtype.itemsize}), may_alias"
    context.helpers.setdefault(
        f"{t}_mask", f"/* beside {t}_v */ typedef int{8 * dtype.itemsize}_t {t}_mask __attribute__(({attributes}));\n"
    )
    return f"{t}_mask"


@dataclass(eq=False)
class Transpose(Kernel):
    """A copy by rows of a place whose columns are contiguous. The copy's buffer has whole vectors of rows."""

    def lines(self) -> Iterator[str]:
        source, target = self.reads[0], self.writes[0]
        nest = Nest.over(source.shape[:-2], [p.strides[:-2] for p in (source, target)])
        (columns, rows), step = source.shape[-2:], source.strides[-1]
        name = _transposition(self.context, source.dtype)
        call = f"{name}({rows}, {columns}, {source.address(nest.terms(0))}, {step}, {target.address(nest.terms(1))}, {target.strides[-2]});"
        yield from nest.wrap([call], independent=False)

    @staticmethod
    def of(context: Context, place: Place) -> tuple[Kernel, Place] | None:
        """The kernel that copies `place`, and the copy; None where its elements do not lie so."""
        v = context.vector(place.dtype)
        if place.strides[-2] != 1 or place.strides[-1] <= 0 or min(place.shape) < 1 or not place.dtype.is_floating_point:
            return None
        columns = -(-place.shape[-2] // v) * v
        if not place.allows((*place.shape[:-2], columns, place.shape[-1])):
            return None
        room = new_place((*place.shape[:-2], columns, place.shape[-1]), place.dtype, context.lanes)
        target = room.view(place.shape, room.strides)
        return Transpose(context, [place], [target], [f"transposed copy {place.shape}"]), target


@dataclass(eq=False)
class Product(Kernel):
    """Matrix product: reads (..., m, k) and (..., k, n), the axes before broadcast already, and writes (..., m, n).

    The right operand's rows and the result's are contiguous, with room for whole vectors.
    """

    def lines(self) -> Iterator[str]:
        a, b, c = self.reads[0], self.reads[1], self.writes[0]
        batch = Nest.over(c.shape[:-2], [p.strides[:-2] for p in (a, b, c)])
        (m, depth), n = a.shape[-2:], c.shape[-1]
        (ai, ak), bk, ci = a.strides[-2:], b.strides[-2], c.strides[-2]
        v = self.context.vector(c.dtype)
        vectors = -(-n // v)

        body: list[str] = []
        for k in range(0, max(depth, 1), DEPTH):
            for first, count, wide in panels(vectors):
                base = f"z * {wide * v}" if count > 1 else str(first * v) if first else ""
                row, lines = 0, []
                for rows, blocks in row_blocks(m, wide):
                    left = a.address(added(batch.terms(0), term(row * ai + k * ak)))
                    right = b.address(added(batch.terms(1), term(k * bk), base))
                    to = c.address(added(batch.terms(2), term(row * ci), base))
                    name = block(self.context, c.dtype, rows, wide)
                    steps = f"{left}, {rows * ai}, {ai}, {ak}, {right}, 0, {bk}, {to}, {rows * ci}, {ci}"
                    lines.append(f"{name}({blocks}, {min(DEPTH, depth - k)}, {steps}, {int(k > 0)});")
                    row += rows * blocks
                if count > 1:
                    body += [f"for (long z = 0; z < {count}; z++) {{", *("  " + line for line in lines), "}"]
                else:
                    body += lines
        yield from batch.wrap(body, independent=False)


@dataclass(eq=False)
class Dots(Kernel):
    """Matrix times vector by dot products: reads (..., m, k) and (..., k, 1), contiguous along k, and writes (..., m, 1)."""

    def lines(self) -> Iterator[str]:
        a, b, c = self.reads[0], self.reads[1], self.writes[0]
        nest = Nest.over(c.shape[:-2], [p.strides[:-2] for p in (a, b, c)])
        (m, depth), name = a.shape[-2:], _dots(self.context, c.dtype)
        left, right, to = (p.address(nest.terms(i)) for i, p in enumerate((a, b, c)))
        yield from nest.wrap([f"{name}({m}, {depth}, {left}, {a.strides[-2]}, {right}, {to}, {c.strides[-2]});"], independent=False)


def fits(place: Place, vector: int) -> bool:
    """Whether the rows are contiguous, with room for whole vectors at their ends."""
    n = place.shape[-1]
    return (n == 1 or place.strides[-1] == 1) and place.view(
        (*place.shape[:-1], -(-n // vector) * vector), (*place.strides[:-1], 1)
    ).allows((*place.shape[:-1], -(-n // vector) * vector))
