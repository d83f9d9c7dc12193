"""The pictures of the how-to pages, from what their own snippets computed: `python docs/gen_howto.py`.

It writes docs/assets/how-to/ and needs matplotlib and scikit-learn.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parent
BLUE, ORANGE = "#2f6db3", "#d9822b"


def computed(page: str) -> dict[str, Any]:
    """The variables that a page's snippets leave behind."""
    scope: dict[str, Any] = {}
    text = (DOCS / "how-to" / page).read_text(encoding="utf-8")
    for body in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(body, scope)
    return scope


def quantiles() -> Figure:
    """custom-loss.md: the points, the median and the 80% interval."""
    found = computed("custom-loss.md")
    figure = Figure(figsize=(6.0, 3.2), layout="constrained")
    axes = figure.subplots()
    order = np.argsort(found["X"])
    x = found["X"][order]
    shown = slice(None, None, 8)                              # an eighth of the points is enough to see, and a smaller file
    axes.plot(x[shown], found["Y"][order][shown], ".", color="grey", markersize=2)
    axes.fill_between(x[::20], found["low"][order][::20], found["high"][order][::20], color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(x[::20], found["middle"][order][::20], color=BLUE, linewidth=2)
    axes.set(xlabel="x", ylabel="y")
    return figure


def pixels() -> str:
    """pixel-fits.md: the true and the fitted map, written by hand: a square a pixel makes a large file otherwise."""
    found = computed("pixel-fits.md")
    side, color = 10, matplotlib.colormaps["viridis"]
    parts = []
    for left, title, rate in ((0, "true rate", found["true_rate"]), (200, "fitted rate", found["rate"])):
        parts.append(f'<text x="{left + 80}" y="14" text-anchor="middle">{title}</text>')
        for (row, column), value in np.ndenumerate(rate):
            shade = matplotlib.colors.to_hex(color((value - 0.3) / 1.4))
            parts.append(f'<rect x="{left + side * column}" y="{20 + side * row}" fill="{shade}"/>')
    return ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="-5 -5 370 190" font-family="sans-serif" font-size="12" '
            f'fill="grey"><style>rect {{ width: {side}px; height: {side}px }}</style>\n' + "\n".join(parts) + "\n</svg>\n")


def sweep() -> Figure:
    """sweeps.md: validation loss by learning rate."""
    found = computed("sweeps.md")
    figure = Figure(figsize=(6.0, 3.2), layout="constrained")
    axes = figure.subplots()
    rates = (0.1, 0.03, 0.01, 0.003)
    for (width, models), color in zip(found["swept"].items(), (ORANGE, BLUE), strict=True):
        losses = np.array([model.loss for model in models]).reshape(len(rates), -1)
        axes.plot(np.repeat(rates, losses.shape[1]), losses.ravel(), "o", color=color, markersize=4, alpha=0.7)
        axes.plot(rates, losses.min(axis=1), color=color, label=f"{width} neurons")
    axes.set(xscale="log", xlabel="learning rate", ylabel="validation loss")
    axes.legend()
    axes.grid(True, alpha=0.25)
    return figure


if __name__ == "__main__":
    matplotlib.rcParams.update({"svg.hashsalt": "jitgrad", "svg.fonttype": "none", "font.family": "sans-serif"})
    folder = DOCS / "assets" / "how-to"
    (folder / "pixels.svg").write_text(pixels(), encoding="utf-8")
    for name, draw in {"quantiles": quantiles, "sweep": sweep}.items():
        draw().savefig(folder / f"{name}.svg", metadata={"Date": None})
