"""Elementary functions in C without branches, so that the compiler turns a loop over them into vector code.

How they work. exp and expm1: x = n ln 2 + r with |r| <= ln(2)/2; then 1 + r + r^2 P(r), times 2^n. log and log1p: x = 2^k m with
m in [sqrt(1/2), sqrt(2)); then log(m) = 2 atanh(s) for s = (m - 1) / (m + 1). tanh, sigmoid, softplus and erf reduce to these:
tanh(x) = e / (e + 2) for e = expm1(2x), and erf(x) = -expm1(-x P(x)), where x P(x) = -log(erfc(x)) is close to x^2 + x.

Each polynomial is the minimax one of its degree: a Remez exchange at 60 digits, on the relative error of the function that is
computed in the end, the coefficients then rounded to the dtype. Errors stay below 4 units in the last place, with and without
fused multiply-add; NaN, infinities, denormals and the sign of zero are as in C's own functions. Nothing here needs or survives
`-ffast-math`. `sin`, `cos`, `tan` and `pow` are those of C: right everywhere, and not vectorised.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from string import Template

from hotgrad.errors import SettingError

# What the generated file has to include before the functions.
HEADERS = "#include <math.h>\n#include <stdint.h>\n#include <string.h>\n"

_DTYPES = ("float", "double")

# Always: a call would end the vector code, and compilers stop inlining in long functions.
_INLINE = "static inline __attribute__((always_inline))"

# What the names after `$` stand for in the texts below: for float, and for double.
_TEXTS: dict[str, tuple[str, str]] = {
    "inline": (_INLINE, _INLINE),
    "T": ("float", "double"),
    "U": ("uint32_t", "uint64_t"),
    "w": ("f32", "f64"),  # ends the names of our functions
    "c": ("f", ""),  # ends the names of C's functions
    "mantissa": ("23", "52"),  # bits below the exponent
    "low_mask": ("0x007fffffu", "0x000fffffffffffffu"),
    "fields": ("254u", "2046u"),  # twice the exponent field of 1
    "half_field": ("126u", "1022u"),  # the exponent field of 1/2
    "one_bits": ("0x3f800000u", "0x3ff0000000000000u"),
    "root_bits": ("0x3f3504f3u", "0x3fe6a09e667f3bcdu"),  # of the square root of 1/2
    "integer_bits": ("0x4b000000u", "0x4330000000000000u"),  # with an integer in the low bits: 2^23 or 2^52 plus that integer
}
_CONSTANTS: dict[str, tuple[float, float]] = {
    "zero": (0.0, 0.0),
    "half": (0.5, 0.5),
    "one": (1.0, 1.0),
    "two": (2.0, 2.0),
    "round": (1.5 * 2.0**23, 1.5 * 2.0**52),  # adding it rounds to an integer, which then stands in the low bits
    "inverse_ln2": (1.4426950408889634, 1.4426950408889634),
    "ln2_high": (0.693145751953125, 0.693147180559663),  # of few bits, so that n times it is exact
    "ln2_low": (1.4286068203094173e-06, 2.8235290563031577e-13),
    "exp_min": (-104.5, -746.0),  # exp is 0 below
    "exp_max": (89.0, 710.0),  # exp is infinite above
    "expm1_min": (-25.0, -50.0),  # expm1 is -1 below
    "tanh_max": (10.0, 20.0),  # tanh is 1 above
    "erf_max": (4.0, 6.0),  # erf is 1 above
    "tiny": (2.0**-60, 2.0**-60),  # expm1(x) is x below
    "smallest": (2.0**-126, 2.0**-1022),  # denormal below
    "lift": (2.0**24, 2.0**54),  # makes denormals normal
    "offset": (2.0**23 + 127, 2.0**52 + 1023),
    "lifted_offset": (2.0**23 + 127 + 24, 2.0**52 + 1023 + 54),
}

# exp(r) = 1 + r + r^2 P(r); 2 atanh(s) = 2s + s^3 P(s^2); -log(erfc(a)) = a P(a). From the constant coefficient upwards.
_POLYNOMIALS: dict[str, tuple[str, tuple[float, ...], tuple[float, ...]]] = {
    "exp_polynomial": (
        "r",
        (0.500000006317, 0.166665420987, 0.0416662783478, 0.0083667082961, 0.00139466953157),
        (0.50000000000000056555, 0.16666666666666686303, 0.04166666666657219551, 0.0083333333333143488391, 0.0013888888932880539975)
        + (0.000198412699036455845, 2.4801503809351794557e-5, 2.7557227337093970479e-6, 2.7626591202331109451e-7)
        + (2.5114686603174732565e-8,),
    ),
    "log_polynomial": (
        "z",
        (0.666667767, 0.3997749565, 0.2987309171),
        (0.666666666666673489, 0.399999999994110953, 0.285714287432623125, 0.222221984760031252, 0.18183569739728043)
        + (0.153139032332106712, 0.147975079644821684),
    ),
    "erf_polynomial": (
        "a",
        (1.128379167, 0.6366198346, 0.1027712772, -0.01911769498, -0.0002530609666)
        + (0.001799353883, -0.0007406859797, 0.0001674809961, -2.135460179e-5, 1.193299212e-6),
        (1.12837916709551249, 0.636619772367611599, 0.102772603300058814, -0.0191284469630418735, -0.000209195230513817531)
        + (0.0016962105311186898, -0.000590146817272662793, 2.59552176703417367e-5, 6.42899901211787619e-5, -2.9323505498864486e-5)
        + (2.7958198906108745e-6, 3.56473158370052059e-6, -2.42983561158839282e-6, 8.53739013349969562e-7, -1.74104825357595986e-7)
        + (8.37495697546287792e-9, 7.78161419752514611e-9, -3.15299966692129159e-9, 6.81085460089821904e-10)
        + (-9.54825373287299628e-11, 8.72119133500264901e-12, -4.7549906116182838e-13, 1.18004768504625304e-14),
    ),
}

# By name: the functions that it calls, and its text. Helpers that no one asks for by name begin with an underscore.
_FUNCTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "_bits": (
        (),
        """
$inline $U hg_bits_$w($T x) { $U u; memcpy(&u, &x, sizeof u); return u; }
$inline $T hg_real_$w($U u) { $T x; memcpy(&x, &u, sizeof x); return x; }
""",
    ),
    "exp": (
        ("_bits",),
        """
$inline $T hg_exp_$w($T x) {
    $T c = x < $exp_min ? $exp_min : x;
    c = c > $exp_max ? $exp_max : c;
    $T t = c * $inverse_ln2 + $round;
    $T n = t - $round;
    $T r = (c - n * $ln2_high) - n * $ln2_low;
    $T p = $one + (r + r * r * $exp_polynomial);
    /* 2^n is the product of two factors, as the result may be denormal: only the last product rounds. */
    $U k = hg_bits_$w(t) - hg_bits_$w($round) + $fields;
    $U half = k >> 1;
    return p * hg_real_$w(half << $mantissa) * hg_real_$w((k - half) << $mantissa);
}
""",
    ),
    # expm1 where the result is far from overflow.
    "_expm1_small": (
        ("_bits",),
        """
$inline $T hg_expm1_small_$w($T x) {
    $T t = x * $inverse_ln2 + $round;
    $T n = t - $round;
    $T r = (x - n * $ln2_high) - n * $ln2_low;
    $T q = r + r * r * $exp_polynomial;
    $T scale = hg_real_$w(((hg_bits_$w(t) - hg_bits_$w($round)) << $mantissa) + $one_bits);
    return scale * q + (scale - $one);
}
""",
    ),
    "expm1": (
        ("_bits",),
        """
$inline $T hg_expm1_$w($T x) {
    $T c = x < $expm1_min ? $expm1_min : x;
    c = c > $exp_max ? $exp_max : c;
    $T t = c * $inverse_ln2 + $round;
    $T n = t - $round;
    $T r = (c - n * $ln2_high) - n * $ln2_low;
    $T q = r + r * r * $exp_polynomial;
    /* Half of 2^n, which for the largest n would overflow. */
    $T scale = hg_real_$w((hg_bits_$w(t) - hg_bits_$w($round) + $half_field) << $mantissa);
    $T y = $two * (scale * q + (scale - $half));
    return fabs$c(x) < $tiny ? x : y;
}
""",
    ),
    # log(2^k (1 + f)), given f and k.
    "_log_tail": (
        (),
        """
$inline $T hg_log_tail_$w($T f, $T k) {
    $T s = f / ($two + f);
    $T z = s * s;
    $T h = $half * f * f;
    return k * $ln2_high + (f - (h - (s * (h + z * $log_polynomial) + k * $ln2_low)));
}
""",
    ),
    "log": (
        ("_bits", "_log_tail"),
        """
$inline $T hg_log_$w($T x) {
    $T y = x < $smallest ? x * $lift : x;
    $U u = hg_bits_$w(y) + ($one_bits - $root_bits);
    $T k = hg_real_$w((u >> $mantissa) | $integer_bits) - (x < $smallest ? $lifted_offset : $offset);
    $T m = hg_real_$w((u & $low_mask) + $root_bits);
    $T l = hg_log_tail_$w(m - $one, k);
    return x > $zero ? (x < INFINITY ? l : x) : (x == $zero ? -INFINITY : NAN);
}
""",
    ),
    # log1p of x > -1 and finite, -0 excepted. What 1 + x rounds away is added after the scaling.
    "_log1p_finite": (
        ("_bits", "_log_tail"),
        """
$inline $T hg_log1p_finite_$w($T x) {
    $T v = $one + x;
    $T lost = x > $one ? $one - (v - x) : x - (v - $one);
    $U u = hg_bits_$w(v) + ($one_bits - $root_bits);
    $U e = u >> $mantissa;
    $T k = hg_real_$w(e | $integer_bits) - $offset;
    $T m = hg_real_$w((u & $low_mask) + $root_bits);
    /* Twice 2^-k, then half of it: e may be so large that 2^-k is not representable. */
    lost = lost * hg_real_$w(($fields + 1u - e) << $mantissa) * $half;
    return hg_log_tail_$w((m - $one) + lost, k);
}
""",
    ),
    "log1p": (
        ("_log1p_finite",),
        """
$inline $T hg_log1p_$w($T x) {
    $T l = hg_log1p_finite_$w(x);
    l = x > -$one ? (x < INFINITY ? l : x) : (x == -$one ? -INFINITY : NAN);
    return x == $zero ? x : l;
}
""",
    ),
    "tanh": (
        ("_expm1_small",),
        """
$inline $T hg_tanh_$w($T x) {
    $T a = fabs$c(x);
    $T e = hg_expm1_small_$w($two * (a > $tanh_max ? $tanh_max : a));
    return copysign$c(e / (e + $two), x);
}
""",
    ),
    "sigmoid": (
        ("exp",),
        """
$inline $T hg_sigmoid_$w($T x) {
    $T e = hg_exp_$w(-fabs$c(x));
    return (x >= $zero ? $one : e) / ($one + e);
}
""",
    ),
    # log1p(exp(-|x|)), what softplus and the losses on logits add to a linear part.
    "softplus_tail": (
        ("exp", "_log1p_finite"),
        """
$inline $T hg_softplus_tail_$w($T x) { return hg_log1p_finite_$w(hg_exp_$w(-fabs$c(x))); }
""",
    ),
    "softplus": (
        ("softplus_tail",),
        """
$inline $T hg_softplus_$w($T x) { return (x < $zero ? $zero : x) + hg_softplus_tail_$w(x); }
""",
    ),
    "erf": (
        ("_expm1_small",),
        """
$inline $T hg_erf_$w($T x) {
    $T a = fabs$c(x);
    a = a > $erf_max ? $erf_max : a;
    return copysign$c(hg_expm1_small_$w(-(a * $erf_polynomial)), x);
}
""",
    ),
    "sin": ((), "\n$inline $T hg_sin_$w($T x) { return sin$c(x); }\n"),
    "cos": ((), "\n$inline $T hg_cos_$w($T x) { return cos$c(x); }\n"),
    "tan": ((), "\n$inline $T hg_tan_$w($T x) { return tan$c(x); }\n"),
    "pow": ((), "\n$inline $T hg_pow_$w($T x, $T y) { return pow$c(x, y); }\n"),
}

NAMES = tuple(name for name in _FUNCTIONS if not name.startswith("_"))


def source(names: Iterable[str], dtype: str) -> str:
    """C text of these functions and of what they call, for "float" or "double". `exp` is `hg_exp_f32` or `hg_exp_f64`.

    The text needs `HEADERS` before it. Names: exp, expm1, log, log1p, tanh, sigmoid, softplus, softplus_tail, erf, sin, cos, tan, pow.

    >>> print(source(["sin"], "double"), end="")
    static inline __attribute__((always_inline)) double hg_sin_f64(double x) { return sin(x); }
    """
    if dtype not in _DTYPES:
        raise SettingError(f'there are no elementary functions for dtype {dtype!r}: expected "float" or "double"')
    needed: dict[str, None] = {}

    def need(name: str) -> None:
        for other in _FUNCTIONS[name][0]:
            need(other)
        needed[name] = None

    for name in names:
        if name not in NAMES:
            raise SettingError(f"there is no elementary function {name!r}; there are: {', '.join(NAMES)}")
        need(name)
    values = _substitutions(dtype)
    return "".join(Template(_FUNCTIONS[name][1]).substitute(values).lstrip("\n") for name in needed)


def _substitutions(dtype: str) -> dict[str, str]:
    """What the names after `$` stand for."""
    which = _DTYPES.index(dtype)
    values = {name: texts[which] for name, texts in _TEXTS.items()}
    for name, numbers in _CONSTANTS.items():
        values[name] = _literal(numbers[which], dtype)
    for name, (variable, *both) in _POLYNOMIALS.items():
        values[name] = _horner(variable, [_literal(number, dtype) for number in both[which]])
    return values


def _literal(number: float, dtype: str) -> str:
    """The nearest value of the dtype, exactly, as a C literal."""
    if dtype == "float":
        number = struct.unpack("f", struct.pack("f", number))[0]
    text = number.hex() + ("f" if dtype == "float" else "")
    return text if number >= 0 else f"({text})"


def _horner(variable: str, coefficients: list[str]) -> str:
    """A polynomial in brackets, evaluated from its last coefficient inwards."""
    text = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        text = f"({coefficient} + {variable} * {text})"
    return text
