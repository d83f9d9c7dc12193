"""Every error jitgrad raises, and the one way an error quotes the user's own source line.

An error says what happened, where (the user's file and line, or an argument's path in its pytree) and what to do.
Each class also derives from the built-in exception a Python programmer would expect, so `except ValueError` works.
"""

from __future__ import annotations

import ast
import importlib.util
import linecache
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from types import CodeType, FrameType
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_INTERNAL: dict[str, bool] = {}


class JitgradError(Exception):
    """Base class of every error raised by jitgrad."""


class TraceError(JitgradError, TypeError):
    """A traced function did something that would freeze a run-time number into the kernel."""


class ShapeError(JitgradError, ValueError):
    """An argument's shape, batch size or pytree structure does not fit."""


class DtypeError(JitgradError, TypeError):
    """An argument's dtype cannot be computed with or differentiated."""


class ArgumentError(JitgradError, ValueError):
    """An option has a value jitgrad does not know."""


class CallError(JitgradError, TypeError):
    """A function was called with arguments that it does not take."""


class LabelError(JitgradError, ValueError):
    """A class label or index outside what the loss is defined for."""


class DataError(JitgradError, ValueError):
    """Training data that cannot be used: NaN, missing cells, an unknown column."""


class CheckpointError(JitgradError, ValueError):
    """A file that is not a whole checkpoint of jitgrad's, or belongs to another training."""


class MissingPackageError(JitgradError, ModuleNotFoundError):
    """Something needs a package that is not installed."""


class DeviceError(JitgradError, RuntimeError):
    """A device that does not exist, or cannot run here."""


class NonFiniteError(JitgradError, FloatingPointError):
    """A NaN or infinity: the operation that made it (under `debug_nans`), or the training step that met it."""


class GradientError(JitgradError, AssertionError):
    """A value or gradient that disagrees with the referee."""


class StaleGraphWarning(UserWarning):
    """A recorded graph was built from a number that was read on the way, and will not follow when that changes."""


@lru_cache(maxsize=4)
def _parsed(text: str) -> ast.Module | None:
    try:
        return ast.parse(text) if text else None
    except SyntaxError:                                     # a notebook's cell with a command of the shell
        return None


@dataclass(frozen=True)
class Location:
    """A line of a user's program; the line number is worked out only when somebody asks."""

    code: CodeType
    instruction: int

    @property
    def filename(self) -> str:
        return self.code.co_filename

    @property
    def line(self) -> int:
        """The 1-based line number of the instruction."""
        found = self.code.co_firstlineno
        for start, stop, line in self.code.co_lines():
            if start <= self.instruction < stop and line is not None:
                found = line
        return found

    def syntax(self) -> list[ast.AST]:
        """The syntax around the instruction, from its whole file to its own expression; empty without the source."""
        line, last, column, end = next(islice(self.code.co_positions(), self.instruction // 2, None))
        file = _parsed("".join(linecache.getlines(self.filename)))
        if line is None or last is None or column is None or end is None or file is None:
            return []
        found: list[ast.AST] = [file]
        inner = list(ast.iter_child_nodes(file))
        while inner:
            node = inner.pop()
            place: list[Any] = [getattr(node, name, None)
                                for name in ("lineno", "col_offset", "end_lineno", "end_col_offset")]
            if None in place:                               # a clause, which has no place of its own
                inner += ast.iter_child_nodes(node)
            elif place[:2] <= [line, column] and [last, end] <= place[2:]:
                found.append(node)
                inner = list(ast.iter_child_nodes(node))
        return found

    def __str__(self) -> str:
        text = linecache.getline(self.filename, self.line).strip()
        return f"{os.path.basename(self.filename)}:{self.line}:  {text}"


def is_internal(filename: str) -> bool:
    """Whether a file belongs to jitgrad or NumPy."""
    known = _INTERNAL.get(filename)
    if known is None:
        path = os.path.abspath(filename)
        known = path.startswith(_HERE) or f"{os.sep}numpy{os.sep}" in path
        _INTERNAL[filename] = known
    return known


def _user_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost frame, from `frame` outwards, that belongs neither to jitgrad nor to NumPy."""
    while frame is not None and is_internal(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def user_location() -> Location | None:
    """Where the innermost frame is that belongs neither to jitgrad nor to NumPy, or None outside any."""
    frame = _user_frame(sys._getframe(1))
    return None if frame is None else Location(frame.f_code, frame.f_lasti)


class Locations:
    """Locations of one recording, each made once: a loop's body records thousands of nodes from the same few places."""

    def __init__(self) -> None:
        # By code object and instruction. The former by its identity, which the kept Locations make lasting: to hash a
        # code object is to read all of its instructions.
        self._known: dict[int, dict[int, Location]] = {}
        self._entry: tuple[FrameType | None, Location | None] = None, None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What is called within and is all jitgrad's own, such as an estimator's loss, stands where this was called."""
        frame = sys._getframe(2)                       # contextlib's is between
        user = _user_frame(frame)
        self._entry = frame, None if user is None else Location(user.f_code, user.f_lasti)
        try:
            yield
        finally:
            self._entry = None, None

    def of(self, frame: FrameType) -> Location | None:
        """`user_location` as seen from `frame`."""
        known = self._known.get(id(frame.f_code))
        if known is None:
            entry, outside = self._entry
            while is_internal(frame.f_code.co_filename):
                if frame is entry:
                    return outside
                if frame.f_back is None:
                    return None
                frame = frame.f_back
            known = self._known.setdefault(id(frame.f_code), {})
        found = known.get(frame.f_lasti)
        if found is None:
            found = known[frame.f_lasti] = Location(frame.f_code, frame.f_lasti)
        return found


def explain(what: str, where: Location | str | None, instead: str) -> str:
    """The text of an error: what happened, the user's line or the argument's path, what to do."""
    middle = f"\n    {where}" if where is not None else ""
    return f"{what}{middle}\n{instead}"


def require(module: str, what: str, install: str) -> None:
    """Raise MissingPackageError where a module cannot be imported; nothing is imported.

    what: the sentence before "…, which is not installed": "The digits come with scikit-learn"
    install: what pip is to install
    """
    if importlib.util.find_spec(module) is None:
        raise MissingPackageError(explain(f"{what}, which is not installed.", None, f"Install it: pip install {install}"),
                                  name=module)
