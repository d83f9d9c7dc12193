"""How a table's columns become a network's inputs: learned from the training rows, and kept with the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jitgrad.errors import DataError, explain

Array = npt.NDArray[Any]
Cell = tuple[int, str]                                      # (line or row of the file, text)

NUMBER, DATE, CATEGORY, LEFT_OUT = "number", "date", "category", "left out"
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
_MOST_CATEGORIES = 100
_COUNTS = "counts the rows; if that means nothing, --ignore leaves it out"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Source(NamedTuple):
    """Where a table's cells come from, as errors name it.

    unit: what a cell's place counts: the "line" of a text file, from 1, or the "row" of another, from 0
    """

    file: str
    unit: str = "line"

    @property
    def header(self) -> str:
        """Where the columns' names are."""
        return f"{self.file}:1" if self.unit == "line" else self.file

    def where(self, place: int, column: str) -> str:
        """A cell."""
        return f"{self.file}:{place}: column {column!r}" if self.unit == "line" else (
            f"{self.file}: column {column!r}, row {place}")

    def at(self, place: int) -> str:
        """A cell's place at the beginning of a sentence."""
        return f"{self.unit.capitalize()} {place}"


def is_missing(text: str) -> bool:
    """Whether a cell says that there is nothing in it."""
    return text.strip().lower() in _MISSING


def is_number(text: str) -> bool:
    """Whether a cell reads as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python reads 1_000 as a number; in a data file it is a typing error or a name


def number(text: str, source: Source, place: int, column: str) -> float:
    """The finite number in a cell, or a DataError that names line and column."""
    where, at = source.where(place, column), source.at(place)
    if is_missing(text):
        raise DataError(
            explain(f"{at} has no value in column {column!r}.", where,
                    "Fill the missing cell, or remove the row.")
        )
    if not is_number(text):
        raise DataError(
            explain(f"{at} has {text.strip()!r} in column {column!r}, where numbers are wanted.", where,
                    "Correct the cell; that of a feature may be empty. A column that names categories goes into "
                    "`categories` (--categories), one that means nothing into `ignore` (--ignore).")
        )
    found = float(text)
    if not math.isfinite(found):
        raise DataError(explain(f"{at} has {text.strip()} in column {column!r}.", where, "Use finite numbers."))
    return found


def _all_numbers(cells: Sequence[Cell]) -> Array | None:
    """The numbers of a column whose every cell is a finite one; None for any other. Most columns are of this kind."""
    try:
        found = np.array([float(text) for _, text in cells], np.float64)
    except ValueError:
        return None
    return found if np.isfinite(found).all() and not any("_" in text for _, text in cells) else None


def days(text: str) -> float | None:
    """The days from 1970 to a date or time in ISO 8601 (2024-12-31, 2024-12-31 23:59); None for other text."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return ((found if found.tzinfo else found.replace(tzinfo=UTC)) - _EPOCH).total_seconds() / 86400.0


@dataclass(frozen=True)
class Column:
    """A column of a table as a network sees it.

    kind: "number"; "date", in days since 1970; "category", a feature of 0 or 1 for each of its levels; "left out"
    fill: what stands for a missing number or date: the training rows' mean
    gaps: whether training rows lacked it; there is then one more feature, 1 where it is missing
    levels: the categories of the training rows, in alphabetical order
    note: what its user should know
    """

    name: str
    kind: str
    fill: float = 0.0
    gaps: bool = False
    levels: tuple[str, ...] = ()
    note: str = ""

    @property
    def features(self) -> tuple[str, ...]:
        """The names of its features: the column's own, `town=Bonn` for a category, `size missing`."""
        own = {CATEGORY: [f"{self.name}={level}" for level in self.levels], LEFT_OUT: []}.get(self.kind, [self.name])
        return (*own, f"{self.name} missing") if self.gaps else tuple(own)

    @property
    def measures(self) -> list[bool]:
        """Of each feature, whether it is a measurement, to be standardised, rather than 0 or 1."""
        return [self.kind in (NUMBER, DATE) and k == 0 for k in range(len(self.features))]

    def inputs(self, cells: Sequence[Cell], source: Source) -> tuple[Array, list[Cell]]:
        """(numbers (n, features) float64, cells whose category is none of the levels and which get 0 for all of them).

        raises: DataError naming line and column for text in a column of numbers or dates
        """
        found, unknown = np.zeros((len(cells), len(self.features))), list[Cell]()
        if self.kind == LEFT_OUT:
            return found, unknown
        if self.kind == NUMBER and (numbers := _all_numbers(cells)) is not None:
            found[:, 0] = numbers
            return found, unknown
        place = {level: k for k, level in enumerate(self.levels)}
        for row, (line, text) in enumerate(cells):
            if is_missing(text):
                if self.kind != CATEGORY:
                    found[row, 0] = self.fill
                if self.gaps:
                    found[row, -1] = 1.0
            elif self.kind != CATEGORY:
                found[row, 0] = self._measured(text, source, line)
            elif (level := text.strip()) in place:
                found[row, place[level]] = 1.0
            else:
                unknown.append((line, level))
        return found, unknown

    def _measured(self, text: str, source: Source, place: int) -> float:
        if self.kind == NUMBER:
            return number(text, source, place, self.name)
        found = days(text)
        if found is None:
            raise DataError(explain(
                f"{source.at(place)} has {text.strip()!r} in column {self.name!r}, where dates are wanted.",
                source.where(place, self.name), "Write dates as 2024-12-31, or empty the cell."))
        return found

    def __str__(self) -> str:
        what = {NUMBER: "number", DATE: "date, in days",
                CATEGORY: f"{len(self.levels)} categories: {', '.join(self.levels[:6])}{', …' * (len(self.levels) > 6)}",
                LEFT_OUT: "left out"}[self.kind]
        return f"{what}; {self.note}" if self.note else what

    def as_json(self) -> dict[str, Any]:
        """The column as what JSON can hold; `Column.read` reads it."""
        return {**asdict(self), "levels": list(self.levels)}

    @staticmethod
    def read(record: dict[str, Any]) -> Column:
        """A column from its `as_json`."""
        return Column(**{**record, "levels": tuple(record["levels"])})


def understand(name: str, cells: Sequence[Cell], training: Array, source: Source, category: bool = False) -> Column:
    """What a column holds.

    cells: all rows; what kind it is follows from them, and everything that is learned from the training rows alone
    training: row numbers
    category: whether its texts or numbers are to be taken as names
    raises: DataError naming the line of text in a column that mostly holds numbers, or of an infinite number
    """
    numbers = None if category else _all_numbers(cells)
    if numbers is not None:
        counts = len(numbers) > 2 and bool((np.diff(numbers) == 1.0).all())
        return Column(name, NUMBER, float(numbers[training].mean()), note=_COUNTS * counts)
    present = [(line, text.strip()) for line, text in cells if not is_missing(text)]
    texts = [text for _, text in present]
    if not texts:
        return Column(name, LEFT_OUT, note="no row has a value")
    trained = [cells[row] for row in training]
    known = [(line, text.strip()) for line, text in trained if not is_missing(text)]
    gaps = len(known) < len(trained)
    if not category:
        numeric = sum(map(is_number, texts))
        if 2 * numeric >= len(texts):
            for line, text in present:                      # all of them: a slip is better told now than half way through
                number(text, source, line, name)
            return _measurement(name, NUMBER, [float(text) for _, text in known], gaps, len(trained))
        if all(days(text) is not None for text in texts):
            return _measurement(name, DATE, [days(text) for _, text in known], gaps, len(trained))
        distinct = len(set(texts))
        if distinct == 1:
            return Column(name, LEFT_OUT, note="every row has the same text")
        if distinct > _MOST_CATEGORIES or 2 * distinct > len(texts):
            measured = texts[0].lstrip("+-$€£ ")[:1].isdigit()  # 31.12.2024, $5, -1,000
            return Column(name, LEFT_OUT, note=f"{distinct:,} different texts in {len(texts):,} rows name no categories"
                                               + " (numbers must be plain, as 1234.5, and dates as 2024-12-31)" * measured)
    levels = tuple(sorted({text for _, text in known}))
    return Column(name, CATEGORY, gaps=gaps, levels=levels, note=_missing_note(len(trained) - len(known), CATEGORY))


def _measurement(name: str, kind: str, values: Sequence[float | None], gaps: bool, rows: int) -> Column:
    fill = float(np.mean(np.array(values, np.float64))) if values else 0.0
    return Column(name, kind, fill, gaps, note=_missing_note(rows - len(values), kind))


def _missing_note(count: int, kind: str) -> str:
    filled = "take the mean, and " if kind != CATEGORY else ""
    return f"{count:,} missing in training rows, which {filled}have a feature of their own" if count else ""
