"""The elementary functions in C: error in units in the last place, special values, denormals, and that loops become vector code."""

from __future__ import annotations

import ctypes
import decimal
import math
import platform
import random
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
import torch
from torch import Tensor

from hotgrad.engines.native import vector_maths
from hotgrad.engines.native.compiler import OPTIONS, compile_source, find_compiler
from hotgrad.errors import SettingError

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="there is no C compiler")

INF, NAN = math.inf, math.nan
OURS = ("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "softplus", "softplus_tail", "erf")
OF_C = ("sin", "cos", "tan")
ULPS = 4.0
Call = Callable[..., Tensor]


def program() -> str:
    """Loops over every function in both dtypes."""
    parts = [vector_maths.HEADERS]
    for dtype, end in (("float", "f32"), ("double", "f64")):
        parts.append(vector_maths.source(vector_maths.NAMES, dtype))
        for name in vector_maths.NAMES:
            second = f"const {dtype} *restrict b, " if name == "pow" else ""
            given = "a[i], b[i]" if name == "pow" else "a[i]"
            parts.append(
                f"void {name}_{end}(const {dtype} *restrict a, {second}{dtype} *restrict out, long n) "
                f"{{ for (long i = 0; i < n; i++) out[i] = hg_{name}_{end}({given}); }}\n"
            )
    return "".join(parts)


@pytest.fixture(scope="module", params=["fast", "off"], ids=["fused", "unfused"])
def call(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    """`call(name, *tensors)`: a function of ours on tensors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOTGRAD_CACHE", str(tmp_path_factory.mktemp("cache") / "hotgrad"))
        functions = compile_source(program(), options=["-Wall", "-Wextra", "-Werror", f"-ffp-contract={request.param}"]).functions

    def run(name: str, *given: Tensor) -> Tensor:
        out = torch.empty_like(given[0])
        end = "f32" if out.dtype == torch.float32 else "f64"
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (*given, out)]
        getattr(functions, f"{name}_{end}")(*pointers, ctypes.c_long(out.numel()))
        return out

    yield run


def in_double(name: str, x: Tensor) -> Tensor:
    """The function in float64, by torch."""
    if name == "softplus":
        return x.clamp(min=0.0) + in_double("softplus_tail", x)
    if name == "softplus_tail":
        return (-x.abs()).exp().log1p()
    if name == "sigmoid":
        e = (-x.abs()).exp()
        return torch.where(x >= 0, 1.0, e) / (1 + e)
    out: Tensor = getattr(x, name)()
    return out


def samples(count: int) -> Tensor:
    """float32 values of all magnitudes, and denser where the functions do something."""
    draw = torch.Generator().manual_seed(0)
    n = count // 6
    normal = [torch.randn(n, generator=draw) for _ in range(3)]
    uniform = [torch.rand(n, generator=draw) for _ in range(2)]
    bits = torch.randint(-(2**31), 2**31, (n,), generator=draw, dtype=torch.int64).to(torch.int32).view(torch.float32)
    dense = [normal[0], normal[1] * 1e-3, 1 + 0.3 * normal[2], 220 * uniform[0] - 110, 20 * uniform[1] - 10]
    return torch.cat([bits, *dense])


@pytest.mark.parametrize("name", OURS)
def test_float_is_within_4_ulps(name: str, call: Call, count: Callable[[int, int], int]) -> None:
    x = samples(count(300_000, 12_000_000))
    if name == "log":
        x = x.abs()
    out, exact = call(name, x), in_double(name, x.double())
    rounded = exact.float()
    usual = rounded.isfinite() & x.isfinite()
    unit = torch.ldexp(torch.ones_like(exact), torch.frexp(exact)[1].clamp(min=-125) - 24)
    errors = ((out.double() - exact).abs() / unit)[usual]
    assert errors.isfinite().all()
    worst = int(errors.argmax())
    assert errors[worst] <= ULPS, f"{float(errors[worst])} ulps at {float(x[usual][worst])!r}"
    assert torch.equal(out[~usual].nan_to_num(nan=7.0), rounded[~usual].nan_to_num(nan=7.0))


def exactly(name: str, x: float) -> Decimal:
    """The function at 60 digits or more."""
    a = Decimal(x)
    if name in ("exp", "expm1", "tanh"):
        e = (2 * a if name == "tanh" else a).exp()
        return {"exp": e, "expm1": e - 1, "tanh": (e - 1) / (e + 1)}[name]
    if name == "sigmoid":
        return 1 / (1 + (-a).exp())
    if name in ("softplus", "softplus_tail"):
        e = (-abs(a) if name == "softplus_tail" else a).exp()
        return e if e < Decimal("1e-30") else (1 + e).ln()
    if name == "erf":
        term = total = a
        n = 0
        while abs(term) > abs(total) * Decimal("1e-30"):
            n += 1
            term = -term * a * a / n
            total += term / (2 * n + 1)
        return total * 2 / Decimal("3.14159265358979323846264338327950288419716939937511").sqrt()
    return (1 + a if name == "log1p" else a).ln()


def bounded(name: str, x: float) -> bool:
    """Whether `exactly` is good there, and the result finite."""
    largest = {"exp": 709.78, "expm1": 709.78, "softplus_tail": 740.0, "sigmoid": 740.0, "erf": 6.0, "tanh": 20.0}
    if name == "log":
        return x > 0
    if name == "log1p":
        return x > -1 and abs(x) > 1e-20
    smallest = 0.0 if name in ("exp", "sigmoid", "softplus", "softplus_tail") else 1e-20
    return smallest <= abs(x) <= largest.get(name, 745.0)


@pytest.mark.parametrize("name", OURS)
def test_double_is_within_4_ulps(name: str, call: Call, count: Callable[[int, int], int]) -> None:
    draw = random.Random(0)
    n = count(250, 10_000)
    scales = [lambda: draw.gauss(0, 1), lambda: draw.gauss(0, 1e-3), lambda: draw.uniform(-746, 746), lambda: draw.uniform(-8, 8)]
    scales += [lambda: 1 + draw.gauss(0, 0.3), lambda: math.ldexp(draw.uniform(-1, 1), draw.randint(-1074, 1023))]
    points = [x for scale in scales for x in (scale() for _ in range(n)) if bounded(name, x)]
    out = call(name, torch.tensor(points, dtype=torch.float64)).tolist()
    with decimal.localcontext(decimal.Context(prec=70, Emin=-9999, Emax=9999)):
        for x, got in zip(points, out):
            exact = exactly(name, x)
            error = abs(Decimal(got) - exact) / Decimal(math.ulp(float(exact)))
            assert error <= Decimal(ULPS), f"{error} ulps at {x!r}: {got!r}"


SPECIALS: dict[str, list[tuple[float, float]]] = {
    "exp": [(INF, INF), (-INF, 0.0), (0.0, 1.0), (-0.0, 1.0), (1e4, INF), (-1e4, 0.0), (3e38, INF), (-3e38, 0.0)],
    "expm1": [(INF, INF), (-INF, -1.0), (0.0, 0.0), (-0.0, -0.0), (1e4, INF), (-1e4, -1.0)],
    "log": [(INF, INF), (-INF, NAN), (0.0, -INF), (-0.0, -INF), (1.0, 0.0), (-1.0, NAN), (-1e-40, NAN)],
    "log1p": [(INF, INF), (-INF, NAN), (0.0, 0.0), (-0.0, -0.0), (-1.0, -INF), (-1.5, NAN), (-3e38, NAN)],
    "tanh": [(INF, 1.0), (-INF, -1.0), (0.0, 0.0), (-0.0, -0.0), (30.0, 1.0), (-30.0, -1.0), (3e38, 1.0)],
    "sigmoid": [(INF, 1.0), (-INF, 0.0), (0.0, 0.5), (-0.0, 0.5), (1e4, 1.0), (-1e4, 0.0)],
    "softplus": [(INF, INF), (-INF, 0.0), (1e4, 1e4), (-1e4, 0.0)],
    "softplus_tail": [(INF, 0.0), (-INF, 0.0), (1e4, 0.0), (-1e4, 0.0)],
    "erf": [(INF, 1.0), (-INF, -1.0), (0.0, 0.0), (-0.0, -0.0), (30.0, 1.0), (-30.0, -1.0)],
    "sin": [(INF, NAN), (-INF, NAN), (0.0, 0.0), (-0.0, -0.0)],
    "cos": [(INF, NAN), (-INF, NAN), (0.0, 1.0)],
    "tan": [(INF, NAN), (-INF, NAN), (0.0, 0.0), (-0.0, -0.0)],
}


def same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float", "double"])
@pytest.mark.parametrize("name", [*OURS, *OF_C])
def test_special_values_are_exact(name: str, dtype: torch.dtype, call: Call) -> None:
    # In a vector's lanes and in what is left of the loop; and a NaN stays alone.
    for x, expected in [*SPECIALS[name], (NAN, NAN), (-NAN, NAN)]:
        given = torch.full((19,), 0.5, dtype=dtype)
        given[3] = given[18] = x
        out = call(name, given).tolist()
        assert same(out[3], expected) and same(out[18], expected), f"{name}({x}) is {out[3]}, {out[18]}"
        assert len({out[i] for i in range(18) if i != 3}) == 1 and math.isfinite(out[0])


@pytest.mark.parametrize(("dtype", "tiny"), [(torch.float32, 2.0**-149), (torch.float64, 2.0**-1074)], ids=["float", "double"])
def test_denormals(dtype: torch.dtype, tiny: float, call: Call) -> None:
    x = torch.tensor([tiny, -tiny, 77 * tiny, 2.0**20 * tiny, -(2.0**21 + 1) * tiny], dtype=dtype)
    for name in ("expm1", "log1p", "tanh"):
        assert torch.equal(call(name, x), x)
    torch.testing.assert_close(call("erf", x[3:]), x[3:] * (2 / math.sqrt(math.pi)), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(call("log", x[[0, 2, 3]]), x[[0, 2, 3]].log(), rtol=1e-6, atol=0.0)
    low = -100.0 if dtype == torch.float32 else -740.0
    given = torch.full((9,), low, dtype=dtype)
    for name in ("exp", "sigmoid", "softplus"):
        out = call(name, given)
        assert 0 < float(out[0]) < float(torch.finfo(dtype).tiny)
        assert float(abs(out - math.exp(low)).max()) <= tiny


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float", "double"])
def test_edges_of_overflow_and_underflow(dtype: torch.dtype, call: Call) -> None:
    info = torch.finfo(dtype)
    largest = torch.tensor(info.max, dtype=torch.float64).log()
    edge = largest.to(dtype)
    if edge.double() > largest:
        edge = torch.nextafter(edge, torch.zeros_like(edge))
    above = torch.nextafter(torch.nextafter(edge, edge + 1), edge + 1)
    for name in ("exp", "expm1"):
        out = call(name, torch.stack([edge, above]))
        assert math.isfinite(out[0]) and out[1] == INF
    for name in ("log", "log1p"):
        out = call(name, torch.tensor([info.max], dtype=dtype))
        assert abs(float(out) / float(largest) - 1) < 4 * info.eps
    assert float(call("exp", torch.tensor([-103.98 if dtype == torch.float32 else -745.14], dtype=dtype))) == 0.0


def test_tanh_sigmoid_and_erf_stay_in_their_range(call: Call, count: Callable[[int, int], int]) -> None:
    for dtype in (torch.float32, torch.float64):
        x = samples(count(60_000, 6_000_000)).nan_to_num().to(dtype)
        assert call("tanh", x).abs().max() == 1.0
        assert call("erf", x).abs().max() == 1.0
        out = call("sigmoid", x)
        assert out.min() >= 0.0 and out.max() == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float", "double"])
def test_pow_is_that_of_c(dtype: torch.dtype, call: Call) -> None:
    values = [NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, 1e30, 5.0]
    pairs = [(a, b) for a in values for b in values]
    a, b = (torch.tensor(column, dtype=dtype) for column in zip(*pairs))
    for (x, y), got, torch_says in zip(pairs, call("pow", a, b).tolist(), torch.pow(a, b).tolist()):
        assert same(got, torch_says) or abs(got / torch_says - 1) < 1e-6, f"pow({x}, {y}) is {got}, torch: {torch_says}"


def test_loading_leaves_denormals_alone(call: Call) -> None:
    call("exp", torch.zeros(8))
    assert float(torch.tensor([1e-39]) * 1.0) > 0
    assert float(torch.tensor([1e-310], dtype=torch.float64) * 1.0) > 0
    assert 5e-324 * 1.0 > 0


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(("dtype", "end"), [("float", "s"), ("double", "d")])
def test_loops_become_vector_code(name: str, dtype: str, end: str, tmp_path: Any) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("reads x86 assembly")
    compiler = find_compiler()
    assert compiler is not None
    width = "f32" if dtype == "float" else "f64"
    text = vector_maths.HEADERS + vector_maths.source([name], dtype)
    text += (
        f"void f(const {dtype} *restrict a, {dtype} *restrict out) {{ for (int i = 0; i < 64; i++) out[i] = hg_{name}_{width}(a[i]); }}\n"
    )
    (tmp_path / "loop.c").write_text(text)
    options = [option for option in OPTIONS if option != "-shared"]
    command = [compiler.path, *compiler.arguments, *options, *compiler.own, *compiler.native, "-S", str(tmp_path / "loop.c"), "-o", "-"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    operations = [words[0] for words in map(str.split, lines) if words]
    vector = sum(bool(re.fullmatch(rf"v?(mul|f?n?m(add|sub)\d*)p{end}", op)) for op in operations)
    scalar = sum(bool(re.fullmatch(rf"v?(mul|f?n?m(add|sub)\d*)s{end}", op)) for op in operations)
    assert vector >= 5 and scalar == 0 and "call" not in operations, (vector, scalar)


def test_only_what_is_needed_is_written() -> None:
    text = vector_maths.source(["tanh", "tanh"], "float")
    assert text.count("hg_tanh_f32(float x)") == 1 and "hg_log" not in text and "double" not in text
    both = vector_maths.source(["sigmoid", "exp"], "double")
    assert both.count("double hg_exp_f64(double x)") == 1
    assert vector_maths.source([], "float") == ""


def test_unknown_names_and_dtypes() -> None:
    with pytest.raises(SettingError, match="no elementary function 'gamma'; there are: exp"):
        vector_maths.source(["gamma"], "float")
    with pytest.raises(SettingError, match="_bits"):
        vector_maths.source(["_bits"], "float")
    with pytest.raises(SettingError, match="float16"):
        vector_maths.source(["exp"], "float16")


def test_literals_are_exact() -> None:
    for number in (0.1, -1.5, 1e-30, 2.0**-126):
        assert float.fromhex(vector_maths._literal(number, "double").strip("()")) == number
        short = struct.unpack("f", struct.pack("f", number))[0]
        assert float.fromhex(vector_maths._literal(number, "float").strip("()").removesuffix("f")) == short


def test_undefined_behaviour_is_not_relied_on(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With traps on undefined behaviour: a process of its own, as a trap ends it."""
    compiler = find_compiler()
    assert compiler is not None
    calls = "".join(
        f"    for (int i = 0; i < 9; i++) sum += (double)hg_{name}_{end}(({dtype})x[i]);\n"
        for dtype, end in (("float", "f32"), ("double", "f64"))
        for name in OURS
    )
    values = "volatile double x[9] = {0.0, -0.0, 1.0, -1.0, 1e-320, 3e38, -3e38, INFINITY, NAN};"
    text = program() + f"int main(void) {{\n    {values}\n    double sum = 0;\n{calls}    return sum == 1.0;\n}}\n"
    (tmp_path / "main.c").write_text(text)
    options = ["-std=c11", "-O1", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    command = [compiler.path, *compiler.arguments, *options, str(tmp_path / "main.c"), "-o", str(tmp_path / "main"), "-lm"]
    if subprocess.run(command, capture_output=True, timeout=60).returncode != 0:
        pytest.skip("the compiler has no sanitizer that traps")
    assert subprocess.run([str(tmp_path / "main")], timeout=60).returncode == 0
