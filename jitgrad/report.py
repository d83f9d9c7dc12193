"""One HTML file about a finished training: data, settings, results, pictures, and the program that was trained.

Everything is in the file, pictures included; it loads nothing. The same `Training` gives the same bytes.
"""

from __future__ import annotations

import base64
import html
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from jitgrad import backends, optim, plots
from jitgrad.api import value_and_grad
from jitgrad.drawing import draw
from jitgrad.errors import ArgumentError, explain
from jitgrad.lowered import Lowered
from jitgrad.recipes import Training, class_indices

_MOST_FEATURES, _MOST_CLASSES, _MOST_ROWS = 40, 20, 12
_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
# Of each device, the packages whose version decides what was computed.
_PACKAGES = {"cpu": ["llvmlite", "numba"], "cuda": ["llvmlite", "numba", "numba-cuda"], "jax": ["jax", "jaxlib"]}
_STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; color: #222;
       background: #fff }
h1 { margin-bottom: 0 }
h2 { margin-top: 2.2rem; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; margin: .6rem 0 }
th, td { padding: .15rem .7rem; text-align: left; border-bottom: 1px solid #e5e5e5 }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
td.hit { background: #e3f1df }
img { max-width: 100% }
.wide { overflow-x: auto }
pre { overflow-x: auto; background: #f6f6f6; padding: .6rem; font-size: 12px }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem; margin: 1rem 0 }
.figures b { display: block; font-size: 1.6rem }
"""


def check_name(path: str | os.PathLike[str]) -> str:
    """The file's name, its folder made if need be; raises ArgumentError unless it ends in .html, OSError as Python does."""
    name = os.fspath(path)
    if os.path.splitext(name)[1].lower() not in (".html", ".htm"):
        raise ArgumentError(explain("A report's name must end in .html.", f"path={name!r}", "Add the ending."))
    if folder := os.path.dirname(name):
        os.makedirs(folder, exist_ok=True)
    return name


def write(training: Training, path: str | os.PathLike[str]) -> str:
    """Write the report of a training; returns the file's name.

    path: an .html file; its folder is made if need be
    raises: ArgumentError for another ending
    """
    name = check_name(path)
    text = page(training)                                           # before the file is opened: it may fail
    with open(name, "w", encoding="utf-8") as file:
        file.write(text)
    return name


def page(training: Training) -> str:
    """The report of a training as the text of an HTML page."""
    data, result = training.dataset, training.result
    step = value_and_grad(training.objective, device=training.recipe.device)
    lowered = step.lower(result.params, *training.examples)
    _, gradient = step(result.params, *training.examples)
    network = f"{'-'.join(map(str, training.layers))} network"
    shown = [*((_metric_name(name), _metric(name, value)) for name, value in training.metrics.items()),
             ("final training loss", f"{result.losses[-1]:.4g}"), ("training time", f"{result.seconds:.2f} s"),
             ("examples a second", f"{result.examples_per_second:,.0f}")]
    figures = "".join(f"<div><b>{_text(value)}</b>{_text(name)}</div>" for name, value in shown)
    parts = [
        f"<h1>{_text(data.name)}</h1>\n<p>{_text(network)}, {_text(training.loss)} loss</p>",
        f'<div class="figures">{figures}</div>',
        _section("Data", _data(training)),
        _section("Settings", _settings(training)),
        _section("Loss", _loss(training)),
        _section("Results", _results(training)),
        _section("Weights and gradients", _image(
            lambda file: plots.histograms({"weights": result.params, "gradients": gradient}, file,
                                          "Weights, and the gradient of the mean loss over the training examples"),
            ".svg", "Histograms of each layer's weights and gradients")),
        _section("Program", _program(lowered)),
        _section("Versions", _versions(lowered.device)),
    ]
    return ('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{_text(data.name)}: {_text(network)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
            + "\n".join(parts) + "\n</body>\n</html>\n")


def _data(training: Training) -> str:
    data = training.dataset
    counts = (f"<p>{len(data.train[1]):,} training and {len(data.test[1]):,} held-out examples of {len(data.features)} "
              f"features.</p>")
    rows = [(name, f"{mean:.4g}", f"{std:.4g}") for name, mean, std in
            zip(data.features, data.mean.tolist(), data.std.tolist(), strict=True)][:_MOST_FEATURES]
    features = _table(("feature", "mean", "standard deviation"), rows)
    if len(data.features) > _MOST_FEATURES:
        features += f"<p>and {len(data.features) - _MOST_FEATURES} more</p>"
    if bool(np.all(data.std == 1.0) and np.all(data.mean == 0.0)):
        features = f"<p>Not standardised: {_text(_some(data.features))}.</p>"
    if not data.classes:
        return counts + features + (f"<p>The target has mean {data.target_mean:.4g} and standard deviation "
                                    f"{data.target_std:.4g} among the training examples.</p>")
    of_class = [np.bincount(class_indices(targets).astype(np.int64), minlength=len(data.classes)).tolist()
                for targets in (data.train[1], data.test[1])]
    rows = [(name, f"{a:,}", f"{b:,}") for name, a, b in zip(data.classes, *of_class, strict=True)]
    return counts + features + _table(("class", "training", "held out"), rows)


def _settings(training: Training) -> str:
    hidden = ", ".join(map(str, training.recipe.hidden)) or "none"
    recipe = asdict(training.recipe) | {"loss": training.loss, "hidden": hidden}
    rows = [(name.replace("_", " "), "all examples" if name == "batch_size" and value is None else str(value))
            for name, value in recipe.items()]
    parameters = sum(int(np.size(leaf)) for leaf in training.result.params.values())
    rows += [("optimizer", repr(optim.adam(training.recipe.learning_rate))), ("steps", f"{training.result.steps:,}"),
             ("parameters", f"{parameters:,}")]
    return _table(("setting", ""), rows, numbers=False)


def _loss(training: Training) -> str:
    history = training.result.history
    picture = _image(lambda file: plots.loss_curve(history, file, "Mean loss of an epoch"), ".svg", "Loss by epoch")
    chosen = sorted({round(k) for k in np.linspace(0, len(history) - 1, min(_MOST_ROWS, len(history)))})
    rows = [(str(epoch.epoch), f"{epoch.loss:.5g}", f"{epoch.seconds:.3g}", f"{epoch.examples_per_second:,.0f}")
            for epoch in (history[k] for k in chosen)]
    return picture + _table(("epoch", "loss", "seconds", "examples a second"), rows)


def _results(training: Training) -> str:
    data = training.dataset
    inputs, targets = training.held_out()
    part = "held-out" if len(data.test[1]) else "training"
    found = _table(("measure", ""), [(_metric_name(name), _metric(name, value)) for name, value in training.metrics.items()])
    if not data.classes:
        unit = data.target_std, data.target_mean
        predicted = training.predict(inputs)[:, 0].astype(np.float64) * unit[0] + unit[1]
        return found + _image(lambda file: plots.predictions(targets * unit[0] + unit[1], predicted, file,
                                                             f"Predictions for the {part} examples"),
                              ".png", "Predicted over true numbers")
    if len(data.classes) <= _MOST_CLASSES:
        found += f"<p>The {part} examples by class (rows) and by what was predicted (columns):</p>" + _confusion(
            data.classes, class_indices(targets), training.predicted_classes(inputs))
    if training.has_boundary:
        found += _image(training.draw_boundary, ".png", "Decision boundary")
    return found


def _confusion(classes: Sequence[str], true: Any, predicted: Any) -> str:
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (true.astype(np.int64), predicted.astype(np.int64)), 1)
    head = "".join(f'<th class="n">{_text(name)}</th>' for name in classes)
    lines = [f'<div class="wide"><table><tr><th></th>{head}<th class="n">right</th></tr>']
    for row, name in enumerate(classes):
        cells = "".join(f'<td class="n{" hit" if row == column else ""}">{count}</td>'
                        for column, count in enumerate(counts[row].tolist()))
        total = int(counts[row].sum())
        right = f"{counts[row, row] / total:.1%}" if total else "none"
        lines.append(f'<tr><th>{_text(name)}</th>{cells}<td class="n">{right}</td></tr>')
    return "\n".join([*lines, "</table></div>"])


def _program(lowered: Lowered) -> str:
    cost = lowered.cost_analysis()
    rows = [("device", lowered.device), ("precision", str(lowered.program.dtype)),
            ("nodes of the loss", f"{len(lowered.program.graph.nodes):,}"),
            ("instructions, gradient included", f"{cost['instructions']:,}"),
            ("scalar operations an example", f"{cost['flops']:,}"), ("bytes moved an example", f"{cost['bytes']:,}")]
    rows += [(name, str(cost[name])) for name in ("registers", "spills") if cost[name] is not None]
    try:
        drawing = draw(lowered, "tape", layout="own")
        # The objective is one of recipes.py's: the user's line, which a box quotes, would be the line that asked for this.
        drawing = replace(drawing, boxes=[replace(box, note="") for box in drawing.boxes])
        picture = f'<div class="wide">{drawing.svg}</div>'
    except ArgumentError as too_large:
        picture = f"<p>{_text(str(too_large).splitlines()[0])}</p>"
    return (_table(("program", ""), rows) + "<p>Its instructions: each computes its rows of numbers for one example. "
            f"Yellow: the loss; pink: the gradient.</p>{picture}\n<details><summary>The tape as text</summary>\n"
            f"<pre>{_text(lowered.as_text('tape'))}</pre></details>")


def _versions(device: str) -> str:
    detail = next(d.detail for d in backends.devices() if d.name == device)
    rows = [("python", platform.python_version()), ("system", f"{platform.system()} {platform.machine()}"),
            ("device", f"{device}: {detail}")]
    for package in ("jitgrad", "numpy", *_PACKAGES.get(device, []), "matplotlib"):
        try:
            rows.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:             # a checkout of jitgrad that was never installed
            rows.append((package, "not installed"))
    return _table(("version", ""), rows, numbers=False)


def _image(draw_into: Callable[[str], None], ending: str, what: str) -> str:
    """An <img> that carries the picture that `draw_into` writes to a file of this ending."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, f"picture{ending}")
        draw_into(file)
        with open(file, "rb") as opened:
            encoded = base64.b64encode(opened.read()).decode("ascii")
    return f'<img alt="{_text(what)}" src="data:{_TYPES[ending]};base64,{encoded}">'


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>\n{body}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> str:
    """A table whose first column holds names, and the others numbers or text."""
    mark = ' class="n"' if numbers else ""
    lines = ["<table>"]
    for kind, row in [("th", head), *(("td", row) for row in rows)]:
        cells = "".join(f"<{kind}{mark if k else ''}>{_text(cell)}</{kind}>" for k, cell in enumerate(row))
        lines.append(f"<tr>{cells}</tr>")
    return "\n".join([*lines, "</table>"])


def _metric_name(name: str) -> str:
    return name.replace("test_", "held-out ").replace("train_", "training ")


def _metric(name: str, value: float) -> str:
    return f"{value:.1%}" if name.endswith("accuracy") else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_FEATURES} more" if len(names) > _MOST_FEATURES else ""
    return ", ".join(names[:_MOST_FEATURES]) + more


def _text(text: str) -> str:
    return html.escape(text)
