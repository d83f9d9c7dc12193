"""jitgrad: a loss for one example in plain scalar arithmetic becomes one fused kernel over the batch."""

from __future__ import annotations

import importlib
from typing import Any

from jitgrad import losses as losses
from jitgrad import nn as nn
from jitgrad.functions import PUBLIC as _ELEMENTWISE
from jitgrad.functions import clip as clip
from jitgrad.functions import logsumexp as logsumexp
from jitgrad.functions import softmax as softmax
from jitgrad.functions import take as take
from jitgrad.value import Value as Value

# Imported when first used: the compiler's front door, the training loop, the referee.
_LAZY = {"value_and_grad": "api", "grad": "api", "jit": "api", "batch": "api", "compile": "recorded", "fit": "train",
         "sweep": "sweeps", "draw": "drawing", "debug_nans": "debug", "optim": None, "testing": None, "errors": None,
         "data": None, "plots": None, "train": None, "metrics": None, "save": "checkpoint", "load": "checkpoint"}

__all__ = ["Value", "clip", "logsumexp", "losses", "nn", "softmax", "take", *_ELEMENTWISE, *_LAZY]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _ELEMENTWISE:
        return _ELEMENTWISE[name]
    if name in _LAZY:
        module = _LAZY[name]
        found = importlib.import_module(f"jitgrad.{module or name}")
        return found if module is None else getattr(found, name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version
        try:
            return version("jitgrad")
        except PackageNotFoundError:                   # a checkout that was never installed
            return "0+unknown"
    raise AttributeError(f"module 'jitgrad' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
