"""Reductions and running sums in C."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from string import Template

import torch

from hotgrad.engines.native.expressions import converted
from hotgrad.engines.native.kernels import Context, Kernel
from hotgrad.engines.native.layout import C_TYPES, Nest, added

# by the name of a reduction: how two elements become one, and what it starts from
_COMBINE = {
    "sum": ("{a} + {b}", "0"),
    "prod": ("{a} * {b}", "1"),
    "amax": ("(({b} > {a}) | ({b} != {b})) ? {b} : {a}", "-INFINITY"),
    "amin": ("(({b} < {a}) | ({b} != {b})) ? {b} : {a}", "INFINITY"),
}
_LIMITS = {
    torch.bool: {"-INFINITY": "0", "INFINITY": "1"},
    torch.int32: {"-INFINITY": "INT32_MIN", "INFINITY": "INT32_MAX"},
    torch.int64: {"-INFINITY": "INT64_MIN", "INFINITY": "INT64_MAX"},
}
_KEPT, _REDUCED = "ijklmno", "pqrtuvx"  # the names of loops over the axes that stay, and over those that go

_COLUMN_SUMS = Template("""\
/* out[0..width) = the sum over the rows of a, each `step` elements after the other; width is whole vectors. */
static void $name(long rows, long width, const $t *a, long step, $t *out)
{
  long j = 0;
  for (; j + 4 * $v <= width; j += 4 * $v) {
    ${t}_v s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, t0 = {0}, t1 = {0}, t2 = {0}, t3 = {0};
    long i = 0;
    for (; i + 2 <= rows; i += 2) {
      const ${t}_v *x = (const ${t}_v *)(a + i * step + j), *y = (const ${t}_v *)(a + (i + 1) * step + j);
      s0 += x[0], s1 += x[1], s2 += x[2], s3 += x[3];
      t0 += y[0], t1 += y[1], t2 += y[2], t3 += y[3];
    }
    if (i < rows) {
      const ${t}_v *x = (const ${t}_v *)(a + i * step + j);
      s0 += x[0], s1 += x[1], s2 += x[2], s3 += x[3];
    }
    ${t}_v *to = (${t}_v *)(out + j);
    to[0] = s0 + t0, to[1] = s1 + t1, to[2] = s2 + t2, to[3] = s3 + t3;
  }
  for (; j < width; j += $v) {
    ${t}_v s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    long i = 0;
    for (; i + 4 <= rows; i += 4) {
      const $t *x = a + i * step + j;
      s0 += *(const ${t}_v *)x, s1 += *(const ${t}_v *)(x + step);
      s2 += *(const ${t}_v *)(x + 2 * step), s3 += *(const ${t}_v *)(x + 3 * step);
    }
    const long rest = rows % 4;
    for (long n = 0; n < rest; n++) s1 += *(const ${t}_v *)(a + (rows - 1 - n) * step + j);
    *(${t}_v *)(out + j) = (s0 + s1) + (s2 + s3);
  }
}
""")


@dataclass(eq=False)
class Reduce(Kernel):
    """Sum, product or extremum over `axes`. The result's place has the reduced axes with size 1."""

    kind: str = "sum"
    axes: tuple[int, ...] = ()

    def lines(self) -> Iterator[str]:
        source, target = self.reads[0], self.writes[0]
        kept = [i for i in range(len(source.shape)) if i not in self.axes]
        outer, inner = source.permuted(kept), source.permuted(self.axes)
        over = Nest.over(outer.shape, [outer.strides, [target.strides[i] for i in kept]])
        along = Nest.over(inner.shape, [inner.strides])
        side_by_side = over.sizes and over.strides[0][-1] == over.strides[1][-1] == 1
        return self._columns(over, along) if side_by_side and along.sizes else self._lanes(over, along)

    def _combined(self, a: str, b: str) -> str:
        source, target = self.reads[0].dtype, self.writes[0].dtype
        return _COMBINE[self.kind][0].format(a=a, b=converted(b, source, target))

    def _start(self) -> str:
        start = _COMBINE[self.kind][1]
        return _LIMITS.get(self.writes[0].dtype, {}).get(start, start)

    def _columns(self, over: Nest, along: Nest) -> Iterator[str]:
        """The innermost axis is kept: row after row is combined with the result, element by element."""
        source, target = self.reads[0], self.writes[0]
        width, lanes = over.sizes.pop(), self.context.lanes
        for strides in over.strides:
            strides.pop()
        from_, to = over.terms(0, _KEPT), over.terms(1, _KEPT)
        whole = -(-width // lanes) * lanes
        spare = whole - width
        if (
            self.kind == "sum"
            and target.dtype is source.dtype
            and target.dtype.is_floating_point
            and len(along.sizes) == 1
            and source.reach(source.shape)[1] + spare < source.buffer.size
            and target.reach(target.shape)[1] + spare < target.buffer.size
            and (not spare or not over.sizes or over.strides[1][-1] >= whole)
        ):
            name = column_sums(self.context, target.dtype)
            call = f"{name}({along.sizes[0]}, {whole}, {source.address(from_)}, {along.strides[0][0]}, {target.address(to)});"
            yield from over.wrap([call], _KEPT, independent=False)
            return
        a, b = target.at(added(to, "z")), source.at(added(from_, along.terms(0, _REDUCED), "z"))
        loop = ["INDEPENDENT", f"for (long z = 0; z < {width}; z++)"]
        body = [*loop, f"  {a} = {self._start()};"]
        body += along.wrap([*loop, f"  {a} = {self._combined(a, b)};"], _REDUCED, independent=False)
        yield from over.wrap(body, _KEPT, independent=False)

    def _lanes(self, over: Nest, along: Nest) -> Iterator[str]:
        """The innermost axis is reduced: to several partial results side by side where it is long, and these to one."""
        source, target = self.reads[0], self.writes[0]
        ctype, start = C_TYPES[target.dtype], self._start()
        from_, to = over.terms(0, _KEPT), over.terms(1, _KEPT)
        width = along.sizes[-1] if along.sizes else 1
        lanes = self.context.lanes
        if width < lanes or along.strides[0][-1] != 1:
            element = source.at(added(from_, along.terms(0, _REDUCED)))
            body = [f"{ctype} s = {start};"]
            body += along.wrap([f"s = {self._combined('s', element)};"], _REDUCED, independent=False)
            body.append(f"{target.at(to)} = s;")
        else:
            lanes *= 4 if width >= 8 * lanes else 1
            whole = width // lanes * lanes
            along = Nest(along.sizes[:-1], [along.strides[0][:-1]])
            row = added(from_, along.terms(0, _REDUCED))
            step = [
                f"for (long y = 0; y < {whole}; y += {lanes})",
                f"  for (long z = 0; z < {lanes}; z++) s[z] = {self._combined('s[z]', source.at(added(row, 'y', 'z')))};",
            ]
            if whole < width:
                last = self._combined("s[z]", source.at(added(row, str(whole), "z")))
                step.append(f"for (long z = 0; z < {width - whole}; z++) s[z] = {last};")
            body = [f"{ctype} s[{lanes}];", f"for (long z = 0; z < {lanes}; z++) s[z] = {start};"]
            body += along.wrap(step, _REDUCED, independent=False)
            body.append(f"for (long n = {lanes // 2}; n > 0; n /= 2)")
            body.append(f"  for (long z = 0; z < n; z++) s[z] = {_COMBINE[self.kind][0].format(a='s[z]', b='s[z + n]')};")
            body.append(f"{target.at(to)} = s[0];")
        yield "{"
        yield from ("  " + line for line in over.wrap(body, _KEPT, independent=False))
        yield "}"


@dataclass(eq=False)
class Cumsum(Kernel):
    """Running sums along an axis."""

    axis: int = 0

    def lines(self) -> Iterator[str]:
        source, target = self.reads[0], self.writes[0]
        others = [i for i in range(len(source.shape)) if i != self.axis]
        nest = Nest.over([source.shape[i] for i in others], [[p.strides[i] for i in others] for p in (source, target)])
        size = source.shape[self.axis] if source.shape else 1
        steps = [f"z * {p.strides[self.axis]}" if p.strides else "" for p in (source, target)]
        places = [p.at(added(nest.terms(i), steps[i])) for i, p in enumerate((source, target))]
        body = [
            f"{C_TYPES[target.dtype]} s = 0;",
            f"for (long z = 0; z < {size}; z++) {{",
            f"  s += {converted(places[0], source.dtype, target.dtype)};",
            f"  {places[1]} = s;",
            "}",
        ]
        yield "{"
        yield from ("  " + line for line in nest.wrap(body, independent=False))
        yield "}"


def column_sums(context: Context, dtype: torch.dtype) -> str:
    """The name of the C function that sums rows."""
    name = f"column_sums_{C_TYPES[dtype]}"
    context.helpers.setdefault(name, _COLUMN_SUMS.substitute(name=name, t=C_TYPES[dtype], v=context.vector(dtype)))
    return name
