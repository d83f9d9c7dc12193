"""THE TABLE: every operation once, one paragraph each.

A paragraph says: the name and arity; `value`, the reference on Python numbers (total: it never raises; left out where
the operation is spelled by others); `spelling`, how kernels say it: an LLVM instruction, a C math function (libm on the
CPU, libdevice on CUDA), or a formula of other operations; `numpy` and `jax`, their names there; `vjp`, the derivative as
graph: (g, out, *args) -> one cotangent an argument; `result`, the kind of number; `inside`, where tests sample each
argument; `corners`, exact promises at kinks, poles, overflow and NaN; `conditions`, which arguments are conditions;
`smooth=False` where the derivative jumps inside the domain. Value's functions, the emitter, the JAX lowering,
the tests and the documentation's table all iterate over OPS: adding an operation touches this file alone.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from jitgrad.compiler.graph import OPS, Corner, Number, Op, Rule

INF, NAN = math.inf, math.nan
REAL = ((-4.0, 4.0),)


def op(name: str, arity: int, *, spelling: str | Rule, numpy: str = "", jax: str = "", vjp: Rule | None = None,
       value: Callable[..., Number] | None = None, symbol: str = "", result: str = "real",
       inside: tuple[tuple[float, float], ...] = (), corners: tuple[Corner, ...] = (), variadic: bool = False,
       smooth: bool = True, conditions: tuple[int, ...] = (), doc: str = "") -> Op:
    """Enter an operation into the table."""
    entry = Op(name, arity, variadic, symbol or name, value, spelling, numpy or name, jax or name, vjp, result,
               inside or REAL * (arity + variadic), corners, smooth, conditions, doc)
    OPS[name] = entry
    return entry


def total(function: Callable[..., float], overflow: float = INF) -> Callable[..., Number]:
    """A function of `math` that answers like IEEE 754 where Python raises: NaN outside its domain, inf on overflow."""
    def answer(*args: float) -> float:
        try:
            return function(*args)
        except ValueError:
            return NAN
        except OverflowError:
            return overflow
    return answer


# Leaves: what a graph starts from.

CONSTANT = op("constant", 0, spelling="constant", doc="a number of the user's program")

INPUT = op("input", 0, spelling="input", doc="a number that arrives at run time")

# Arithmetic.

ADD = op("add", 2, symbol="+", value=operator.add, spelling="fadd", result="same", doc="x + y",
         vjp=lambda g, out, x, y: (g, g),
         corners=(Corner((INF, -INF), NAN, (1.0, 1.0), "inf - inf has no value"),
                  Corner((-0.0, -0.0), -0.0, (1.0, 1.0), "the sign of zero survives")))

SUB = op("sub", 2, symbol="-", value=operator.sub, spelling="fsub", numpy="subtract", jax="subtract", result="same",
         doc="x - y",
         vjp=lambda g, out, x, y: (g, -g),
         corners=(Corner((INF, INF), NAN, (1.0, -1.0), "inf - inf has no value"),))

MUL = op("mul", 2, symbol="*", value=operator.mul, spelling="fmul", numpy="multiply", jax="multiply", result="same",
         doc="x · y",
         vjp=lambda g, out, x, y: (g * y, g * x),
         corners=(Corner((0.0, INF), NAN, (INF, 0.0), "0 · inf has no value, so x * 0 is not 0"),
                  Corner((-1.0, 0.0), -0.0, (0.0, -1.0), "the sign of zero survives")))


def _divide(x: float, y: float) -> float:
    if y == 0:
        return NAN if x == 0 or x != x else math.copysign(INF, x) * math.copysign(1.0, y)
    return total(operator.truediv)(x, y)


def _divide_vjp(g: Any, out: Any, x: Any, y: Any) -> tuple[Any, Any]:
    each = 1.0 / y                     # a division costs as much as ten products, and y is often the same for all
    return g * each, -(g * out) * each


DIV = op("div", 2, symbol="/", value=_divide, spelling="fdiv", numpy="true_divide", jax="true_divide", doc="x / y",
         vjp=_divide_vjp,
         inside=((-4.0, 4.0), (0.25, 4.0)),
         corners=(Corner((1.0, 0.0), INF, None, "a pole, not an exception"),
                  Corner((0.0, 0.0), NAN, None, "0 / 0 has no value"),
                  Corner((1.0, -0.0), -INF, None, "the pole is approached from the left")))

NEG = op("neg", 1, symbol="-", value=operator.neg, spelling="fneg", numpy="negative", jax="negative", result="same",
         doc="-x",
         vjp=lambda g, out, x: (-g,),
         corners=(Corner((0.0,), -0.0, (-1.0,), "negation flips the sign of zero"),))


def _power(x: float, y: float) -> Any:
    try:
        result = x**y
    except ZeroDivisionError:
        return math.copysign(INF, x) if y % 2 == 1 else INF
    except OverflowError:
        return INF if x > 0 or y % 2 == 0 else -INF if y % 2 == 1 else NAN
    return NAN if isinstance(result, complex) else result


POW: Op = op("pow", 2, symbol="**", value=_power, spelling="pow", numpy="power", jax="power", doc="x to the power y",
         vjp=lambda g, out, x, y: (
             g * WHERE(EQ(y, 0.0), 0.0, y * POW(x, y - 1.0)),
             g * WHERE(EQ(x, 0.0), 0.0, LOG(x) * out)),
         inside=((0.25, 4.0), (-3.0, 3.0)),
         corners=(Corner((0.0, 2.0), 0.0, (0.0, 0.0), "flat at the bottom of a parabola"),
                  Corner((-8.0, 3.0), -512.0, None, "a negative base with a whole exponent"),
                  Corner((-8.0, 0.5), NAN, None, "a root of a negative number"),
                  Corner((0.0, -1.0), INF, None, "a pole, not an exception"),
                  Corner((NAN, 0.0), 1.0, None, "as C's pow: anything to the power zero is one")))

# Comparisons and logic: conditions for `where`. They have no derivative.

LT = op("lt", 2, symbol="<", value=operator.lt, spelling="fcmp olt", numpy="less", jax="less", result="bool",
        doc="x < y", corners=(Corner((NAN, 1.0), 0.0, None, "NaN is not ordered"),))

LE = op("le", 2, symbol="<=", value=operator.le, spelling="fcmp ole", numpy="less_equal", jax="less_equal",
        result="bool", doc="x <= y", corners=(Corner((NAN, NAN), 0.0, None, "NaN is not ordered"),))

EQ: Op = op("eq", 2, symbol="==", value=operator.eq, spelling="fcmp oeq", numpy="equal", jax="equal", result="bool",
        doc="x = y", corners=(Corner((0.0, -0.0), 1.0, None, "the zeros are equal"),
                              Corner((NAN, NAN), 0.0, None, "NaN differs from itself")))

NE = op("ne", 2, symbol="!=", value=operator.ne, spelling="fcmp une", numpy="not_equal", jax="not_equal",
        result="bool", doc="x ≠ y", corners=(Corner((NAN, NAN), 1.0, None, "NaN differs from itself"),))

AND = op("and", 2, symbol="&", value=lambda a, b: bool(a) and bool(b), spelling="and", numpy="logical_and",
         jax="logical_and", result="bool", conditions=(0, 1), doc="both conditions hold")

OR = op("or", 2, symbol="|", value=lambda a, b: bool(a) or bool(b), spelling="or", numpy="logical_or",
        jax="logical_or", result="bool", conditions=(0, 1), doc="either condition holds")

NOT = op("not", 1, symbol="~", value=lambda a: not a, spelling="not", numpy="logical_not", jax="logical_not",
         result="bool", conditions=(0,), doc="the condition does not hold")

# Choice.

WHERE: Op = op("where", 3, value=lambda c, x, y: x if c else y, spelling="select", result="same", conditions=(0,),
           doc="x where the condition holds, else y",
           vjp=lambda g, out, c, x, y: (0.0, WHERE(c, g, 0.0), WHERE(c, 0.0, g)),
           corners=(Corner((1.0, 2.0, NAN), 2.0, (0.0, 1.0, 0.0), "the branch not taken is not touched"),))

RELU = op("relu", 1, symbol="ReLU", value=lambda x: 0 if x < 0 else x, jax="nn.relu", result="same",
          doc="max(0, x)",
          spelling=lambda x: WHERE(x < 0.0, 0.0, x),
          vjp=lambda g, out, x: (WHERE(out > 0.0, g, 0.0),), smooth=False,
          corners=(Corner((0.0,), 0.0, (0.0,), "the kink: relu'(0) = 0"),
                   Corner((INF,), INF, (1.0,), "linear above"),
                   Corner((-INF,), 0.0, (0.0,), "flat below"),
                   Corner((NAN,), NAN, (0.0,), "NaN is kept")))

ABS = op("abs", 1, value=operator.abs, spelling="fabs", numpy="absolute", jax="abs", result="same", doc="|x|",
         vjp=lambda g, out, x: (g * SIGN(x),), smooth=False,
         corners=(Corner((0.0,), 0.0, (0.0,), "the kink: abs'(0) = 0; JAX says 1", jax=False),
                  Corner((-INF,), INF, (-1.0,), "linear"),
                  Corner((-0.0,), 0.0, (-0.0,), "the kink from the left", jax=False)))

SIGN: Op = op("sign", 1, result="same", doc="-1, 0 or 1; NaN of NaN",
          spelling=lambda x: WHERE(x > 0.0, 1.0, WHERE(x < 0.0, -1.0, x)),
          vjp=lambda g, out, x: (0.0,), smooth=False,
          corners=(Corner((0.0,), 0.0, (0.0,), "zero has no sign"), Corner((NAN,), NAN, None, "NaN is kept")))

MAXIMUM = op("maximum", 2, result="same", doc="the larger",
             spelling=lambda x, y: WHERE(x > y, x, WHERE(x <= y, y, x + y)),
             vjp=lambda g, out, x, y: (WHERE(x > y, g, WHERE(EQ(x, y), 0.5 * g, 0.0)),
                                       WHERE(x < y, g, WHERE(EQ(x, y), 0.5 * g, 0.0))), smooth=False,
             corners=(Corner((1.0, 1.0), 1.0, (0.5, 0.5), "a tie splits the gradient"),
                      Corner((NAN, 1.0), NAN, None, "NaN is kept"), Corner((1.0, NAN), NAN, None, "NaN is kept"),
                      Corner((INF, 1.0), INF, (1.0, 0.0), "ordered")))

MINIMUM = op("minimum", 2, result="same", doc="the smaller",
             spelling=lambda x, y: WHERE(x < y, x, WHERE(y <= x, y, x + y)),
             vjp=lambda g, out, x, y: (WHERE(x < y, g, WHERE(EQ(x, y), 0.5 * g, 0.0)),
                                       WHERE(x > y, g, WHERE(EQ(x, y), 0.5 * g, 0.0))), smooth=False,
             corners=(Corner((1.0, 1.0), 1.0, (0.5, 0.5), "a tie splits the gradient"),
                      Corner((NAN, 1.0), NAN, None, "NaN is kept"), Corner((1.0, NAN), NAN, None, "NaN is kept")))

STOP_GRADIENT = op("stop_gradient", 1, value=lambda x: x, spelling=lambda x: x, jax="lax.stop_gradient",
                   result="same", doc="x, held constant when differentiating", vjp=lambda g, out, x: (0.0,),
                   smooth=False)

# Exponentials and logarithms.

EXP = op("exp", 1, value=total(math.exp), spelling="exp", doc="eˣ",
         vjp=lambda g, out, x: (g * out,),
         corners=(Corner((-INF,), 0.0, (0.0,), "vanishes"), Corner((1000.0,), INF, (INF,), "overflows to inf"),
                  Corner((0.0,), 1.0, (1.0,), "exact"), Corner((NAN,), NAN, (NAN,), "NaN is kept")))

LOG: Op = op("log", 1, value=lambda x: -INF if x == 0 else total(math.log)(x), spelling="log", doc="ln x",
         vjp=lambda g, out, x: (g / x,), inside=((0.25, 4.0),),
         corners=(Corner((0.0,), -INF, (INF,), "a pole, not an exception"),
                  Corner((-1.0,), NAN, (-1.0,), "outside the domain"), Corner((INF,), INF, (0.0,), "grows for ever"),
                  Corner((1.0,), 0.0, (1.0,), "exact")))

LOG1P = op("log1p", 1, value=lambda x: -INF if x == -1 else total(math.log1p)(x), spelling="log1p", doc="ln(1 + x)",
           vjp=lambda g, out, x: (g / (1.0 + x),), inside=((-0.75, 4.0),),
           corners=(Corner((-1.0,), -INF, (INF,), "a pole, not an exception"),
                    Corner((-2.0,), NAN, None, "outside the domain")))

def _sigmoid(x: Any) -> Any:
    e = EXP(-ABS(x))                   # softplus has the same, and the compiler computes it once
    return WHERE(LE(0.0, x), 1.0, e) / (1.0 + e)


SIGMOID = op("sigmoid", 1, jax="nn.sigmoid", doc="1 / (1 + e⁻ˣ)",
             spelling=_sigmoid,
             vjp=lambda g, out, x: (g * (out * (1.0 - out)),), inside=((-8.0, 8.0),),
             corners=(Corner((0.0,), 0.5, (0.25,), "the middle"), Corner((INF,), 1.0, (0.0,), "saturates"),
                      Corner((-1e4,), 0.0, (0.0,), "saturates, no overflow")))

SOFTPLUS = op("softplus", 1, jax="nn.softplus", doc="ln(1 + eˣ)",
              spelling=lambda x: MAXIMUM(x, 0.0) + LOG1P(EXP(-ABS(x))),
              vjp=lambda g, out, x: (g * SIGMOID(x),), inside=((-8.0, 8.0),),
              corners=(Corner((1e4,), 1e4, (1.0,), "linear above, no overflow"),
                       Corner((-1e4,), 0.0, (0.0,), "vanishes below"), Corner((INF,), INF, (1.0,), "linear")))

TANH = op("tanh", 1, value=math.tanh, spelling="tanh", doc="hyperbolic tangent",
          vjp=lambda g, out, x: (g * (1.0 - out * out),), inside=((-8.0, 8.0),),
          corners=(Corner((INF,), 1.0, (0.0,), "saturates"), Corner((-INF,), -1.0, (0.0,), "saturates"),
                   Corner((0.0,), 0.0, (1.0,), "exact")))

# Roots, angles, error function.

SQRT = op("sqrt", 1, value=total(math.sqrt), spelling="sqrt", doc="√x",
          vjp=lambda g, out, x: (g * (0.5 / out),), inside=((0.25, 4.0),),
          corners=(Corner((0.0,), 0.0, (INF,), "a vertical tangent"), Corner((-1.0,), NAN, (NAN,), "outside the domain"),
                   Corner((INF,), INF, (0.0,), "grows for ever")))

SIN = op("sin", 1, value=total(math.sin), spelling="sin", doc="sine of x radians",
         vjp=lambda g, out, x: (g * COS(x),),
         corners=(Corner((0.0,), 0.0, (1.0,), "exact"), Corner((INF,), NAN, (NAN,), "no limit")))

COS: Op = op("cos", 1, value=total(math.cos), spelling="cos", doc="cosine of x radians",
         vjp=lambda g, out, x: (-(g * SIN(x)),),
         corners=(Corner((0.0,), 1.0, (-0.0,), "exact"), Corner((INF,), NAN, (NAN,), "no limit")))

ERF = op("erf", 1, value=math.erf, spelling="erf", jax="lax.erf", numpy="erf", doc="error function, 2/√π ∫₀ˣ e^(-t²) dt",
         vjp=lambda g, out, x: (g * (2.0 / math.sqrt(math.pi) * EXP(-(x * x))),),
         corners=(Corner((INF,), 1.0, (0.0,), "saturates"), Corner((-INF,), -1.0, (0.0,), "saturates"),
                  Corner((0.0,), 0.0, (2.0 / math.sqrt(math.pi),), "exact")))

# Lists. The derivative rule is for one element of the list, at one position.

SUM = op("sum", 0, variadic=True, value=lambda *terms: sum(terms[1:], terms[0]), spelling="sum", result="same",
         doc="x₀ + x₁ + …, added in that order", vjp=lambda g, out, element, position: (g,))

TAKE = op("take", 1, variadic=True, spelling="take", result="same",
          doc="the element of a list at a traced whole-number index",
          value=lambda index, *rows: rows[int(index)] if 0 <= index < len(rows) else NAN,
          vjp=lambda g, out, index, element, position: (WHERE(EQ(index, position), g, 0.0),),
          inside=((0.0, 2.0), (-4.0, 4.0)))
