"""What the project wants of its kernels, each wish with the case that measures it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wish:
    """kind: "times" (as fast as the peer), "share" (of the machine's limit that binds), "under" (a figure) or
    "under an item" (a figure for one example or node); number: the threshold; text: for the table."""

    kind: str
    number: float
    text: str


def times(factor: float) -> Wish:
    return Wish("times", factor, f"{factor:,g}×")


def share(fraction: float, of: str) -> Wish:
    return Wish("share", fraction, f"{fraction:.0%} of {of}")


def seconds(limit: float, an_item: bool = False) -> Wish:
    text = f"{limit:g} s" if limit >= 0.1 else f"{limit * 1e6:g} µs"
    return Wish("under an item" if an_item else "under", limit, text)


def mebibytes(limit: float) -> Wish:
    return Wish("under", limit * 2**20, f"{limit:g} MiB")


def instructions(limit: int) -> Wish:
    return Wish("under", limit, f"{limit}")


@dataclass(frozen=True)
class Goal:
    """against: the peer, where a ratio is wanted."""

    work: str
    case: str
    against: str | None
    least: Wish
    aim: Wish


COPY = share(0.8, "copy")

GOALS = (
    Goal("2-16-16-1 hinge MLP, value and gradient, N = 1M", "mlp-2-16-16-1/1M", "JAX", times(6), times(12)),
    Goal("the same, N = 100, whole Python call", "mlp-2-16-16-1/100", "JAX", times(2.5), times(5)),
    Goal("16-64-64-1, N = 1M", "mlp-16-64-64-1/1M", "JAX", times(4), times(6)),
    Goal("16-64-64-1, N = 10k", "mlp-16-64-64-1/10k", "JAX", times(1.3), times(2)),
    Goal("64-128-10 cross-entropy, N = 10k", "mlp-64-128-10/10k", "JAX", times(1), times(1.5)),
    Goal("MSE with per-element gradient, N = 16M", "mse/16M", "JAX", times(2.5), COPY),
    Goal("hinge, the same", "hinge/16M", "JAX", times(2.5), COPY),
    Goal("binary cross-entropy, the same", "bce/16M", "JAX", times(2.5), COPY),
    Goal("MSE, into memory given (JAX: donated)", "mse/16M-in-place", "JAX", times(2.5), COPY),
    Goal("hinge, the same", "hinge/16M-in-place", "JAX", times(2.5), COPY),
    Goal("binary cross-entropy, the same", "bce/16M-in-place", "JAX", times(2.5), COPY),
    Goal("Black-Scholes and five derivatives, N = 1M", "black-scholes/1M", "JAX", times(4), times(6)),
    Goal("the same", "black-scholes/1M", "Dr.Jit", times(1), times(1.5)),
    Goal("process start to first gradient, empty cache", "cold-start/empty", "JAX", times(1), times(1.5)),
    Goal("the same, filled cache", "cold-start/filled", "JAX", times(2), times(3)),
    Goal("1,000 straight-line operations, first call", "compile-1000", "JAX", times(1), times(3)),
    Goal("`import jitgrad`", "import", None, seconds(0.35), seconds(0.1)),
    Goal("peak memory beyond inputs and outputs, MSE, N = 16M", "memory/mse", None, mebibytes(64), mebibytes(64)),
    Goal("the same, 2-16-16-1 MLP", "memory/mlp", None, mebibytes(64), mebibytes(64)),
    Goal("micrograd's two moons recorded, replay, float64", "micrograd-replay/100", "micrograd", times(6_000),
         times(40_000)),
    Goal("its rolling, compilation and first run, empty cache", "micrograd-first/empty", None, seconds(2), seconds(0.3)),
    Goal("scalar GPT step (7 tokens, float64), replayed", "gpt-replay", "Python", times(500), times(3_000)),
    Goal("unmodified scalar GPT script, its Value class replaced", "gpt-script", "Python", times(2.5), times(5)),
    Goal("784-50-10 classifier, written with W @ x: trace, roll, compile", "classifier/matrices", None, seconds(10),
         seconds(2)),
    Goal("the same, written as loops over scalars", "classifier/loops", None, seconds(10), seconds(2)),
    Goal("rolling, a node, 10k nodes", "rolling/10k", None, seconds(1.5e-6, True), seconds(0.3e-6, True)),
    Goal("the same, 100k nodes", "rolling/100k", None, seconds(1.5e-6, True), seconds(0.3e-6, True)),
    Goal("the same, 1M nodes", "rolling/1M", None, seconds(1.5e-6, True), seconds(0.3e-6, True)),
    Goal("instructions of the rolled two-moons program", "instructions/micrograd", None, instructions(16), instructions(15)),
    Goal("instructions of the rolled GPT step", "instructions/gpt", None, instructions(49), instructions(48)),
)
