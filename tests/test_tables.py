"""Tables in files of every kind: the same cells, the same data set, the same predictions; and files that are none."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from command import QUICK, run
from pyarrow import feather, parquet

import jitgrad
from jitgrad import data
from jitgrad.errors import ArgumentError, DataError, MissingPackageError
from jitgrad.tables import ENDINGS, read_table

pytestmark = pytest.mark.usefixtures("shell")


def frame(rows: int = 60) -> pd.DataFrame:
    """A column of each kind that a file has a type for, with gaps."""
    draw = np.random.default_rng(0)
    size = draw.normal(50, 9, rows)
    return pd.DataFrame({
        "size": np.where(np.arange(rows) % 7 == 3, np.nan, size),
        "rooms": draw.integers(1, 5, rows).astype(np.int8),
        "share": draw.uniform(size=rows).astype(np.float32),
        "town": draw.choice(["Bonn", "Ulm", None], rows),
        "garden": draw.choice([True, False], rows),
        "seen": pd.to_datetime("2024-01-31 12:00") + pd.to_timedelta(draw.integers(0, 99, rows), unit="h"),
        "built": pd.to_datetime("1970-01-01") + pd.to_timedelta(draw.integers(0, 9999, rows), unit="D"),
        "id": [f"H{k}" for k in range(rows)],
        "nothing": [None] * rows,
        "price": 9 * size + draw.normal(size=rows),
        "risk": draw.choice(["low", "high"], rows),
    })


def write_arrow(table: pd.DataFrame, path: Path) -> None:
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, arrow.schema) as writer:
        writer.write_table(arrow, max_chunksize=17)


WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".csv": lambda table, path: table.to_csv(path, index=False),
    ".csv.gz": lambda table, path: table.to_csv(path, index=False),
    ".tsv.gz": lambda table, path: table.to_csv(path, index=False, sep="\t"),
    ".parquet": lambda table, path: table.to_parquet(path, index=False, row_group_size=13),
    ".PARQUET": lambda table, path: parquet.write_table(pa.Table.from_pandas(table, preserve_index=False), path),
    ".feather": lambda table, path: feather.write_feather(pa.Table.from_pandas(table, preserve_index=False), str(path)),
    ".arrow": write_arrow,
}


def write(ending: str, table: pd.DataFrame | None = None, name: str = "table") -> Path:
    path = Path(name + ending)
    WRITERS[ending](frame() if table is None else table, path)
    return path


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("target", ["price", "risk"])
def test_a_table_is_the_same_data_set_in_every_kind_of_file(ending: str, target: str):
    expected, found = data.load_table(write(".csv"), target), data.load_table(write(ending), target)
    assert [column.kind for column in found.columns[:9]] == ["number", "number", "number", "category", "category", "date",
                                                             "date", "left out", "left out"]
    for field in fields(data.Dataset):
        if field.name != "name":
            np.testing.assert_equal(getattr(found, field.name), getattr(expected, field.name))


@pytest.mark.parametrize("ending", [".csv.gz", ".parquet", ".feather", ".arrow"])
def test_a_model_predicts_the_same_for_every_kind_of_file(ending: str):
    path, rows = write(ending), write(".csv")
    run("train", str(path), *QUICK, "--target", "risk", "--ignore", "price", "--out", "model")
    run("predict", "model", str(path), "--out", "found.csv")
    run("predict", "model", str(rows), "--out", "expected.csv.gz")
    found, expected = pd.read_csv("found.csv"), pd.read_csv("expected.csv.gz")
    assert list(found) == list(expected) == [*frame(), "predicted risk", "probability of high", "probability of low"]
    # What was carried along is a time of Arrow's or of pandas': 12:00:00 or 12:00:00.000000.
    pd.testing.assert_frame_equal(found.drop(columns=["seen", "built"]), expected.drop(columns=["seen", "built"]))
    record = json.loads(run("sweep", str(path), *QUICK, "--target", "risk", "--grid", "seed=0..1", "--json").stdout)
    assert record["best"]["dataset"] == path.name


def test_columns_that_a_file_calls_categories_are():
    codes = pd.DataFrame({"code": pd.Categorical([10, 20, 10, 30] * 5), "plan": pd.Categorical([0.5, 1.5] * 10),
                          "y": np.arange(20) / 7})
    path = write(".feather", codes)                         # Parquet keeps a category of texts, and makes numbers numbers
    assert data.load_table(path, "y").features == ("code=10", "code=20", "code=30", "plan=0.5", "plan=1.5")
    assert data.load_table(path, "plan").classes == ("0.5", "1.5")
    assert data.load_table(path, "plan", task="regression").classes == ()
    pl.DataFrame({"town": ["Ulm", "Bonn"] * 3, "y": [1.5, 2, 3, 4, 5, 6.5]}, schema_overrides={"town": pl.Categorical}
                 ).write_parquet("polars.parquet")
    assert data.load_table("polars.parquet", "y").features == ("town=Bonn", "town=Ulm")


def test_cells_of_other_types_are_text():
    arrow = pa.table({"list": [[1, 2], None], "record": [{"a": 1}, {"a": 2}], "bytes": [b"ab", b"\xff"],
                      "hour": pa.array([3600, 7200], pa.time32("s")), "price": pa.array(["1.50", "2.25"]).cast(
                          pa.decimal128(5, 2)), "when": pa.array([0, 86_400], pa.timestamp("s", "UTC")),
                      "flag": pa.array([True, None])})
    parquet.write_table(arrow, "odd.parquet")
    table = read_table("odd.parquet")
    assert [place for place, _ in table.rows] == [0, 1]
    assert dict(zip(table.header, table.rows[0][1], strict=True)) == {
        "list": "[1, 2]", "record": "{'a': 1}", "bytes": "b'ab'", "hour": "01:00:00.000", "price": "1.50",
        "when": "1970-01-01 00:00:00.000Z", "flag": "True"}
    assert [table.rows[1][1][place] for place in (0, 2, 6)] == ["", r"b'\xff'", ""]


@pytest.mark.parametrize(("ending", "where"), [(".csv", "table.csv:5: column 'size'"),
                                               (".parquet", "table.parquet: column 'size', row 3")])
def test_an_error_names_the_place_in_the_file(ending: str, where: str):
    table = pd.DataFrame({"size": ["1.5", "2.5", "3.5", "big", "4.5"], "y": [1.5, 2.5, 3.5, 4.5, 5.5]})
    with pytest.raises(DataError) as caught:
        data.load_table(write(ending, table), "y")
    line = "Line 5" if ending == ".csv" else "Row 3"
    assert str(caught.value).startswith(f"{line} has 'big' in column 'size', where numbers are wanted.\n    {where}\n")
    run("train", str(write(ending)), *QUICK, "--target", "risk", "--features", "town,rooms", "--out", "model")
    new = write(ending, pd.DataFrame({"town": ["Ulm", "Rome"], "rooms": [1, 2]}), "new")
    assert f"such as 'Rome' in {'line 3' if ending == '.csv' else 'row 1'}" in run("predict", "model", str(new)).stderr
    unknown = json.loads(run("predict", "model", str(new), "--json").stdout)["unknown"]
    assert unknown == {"town": [{"line" if ending == ".csv" else "row": 3 if ending == ".csv" else 1, "text": "Rome"}]}


def test_wrong_files():
    write(".csv")
    write(".parquet")
    Path("text.parquet").write_text("a,y\n1,2\n")
    Path("text.csv.gz").write_text("a,y\n1,2\n")
    Path("torn.csv.gz").write_bytes(gzip.compress(Path("table.csv").read_bytes())[:300])
    Path("misnamed.csv").write_bytes(Path("table.parquet").read_bytes())
    parquet.write_table(pa.table({"a": [1], "y": [2.5]}), "short.parquet")
    parquet.write_table(pa.table([[1, 2], [2.5, 3.5]], names=["y", "y"]), "twice.parquet")
    for name, says in {"absent.parquet": "Cannot read the file", "text.parquet": "no Parquet or Arrow file",
                       "text.csv.gz": "Cannot read the file: Not a gzipped file", "torn.csv.gz": "ended before the end",
                       "misnamed.csv": "Parquet and Arrow files end in .parquet", "short.parquet": "fewer than two rows",
                       "twice.parquet": "Column 2 is a second 'y'"}.items():
        with pytest.raises(DataError, match=says):
            data.load_table(name, "y")
    with pytest.raises(ArgumentError, match="for CSV files"):
        data.load_table("table.parquet", "price", delimiter=",")
    text = run("train", "table.parquet", status=2).output
    assert "A table needs --target COLUMN" in " ".join(text.replace("│", " ").split())
    run("train", "table.parquet", *QUICK, "--target", "price", "--out", "model")
    assert "--out is written as CSV" in run("predict", "model", "table.parquet", "--out", "new.parquet", status=2).output
    assert not Path("new.parquet").exists()


def test_without_pyarrow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    write(".parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for load in (data.load_table, data.open_table):
        with pytest.raises(MissingPackageError, match=r"pip install 'jitgrad\[arrow\]'"):
            load("table.parquet", "y")
    record = json.loads(run("train", "table.parquet", "--target", "y", "--json", status=1).stdout)
    assert record["error"]["type"] == "MissingPackageError"


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="standard input has no name here")
def test_a_table_may_come_through_a_pipe():
    text = write(".csv").read_text()
    code = "import sys; from jitgrad.tables import read_table; print(len(read_table(sys.argv[1]).rows))"
    done = subprocess.run([sys.executable, "-c", code, "/dev/stdin"], input=text, capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": str(Path(jitgrad.__file__).parents[1])})
    assert done.stdout == "60\n"


def test_every_ending_is_read_and_offered():
    assert {ending.lower() for ending in WRITERS} < set(ENDINGS)
    assert "DATA must be moons, digits or a file" in run("train", "table.xlsx", status=2).output.replace("\n", " ")
