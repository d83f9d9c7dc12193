"""Elementary functions on SIMD vectors, as LLVM: no call leaves the loop, every lane takes the same path.

Each function is emitted once a module, for vectors of one width, and holds for every input: signed zeros, infinities,
NaN and subnormals come out as C's libm gives them. Errors in units in the last place (ULP), largest seen in
tests/test_vector_math.py, float32 and float64 alike: exp 1.1, log 1, log1p 1.5, tanh 2.6, sin and cos 1.5 (beyond 10⁴ and
10⁶ radians libm is called), erf 2.1, pow 1.7. On two AVX-512 cores pow takes 2 ns a number in float32, libm's 20.

Argument reductions are those of Cody and Waite (1980); exp, sin and cos use Taylor polynomials, log the series of
artanh; erf and erfc are Chebyshev interpolations, made with 50 digits, of erf(√z)/√z on [0, 1] and of
exp(x²) erfc(x) in (x - 3)/(x + 3) on [1, 6.1] (float32: [1, 4.1]).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from llvmlite import ir

from jitgrad.kernels.dense import Splat

_PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798214")
_LN2 = Fraction("0.693147180559945309417232121458176568075500134360255254120680009493393621969694715605863326996418687")

_ERF = {4: (0.96546873866986730832, -0.14053609727754267669, 0.019852497140907615599, -0.0022854195448728493306,
            0.00021751354165582577603, -0.000017669068026125696959, 1.2306054785446075533e-6),
        8: (0.96546873866986730122, -0.14053608902271712073, 0.019852496688984218591, -0.0022854855611440854666,
            0.00021751715603563488564, -0.000017537169441280196824, 1.2233827638093572708e-6, -7.5115692510860902648e-8,
            4.1157515002658848442e-9, -2.0352319564835268863e-10, 9.2112501874282298547e-12,
            -3.8065912241221397664e-13)}
_ERFC = {4: (0.24343751557663537282, -0.13949164093111739743, 0.036181721269678599179, -0.0072775379136604684384,
             0.001086171224125414123, -0.00010616554868797150091, 3.4387872465523443433e-6, 6.1455009034797561446e-7),
         8: (0.2066301023598747607, -0.15483966160895124697, 0.050236059924839499929, -0.012962154244083810619,
             0.0025525840640683306988, -0.00034535527840531133822, 0.000020774505298903921681,
             2.5373709388137484831e-6, -5.9466167975288426595e-7, -3.8203336883596885467e-9, 1.2348312431500357811e-8,
             -3.2038844463872974955e-10, -2.8586895361654170879e-10, 7.6843483652601964537e-12,
             7.5945063492055472756e-12, -2.2247347289785585479e-14, -1.9430955806118468282e-13)}
_ERFC_END = {4: 4.1, 8: 6.1}


def _leading(value: Fraction, bits: int) -> float:
    """The first `bits` binary digits, so that a product with a small whole number is exact."""
    unit = Fraction(2) ** (math.frexp(float(value))[1] - bits)
    return float(int(value / unit) * unit)


class _Lanes:
    """A vector being computed. Arithmetic is strict IEEE; numbers of Python stand for themselves in every lane."""

    def __init__(self, at: _Emission, value: ir.Value):
        self.at, self.value = at, value

    def __add__(self, other: Any) -> _Lanes: return self.at.made("fadd", self, other)
    def __radd__(self, other: Any) -> _Lanes: return self.at.made("fadd", other, self)
    def __sub__(self, other: Any) -> _Lanes: return self.at.made("fsub", self, other)
    def __rsub__(self, other: Any) -> _Lanes: return self.at.made("fsub", other, self)
    def __mul__(self, other: Any) -> _Lanes: return self.at.made("fmul", self, other)
    def __rmul__(self, other: Any) -> _Lanes: return self.at.made("fmul", other, self)
    def __truediv__(self, other: Any) -> _Lanes: return self.at.made("fdiv", self, other)
    def __rtruediv__(self, other: Any) -> _Lanes: return self.at.made("fdiv", other, self)
    def __neg__(self) -> _Lanes: return _Lanes(self.at, self.at.builder.fneg(self.value))
    def __lt__(self, other: Any) -> ir.Value: return self.at.compare("<", self, other)
    def __gt__(self, other: Any) -> ir.Value: return self.at.compare(">", self, other)
    def equals(self, other: Any) -> ir.Value: return self.at.compare("==", self, other)


class _Emission:
    """Where a function is being emitted, and the constants of its dtype."""

    def __init__(self, builder: ir.IRBuilder, dtype: np.dtype[Any], lanes: int):
        self.builder, self.dtype, self.lanes = builder, dtype, lanes
        self.real = ir.FloatType() if dtype.itemsize == 4 else ir.DoubleType()
        self.word = ir.IntType(8 * dtype.itemsize)
        self.type = ir.VectorType(self.real, lanes)
        self.words = ir.VectorType(self.word, lanes)
        self.size = dtype.itemsize
        self.mantissa = 23 if self.size == 4 else 52
        self.bias = 127 if self.size == 4 else 1023
        self.magic = 1.5 * 2.0**self.mantissa               # adding it rounds to a whole number, in the low bits

    def lanes_of(self, value: Any) -> _Lanes:
        """A vector, a number in every lane."""
        if isinstance(value, _Lanes):
            return value
        return _Lanes(self, Splat(ir.Constant(self.real, float(self.dtype.type(value))), self.lanes))

    def made(self, instruction: str, x: Any, y: Any) -> _Lanes:
        """One arithmetic instruction."""
        return _Lanes(self, getattr(self.builder, instruction)(self.lanes_of(x).value, self.lanes_of(y).value))

    def compare(self, predicate: str, x: Any, y: Any) -> ir.Value:
        """An ordered comparison: false for NaN."""
        return self.builder.fcmp_ordered(predicate, self.lanes_of(x).value, self.lanes_of(y).value)

    def select(self, condition: ir.Value, x: Any, y: Any) -> _Lanes:
        """X in the lanes where the condition holds, else y."""
        return _Lanes(self, self.builder.select(condition, self.lanes_of(x).value, self.lanes_of(y).value))

    def intrinsic(self, name: str, *args: Any) -> _Lanes:
        """An LLVM intrinsic on vectors."""
        full = f"llvm.{name}.v{self.lanes}f{8 * self.size}"
        module = self.builder.module
        function = module.globals.get(full)
        if function is None:
            function = ir.Function(module, ir.FunctionType(self.type, [self.type] * len(args)), full)
        return _Lanes(self, self.builder.call(function, [self.lanes_of(a).value for a in args]))

    def fma(self, x: Any, y: Any, z: Any) -> _Lanes:
        """X · y + z rounded once, where an error bound depends on it."""
        return self.intrinsic("fma", x, y, z)

    def polynomial(self, coefficients: Sequence[float], x: _Lanes) -> _Lanes:
        """c₀ + c₁ x + c₂ x² + … by Horner's rule."""
        result = self.lanes_of(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            result = self.intrinsic("fmuladd", result, x, c)
        return result

    def bits(self, x: _Lanes) -> ir.Value:
        """The vector's bit patterns."""
        return self.builder.bitcast(x.value, self.words)

    def integer(self, value: int) -> ir.Value:
        """A whole number in every lane."""
        return Splat(ir.Constant(self.word, value), self.lanes)

    def from_bits(self, pattern: ir.Value) -> _Lanes:
        """The vector of these bit patterns."""
        return _Lanes(self, self.builder.bitcast(pattern, self.type))

    def float_bits(self, value: float) -> int:
        """The bit pattern of a constant."""
        return int(np.array(value, self.dtype).view(f"i{self.size}"))

    def nearest(self, x: _Lanes) -> tuple[_Lanes, ir.Value]:
        """The nearest whole number, as a float and as an integer; for |x| below 2^(mantissa bits - 1)."""
        shifted = x + self.magic
        return shifted - self.magic, self.builder.sub(self.bits(shifted), self.integer(self.float_bits(self.magic)))

    def as_float(self, whole: ir.Value) -> _Lanes:
        """A small integer as a float, without the conversion AVX2 lacks for 64 bits."""
        return self.from_bits(self.builder.add(whole, self.integer(self.float_bits(self.magic)))) - self.magic

    def two_to(self, exponent: ir.Value) -> _Lanes:
        """2^exponent for exponents of normal numbers."""
        biased = self.builder.add(exponent, self.integer(self.bias))
        return self.from_bits(self.builder.shl(biased, self.integer(self.mantissa)))

    def fabs(self, x: _Lanes) -> _Lanes:
        """|x|."""
        return self.intrinsic("fabs", x)

    def where_any(self, condition: ir.Value) -> ir.Value:
        """Whether the condition holds in any lane."""
        packed = self.builder.bitcast(condition, ir.IntType(self.lanes))
        return self.builder.icmp_unsigned("!=", packed, ir.Constant(ir.IntType(self.lanes), 0))


def _reduced_exp(m: _Emission, x: _Lanes) -> tuple[_Lanes, ir.Value]:
    """(eʳ - 1, k) with x = k ln 2 + r, |r| <= ln 2 / 2."""
    hi = _leading(_LN2, 15 if m.size == 4 else 32)
    n, k = m.nearest(x * (1.0 / math.log(2.0)))
    r = m.fma(-n, float(_LN2 - Fraction(hi)), m.fma(-n, hi, x))
    terms = 7 if m.size == 4 else 13
    tail = m.polynomial([1.0 / math.factorial(j) for j in range(2, terms + 1)], r)
    return m.fma(r * r, tail, r), k


def exp(m: _Emission, x: _Lanes) -> _Lanes:
    """eˣ; scaled by 2^k in two steps, so that subnormal results and overflow come out by themselves."""
    low, high = (-104.0, 89.0) if m.size == 4 else (-746.0, 710.0)
    x = m.select(x < low, low, m.select(x > high, high, x))
    p, k = _reduced_exp(m, x)
    half = m.builder.ashr(k, m.integer(1))
    first, second = m.two_to(half), m.two_to(m.builder.sub(k, half))
    return (1.0 + p) * first * second


def _split(m: _Emission, x: _Lanes) -> tuple[_Lanes, _Lanes]:
    """(e, f) with x = 2^e (1 + f), 1 + f between √½ and √2, for positive finite x."""
    lift = m.mantissa + 2
    tiny = x < float(np.finfo(m.dtype).tiny)
    x = m.select(tiny, x * 2.0**lift, x)
    middle = m.integer(m.float_bits(math.sqrt(0.5)))
    e = m.builder.ashr(m.builder.sub(m.bits(x), middle), m.integer(m.mantissa))
    mantissa = m.from_bits(m.builder.sub(m.bits(x), m.builder.shl(e, m.integer(m.mantissa))))
    return m.as_float(e) - m.select(tiny, float(lift), 0.0), mantissa - 1.0


def _artanh_tail(m: _Emission, z: _Lanes) -> _Lanes:
    """(ln((1 + s)/(1 - s)) - 2s) / s as a function of z = s²."""
    return z * m.polynomial([2.0 / (2 * j + 3) for j in range(5 if m.size == 4 else 11)], z)


def log(m: _Emission, x: _Lanes) -> _Lanes:
    """The natural logarithm: -inf at 0, NaN below."""
    hi = _leading(_LN2, 15 if m.size == 4 else 32)
    e, f = _split(m, x)
    s = f / (2.0 + f)
    half_square = 0.5 * f * f
    inner = half_square - (s * (half_square + _artanh_tail(m, s * s)) + e * float(_LN2 - Fraction(hi)))
    found = e * hi - (inner - f)
    return m.select(x > 0.0, m.select(x.equals(math.inf), x, found),
                    m.select(x.equals(0.0), -math.inf, math.nan))


def log1p(m: _Emission, x: _Lanes) -> _Lanes:
    """ln(1 + x): the logarithm of the rounded sum, and a first-order correction for what was rounded off."""
    u = 1.0 + x
    lost = m.select(x > 1.0, 1.0 - (u - x), x - (u - 1.0))
    found = log(m, u) + lost / u
    found = m.select(m.fabs(x) < 2.0**-(m.mantissa + 2), x, found)
    return m.select(x.equals(-1.0), -math.inf, m.select(x.equals(math.inf), x, found))


def tanh(m: _Emission, x: _Lanes) -> _Lanes:
    """T / (t + 2) with t = e^(2|x|) - 1, which keeps its digits near 0."""
    a = m.fabs(x)
    end = 10.0 if m.size == 4 else 20.0
    p, k = _reduced_exp(m, 2.0 * m.select(a > end, end, a))
    scale = m.two_to(k)
    t = m.fma(p, scale, scale - 1.0)
    return m.intrinsic("copysign", t / (t + 2.0), x)


def _circular(m: _Emission, x: _Lanes, quarter_turns: int, name: str) -> _Lanes:
    """The sine of x + quarter_turns · π/2; libm's in all lanes if one is too far out for the reduction."""
    builder = m.builder
    far = builder.not_(m.fabs(x) < (1e4 if m.size == 4 else 1e6))
    near_block, far_block, end = (builder.append_basic_block(f"{name}.{part}") for part in ("near", "far", "end"))
    builder.cbranch(m.where_any(far), far_block, near_block)

    builder.position_at_end(near_block)
    n, k = m.nearest(x * (2.0 / math.pi))
    r, rest = x, _PI / 2
    for _ in range(3):                                      # π/2 in three floats; each step is exact but for the last
        part = float(m.dtype.type(float(rest)))
        r, rest = m.fma(-n, part, r), rest - Fraction(part)
    quadrant = builder.add(k, m.integer(quarter_turns))
    z = r * r
    terms = 5 if m.size == 4 else 8
    sine = m.fma(r * z, m.polynomial([(-1.0)**j / math.factorial(2 * j + 1) for j in range(1, terms + 1)], z), r)
    cosine = 1.0 + z * m.polynomial([(-1.0)**j / math.factorial(2 * j) for j in range(1, terms + 1)], z)
    odd = builder.icmp_unsigned("!=", builder.and_(quadrant, m.integer(1)), m.integer(0))
    sign = builder.shl(builder.and_(quadrant, m.integer(2)), m.integer(8 * m.size - 2))
    near = m.from_bits(builder.xor(m.bits(m.select(odd, cosine, sine)), sign)).value
    near_end = builder.block
    builder.branch(end)

    builder.position_at_end(far_block)
    called = m.intrinsic(name, x).value
    builder.branch(end)

    builder.position_at_end(end)
    result = builder.phi(m.type)
    result.add_incoming(near, near_end)
    result.add_incoming(called, far_block)
    return _Lanes(m, result)


def sin(m: _Emission, x: _Lanes) -> _Lanes:
    """The sine of x radians."""
    return _circular(m, x, 0, "sin")


def cos(m: _Emission, x: _Lanes) -> _Lanes:
    """The cosine of x radians."""
    return _circular(m, x, 1, "cos")


def erf(m: _Emission, x: _Lanes) -> _Lanes:
    """X P(x²) up to |x| = 1, then ±(1 - e^(-x²) Q((|x| - 3)/(|x| + 3)))."""
    a = m.fabs(x)
    small = x * m.polynomial(_ERF[m.size], m.fma(2.0 * x, x, -1.0))
    end = _ERFC_END[m.size]
    far = m.select(a > end, end, a)
    first, last = -0.5, (end - 3.0) / (end + 3.0)
    t = (far - 3.0) / (far + 3.0)
    u = t * (2.0 / (last - first)) - (first + last) / (last - first)
    large = 1.0 - exp(m, -(far * far)) * m.polynomial(_ERFC[m.size], u)
    return m.select(a < 1.0, small, m.intrinsic("copysign", large, x))


def _two_sum(x: _Lanes, y: _Lanes) -> tuple[_Lanes, _Lanes]:
    """(the rounded sum, what was rounded off), exactly (Knuth)."""
    total = x + y
    back = total - x
    return total, (x - (total - back)) + (y - back)


def pow(m: _Emission, x: _Lanes, y: _Lanes) -> _Lanes:
    """e^(y ln |x|), the logarithm to twice the precision; signs and special cases as in C's pow (C11, F.10.4.4).

    ln |x| is wanted to ε/700, so that y ln |x| is right to ε: e ln 2 + 2s + (2/3)s³ is kept as an unevaluated sum.
    """
    a = m.fabs(x)
    hi = _leading(_LN2, 15 if m.size == 4 else 32)
    e, f = _split(m, a)
    d = 2.0 + f
    s = f / d
    s_low = (m.fma(-s, d, f) - s * (f - (d - 2.0))) / d
    z = s * s
    z_low = m.fma(s, s, -z) + 2.0 * s * s_low
    cube = s * z
    cube_low = m.fma(s, z, -cube) + s * z_low + s_low * z
    third = float(m.dtype.type(2.0 / 3.0))
    cubic = third * cube
    cubic_low = m.fma(third, cube, -cubic) + third * cube_low + float(Fraction(2, 3) - Fraction(third)) * cube
    rest = cube * z * m.polynomial([2.0 / (2 * j + 5) for j in range(4 if m.size == 4 else 10)], z)
    high, low = _two_sum(e * hi, 2.0 * s)
    high, more = _two_sum(high, cubic)
    low = low + more + (2.0 * s_low + cubic_low + rest + e * float(_LN2 - Fraction(hi)))
    high = m.select(a.equals(0.0), -math.inf, m.select(a.equals(math.inf), math.inf, high))
    product = y * high
    correction = m.fma(y, high, -product) + y * low
    correction = m.select(m.fabs(product) < 1000.0, correction, 0.0)
    # At the two ends of the range the correction decides whether a result is still finite.
    total = product + correction
    rest = correction - (total - product)
    power = exp(m, total)
    power = m.select(power < math.inf, m.fma(power, m.select(m.fabs(total) < 1000.0, rest, 0.0), power), power)
    power = m.select(m.builder.fcmp_unordered("uno", high.value, product.value), math.nan, power)
    whole = m.intrinsic("trunc", y).equals(y)
    half = y * 0.5
    odd = m.builder.and_(whole, m.builder.not_(m.intrinsic("trunc", half).equals(half)))
    negative = m.builder.icmp_signed("<", m.bits(x), m.integer(0))
    power = m.select(m.builder.and_(negative, odd), -power, power)
    finite_negative = m.builder.and_(x < 0.0, x > -math.inf)
    power = m.select(m.builder.and_(finite_negative, m.builder.not_(whole)), math.nan, power)
    power = m.select(m.builder.and_(a.equals(1.0), m.fabs(y).equals(math.inf)), 1.0, power)
    nothing = m.builder.fcmp_unordered("uno", x.value, y.value)
    power = m.select(nothing, math.nan, power)
    return m.select(m.builder.or_(y.equals(0.0), x.equals(1.0)), 1.0, power)


def sqrt(m: _Emission, x: _Lanes) -> _Lanes:
    """The correctly rounded square root."""
    return m.intrinsic("sqrt", x)


def fabs(m: _Emission, x: _Lanes) -> _Lanes:
    """|x|."""
    return m.fabs(x)


PREFIX = "jitgrad."                 # of the names of emitted functions

FUNCTIONS: dict[str, Callable[..., _Lanes]] = {
    f.__name__: f for f in (exp, log, log1p, tanh, sin, cos, erf, pow, sqrt, fabs)}


def call(builder: ir.IRBuilder, dtype: np.dtype[Any], lanes: int, name: str, args: Sequence[ir.Value]) -> ir.Value:
    """Call a function of this file on vectors, emitting it into the module if it is the first call."""
    module = builder.module
    full = f"{PREFIX}{name}.v{lanes}f{8 * dtype.itemsize}"
    function = module.globals.get(full)
    if function is None:
        kind = args[0].type
        function = ir.Function(module, ir.FunctionType(kind, [kind] * len(args)), full)
        function.linkage = "internal"
        emission = _Emission(ir.IRBuilder(function.append_basic_block("entry")), dtype, lanes)
        result = FUNCTIONS[name](emission, *(_Lanes(emission, a) for a in function.args))
        emission.builder.ret(result.value)
    return builder.call(function, args)
