"""Pictures: real PNGs of the promised content, made without a display, and never half-written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitgrad import plots
from jitgrad.errors import ArgumentError, ShapeError
from jitgrad.train import Epoch

POINTS = np.random.default_rng(0).normal(size=(60, 2))
LABELS = np.where(POINTS[:, 0] > 0, 1, -1)


def pixels(path: Path) -> np.ndarray:
    """A PNG's (height, width, 3) colours, 0 to 1."""
    from matplotlib.image import imread

    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return imread(path)[..., :3]


def test_a_loss_curve_is_a_picture(tmp_path: Path):
    path = tmp_path / "loss.png"
    plots.loss_curve([Epoch(k, 1.0 / k, 0.1, 10.0) for k in range(1, 50)], path, title="A title")
    picture = pixels(path)
    height, width, _ = picture.shape
    assert 400 < height < 1200 < 3 * width < 6000
    blue = (picture[..., 2] - picture[..., 0]) > 0.3
    columns = np.flatnonzero(blue.any(axis=0))
    assert columns[-1] - columns[0] > 0.6 * width  # the curve runs across
    heights = [np.flatnonzero(blue[:, c]).mean() for c in columns[:: len(columns) // 5][:5]]
    assert heights == sorted(heights)  # and falls (row 0 is the top)


def test_a_validation_loss_is_drawn_beside_the_loss(tmp_path: Path):
    history = [Epoch(k, 1.0 / k, 0.1, 10.0, 1.5 / k) for k in range(1, 50)]
    plots.loss_curve(history, tmp_path / "both.png")
    plots.loss_curve([epoch._replace(validation_loss=None) for epoch in history], tmp_path / "one.png")
    orange = [(picture[..., 0] - picture[..., 2] > 0.3).sum() for picture in map(pixels, tmp_path.glob("*.png"))]
    assert min(orange) == 0
    assert max(orange) > 200


def test_a_history_may_be_losses_alone_and_of_any_sign(tmp_path: Path):
    for name, losses in [("one", [1.0]), ("negative", [0.5, -0.5, -2.0]), ("zero", [1.0, 0.0])]:
        plots.loss_curve(losses, tmp_path / f"{name}.png")
        assert pixels(tmp_path / f"{name}.png").std() > 0.01


def test_a_decision_boundary_colours_both_sides(tmp_path: Path):
    path = tmp_path / "boundary.png"
    plots.decision_boundary(lambda x: 3 * x[:, 0], POINTS, LABELS, path)
    picture = pixels(path)
    height, width, _ = picture.shape
    left = picture[height // 4 : 3 * height // 4, width // 6 : width // 3].mean(axis=(0, 1))
    right = picture[height // 4 : 3 * height // 4, width // 2 : 2 * width // 3].mean(axis=(0, 1))
    assert left[0] > left[2] + 0.1  # orange: the class -1
    assert right[2] > right[0] + 0.1  # blue: the class +1


def test_a_score_of_one_sign_still_draws(tmp_path: Path):
    plots.decision_boundary(lambda x: np.ones(len(x)), POINTS, LABELS, tmp_path / "one.png")
    plots.decision_boundary(lambda x: np.zeros(len(x)), POINTS[:1], LABELS[:1], tmp_path / "zero.png")
    assert pixels(tmp_path / "one.png").shape == pixels(tmp_path / "zero.png").shape


@pytest.mark.parametrize(("ending", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")])
def test_the_ending_decides_the_format(tmp_path: Path, ending: str, start: bytes):
    path = tmp_path / f"loss.{ending}"
    plots.loss_curve([2.0, 1.0], str(path))
    assert path.read_bytes().startswith(start)


def test_wrong_input_is_named_and_leaves_no_file(tmp_path: Path):
    path = tmp_path / "picture.png"
    with pytest.raises(ArgumentError, match="empty"):
        plots.loss_curve([], path)
    with pytest.raises(ArgumentError, match=r"\.png"):
        plots.loss_curve([1.0], tmp_path / "picture.bmp")
    wrong: list[tuple[Any, Any]] = [(POINTS[:, :1], LABELS), (POINTS, LABELS[:-1]), (POINTS[:0], LABELS[:0])]
    for inputs, labels in wrong:
        with pytest.raises(ShapeError, match=r"\(n, 2\)"):
            plots.decision_boundary(lambda x: x[:, 0], inputs, labels, path)
    with pytest.raises(ShapeError, match="predict returned"):
        plots.decision_boundary(lambda x: x, POINTS, LABELS, path)

    def broken(x: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        plots.decision_boundary(broken, POINTS, LABELS, path)
    assert list(tmp_path.iterdir()) == []


def test_no_display_and_no_pyplot_are_needed(tmp_path: Path):
    code = (
        "import sys; from jitgrad import plots; assert 'matplotlib' not in sys.modules; "
        "plots.loss_curve([2.0, 1.0], sys.argv[1]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path / "loss.png")], check=True,
                   env={"PATH": "", "HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path), "MPLBACKEND": "tkagg"},
                   cwd=Path(__file__).parent.parent)  # fmt: skip
    assert pixels(tmp_path / "loss.png").size


PARAMS = {"W": np.arange(6.0).reshape(2, 3), "b": np.zeros(2)}


def test_histograms_have_a_row_a_leaf_and_a_column_a_tree(tmp_path: Path):
    both, one = tmp_path / "both.png", tmp_path / "one.png"
    plots.histograms({"weights": PARAMS, "gradients": {"W": -PARAMS["W"], "b": np.ones(2)}}, both)
    plots.histograms({"weights": PARAMS}, one)
    picture = pixels(both)
    blue = (picture[..., 2] - picture[..., 0]) > 0.3
    orange = (picture[..., 0] - picture[..., 2]) > 0.3
    half = picture.shape[1] // 2
    assert blue[:, :half].any()
    assert not blue[:, half:].any()
    assert orange[:, half:].any()
    assert not orange[:, :half].any()
    upper = picture.shape[0] // 2
    assert blue[:upper].any()
    assert blue[upper:].any()
    assert pixels(one).shape[1] < picture.shape[1]


def test_histograms_state_what_they_show(tmp_path: Path):
    odd = {"W": np.array([1.0, np.nan, 3.0, np.inf], np.float32), "b": 2.5, "none": np.array([np.nan])}
    path = tmp_path / "odd.svg"
    plots.histograms({"weights": odd, "gradients": odd}, path)
    text = path.read_text()
    for comment in ("W weights: mean 2, std 1, 2 not finite", "b gradients: mean 2.5, std 0",
                    "none weights: none finite, 1 not finite"):  # fmt: skip
        assert f"<!-- {comment}" in text
    plots.histograms({"weights": np.ones(4)}, path)
    assert "<!-- all weights: mean 1" in path.read_text()


def test_histograms_of_nothing_and_of_unlike_trees_are_refused(tmp_path: Path):
    path = tmp_path / "picture.png"
    wrong: list[Any] = [{}, {"weights": {}}, {"weights": [1.0] * 101}]
    for columns in wrong:
        with pytest.raises(ArgumentError):
            plots.histograms(columns, path)
    with pytest.raises(ShapeError, match="gradients"):
        plots.histograms({"weights": PARAMS, "gradients": [1.0]}, path)
    assert not path.exists()


def test_predictions_lie_on_the_line_where_they_are_right(tmp_path: Path):
    path = tmp_path / "predictions.png"
    numbers = np.linspace(0, 1, 50)
    plots.predictions(numbers, numbers, path)
    picture = pixels(path)
    rows, columns = np.nonzero((picture[..., 2] - picture[..., 0]) > 0.3)
    assert np.corrcoef(rows, columns)[0, 1] < -0.99  # rows count downwards
    with pytest.raises(ShapeError):
        plots.predictions(numbers, numbers[:-1], path)


def test_a_picture_is_the_same_file_every_time(tmp_path: Path):
    for ending in ("svg", "pdf", "png"):
        names = [tmp_path / f"{k}.{ending}" for k in range(2)]
        for name in names:
            plots.histograms({"weights": PARAMS}, name)
        assert names[0].read_bytes() == names[1].read_bytes()
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', (tmp_path / "0.svg").read_text())
    defined = re.findall(r' id="([^"]+)"', (tmp_path / "0.svg").read_text())
    assert set(used) <= set(defined)
    assert len(set(defined)) == len(defined)
