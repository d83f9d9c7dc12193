"""Pictures of a training, drawn without a display."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from jitgrad.arguments import as_array, flatten
from jitgrad.errors import ArgumentError, ShapeError, explain
from jitgrad.optim import leaf_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jitgrad.train import Epoch

Array = npt.NDArray[Any]
Path = str | os.PathLike[str]

_BLUE, _ORANGE = "#2f6db3", "#d9822b"
_MOST_BINS, _MOST_ROWS = 41, 100


def loss_curve(history: Sequence[Epoch] | Sequence[float], path: Path, title: str = "Training loss") -> None:
    """Write a picture of the loss per epoch.

    history: `FitResult.history`, or the losses themselves; the first is epoch 1. A validation loss is drawn beside it
    path: the file to write; its ending (.png, .svg, .pdf) decides the format
    raises: ArgumentError for an empty history or an unknown format
    """
    losses = np.array([getattr(epoch, "loss", epoch) for epoch in history], dtype=np.float64)
    if losses.size == 0:
        raise ArgumentError(explain("There is no loss to draw.", "history is empty", "Pass the history of a training."))
    figure, axes = _figure(6.4, 4.0)
    marker = "o" if len(losses) <= 30 else ""
    axes.plot(np.arange(1, len(losses) + 1), losses, color=_BLUE, linewidth=2.0, marker=marker, markersize=4)
    if losses.min() > 0 and losses.max() > 10 * losses.min():
        axes.set_yscale("log")
    validation = np.array([np.nan if (found := getattr(epoch, "validation_loss", None)) is None else found
                           for epoch in history], dtype=np.float64)
    if not np.isnan(validation).all():
        axes.plot(np.arange(1, len(losses) + 1), validation, color=_ORANGE, linewidth=2.0, label="validation")
        axes.lines[0].set_label("training")
        axes.legend()
    axes.margins(x=0.02)
    axes.annotate(
        f"{losses[-1]:.4g}", (1.0, losses[-1]), xycoords=("axes fraction", "data"), xytext=(5, 0),
        textcoords="offset points", va="center", color=_BLUE,
    )
    axes.set(title=title, xlabel="epoch", ylabel="mean loss per example")
    axes.grid(True, which="both", alpha=0.25)
    _write(figure, path)


def decision_boundary(
    predict: Callable[[Array], Array],
    inputs: Array,
    labels: Array,
    path: Path,
    title: str = "Decision boundary",
    features: tuple[str, str] = ("x1", "x2"),
    classes: tuple[str, str] = ("-1", "+1"),
) -> None:
    """Write a picture of a binary classifier's score over the plane, with the examples on it.

    predict: (m, 2) inputs -> (m,) scores, positive for the class +1; the line is where the score is zero
    inputs: (n, 2); labels: (n,), positive for one class and not for the other
    features: the axes' names; classes: the names of the negative and of the positive class
    raises: ShapeError when the inputs are not pairs or predict returns another shape; ArgumentError as `loss_curve`
    """
    from matplotlib.colors import LinearSegmentedColormap

    inputs, labels = np.asarray(inputs, dtype=np.float64), np.asarray(labels)
    if inputs.ndim != 2 or inputs.shape[1] != 2 or labels.shape != inputs.shape[:1] or not len(inputs):
        raise ShapeError(
            explain(
                f"A decision boundary needs inputs (n, 2) and labels (n,), not {inputs.shape} and {labels.shape}.",
                None,
                "Pick two of the features.",
            )
        )
    low, high = inputs.min(axis=0), inputs.max(axis=0)
    margin = 0.12 * np.maximum(high - low, 1e-9)
    x1, x2 = np.meshgrid(*(np.linspace(a, b, 200) for a, b in zip(low - margin, high + margin, strict=True)))
    points = np.column_stack([x1.ravel(), x2.ravel()]).astype(inputs.dtype)
    scores = np.asarray(predict(points), dtype=np.float64)
    if scores.shape != (len(points),):
        raise ShapeError(
            explain(f"predict returned shape {scores.shape} for {len(points)} points.", None,
                    "Return one score a point.")
        )
    # The margins of a hinge loss lie at -1 and +1: within them the colour shows how sure the model is.
    surface = np.clip(scores, -2.0, 2.0).reshape(x1.shape)
    figure, axes = _figure(6.4, 5.0)
    colors = LinearSegmentedColormap.from_list("margin", [_ORANGE, "#ffffff", _BLUE])
    filled = axes.contourf(x1, x2, surface, levels=np.linspace(-2.0, 2.0, 17), cmap=colors, alpha=0.6)
    bar = figure.colorbar(filled, ax=axes, ticks=[-2, -1, 0, 1, 2])
    bar.set_label("score (clipped to [-2, 2])")
    if surface.min() < 0.0 < surface.max():
        axes.contour(x1, x2, surface, levels=[0.0], colors="black", linewidths=1.8)
    for positive, color, symbol, name in ((True, _BLUE, "o", classes[1]), (False, _ORANGE, "s", classes[0])):
        chosen = inputs[(labels > 0) == positive]
        axes.scatter(
            chosen[:, 0], chosen[:, 1], s=16, c=color, marker=symbol, edgecolors="white", linewidths=0.5, label=name
        )
    axes.set(title=title, xlabel=features[0], ylabel=features[1])
    axes.legend(title="label", loc="best", framealpha=0.9)
    _write(figure, path)


def histograms(columns: Mapping[str, Any], path: Path, title: str = "Parameters") -> None:
    """Write histograms of each layer's numbers: a row a leaf, a column a tree.

    columns: pytrees of one structure under their headings, for example {"weights": params, "gradients": grads}
    raises: ArgumentError where there is nothing to draw, for more than 100 leaves or an unknown format; ShapeError for
        trees of different structures
    """
    if not columns:
        raise ArgumentError(explain("There are no numbers to draw.", "columns is empty", "Pass {'weights': params}."))
    flat = [flatten(tree) for tree in columns.values()]
    structure = flat[0][1]
    for heading, (_, other) in zip(columns, flat, strict=True):
        if other != structure:
            raise ShapeError(explain(f"{heading!r} has another structure than the first column.", f"{other}",
                                     f"Pass trees of the structure {structure}."))
    rows = len(flat[0][0])
    if not 1 <= rows <= _MOST_ROWS:
        raise ArgumentError(explain(f"Histograms are drawn of 1 to {_MOST_ROWS} leaves.", f"there are {rows}",
                                    "Pass a part of the tree."))
    names = [leaf_path("", structure, row).strip("[]'\"") or "all" for row in range(rows)]
    figure, axes = _figure(max(3.2 * len(columns), 4.0), 0.6 + 1.5 * rows, (rows, len(columns)))
    for column, (heading, (leaves, _)) in enumerate(zip(columns, flat, strict=True)):
        for row, leaf in enumerate(leaves):
            numbers = np.asarray(as_array(leaf, lambda row=row: names[row]), np.float64).ravel()  # type: ignore[misc]
            finite = numbers[np.isfinite(numbers)]
            here = axes[row, column]
            here.hist(finite, color=(_BLUE, _ORANGE)[column % 2], **_bins(finite))
            here.axvline(0.0, color="black", linewidth=0.6, alpha=0.5)
            lost = f", {len(numbers) - len(finite)} not finite" if len(finite) < len(numbers) else ""
            shown = f"mean {finite.mean():.2g}, std {finite.std():.2g}" if len(finite) else "none finite"
            here.set_title(f"{names[row]} {heading}: {shown}{lost}", fontsize=7, loc="left")
            here.tick_params(labelsize=6)
            here.xaxis.get_offset_text().set_fontsize(6)
            here.locator_params(axis="x", nbins=5)
            here.locator_params(axis="y", nbins=3, integer=True)
    figure.suptitle(title, fontsize=10)
    _write(figure, path)


def _bins(numbers: Array) -> dict[str, Any]:
    """How to bin numbers: twice the cube root of their count (Rice's rule); one bar in the middle where all are equal."""
    if numbers.size and numbers.min() == numbers.max():
        around = abs(numbers[0]) / 2 or 1.0
        return {"bins": _MOST_BINS, "range": (numbers[0] - around, numbers[0] + around)}
    return {"bins": min(_MOST_BINS, max(8, round(2 * numbers.size ** (1 / 3))))}


def predictions(targets: Array, predicted: Array, path: Path, title: str = "Predictions", unit: str = "target") -> None:
    """Write a picture of predicted numbers over true ones, with the line on which they are equal.

    targets, predicted: (n,) numbers
    raises: ShapeError for other shapes, ArgumentError for an unknown format
    """
    targets, predicted = np.asarray(targets), np.asarray(predicted)
    if targets.ndim != 1 or targets.shape != predicted.shape or not targets.size:
        raise ShapeError(explain("Predictions are drawn of two vectors of one length.",
                                 f"targets {targets.shape}, predicted {predicted.shape}", "Pass one number an example."))
    figure, axes = _figure(4.8, 4.4)
    ends = [min(targets.min(), predicted.min()), max(targets.max(), predicted.max())]
    axes.plot(ends, ends, color="black", linewidth=1.0, alpha=0.6)
    axes.scatter(targets, predicted, s=10, c=_BLUE, alpha=0.6, edgecolors="none")
    axes.set(title=title, xlabel=unit, ylabel=f"predicted {unit}")
    axes.grid(True, alpha=0.25)
    _write(figure, path)


def _figure(width: float, height: float, grid: tuple[int, int] | None = None) -> tuple[Figure, Any]:
    """A figure and its axes: one, or an array of a grid of them."""
    # Without pyplot: no global state, no window, safe in any thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots() if grid is None else figure.subplots(*grid, squeeze=False)


def _write(figure: Figure, path: Path) -> None:
    """Draw in memory first, so that a failure leaves no half-written file."""
    name = os.fspath(path)
    kind = os.path.splitext(name)[1].lstrip(".").lower()
    if kind not in ("png", "svg", "pdf"):
        raise ArgumentError(
            explain("A picture's name must end in .png, .svg or .pdf.", f"path={name!r}", "Add one of these endings.")
        )
    picture = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    figure.savefig(picture, format=kind, metadata=undated[kind])
    drawn = picture.getvalue()
    with open(name, "wb") as file:
        file.write(_renamed(drawn) if kind == "svg" else drawn)


def _renamed(svg: bytes) -> bytes:
    """An SVG whose random identifiers are numbered instead, so that the same picture is the same file."""
    identifiers = dict.fromkeys(re.findall(rb' id="([a-zA-Z]+[0-9_]*[0-9a-f]{10})"', svg))
    number = {name: b"shape%d" % k for k, name in enumerate(identifiers)}
    if not number:
        return svg
    return re.sub(rb'(?<=[#"])(' + b"|".join(number) + rb')(?=[")])', lambda found: number[found[1]], svg)
