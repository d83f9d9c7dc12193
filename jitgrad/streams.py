"""Examples in files that may be larger than memory: memory-mapped .npy files, Parquet and Arrow tables.

They are read in blocks: 4 MiB of a memory map, a row group of a Parquet file, a record batch of an Arrow file.

*Full batches.* The blocks are added up in the fixed tree of `jitgrad.blocks`.

*Minibatches.* Every epoch draws an order of the blocks and reads as many as fill a window (64 MiB, at least one block); it
draws an order of the window's examples and cuts batches from it. What is left for less than a batch goes in front of the
next window. So examples are mixed with those of blocks that are read together, and the seed decides which those are; a
file whose rows are sorted by class should be shuffled once, when it is written.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jitgrad.api import Transformed
from jitgrad.arguments import flatten, unflatten
from jitgrad.arrow import ENDINGS, ArrowFile
from jitgrad.batches import Batches
from jitgrad.blocks import Sums, block_size, bounds
from jitgrad.compiler.program import Results
from jitgrad.errors import ArgumentError, DataError, explain
from jitgrad.examples import Examples, GradientUpdate, Step, Update, check_finite, check_kind

Tree = Any
Array = npt.NDArray[Any]
Paths = str | os.PathLike[str]

WINDOW_BYTES = 64 << 20


class Blocked(Examples):
    """Examples that are read a block at a time. bounds: the first and the last example, plus one, of every block."""

    bounds: list[tuple[int, int]]
    example_bytes: int

    @abstractmethod
    def read(self, block: int) -> tuple[Tree, ...]:
        """The data of a block."""

    @abstractmethod
    def axes(self) -> list[int | None]:
        """The axis that counts the examples, of each array of the data."""

    def mean(self, loss: Transformed, params: Tree) -> float:
        """The mean of a jit over all examples."""
        return float(self._over_blocks(loss, params))

    def _over_blocks(self, step: Transformed, params: Tree) -> Any:
        layout, answer = step.layout((params, *self.read(0)))
        total = Sums(step.sums((params, *self.read(k)), range(lo, hi)) for k, (lo, hi) in enumerate(self.bounds)).total()
        return answer.of(*layout.finish(Results(total, []), self.count))

    def steps(self, step: Transformed, batch_size: int | None, generator: np.random.Generator) -> Iterator[Step]:
        """One epoch: all examples as they lie, or minibatches by the rule above."""
        if batch_size is None:
            yield GradientUpdate(lambda params: self._over_blocks(step, params), self.count)
            return
        axes, spec, left = self.axes(), flatten(self.read(0))[1], None
        windows = list(self._windows(generator.permutation(len(self.bounds)).tolist()))
        for window in windows:
            found = self._window(window)
            order = generator.permutation(len(found.numbers))
            if left is not None:
                order = np.concatenate((np.arange(len(left.numbers)), order + len(left.numbers)))
                found = _joined([left, found], axes)
            last = len(order) if window is windows[-1] else len(order) // batch_size * batch_size
            for start in range(0, last, batch_size):
                batch = found.taken(order[start:min(start + batch_size, last)], axes)
                yield Update(step, unflatten(spec, batch.leaves), len(batch.numbers), batch.numbers)
            left = found.taken(order[last:], axes)

    def _windows(self, order: list[int]) -> Iterator[list[int]]:
        window: list[int] = []
        size = 0
        for block in order:
            window.append(block)
            size += (self.bounds[block][1] - self.bounds[block][0]) * self.example_bytes
            if size >= WINDOW_BYTES:
                yield window
                window, size = [], 0
        if window:
            yield window

    def _window(self, blocks: list[int]) -> _Rows:
        return _joined([_Rows(flatten(self.read(k))[0], np.arange(*self.bounds[k])) for k in blocks], self.axes())


class _Rows(NamedTuple):
    """Examples in memory: the arrays of the data, and the examples' numbers."""

    leaves: list[Array]
    numbers: npt.NDArray[np.intp]

    def taken(self, chosen: npt.NDArray[np.intp], axes: Sequence[int | None]) -> _Rows:
        leaves = [leaf if axis is None else leaf.take(chosen, axis) for leaf, axis in zip(self.leaves, axes, strict=True)]
        return _Rows(leaves, self.numbers[chosen])


def _joined(parts: Sequence[_Rows], axes: Sequence[int | None]) -> _Rows:
    if len(parts) == 1:
        return parts[0]
    columns = zip(*(part.leaves for part in parts), strict=True)
    return _Rows([column[0] if axis is None else np.concatenate(column, axis)
                  for column, axis in zip(columns, axes, strict=True)], np.concatenate([part.numbers for part in parts]))


class Mapped(Blocked):
    """Data of which some arrays are memory maps; arguments as of `Batches`."""

    def __init__(self, params: Tree, data: tuple[Tree, ...], in_axes: Any, name: str) -> None:
        self._batches = Batches(params, data, in_axes, name)
        if self._batches.batched_params:
            raise ArgumentError(explain("Parameters with a batch axis cannot be trained from memory maps.", name,
                                        "Read the files into memory: np.load(path)."))
        self.count, self.arguments = self._batches.count, self._batches.arguments
        self.example_bytes = self._batches.example_bytes
        self.bounds = bounds(self.count, block_size(self.example_bytes))

    def kinds(self) -> list[tuple[str, list[int]]]:
        """The dtype and shape of every array, and that they are read in blocks."""
        return [*self._batches.kinds(), ("blocks", [len(self.bounds)])]

    def measure(self, metric: Callable[..., Any], params: Tree) -> Any:
        """A metric of the caller's own memory maps."""
        return self._batches.measure(metric, params)

    def axes(self) -> list[int | None]:
        return self._batches.axes()

    def read(self, block: int) -> tuple[Tree, ...]:
        return self._batches.between(*self.bounds[block])


class Table:
    """A table on disk to train on; see `open_table`.

    columns: names in the file; features: of those that are inputs; target: the one to predict
    sizes: rows of each block; count: of all
    """

    arguments = 2

    def __init__(self, paths: Sequence[Path], features: Sequence[str] | None, target: str) -> None:
        self._files = [ArrowFile(path) for path in paths]
        first = self._files[0]
        self.target = target
        self.features = tuple(name for name in first.columns if name != target) if features is None else tuple(features)
        if not self.features or target in self.features or len(set(self.features)) != len(self.features):
            raise DataError(explain("The features must be distinct columns other than the target.",
                                    f"{first.path}: {', '.join(self.features)}",
                                    f"The target is {target!r}; the columns are: {', '.join(first.columns)}."))
        for file in self._files:
            _demand(file, (*self.features, target))
        self._blocks = [(file, k) for file in self._files for k in range(len(file.sizes))]
        sizes = [size for file in self._files for size in file.sizes]
        ends = np.cumsum(sizes).tolist()
        self.bounds = [(end - size, end) for end, size in zip(ends, sizes, strict=True) if size]
        self._blocks = [block for block, size in zip(self._blocks, sizes, strict=True) if size]
        self.count = ends[-1] if ends else 0
        if not self.count:
            raise DataError(explain("The table is empty: it has 0 rows.", str(first.path), "It needs at least one row."))
        self._checked: set[int] = set()
        inputs, targets = self.read(0)
        self.example_bytes = inputs.nbytes // len(inputs) + targets.itemsize
        self.dtypes = inputs.dtype, targets.dtype

    def __repr__(self) -> str:
        return (f"Table({self.count:,} rows in {len(self.bounds)} blocks, {len(self.features)} features, "
                f"target {self.target!r})")

    def examples(self, params: Tree, in_axes: Any) -> Blocked:
        """The rows as examples (inputs (features,), target) of a training."""
        return _TableRows(self, params, in_axes)

    def read(self, block: int) -> tuple[Array, Array]:
        """(inputs (rows, features), targets (rows,)) of a block; raises DataError, DtypeError for what is no number."""
        file, k = self._blocks[block]
        columns = file.numbers(k, (*self.features, self.target))
        if block not in self._checked:
            first = self.bounds[block][0]
            for name, column in columns.items():
                where = f"{file.path}: column {name!r}, row"
                check_kind(column.dtype, f"{file.path}: column {name!r}")
                check_finite(column, where, "Fill or remove such rows first.", first - self._first(file))
            self._checked.add(block)
        return np.column_stack([columns[name] for name in self.features]), columns[self.target]

    def _first(self, file: ArrowFile) -> int:
        return sum(sum(other.sizes) for other in self._files[:self._files.index(file)])


class _TableRows(Blocked):
    def __init__(self, table: Table, params: Tree, in_axes: Any) -> None:
        Batches(params, table.read(0), in_axes)             # its checks
        if in_axes is not None and in_axes != (None, 0, 0):
            raise ArgumentError(explain("The rows of a table are its examples, and parameters have no batch axis.",
                                        f"in_axes={in_axes!r}", "Leave in_axes out."))
        self._table, self.count, self.arguments = table, table.count, table.arguments
        self.bounds, self.example_bytes = table.bounds, table.example_bytes

    def kinds(self) -> list[tuple[str, list[int]]]:
        """The dtypes, and the rows of each block."""
        inputs, targets = self._table.dtypes
        return [(inputs.str, [self.count, len(self._table.features)]), (targets.str, [self.count]),
                ("blocks", [hi - lo for lo, hi in self.bounds])]

    def measure(self, metric: Callable[..., Any], params: Tree) -> Any:
        """Metrics are of whole arrays."""
        raise ArgumentError(explain("A table is not read as a whole, and metrics are of whole arrays.", None,
                                    "Pass validation=(X, y) that fit in memory."))

    def axes(self) -> list[int | None]:
        return [0, 0]

    def read(self, block: int) -> tuple[Tree, ...]:
        return self._table.read(block)


def _demand(file: ArrowFile, names: Sequence[str]) -> None:
    """Raise DataError unless the file has these columns."""
    for name in names:
        if name not in file.columns:
            raise DataError(explain(f"There is no column {name!r}.", str(file.path),
                                    f"The columns are: {', '.join(file.columns)}."))


def open_arrays(*paths: Paths) -> tuple[Array, ...]:
    """.npy files as `data` for `jg.fit`, read as they are needed; about 64 MiB of them are in memory at a time.

    paths: of the objective's arguments after params, in order
    returns: memory maps, read-only, as of numpy.load(path, mmap_mode="r")
    raises: DataError for what is no .npy file
    """
    found = []
    for path in paths:
        try:
            found.append(np.load(path, mmap_mode="r", allow_pickle=False))
        except OSError as error:
            raise DataError(explain(f"Cannot read the file: {error}.", os.fspath(path), "Check the path.")) from None
        except ValueError as error:
            raise DataError(explain(f"This is no .npy file of numbers: {error}", os.fspath(path),
                                    "Write it with numpy.save.")) from None
    return tuple(found)


def open_table(path: Paths | Sequence[Paths], target: str, *, features: Sequence[str] | None = None) -> Table:
    """A Parquet or Arrow (Feather) table as `data` for `jg.fit`, read block by block; the objective is f(params, x, y).

    path: a .parquet file, an Arrow file of any other name, several files, or a folder, whose .parquet, .arrow and .feather
        files are taken in the order of their names
    target: the column to predict; features: the input columns in the order wanted, every other column when None
    returns: `Table`; x has shape (features,) and their widest dtype, y is one number

    Numbers are checked when their block is read for the first time, so that a missing or infinite one may end a training
    in its first epoch.
    raises: DataError for missing files, columns and numbers, DtypeError for text; MissingPackageError without pyarrow
    """
    given = [path] if isinstance(path, str | os.PathLike) else list(path)
    files: list[Path] = []
    for one in map(Path, given):
        files += (sorted(p for p in one.iterdir() if p.suffix in ENDINGS) if one.is_dir()
                  else [one])
    if not files:
        raise DataError(explain("There is no table to open.", ", ".join(map(str, given)),
                                "Pass .parquet, .arrow or .feather files, or a folder of them."))
    return Table(files, features, target)
