"""Parquet and Arrow (Feather) files, a block of rows at a time: a row group of the one, a record batch of the other."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.errors import DataError, explain, require

ENDINGS = (".parquet", ".arrow", ".feather")

Array = npt.NDArray[Any]


class ArrowFile:
    """A file's columns, and the rows of each of its blocks.

    path: a Parquet file's ends in .parquet; any other is read as an Arrow file
    raises: MissingPackageError without pyarrow; DataError for a file that is not there, or none of these
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        require("pyarrow", "Parquet and Arrow files are read by pyarrow", "'jitgrad[arrow]'")
        import pyarrow as arrow
        from pyarrow import ipc, parquet

        self.path = Path(path)
        self._lock = threading.Lock()                       # a sweep's models read side by side
        try:
            if self.path.suffix.lower() == ".parquet":
                self._parquet = parquet.ParquetFile(self.path, memory_map=True)
                metadata, self._schema = self._parquet.metadata, self._parquet.schema_arrow
                self.sizes = [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]
            else:
                self._parquet, self._batches = None, ipc.open_file(arrow.memory_map(str(self.path)))
                self._schema = self._batches.schema
                self.sizes = [self._batches.get_batch(k).num_rows for k in range(self._batches.num_record_batches)]
        except OSError as error:
            raise DataError(explain(f"Cannot read the file: {error}.", str(path), "Check the path.")) from None
        except arrow.ArrowInvalid as error:
            raise DataError(explain(f"This is no Parquet or Arrow file: {error}.", str(path), "The name of a Parquet file "
                                    "ends in .parquet; any other is read as an Arrow (Feather) file.")) from None
        self.columns: list[str] = self._schema.names

    def numbers(self, block: int, names: Sequence[str]) -> dict[str, Array]:
        """Columns of a block as NumPy has them; a missing number is NaN."""
        found = self._read(block, names)
        return {name: np.asarray(found.column(name).to_numpy(zero_copy_only=False)) for name in names}

    def texts(self) -> list[list[str]]:
        """Every column as the text that a CSV file has for its cells, "" where one is missing."""
        blocks = [self._read(k, self.columns) for k in range(len(self.sizes))]
        return [[text for block in blocks for text in _texts(block.column(place))] for place in range(len(self.columns))]

    def categories(self) -> list[str]:
        """The columns that the file itself calls categories: those of a dictionary type."""
        from pyarrow import types

        return [field.name for field in self._schema if types.is_dictionary(field.type)]

    def _read(self, block: int, names: Sequence[str]) -> Any:
        if self._parquet is None:
            return self._batches.get_batch(block)
        with self._lock:
            return self._parquet.read_row_group(block, columns=list(names))


def _texts(column: Any) -> list[str]:
    import pyarrow as arrow
    from pyarrow import compute, types

    try:
        # "True", as pandas and Python write it; Arrow would write "true".
        found = (compute.if_else(column, "True", "False") if types.is_boolean(column.type)
                 else compute.cast(column, arrow.string())).to_pylist()
    except (arrow.ArrowNotImplementedError, arrow.ArrowInvalid):    # lists, records, bytes
        found = [None if cell is None else str(cell) for cell in column.to_pylist()]
    return ["" if text is None else text for text in found]
