"""Data sets to train on: two moons, handwritten digits, and tables (CSV, Parquet, Arrow); files larger than memory.

Every loader returns a `Dataset`, split into training and held-out examples; nothing is downloaded. What `open_arrays` and
`open_table` return is read while `fit` runs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.columns import LEFT_OUT, Cell, Column, Source, is_missing, is_number, number, understand
from jitgrad.errors import ArgumentError, DataError, explain, require
from jitgrad.streams import open_arrays as open_arrays
from jitgrad.streams import open_table as open_table
from jitgrad.tables import Table, read_table

Array = npt.NDArray[Any]

_MOST_INTEGER_CLASSES = 20


@dataclass(frozen=True)
class Dataset:
    """Examples split into a training and a held-out part.

    train, test: (inputs, targets); inputs (n, features) float64; targets (n,), int64 for classes, else float64
    features: the names of the input columns
    classes: the classes' names in the order of their indices; empty for regression
    mean, std: (features,) float64: inputs are (raw - mean) / std; 0 and 1 where nothing was standardised
    target_mean, target_std: the same for a regression target; 0 and 1 for classes
    target: the name of what is predicted
    columns: of a table, what each column but the target holds, in the order of the features that they make
    """

    name: str
    train: tuple[Array, Array]
    test: tuple[Array, Array]
    features: tuple[str, ...]
    classes: tuple[str, ...]
    mean: Array
    std: Array
    target_mean: float = 0.0
    target_std: float = 1.0
    target: str = "target"
    columns: tuple[Column, ...] = ()

    def __repr__(self) -> str:
        kind = f"{len(self.classes)} classes" if self.classes else "regression"
        return (
            f"Dataset({self.name}: {len(self.train[1])} training and {len(self.test[1])} held-out examples, "
            f"{len(self.features)} features, {kind})"
        )


def load_moons(n: int = 1000, noise: float = 0.15, seed: int = 0, held_out: float = 0.2) -> Dataset:
    """scikit-learn's two interleaving half circles.

    n: examples in all, at least 10
    noise: standard deviation of the Gaussian noise added to each coordinate
    returns: inputs (.., 2) float64 as generated; targets int64 labels in {-1, +1}
    raises: ArgumentError
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 10:
        raise ArgumentError(explain("load_moons needs an int n of at least 10.", f"n={n!r}", "Pass n=1000, say."))
    if not (isinstance(noise, (int, float)) and 0.0 <= noise < math.inf):
        raise ArgumentError(explain("noise must be a finite number >= 0.", f"noise={noise!r}", "Pass 0.15, say."))
    require("sklearn", "The two moons come from scikit-learn", "scikit-learn")
    from sklearn.datasets import make_moons  # a second of import that other data sets need not pay

    inputs, half = make_moons(n_samples=int(n), noise=float(noise), random_state=_seed(seed))
    train, test = split(half, held_out, seed, stratify=True)
    targets = np.where(half == 1, 1, -1).astype(np.int64)
    return Dataset(
        name="moons",
        train=(inputs[train], targets[train]),
        test=(inputs[test], targets[test]),
        features=("x1", "x2"),
        classes=("-1", "+1"),
        mean=np.zeros(2),
        std=np.ones(2),
    )


def load_digits(held_out: float = 0.2, seed: int = 0) -> Dataset:
    """The 1,797 handwritten 8x8 digits bundled with scikit-learn (the test part of UCI's optical digits, 1998).

    returns: inputs (.., 64) float64 in [0, 1]; targets (..,) int64 in 0..9; the held-out part is a stratified random
        fifth, scikit-learn's train_test_split at random_state=seed. 360 images are few: between seeds the accuracy of
        one and the same 64-32-10 network varies by one to two points, so compare models on the same split
    raises: ArgumentError
    """
    require("sklearn", "The digits come with scikit-learn", "scikit-learn")
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    bunch = datasets.load_digits()
    inputs = np.ascontiguousarray(bunch.data, dtype=np.float64) / 16.0
    targets = np.asarray(bunch.target, dtype=np.int64)
    _check_held_out(held_out)
    rows = np.arange(len(targets))
    train, test = rows, rows[:0]
    if held_out > 0:
        train, test = train_test_split(rows, test_size=held_out, random_state=_seed(seed), stratify=targets)
    return Dataset(
        name="digits",
        train=(inputs[train], targets[train]),
        test=(inputs[test], targets[test]),
        features=tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8)),
        classes=tuple(str(digit) for digit in range(10)),
        mean=np.zeros(64),
        std=np.ones(64),
    )


def load_table(
    path: str | os.PathLike[str],
    target: str,
    *,
    task: str = "auto",
    features: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    categories: Sequence[str] = (),
    delimiter: str | None = None,
    decimal: str | None = None,
    standardise: bool = True,
    held_out: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """A table in a file: feature columns of numbers, dates or categories, and one target column.

    path: a CSV file with a header row, which may be compressed (.csv.gz); or, with pyarrow, a Parquet or Arrow file
        (.parquet, .arrow, .feather), whose cells are taken as in the CSV file that pandas would write of it
    target: the name of the column to predict
    task: "classification", "regression" or "auto". auto: a target with text in it, or of at most 20 distinct integers
        that stand in two rows each on average, names classes; any other numeric target is a number to predict
    features: the input columns in the order wanted; None takes every column but the target
    ignore: columns that are not to be used
    categories: columns whose numbers are names (postcodes, codes), and not measurements; those that a Parquet or Arrow file
        itself calls categories need not be listed
    delimiter: what separates the cells of a CSV file; None: the one of , ; tab | that finds the most columns in the header
    decimal: "." or ","; None: a comma if the delimiter is another character, a cell reads as a number so, and none does
        with a point
    standardise: subtract the training examples' mean and divide by their standard deviation, per number or date, and for
        a regression target too; a constant column is only centred
    held_out: the fraction of rows kept for testing, stratified by class; 0 keeps none
    returns: `Dataset`; classes are numbered in ascending order of the integers or in alphabetical order of the names.
        `columns` says what each column was taken for:

        numbers, and dates in ISO 8601, which become days: a missing one takes the training rows' mean
        categories: text, at most 100 different ones and each in two rows on average; a feature of 0 or 1 for each that
            the training rows have, all 0 where it is missing or new
        any other text, such as names and identifiers, is left out, or an error if `features` asks for it
        a column that training rows lack in places has one more feature, 1 where it is missing

    raises: DataError naming line and column: no file, no header, a missing target, text in a column that mostly holds
        numbers, a ragged row, an unknown column, a single class; ArgumentError for a bad option;
        MissingPackageError for a Parquet or Arrow file without pyarrow
    """
    if task not in ("auto", "classification", "regression"):
        raise ArgumentError(
            explain("Unknown task.", f"task={task!r}", "Choose 'auto', 'classification' or 'regression'.")
        )
    name = os.fspath(path)
    table = read_table(name, delimiter, decimal)
    source, header = table.source, table.header
    for option, listed in [("target", [target]), ("ignore", ignore), ("categories", categories)]:
        _known(table, listed, option)
    wanted = [column for column in header if column != target and column not in ignore]
    if features is not None:
        wanted = list(features)
        _known(table, wanted, "features")
    if not wanted or target in wanted or len(set(wanted)) != len(wanted):
        raise DataError(
            explain("The features must be distinct columns other than the target.", f"{name}: {', '.join(wanted)}",
                    f"The target is {target!r}; the columns are: {', '.join(header)}.")
        )
    if task == "auto" and target in table.categories:
        task = "classification"
    targets, classes = _targets([(place, text.strip()) for place, text in table.column(target)], source, target, task)
    train, test = split(targets, held_out, seed, stratify=bool(classes))
    named = {*categories, *table.categories}
    columns = tuple(understand(column, table.column(column), train, source, column in named) for column in wanted)
    unusable = [column for column in columns if column.kind == LEFT_OUT]
    if unusable and (features is not None or len(unusable) == len(columns)):
        raise DataError(explain(f"The column {unusable[0].name!r} cannot be a feature: {unusable[0].note}.",
                                source.header, "Leave it out, or list it in `categories` (--categories) if its texts do "
                                "name categories."))
    inputs = np.concatenate([column.inputs(table.column(column.name), source)[0] for column in columns], axis=1)
    mean, std = np.zeros(inputs.shape[1]), np.ones(inputs.shape[1])
    target_mean, target_std = 0.0, 1.0
    if standardise:
        measures = np.concatenate([column.measures for column in columns])
        found = _mean_and_std(inputs[train])
        mean, std = np.where(measures, found[0], 0.0), np.where(measures, found[1], 1.0)
        inputs = (inputs - mean) / std
        if not classes:
            centre, spread = _mean_and_std(targets[train][:, None])
            target_mean, target_std = float(centre[0]), float(spread[0])
            targets = (targets - target_mean) / target_std
    return Dataset(
        name=os.path.basename(name),
        train=(inputs[train], targets[train]),
        test=(inputs[test], targets[test]),
        features=tuple(feature for column in columns for feature in column.features),
        classes=classes,
        mean=mean,
        std=std,
        target_mean=target_mean,
        target_std=target_std,
        target=target,
        columns=columns,
    )


def _known(table: Table, wanted: Sequence[str], option: str) -> None:
    for column in wanted:
        if column not in table.header:
            hint = " Is the delimiter right?" if len(table.header) == 1 else ""
            raise DataError(
                explain(f"There is no column {column!r} to use as {option}.", table.source.header,
                        f"The columns are: {', '.join(table.header)}.{hint}")
            )


def _targets(cells: list[Cell], source: Source, column: str, task: str) -> tuple[Array, tuple[str, ...]]:
    """The targets and the classes' names; no names for regression."""
    for place, text in cells:
        if is_missing(text):
            number(text, source, place, column)
    numeric = [is_number(text) for _, text in cells]
    if task == "auto":
        integers = all(numeric) and all(float(text).is_integer() for _, text in cells)
        distinct = len({float(text) for _, text in cells}) if integers else 0
        few = integers and distinct <= min(_MOST_INTEGER_CLASSES, len(cells) // 2)
        # One typing error must not turn a column of measurements into a thousand classes.
        measured = any(
            is_number and not float(text).is_integer() for is_number, (_, text) in zip(numeric, cells, strict=True)
        )
        task = "regression" if measured or (integers and not few) else "classification"
    if task == "regression":
        return np.array([number(text, source, place, column) for place, text in cells]), ()
    texts = [text for _, text in cells]
    if all(numeric) and all(float(text).is_integer() for text in texts):
        values, indices = np.unique([int(float(text)) for text in texts], return_inverse=True)
        classes = tuple(str(value) for value in values.tolist())
    else:
        names, indices = np.unique(texts, return_inverse=True)
        classes = tuple(str(text) for text in names.tolist())
    if len(classes) < 2:
        raise DataError(
            explain(f"Every row has the same class {classes[0]!r}.", f"{source.file}: column {column!r}",
                    "Classification needs at least two classes.")
        )
    return indices.astype(np.int64), classes


def _mean_and_std(columns: Array) -> tuple[Array, Array]:
    mean = columns.mean(axis=0)
    std = columns.std(axis=0)
    # Rounding leaves a constant column a spread of some 1e-17 times its size, not 0.
    return mean, np.where(std > 1e-12 * np.abs(mean), std, 1.0)


def _check_held_out(held_out: float) -> None:
    if not (isinstance(held_out, (int, float)) and 0.0 <= held_out < 1.0):
        raise ArgumentError(
            explain("held_out is the fraction of rows kept for testing.", f"held_out={held_out!r}",
                    "It must be at least 0 and below 1.")
        )


def split(targets: Array, held_out: float, seed: int, *, stratify: bool) -> tuple[Array, Array]:
    """Sorted row numbers of the training and of the held-out part; each class is split in the same proportion."""
    _check_held_out(held_out)
    generator = np.random.default_rng(_seed(seed))
    rows = np.arange(len(targets))
    groups = [np.flatnonzero(targets == value) for value in np.unique(targets)] if stratify else [rows]
    test: list[Array] = []
    for group in groups:
        # Training keeps at least one example of every class.
        count = min(round(held_out * len(group)), len(group) - 1)
        test.append(generator.permutation(group)[:count])
    held = np.sort(np.concatenate(test))
    return np.setdiff1d(rows, held), held


def _seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise ArgumentError(explain("seed must be an int from 0 to 2**32 - 1.", f"seed={seed!r}", "Pass 0, say."))
    return int(seed)
