"""Data sets: what they hold, how they are split, and every way a CSV file can be wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitgrad import columns, data
from jitgrad.errors import ArgumentError, DataError, MissingPackageError


def rows_of(dataset: data.Dataset) -> np.ndarray:
    """All inputs, the training part first."""
    return np.concatenate([dataset.train[0], dataset.test[0]])


# --- moons and digits --------------------------------------------------------------------------------------------------


def test_moons_are_scikit_learns_with_labels_for_a_hinge():
    from sklearn.datasets import make_moons

    moons = data.load_moons(n=100, noise=0.1, seed=3)
    inputs, half = make_moons(n_samples=100, noise=0.1, random_state=3)
    expected = {tuple(x): 2 * h - 1 for x, h in zip(inputs.tolist(), half.tolist(), strict=True)}
    for x, y in zip(rows_of(moons).tolist(), np.concatenate([moons.train[1], moons.test[1]]).tolist(), strict=True):
        assert expected.pop(tuple(x)) == y
    assert not expected
    assert (len(moons.train[1]), len(moons.test[1])) == (80, 20)
    assert moons.train[1].dtype == np.int64
    assert "100" not in repr(moons)
    assert "80 training and 20 held-out" in repr(moons)


@pytest.mark.parametrize("options", [{"n": 9}, {"n": 20.0}, {"n": True}, {"noise": -0.1}, {"noise": np.inf},
                                     {"seed": -1}, {"held_out": 1.0}, {"held_out": "a fifth"}])  # fmt: skip
def test_moons_refuse_options_out_of_range(options: dict[str, Any]):
    (name, value), = options.items()
    with pytest.raises(ArgumentError) as caught:
        data.load_moons(**options)
    assert f"{name}={value!r}" in str(caught.value)


def test_digits_are_the_1797_scaled_to_one():
    digits = data.load_digits()
    (inputs, targets), (held_inputs, held_targets) = digits.train, digits.test
    assert (inputs.shape, held_inputs.shape) == ((1437, 64), (360, 64))
    assert (inputs.min(), inputs.max()) == (0.0, 1.0)
    assert inputs.dtype == np.float64
    assert digits.classes == tuple("0123456789")
    assert set(targets.tolist()) == set(range(10))
    # The first image of scikit-learn's file is a zero; it is in one part, with its label.
    from sklearn.datasets import load_digits

    first = load_digits().data[0] / 16
    everything = np.concatenate([targets, held_targets])
    assert everything[(rows_of(digits) == first).all(axis=1)].tolist() == [0]


def test_a_split_is_fixed_stratified_and_a_partition():
    one, same, other = data.load_digits(), data.load_digits(), data.load_digits(seed=9)
    np.testing.assert_array_equal(one.test[0], same.test[0])
    assert not np.array_equal(one.test[0], other.test[0])
    everything = {row.tobytes() for row in rows_of(one)}
    assert everything == {row.tobytes() for row in rows_of(other)}
    assert len(everything) == 1797
    for digit in range(10):
        held, kept = (int((part[1] == digit).sum()) for part in (one.test, one.train))
        assert abs(held - 0.2 * (held + kept)) <= 1


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.0, 0.99), st.integers(0, 2**32 - 1), st.booleans()
)
def test_splits_of_any_labels_are_partitions(labels: list[int], held_out: float, seed: int, stratify: bool):
    targets = np.array(labels)
    train, test = data.split(targets, held_out, seed, stratify=stratify)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(len(labels)))
    assert len(train) >= 1
    if stratify:
        assert set(targets[train].tolist()) == set(labels)


# --- CSV files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str | bytes, name: str = "table.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


HOUSES = "rooms, size ,price\n" + "".join(f"{r},{s}e1,{100 * r + s / 7}\n" for r in range(1, 6) for s in range(4))


def test_a_regression_table_is_standardised_by_its_training_rows(write: Any):
    path = write(HOUSES)
    table = data.load_table(path, "price")
    assert (table.features, table.classes, table.name) == (("rooms", "size"), (), "table.csv")
    inputs, targets = table.train
    assert (len(targets), len(table.test[1])) == (16, 4)
    np.testing.assert_allclose(inputs.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(inputs.std(axis=0), 1.0)
    np.testing.assert_allclose([targets.mean(), targets.std()], [0.0, 1.0], atol=1e-12)
    # Undoing it gives the file's numbers, in the held-out rows as well.
    for x, y in (table.train, table.test):
        rooms, size = (x * table.std + table.mean).T
        np.testing.assert_allclose(y * table.target_std + table.target_mean, 100 * rooms + size / 70)
    raw = data.load_table(path, "price", standardise=False)
    np.testing.assert_allclose(raw.test[0], table.test[0] * table.std + table.mean)
    assert (raw.mean.tolist(), raw.std.tolist(), raw.target_std) == ([0.0, 0.0], [1.0, 1.0], 1.0)


def test_a_constant_column_is_centred_and_stays_finite(write: Any):
    table = data.load_table(write("a,b,y\n" + "0.1,%d,%d.5\n" * 6 % tuple(range(12))), "y")
    np.testing.assert_allclose(rows_of(table)[:, 0], 0.0, atol=1e-15)
    assert table.std[0] == 1.0


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (["cat", "dog", "cat", "ant"], ("ant", "cat", "dog")),
        (["10", "9", "10", "9"], ("9", "10")),  # by number, not by letter
        (["1", "-1", "1.0", "-1"], ("-1", "1")),
        (["0", "1", "unknown", "1"], ("0", "1", "unknown")),
        (["yes", "no", " yes ", "no"], ("no", "yes")),
        (["0.5", "1.5", "0.5", "1.5"], ()),
        ([str(k // 2) for k in range(40)], tuple(str(k) for k in range(20))),
        ([str(k // 2) for k in range(42)], ()),  # more than 20
        ([str(k) for k in range(6)], ()),  # each once: a measurement
        ([str(k % 3) for k in range(6)], ("0", "1", "2")),
    ],
)
def test_the_target_decides_between_classes_and_numbers(write: Any, cells: list[str], classes: tuple[str, ...]):
    path = write("x,y\n" + "".join(f"{k},{cell}\n" for k, cell in enumerate(cells)))
    table = data.load_table(path, "y", held_out=0.0, standardise=False)
    assert table.classes == classes
    inputs, targets = table.train
    if classes:
        assert targets.dtype == np.int64
        names = [cell.strip().removesuffix(".0") for cell in cells]
        assert [classes[k] for k in targets.tolist()] == [names[int(x)] for x in inputs[:, 0]]
    else:
        assert targets.tolist() == [float(cell) for cell in cells]
    assert table.test[0].shape == (0, 1)


def test_the_task_can_be_said(write: Any):
    path = write("x,y\n1,0\n2,1\n3,2\n4,1\n")
    assert data.load_table(path, "y", task="regression").classes == ()
    assert data.load_table(write("x,y\n1,0.5\n2,1.5\n3,0.5\n"), "y", task="classification").classes == ("0.5", "1.5")
    with pytest.raises(ArgumentError, match="task='ranking'"):
        data.load_table(path, "y", task="ranking")


def test_columns_can_be_chosen_and_others_may_then_hold_anything(write: Any):
    path = write("id,a,b,y\nx1,1,,0.5\nx2,2,oops,1.5\nx3,3,7,2.5\n")
    table = data.load_table(path, "y", features=["a"], standardise=False, held_out=0)
    assert table.features == ("a",)
    assert table.train[0].tolist() == [[1.0], [2.0], [3.0]]


def test_dialects_of_csv(write: Any):
    expected = data.load_table(write("a,y\n1,0.5\n2,1.5\n"), "y", held_out=0).train
    for text, delimiter in [
        (b"\xef\xbb\xbfa,y\r\n1,0.5\r\n2,1.5\r\n", ","),  # as Excel writes it
        ('"a","y"\n"1","0.5"\n\n2,1.5', ","),
        ("a;y\n1;0.5\n2;1.5\n", ";"),
        ("a\ty\n1\t 0.5\n 2\t1.5e0\n", "\t"),
        ("a;y\n1,0;0,5\n2;1,5e0\n", ";"),
        ("a|y\n1|.5\n2|1.5\n", "|"),
    ]:
        for said in (delimiter, None):
            found = data.load_table(write(text), "y", delimiter=said, held_out=0).train
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])


def test_a_decimal_comma_is_found_only_where_it_can_be_nothing_else(write: Any):
    both = write("a;y\n1,5;1\n2.5;0\n1.5;1\n3;0\n")
    with pytest.raises(DataError, match=r"'1,5' in column 'a', where numbers"):
        data.load_table(both, "y")
    read = data.load_table(both, "y", decimal=",", held_out=0, standardise=False)
    assert read.train[0].tolist() == [[1.5], [2.5], [1.5], [3.0]]
    quoted = write('a,y\n"1,5",1\n2,0\n3,1\n4,0\n')      # perhaps a thousand and five: the delimiter is a comma
    with pytest.raises(DataError, match="'1,5'"):
        data.load_table(quoted, "y")
    assert data.load_table(quoted, "y", decimal=",", held_out=0).train[0].shape == (4, 1)
    with pytest.raises(ArgumentError, match="decimal=';'"):
        data.load_table(both, "y", decimal=";")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ["empty"]),
        ("a,y\n", ["fewer than two rows"]),
        ("a,y\n1,2.5\n", ["fewer than two rows"]),
        ("a,y\n1,2.5\n3,\n", ["table.csv:3", "Line 3", "column 'y'", "no value"]),
        ("a,y\nNA,2.5\n ,4.5\n", ["'a' cannot be a feature", "no row has a value"]),
        ("a,y\nx1,2.5\nx2,4.5\n", ["'a' cannot be a feature", "2 different texts", "categories"]),
        ("a,y\n31.12.2024,2.5\n30.12.2024,4.5\n", ["2 different texts", "2024-12-31"]),
        ("a,y\n$5,2.5\n$7,4.5\n", ["2 different texts", "plain, as 1234.5"]),
        ("a,y\n1,2\n2,NA\n", ["table.csv:3", "Line 3", "column 'y'", "no value"]),
        ("a,y\n1,2.5\n3,nan\n", ["Line 3", "column 'y'", "no value"]),
        ("a,y\n1,2.5\n\n\ntwo,4.5\n", ["table.csv:5", "Line 5", "'two'", "column 'a'"]),
        ("a,y\n1,2.5\n1_000,4.5\n", ["Line 3", "'1_000'", "column 'a'"]),
        ("a,y\n1,2.5\n-inf,4.5\n", ["Line 3", "-inf", "column 'a'"]),
        ("a,y\n1,2.5\n2,3.5\n3,4,5\n", ["table.csv:4", "Line 4 has 3 cells", "header has 2", "read with ','"]),
        ("a,y\n1,2.5\n2\n", ["Line 3 has 1 cells", "header has 2"]),
        ("a,y\n1,2.5\n2,oops\n3,4.5\n", ["Line 3", "'oops'", "column 'y'"]),
        ("1,2.5\n2,3.5\n3,4.5\n", ["first line holds numbers", "header"]),
        ("a,a,y\n1,2,2.5\n2,3,4.5\n", ["Column 2 is a second 'a'"]),
        ("a,price\n1,2.5\n2,4.5\n", ["no column 'y'", "target", "a, price"]),
        ("a:y\n1:2.5\n2:4.5\n", ["no column 'y'", "delimiter"]),
        ("y\n2.5\n4.5\n", ["distinct columns other than the target"]),
        ("a,y\n1,cat\n2,cat\n", ["same class 'cat'", "two classes"]),
        ('a,y\n1,2.5\n"2,4.5\n', ["well-formed"]),
        (b"a,y\n1,2.5\n2,caf\xe9\n", ["UTF-8"]),
    ],
)
def test_a_wrong_file_is_an_error_that_says_where(write: Any, text: str | bytes, says: list[str]):
    with pytest.raises(DataError) as caught:
        data.load_table(write(text), "y")
    for part in says:
        assert part in str(caught.value)


def test_wrong_files_and_options(write: Any, tmp_path: Path):
    with pytest.raises(DataError, match="No such file"):
        data.load_table(tmp_path / "absent.csv", "y")
    with pytest.raises(DataError, match="directory"):
        data.load_table(tmp_path, "y")
    path = write("a,b,y\n1,2,2.5\n2,3,4.5\n")
    with pytest.raises(DataError, match=r"no column 'c' to use as features"):
        data.load_table(path, "y", features=["a", "c"])
    for features in ([], ["a", "a"], ["a", "y"]):
        with pytest.raises(DataError, match="distinct columns"):
            data.load_table(path, "y", features=features)
    with pytest.raises(ArgumentError, match="delimiter=';;'"):
        data.load_table(path, "y", delimiter=";;")


# --- columns --------------------------------------------------------------------------------------------------------------

MIXED = "town,built,size,code,id,y\n" + "".join(
    f"{'Bonn' if k % 3 else 'Ulm'},2024-01-{k + 1:02},{'' if k == 4 else k * 10},{k % 2},n{k},{k / 7}\n" for k in range(20))


def test_columns_are_numbers_dates_and_categories(write: Any):
    table = data.load_table(write(MIXED), "y", held_out=0, standardise=False)
    assert [(column.name, column.kind) for column in table.columns] == [
        ("town", "category"), ("built", "date"), ("size", "number"), ("code", "number"), ("id", "left out")]
    assert table.features == ("town=Bonn", "town=Ulm", "built", "size", "size missing", "code")
    inputs = table.train[0]
    np.testing.assert_array_equal(inputs[:, :2].sum(axis=1), 1.0)
    np.testing.assert_array_equal(np.diff(inputs[:, 2]), 1.0)  # days
    mean = np.mean([k * 10 for k in range(20) if k != 4])
    assert inputs[4].tolist() == [1.0, 0.0, 19723.0 + 4, mean, 1.0, 0.0]  # 2024-01-01 is day 19,723
    assert inputs[5, 3:5].tolist() == [50.0, 0.0]
    assert "20 different texts in 20 rows" in str(table.columns[-1])
    assert "1 missing in training rows, which take the mean" in str(table.columns[2])


def test_only_measurements_are_standardised(write: Any):
    table = data.load_table(write(MIXED), "y", held_out=0)
    assert table.std.tolist()[:2] == [1.0, 1.0]
    assert set(table.train[0][:, 0].tolist()) == set(table.train[0][:, 4].tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(table.train[0][:, [2, 3]].mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(table.train[0][4, 3], 0.0, atol=1e-12)


def test_a_column_without_a_name_is_called_by_its_place(write: Any):
    table = data.load_table(write(",a,y,\n0,5,1.5,\n1,7,2.5,\n2,6,2.0,\n"), "y", held_out=0)
    assert [(column.name, column.kind) for column in table.columns] == [
        ("column 1", "number"), ("a", "number"), ("column 4", "left out")]
    assert "counts the rows" in str(table.columns[0])


def test_columns_can_be_named_categories_or_ignored(write: Any):
    path = write(MIXED)
    table = data.load_table(path, "y", categories=["code"], ignore=["id", "built", "size"], held_out=0)
    assert table.features == ("town=Bonn", "town=Ulm", "code=0", "code=1")
    assert [column.name for column in table.columns] == ["town", "code"]
    with pytest.raises(DataError, match=r"'id' cannot be a feature: 20 different texts"):
        data.load_table(path, "y", features=["size", "id"])
    for option in ("ignore", "categories"):
        with pytest.raises(DataError, match=f"no column 'cod' to use as {option}"):
            data.load_table(path, "y", **{option: ["cod"]})


def test_what_is_learned_of_columns_is_learned_from_the_training_rows(write: Any):
    text = "town,size,y\n" + "".join(f"{'AB'[k % 2]},{k},{k / 3}\n" for k in range(30))
    train = data.load_table(write(text), "y").train[0]
    lines = text.splitlines()
    # The first held-out row gets a category of its own, and no size.
    every = data.load_table(write(text), "y", standardise=False)
    held = int(every.test[0][0, 2])
    lines[held + 1] = f"C,,{held / 3}"
    table = data.load_table(write("\n".join(lines) + "\n"), "y")
    assert table.features == every.features == ("town=A", "town=B", "size")
    np.testing.assert_array_equal(table.train[0], train)
    assert table.test[0][0].tolist() == [0.0, 0.0, 0.0]  # none of the towns, and the mean


@pytest.mark.parametrize(
    ("cells", "kind", "note"),
    [
        (["1", "2", "3", "4"], "number", "counts the rows"),
        (["1", "2", "4", "3"], "number", ""),
        (["a", "b", "a", "b"], "category", ""),
        (["a", "a", "a", "a"], "left out", "the same text"),
        (["a", "b", "a", "c"], "left out", "3 different texts"),
        (["a", "NA", "a", "b"], "left out", "2 different texts in 3 rows"),
        (["2024-01-01", "", "2024-01-01 12:00", "2024-01-03T00:00+02:00"], "date", "1 missing"),
        (["2024-01-01", "soon", "2024-01-01", "soon"], "category", ""),
        (["", "", " ", "?"], "left out", "no row has a value"),
    ],
)
def test_the_kind_of_a_column_follows_from_its_cells(cells: list[str], kind: str, note: str):
    column = columns.understand("c", list(enumerate(cells, 2)), np.arange(4), columns.Source("file.csv"))
    assert column.kind == kind
    assert note in column.note
    assert bool(note) == bool(column.note)
    numbers, unknown = column.inputs(list(enumerate(cells, 2)), columns.Source("file.csv"))
    assert numbers.shape == (4, len(column.features)) == (4, len(column.measures))
    assert np.isfinite(numbers).all()
    assert unknown == []
    assert columns.Column.read(json.loads(json.dumps(column.as_json()))) == column


CELLS = st.sampled_from(["", "NA", " ", "1", "-2.5", "3e2", "1_0", "inf", "a", "b ", " b", "é", "yes", "2024-02-29",
                         "2024-02-30"])  # fmt: skip


@given(st.lists(CELLS, min_size=1, max_size=30), st.data(), st.booleans())
def test_any_column_is_finite_numbers_or_an_error(texts: list[str], draw: st.DataObject, category: bool):
    cells = list(enumerate(texts, 2))
    training = np.array(sorted(draw.draw(st.sets(st.integers(0, len(texts) - 1), min_size=1))))
    column, said = None, ""
    try:
        column = columns.understand("c", cells, training, columns.Source("file.csv"), category)
    except DataError as error:
        said = str(error)
    if column is None:
        assert "column 'c'" in said
        return
    numbers, unknown = column.inputs(cells, columns.Source("file.csv"))
    assert numbers.shape == (len(texts), len(column.features))
    assert np.isfinite(numbers).all()
    learned = {texts[row].strip() for row in training}
    assert all(text not in learned for _, text in unknown)
    if column.kind == "category":
        assert set(column.levels) <= learned
        np.testing.assert_array_equal(numbers.sum(axis=1)[training], 1.0)  # a category or missing
    if column.gaps and column.kind != "left out":
        assert [texts[row].strip() in ("", "NA") for row in range(len(texts))] == (numbers[:, -1] == 1.0).tolist()
    assert columns.Column.read(json.loads(json.dumps(column.as_json()))) == column


def test_dates_are_days():
    assert columns.days("1970-01-02") == 1.0
    assert columns.days(" 1969-12-31 12:00 ") == -0.5
    assert columns.days("1970-01-01T01:00+01:00") == 0.0
    assert columns.days("1.1.1970") is None


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for load in (data.load_moons, data.load_digits):
        with pytest.raises(MissingPackageError, match="scikit-learn, which is not installed") as caught:
            load()
        assert "pip install scikit-learn" in str(caught.value)
        assert isinstance(caught.value, ModuleNotFoundError)
