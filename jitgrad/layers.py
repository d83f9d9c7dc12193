"""Layers beyond micrograd's, in scalar arithmetic: Linear, Embedding, LayerNorm, Dropout, SelfAttention, Residual.

Each works along the last axis of its input: one vector (width,), or a sequence of them (positions, width), position by
position. Vectors may be arrays or lists of Values, traced or not, or of numbers; results are arrays.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad import errors
from jitgrad import functions as F
from jitgrad.module import Array, Mask, Module
from jitgrad.trace import require
from jitgrad.value import Value

Function = Callable[[Any], Any]
Initialiser = Callable[[tuple[int, ...], np.random.Generator], Array]
Seed = int | np.random.Generator | None


def identity(x: Any) -> Any:
    """X itself."""
    return x


def gelu(x: Any) -> Any:
    """X · Φ(x) = x · (1 + erf(x / √2)) / 2, Φ the normal distribution's (Hendrycks & Gimpel 2016, the exact form)."""
    x = F.objects(x)
    return 0.5 * x * (1.0 + F.PUBLIC["erf"](x * math.sqrt(0.5)))


def silu(x: Any) -> Any:
    """X · σ(x) (Elfwing, Uchibe & Doya 2018), also called swish."""
    x = F.objects(x)
    return x * F.PUBLIC["sigmoid"](x)


ACTIVATIONS: dict[str, Function] = {
    "identity": identity, "gelu": gelu, "silu": silu,
    **{name: F.PUBLIC[name] for name in ("relu", "sigmoid", "softplus", "tanh")}}


def he_normal(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Normal of variance 2 / nin (He et al. 2015), for relu. shape: (..., nin), so of a matrix (nout, nin)."""
    return generator.normal(0.0, math.sqrt(2 / shape[-1]), shape)


def he_uniform(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Uniform within ±√(6 / nin), of the same variance (He et al. 2015), for relu. shape: (..., nin)."""
    return _uniform(math.sqrt(6 / shape[-1]), shape, generator)


def glorot_normal(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Normal of variance 2 / (nin + nout) (Glorot & Bengio 2010), for tanh. shape: (nout, nin)."""
    return generator.normal(0.0, math.sqrt(2 / (shape[0] + shape[-1])), shape)


def glorot_uniform(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Uniform within ±√(6 / (nin + nout)), of the same variance (Glorot & Bengio 2010), for tanh. shape: (nout, nin)."""
    return _uniform(math.sqrt(6 / (shape[0] + shape[-1])), shape, generator)


def uniform(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Uniform in [-1, 1), as micrograd's neurons."""
    return _uniform(1.0, shape, generator)


def normal(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Standard normal, as PyTorch's embeddings."""
    return generator.standard_normal(shape)


INITIALISERS: dict[str, Initialiser] = {
    f.__name__: f for f in (he_normal, he_uniform, glorot_normal, glorot_uniform, uniform, normal)}


class Linear(Module):
    """activation(W x + b).

    nin, nout: widths of input and output; W: (nout, nin), b: (nout,), which is 0 at first, or absent with bias=False
    activation: a name from ACTIVATIONS, or a function of an array
    init: of W; a name from INITIALISERS, or a function (shape, generator) -> array
    seed: an int or a Generator to draw from; None: from Python's `random`, as micrograd does, so that one
        `random.seed(0)` decides a whole model
    """

    def __init__(self, nin: int, nout: int, activation: str | Function = "identity", *,
                 init: str | Initialiser = "glorot_uniform", bias: bool = True, seed: Seed = None):
        self.activation = named("activation", activation, ACTIVATIONS)
        self.W = _values(named("initialiser", init, INITIALISERS)((nout, nin), _generator(seed)))
        self.b = _values(np.zeros(nout)) if bias else None

    def __call__(self, x: Any) -> Any:
        """(..., nin) -> (..., nout)."""
        product = (self.W @ _vectors(self, x, self.W.shape[1])[..., None])[..., 0]
        return self.activation(product if self.b is None else product + self.b)

    def __repr__(self) -> str:
        nout, nin = self.W.shape
        kind = getattr(self.activation, "__name__", repr(self.activation))
        return f"Linear({nin}, {nout}, {kind}; {_count(self)})"


class Embedding(Module):
    """A table of vectors, read by whole numbers: table (count, width); init, seed: as in Linear."""

    def __init__(self, count: int, width: int, *, init: str | Initialiser = "normal", seed: Seed = None):
        self.table = _values(named("initialiser", init, INITIALISERS)((count, width), _generator(seed)))

    def __call__(self, index: Any) -> Any:
        """(...) -> (..., width), for an index or an array or list of them, as `jg.take` reads them."""
        return F.take(self.table, index)

    def __repr__(self) -> str:
        return f"Embedding({', '.join(map(str, self.table.shape))}; {_count(self)})"


class LayerNorm(Module):
    """gain · (x - μ) / √(σ² + eps) + bias, with mean μ and variance σ² of the vector itself (Ba, Kiros & Hinton 2016).

    gain: (width,), 1 at first; bias: (width,), 0 at first
    """

    def __init__(self, width: int, eps: float = 1e-5):
        self.eps, self.gain, self.bias = eps, _values(np.ones(width)), _values(np.zeros(width))

    def __call__(self, x: Any) -> Any:
        """(..., width) -> (..., width)."""
        width = len(self.gain)
        x = _vectors(self, x, width)
        centred = x - x.sum(axis=-1, keepdims=True) / width
        variance = (centred**2).sum(axis=-1, keepdims=True) / width
        return self.gain * (centred * (1.0 / F.PUBLIC["sqrt"](variance + self.eps))) + self.bias

    def __repr__(self) -> str:
        return f"LayerNorm({len(self.gain)}; {_count(self)})"


class Dropout(Module):
    """An element is 0 with probability p, else divided by 1 - p; in evaluation all stay (Srivastava et al. 2014).

    shape: of the input, an int for a vector; every position of a sequence then has a mask of its own: (positions, width)
    p: at least 0, less than 1

    A program is recorded once, so what is dropped is data: `bind` says whether this is training, and brings the masks.
    Called without having been told, it raises ArgumentError.
    """

    def __init__(self, shape: int | tuple[int, ...], p: float = 0.5):
        if not 0.0 <= p < 1.0:
            raise errors.ArgumentError(errors.explain("Dropout's p must be at least 0 and less than 1.", f"p={p!r}",
                                                      "It is the probability with which an element becomes 0."))
        self.p = p
        self.keep: Any = Mask(p, (shape,) if isinstance(shape, int) else tuple(shape))
        self._shape = self.keep.shape

    def __call__(self, x: Any) -> Any:
        """(shape) -> (shape)."""
        x = F.objects(x)
        if np.shape(x) != self._shape:
            raise errors.ShapeError(errors.explain(f"{self!r} got an input of shape {np.shape(x)}.", errors.user_location(),
                                                   "Give Dropout the shape of its input."))
        if isinstance(self.keep, Mask):
            raise errors.ArgumentError(errors.explain(
                f"{self!r} was called without being told whether this is training.", errors.user_location(),
                "model.bind(params, masks) trains, with masks from model.masks (jg.fit: noise=model.masks); "
                "model.bind(params, None) evaluates."))
        return x if self.keep is None else F.where(self.keep, x * (1.0 / (1.0 - self.p)), 0.0)

    def __repr__(self) -> str:
        return f"Dropout({', '.join(map(str, self._shape))}; p={self.p})"


class SelfAttention(Module):
    """Scaled dot-product attention of a sequence to itself, with several heads (Vaswani et al. 2017).

    With queries q, keys k and values v = the sequence times a matrix each, position t of a head of size d becomes
    Σₛ softmaxₛ(qₜ · kₛ / √d) vₛ, over s <= t where causal, else over all; the heads side by side are multiplied by `out`.

    width: of the vectors, divisible by heads, else ArgumentError; four matrices (width, width) without biases
    causal: whether a position sees only itself and those before it; init, seed: as in Linear
    """

    def __init__(self, width: int, heads: int = 1, causal: bool = True, *, init: str | Initialiser = "glorot_uniform",
                 seed: Seed = None):
        if heads < 1 or width % heads:
            raise errors.ArgumentError(errors.explain(f"A width of {width} cannot be divided among {heads} heads.", None,
                                                      "Choose a width that is a multiple of the heads."))
        self.heads, self.causal = heads, causal
        generator = _generator(seed)
        self.query, self.key, self.value, self.out = (
            Linear(width, width, init=init, bias=False, seed=generator) for _ in range(4))

    def __call__(self, x: Any, length: Any = None) -> Any:
        """(positions, width) -> (positions, width).

        length: how many positions are not padding, an int that may be traced, 1 to positions (else LabelError); no
            position then sees those from `length` on. Where causal, positions before `length` never do.
        """
        queries, keys, values = self.query(x), self.key(x), self.value(x)
        positions, width = queries.shape
        if length is not None:
            require((length >= 1) & (length <= positions), length,
                    f"a length must be from 1 to {positions}; got {{value}}", "Count the positions before the padding.")
        size = width // self.heads
        mixed = np.empty((positions, width), object)
        for t, query in enumerate(queries):
            seen = t + 1 if self.causal else positions
            for first in range(0, width, size):
                head = slice(first, first + size)
                scores = [query[head] @ key[head] * (1.0 / math.sqrt(size)) for key in keys[:seen]]
                if length is not None:
                    scores = [F.where(s < length, score, -math.inf) for s, score in enumerate(scores)]
                mixed[t, head] = sum(weight * value[head] for weight, value in zip(F.softmax(scores), values, strict=False))
        return self.out(mixed)

    def __repr__(self) -> str:
        kind = "causal" if self.causal else "not causal"
        return f"SelfAttention({self.query.W.shape[0]}, {self.heads} heads, {kind}; {_count(self)})"


class Sequential(Module):
    """One layer after the other; a layer is a Module or any function of an array, such as jg.tanh."""

    def __init__(self, *layers: Function):
        self.layers = list(layers)

    def __call__(self, x: Any) -> Any:
        """The last layer's output."""
        for layer in self.layers:
            x = layer(x)
        return x

    def __repr__(self) -> str:
        inner = ", ".join(repr(f) if isinstance(f, Module) else getattr(f, "__name__", repr(f)) for f in self.layers)
        return f"{type(self).__name__} of [{inner}], {_count(self)}"


class Residual(Sequential):
    """X + layers(x): what the layers add to their input (He et al. 2016)."""

    def __call__(self, x: Any) -> Any:
        """The sum; the layers must answer in their input's shape."""
        added, x = super().__call__(x), F.objects(x)
        if np.shape(added) != np.shape(x):
            raise errors.ShapeError(errors.explain(
                f"{self!r} makes {np.shape(added)} of an input of shape {np.shape(x)}, to which it cannot be added.",
                errors.user_location(), "The last layer must have the width of the input."))
        return x + added


def named(what: str, name: Any, known: Mapping[str, Any]) -> Any:
    """A function as it is, or the one of a name."""
    if callable(name):
        return name
    if name not in known:
        raise errors.ArgumentError(errors.explain(f"There is no {what} {name!r}.", errors.user_location(),
                                                  f"Choose from {', '.join(sorted(known))}, or pass a function."))
    return known[name]


def _generator(seed: Seed) -> np.random.Generator:
    return np.random.default_rng(random.getrandbits(64) if seed is None else seed)


def _uniform(bound: float, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    return generator.uniform(-bound, bound, shape)


def _values(numbers: npt.ArrayLike) -> Array:
    """An array of new Values."""
    array = np.asarray(numbers, np.float64)
    made = np.empty(array.size, object)
    made[:] = [Value(number) for number in array.reshape(-1).tolist()]
    return made.reshape(array.shape)


def _vectors(layer: Module, x: Any, width: int) -> Array:
    """The input as an array whose last axis has the layer's width."""
    array: Array = np.asarray(F.objects(x))
    if array.ndim == 0 or array.shape[-1] != width:
        raise errors.ShapeError(errors.explain(f"{layer!r} got an input of shape {array.shape}.", errors.user_location(),
                                               f"Its last axis must have {width} elements."))
    return array


def _count(module: Module) -> str:
    count = sum(array.size for array in module._arrays().values())
    return f"{count} parameter{'' if count == 1 else 's'}"
