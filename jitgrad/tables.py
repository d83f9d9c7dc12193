"""Tables as people have them, CSV files or Parquet and Arrow files, read whole into cells of text."""

from __future__ import annotations

import csv
import gzip
import os
import re
import zlib
from collections.abc import Sequence
from itertools import chain
from typing import IO, NamedTuple, cast

from jitgrad.arrow import ENDINGS as ARROW_ENDINGS
from jitgrad.arrow import ArrowFile
from jitgrad.columns import Cell, Source, is_number
from jitgrad.errors import ArgumentError, DataError, explain

ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", *ARROW_ENDINGS)

_DELIMITERS = ",;\t|"


class Table(NamedTuple):
    """A table's cells as text.

    rows: (line of a CSV file, or number of the row from 0, and the row's cells); numbers are written with a point
    categories: columns that the file itself calls categories
    """

    source: Source
    header: list[str]
    rows: list[tuple[int, list[str]]]
    categories: tuple[str, ...] = ()

    def column(self, name: str) -> list[Cell]:
        """(line or row, text) of each row."""
        at = self.header.index(name)
        return [(place, cells[at]) for place, cells in self.rows]


def is_arrow(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name is that of a Parquet or Arrow file."""
    return os.fspath(path).lower().endswith(ARROW_ENDINGS)


def read_table(path: str | os.PathLike[str], delimiter: str | None = None, decimal: str | None = None,
               least: int = 2) -> Table:
    """Read a table: .parquet, .arrow or .feather by pyarrow, as the CSV file that would be written of it; else CSV.

    CSV has a header line, is UTF-8, and may be compressed (.gz); blank lines are skipped. A column without a name is called
    `column 1`.

    delimiter, decimal: as in `data.load_table`, for CSV alone
    least: rows that there must be
    raises: DataError naming the line; ArgumentError; MissingPackageError
    """
    name = os.fspath(path)
    if decimal not in (None, ".", ","):
        raise ArgumentError(explain("Numbers have a decimal point or comma.", f"decimal={decimal!r}", "Pass '.' or ','."))
    if is_arrow(name):
        if delimiter is not None or decimal is not None:
            raise ArgumentError(explain("A delimiter and a decimal mark are for CSV files.", name,
                                        "Leave them out: a Parquet or Arrow file says itself what its cells are."))
        table = _read_arrow(name)
    else:
        table = _read_csv(name, delimiter, decimal)
    for place, cell in enumerate(table.header, 1):
        if table.header.index(cell) != place - 1:
            raise DataError(explain(f"Column {place} is a second {cell!r}.", table.source.header,
                                    "Give every column its own name."))
    if len(table.rows) < least:
        few = "fewer than two rows" if least == 2 else "no row"
        raise DataError(explain(f"The file has {few} of data.", name, "Add rows."))
    return table


def open_text(path: str | os.PathLike[str], mode: str) -> IO[str]:
    """A UTF-8 file to read or write CSV; compressed if its name ends in .gz. Raises OSError."""
    name, encoding = os.fspath(path), "utf-8-sig" if mode == "r" else "utf-8"
    if name.lower().endswith(".gz"):
        return cast(IO[str], gzip.open(name, f"{mode}t", newline="", encoding=encoding))
    return open(name, mode, newline="", encoding=encoding)


def _read_arrow(name: str) -> Table:
    file = ArrowFile(name)
    rows = [(row, list(cells)) for row, cells in enumerate(zip(*file.texts(), strict=True))]
    return Table(Source(name, "row"), _named(file.columns), rows, tuple(file.categories()))


def _read_csv(name: str, delimiter: str | None, decimal: str | None) -> Table:
    rows: list[tuple[int, list[str]]] = []
    try:
        with open_text(name, "r") as file:
            header = file.readline()
            if delimiter is None:
                delimiter = max(_DELIMITERS, key=lambda one: len(next(csv.reader([header], delimiter=one), [])))
            reader = csv.reader(chain([header], file), delimiter=delimiter, strict=True)    # a pipe has no way back
            rows = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, EOFError, zlib.error) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise DataError(explain(f"Cannot read the file: {said}.", name, "Check the path.")) from None
    except UnicodeDecodeError as error:
        raise DataError(
            explain(f"The file is not UTF-8 text: {error.reason} at byte {error.start}.", name,
                    "Save it as UTF-8: \"CSV UTF-8\" in a spreadsheet, or iconv -f latin1 -t utf-8 OLD > NEW. The names of "
                    f"Parquet and Arrow files end in {', '.join(ARROW_ENDINGS)}.")
        ) from None
    except csv.Error as error:
        raise DataError(
            explain(f"The file is not well-formed CSV: {error}.", f"{name}:{reader.line_num}", "Check its quotes.")
        ) from None
    except TypeError as error:
        raise ArgumentError(explain(f"{error}.", f"delimiter={delimiter!r}", "Pass one character.")) from None
    if not rows:
        raise DataError(explain("The file is empty.", name, "It needs a header line and at least two rows."))
    (_, first), *rows = rows
    columns = _named(first)
    if all(is_number(cell) for cell in columns):
        raise DataError(
            explain("The first line holds numbers where the column names should be.", f"{name}:1",
                    "Add a header line that names the columns.")
        )
    for line, cells in rows:
        if len(cells) != len(columns):
            raise DataError(
                explain(f"Line {line} has {len(cells)} cells where the header has {len(columns)}.", f"{name}:{line}",
                        f"Quote cells that contain the delimiter (read with {delimiter!r}), and fill or remove short "
                        "rows.")
            )
    if decimal is None and delimiter != ",":
        texts = [cell for _, cells in rows for cell in cells]
        decimal = "," if any(map(_COMMA.fullmatch, texts)) and not any(map(_POINT.fullmatch, texts)) else "."
    if decimal == ",":
        rows = [(line, [cell.replace(",", ".") if _COMMA.fullmatch(cell) else cell for cell in cells])
                for line, cells in rows]
    return Table(Source(name), columns, rows)


_COMMA, _POINT = (re.compile(rf"\s*[+-]?\d*{mark}\d+(e[+-]?\d+)?\s*", re.IGNORECASE) for mark in (",", r"\."))


def _named(header: Sequence[str]) -> list[str]:
    # pandas leaves its index without a name, and a delimiter at the end of each line makes an empty column.
    return [cell.strip() or f"column {place}" for place, cell in enumerate(header, 1)]
