"""Pictures of a training, drawn without a display."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from jitgrad.errors import ArgumentError, ShapeError, explain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jitgrad.train import Epoch

Array = npt.NDArray[Any]
Path = str | os.PathLike[str]

_BLUE, _ORANGE = "#2f6db3", "#d9822b"


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


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    # Without pyplot: no global state, no window, safe in any thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _write(figure: Figure, path: Path) -> None:
    """Draw in memory first, so that a failure leaves no half-written file."""
    name = os.fspath(path)
    kind = os.path.splitext(name)[1].lstrip(".").lower()
    if kind not in ("png", "svg", "pdf"):
        raise ArgumentError(
            explain("A picture's name must end in .png, .svg or .pdf.", f"path={name!r}", "Add one of these endings.")
        )
    picture = io.BytesIO()
    figure.savefig(picture, format=kind)
    with open(name, "wb") as file:
        file.write(picture.getvalue())
