"""Finds the function that `jitgrad check FILE:FUNCTION` names, and the arguments to check it with."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from jitgrad.errors import ArgumentError, JitgradError, explain

_EXAMPLES = 8


@dataclass(frozen=True)
class Subject:
    """A function to check.

    args: what to call the transformed function with
    argnums, in_axes: as in `value_and_grad`
    origin: where the arguments came from, for the report
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    argnums: int | tuple[int, ...]
    in_axes: tuple[int | None, ...] | None
    origin: str


def find(target: str, argnums: tuple[int, ...] | None = None, seed: int = 0) -> Subject:
    """Import the file of FILE:FUNCTION and collect the function's example arguments.

    They come from the first of: FUNCTION_args and example_args, each a tuple or a function that returns one, to be
    differentiated in argument 0 unless argnums says otherwise; else eight random examples of a scalar per parameter in
    the signature, batched and differentiated in every one.

    raises: ArgumentError naming what is missing, or the line of the file that raised
    """
    path, colon, name = target.rpartition(":")
    if not colon or not path or not name:
        raise ArgumentError(
            explain("The target must be FILE:FUNCTION.", target, "Write for example model.py:objective.")
        )
    module = _load(path)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [
            key
            for key, found in vars(module).items()
            if inspect.isfunction(found) and found.__module__ == module.__name__ and not key.startswith("_")
        ]
        raise ArgumentError(
            explain(f"There is no function {name!r} in the file.", path,
                    f"It defines: {', '.join(functions) or 'none'}.")
        )
    function = _explained(function, path, name)
    for origin in (f"{name}_args", "example_args"):
        if not hasattr(module, origin):
            continue
        args = getattr(module, origin)
        if callable(args):
            args = _guarded(args, path, f"calling {origin}()")
        if not isinstance(args, tuple):
            raise ArgumentError(
                explain(f"{origin} must be a tuple, or a function that returns one, not {type(args).__name__}.", path,
                        f"Write {origin} = (params, X, Y), with the batched arrays that you would train on.")
            )
        chosen: int | tuple[int, ...] = 0 if argnums is None else argnums
        return Subject(function, args, chosen, None, f"{os.path.basename(path)}: {origin}")
    count = _scalar_parameters(function, path, name)
    args = tuple(np.random.default_rng(seed).uniform(-2.0, 2.0, (count, _EXAMPLES)))
    return Subject(
        function,
        args,
        tuple(range(count)) if argnums is None else argnums,
        (0,) * count,
        f"{_EXAMPLES} random examples of {count} scalars in [-2, 2]",
    )


def _scalar_parameters(function: Callable[..., Any], path: str, name: str) -> int:
    parameters = inspect.signature(function).parameters.values()
    required = [
        p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if not required or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        raise ArgumentError(
            explain(f"{name}'s signature does not say what to call it with.", path, f"Define {name}_args = (...).")
        )
    return len(required)


def _load(path: str) -> ModuleType:
    if not os.path.isfile(path):
        raise ArgumentError(explain("There is no such file.", path, "Write FILE:FUNCTION, for example model.py:loss."))
    # Under a name of its own, so that a file called json.py takes no other module's place.
    name = f"jitgrad_check_{os.path.splitext(os.path.basename(path))[0]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ArgumentError(explain("The file is not a Python module.", path, "Its name must end in .py."))
    module = importlib.util.module_from_spec(spec)
    # As when Python runs the file: its neighbours can be imported, and dataclasses find their module.
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    sys.modules[name] = module
    loader = spec.loader
    try:
        _guarded(lambda: loader.exec_module(module), path, "importing it")
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.pop(0)
    return module


def _explained(function: Callable[..., Any], path: str, name: str) -> Callable[..., Any]:
    """The function, with what it raises as an error that quotes its line."""
    @functools.wraps(function)
    def guarded(*args: Any) -> Any:
        return _guarded(lambda: function(*args), path, f"calling {name}()")
    return guarded


def _guarded(action: Callable[[], Any], path: str, doing: str) -> Any:
    """Run code of the user's file; what it raises becomes an error that quotes the line in that file."""
    try:
        return action()
    except JitgradError:
        raise
    except Exception as error:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if os.path.abspath(frame.filename) == os.path.abspath(path)
        ]
        where = f"{path}:{frames[-1].lineno}:  {frames[-1].line}" if frames else path
        raise ArgumentError(
            explain(f"The file failed while {doing}: {type(error).__name__}: {error}", where,
                    "Fix the file and try again.")
        ) from error
