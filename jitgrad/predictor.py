"""A trained multilayer perceptron with all that it takes to predict from new rows, in one file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from jitgrad import checkpoint
from jitgrad import metrics as measures
from jitgrad.api import jit
from jitgrad.columns import LEFT_OUT, NUMBER, Cell, Column, is_missing, is_number, number
from jitgrad.data import Dataset
from jitgrad.errors import CheckpointError, DataError, DtypeError, ShapeError, explain
from jitgrad.layers import ACTIVATIONS, named
from jitgrad.tables import Table, read_table

Array = npt.NDArray[Any]
Params = dict[str, Array]


def network(depth: int, activation: str) -> Callable[[Any, Any], Any]:
    """scores(params, x) of one example for `depth` layers W1, b1, W2, …, with the activation after all but the last.

    Raises ArgumentError for an activation that is none of `nn.ACTIVATIONS`.
    """
    activate = named("activation", activation, ACTIVATIONS)

    def scores(params: Params, x: Array) -> Array:
        hidden = x
        for layer in range(1, depth):
            hidden = activate(params[f"W{layer}"] @ hidden + params[f"b{layer}"])
        return params[f"W{depth}"] @ hidden + params[f"b{depth}"]

    return scores


class Predictions(NamedTuple):
    """What a model says of rows.

    values: (n,) the numbers, or the names of the classes
    probabilities: (n, classes) in the order of `Predictor.classes`; None for a number, and where the loss was not a
        cross-entropy
    unknown: by column, the cells that hold a category the training never met; it counts as none
    metrics: where every row has the target too, "accuracy", or "rmse" in the target's own unit; else empty
    """

    table: Table
    target: str
    classes: tuple[str, ...]
    values: Array
    probabilities: Array | None
    unknown: dict[str, list[Cell]]
    metrics: dict[str, float]

    def csv(self) -> str:
        """The table as CSV text with columns added: the prediction, and a probability for each class."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        added = [f"predicted {self.target}"]
        if self.probabilities is not None:
            added += [f"probability of {name}" for name in self.classes]
        writer.writerow([*self.table.header, *added])
        chances = self.probabilities if self.probabilities is not None else np.zeros((len(self.values), 0))
        for (_, cells), value, row in zip(self.table.rows, self.values.tolist(), chances.tolist(), strict=True):
            shown = value if self.classes else f"{value:.7g}"
            writer.writerow([*cells, shown, *(f"{chance:.6f}" for chance in row)])
        return text.getvalue()


@dataclass(frozen=True)
class Predictor:
    """A trained network, from a row of a table to a prediction.

    params: W1 (layers[1], layers[0]), b1 (layers[1],), …; layers: widths from the inputs to the outputs
    features, mean, std, classes, target, target_mean, target_std, columns: as of the `Dataset` it was trained on
    """

    params: Params
    layers: tuple[int, ...]
    activation: str
    loss: str
    features: tuple[str, ...]
    mean: Array
    std: Array
    classes: tuple[str, ...]
    target: str
    target_mean: float
    target_std: float
    columns: tuple[Column, ...]
    device: str = "auto"

    @staticmethod
    def of(dataset: Dataset, params: Params, layers: tuple[int, ...], activation: str, loss: str, device: str) -> Predictor:
        """The model of a network trained on `dataset`."""
        columns = dataset.columns or tuple(Column(name, NUMBER, mean) for name, mean in
                                           zip(dataset.features, dataset.mean.tolist(), strict=True))
        return Predictor(params, layers, activation, loss, dataset.features, dataset.mean, dataset.std, dataset.classes,
                         dataset.target, dataset.target_mean, dataset.target_std, columns, device)

    def outputs(self, inputs: Array) -> Array:
        """The network's outputs (n, outputs) for standardised inputs (n, features)."""
        dtype = next(iter(self.params.values())).dtype
        scores = network(len(self.layers) - 1, self.activation)
        forward = jit(lambda params, x: list(scores(params, x)), in_axes=(None, 0), reduce=None, device=self.device)
        return np.stack(forward(self.params, np.asarray(inputs).astype(dtype)), axis=1)

    def predict(self, raw: Any) -> Array:
        """What is predicted for features as they are measured, (n, features): (n,) numbers, or names of classes.

        raises: ShapeError, DtypeError
        """
        try:
            raw = np.asarray(raw, np.float64)
        except (TypeError, ValueError) as error:
            raise DtypeError(explain(f"The model takes {len(self.features)} numbers an example: {error}.", None,
                                     f"They are: {', '.join(self.features)}. A table in a file goes to predict_table."
                                     )) from None
        if raw.ndim != 2 or raw.shape[1] != len(self.features):
            raise ShapeError(explain(f"The model takes {len(self.features)} features, a row an example.",
                                     f"an array of shape {raw.shape}", f"They are: {', '.join(self.features)}."))
        return self._values(self.outputs((raw - self.mean) / self.std))

    def predict_table(self, path: str | os.PathLike[str], delimiter: str | None = None,
                      decimal: str | None = None) -> Predictions:
        """What is predicted for each row of a file, which may have other columns too.

        delimiter, decimal: as in `load_table`, which says what files there are
        raises: DataError for a column that is not there, or holds what the training's did not
        """
        table = read_table(path, delimiter, decimal, least=1)
        used = [column for column in self.columns if column.kind != LEFT_OUT]
        lacking = [column.name for column in used if column.name not in table.header]
        if lacking:
            raise DataError(explain(
                f"The model was trained with {'columns' if len(lacking) > 1 else 'a column'} that the file does not have: "
                f"{', '.join(lacking)}.", table.source.header, f"The file's columns are: {', '.join(table.header)}."))
        parts, unknown = [], {}
        for column in used:
            numbers, new = column.inputs(table.column(column.name), table.source)
            parts.append(numbers)
            if new:
                unknown[column.name] = new
        outputs = self.outputs((np.concatenate(parts, axis=1) - self.mean) / self.std)
        values = self._values(outputs)
        return Predictions(table, self.target, self.classes, values, self._probabilities(outputs), unknown,
                           self._measured(table, values))

    def _values(self, outputs: Array) -> Array:
        if not self.classes:
            return cast(Array, outputs[:, 0].astype(np.float64) * self.target_std + self.target_mean)
        return np.array(self.classes)[predicted_classes(outputs)]

    def _probabilities(self, outputs: Array) -> Array | None:
        if self.loss not in ("cross_entropy", "binary_cross_entropy"):
            return None
        logits = outputs.astype(np.float64)
        if logits.shape[1] == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return cast(Array, powers / powers.sum(axis=1, keepdims=True))

    def _measured(self, table: Table, values: Array) -> dict[str, float]:
        cells = table.column(self.target) if self.target in table.header else []
        usable = (lambda text: not is_missing(text)) if self.classes else is_number
        if not cells or not all(usable(text) for _, text in cells):
            return {}
        if not self.classes:
            true = np.array([number(text, table.source, place, self.target) for place, text in cells])
            return {"rmse": measures.rmse_of(values, true)}
        return {"accuracy": float(np.mean([_same(name, text.strip()) for name, (_, text) in
                                           zip(values.tolist(), cells, strict=True)]))}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a safetensors file, from which `load` and `jitgrad predict` read it. Raises OSError."""
        checkpoint.save(path, self.params, {"model": self.as_json()})

    def as_json(self) -> dict[str, Any]:
        """All but the parameters, as what JSON can hold."""
        return {
            "layers": list(self.layers), "activation": self.activation, "loss": self.loss, "features": list(self.features),
            "mean": self.mean.tolist(), "std": self.std.tolist(), "classes": list(self.classes), "target": self.target,
            "target_mean": self.target_mean, "target_std": self.target_std,
            "columns": [column.as_json() for column in self.columns]}

    def on(self, device: str) -> Predictor:
        """The same model, computed on another device."""
        return replace(self, device=device)


def load(path: str | os.PathLike[str]) -> Predictor:
    """The model that `Predictor.save` or `jitgrad train` wrote: its file, or the folder that `--out` named.

    raises: CheckpointError for another file; OSError
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        name = os.path.join(name, "model.safetensors")
    params, metadata = checkpoint.load(name)
    try:
        about = metadata.get("metadata", metadata)["model"]  # a checkpoint of `fit` has metadata of its own around it
        known = {key: about[key] for key in ("activation", "loss", "target", "target_mean", "target_std")}
        lists: dict[str, Sequence[Any]] = {key: tuple(about[key]) for key in ("layers", "features", "classes")}
        columns = tuple(Column.read(column) for column in about["columns"])
        mean, std = np.array(about["mean"], np.float64), np.array(about["std"], np.float64)
        network(len(lists["layers"]) - 1, known["activation"])
        shapes = {key: array.shape for key, array in params.items()}
        if any(shapes[f"W{k}"] != (after, before) for k, (before, after) in
               enumerate(zip(lists["layers"], lists["layers"][1:], strict=False), 1)):
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(explain("The file holds parameters, and not what is needed to predict with them.", name,
                                      "Take one that `jitgrad train` wrote, or Predictor.save.")) from None
    return Predictor(params=params, mean=mean, std=std, columns=columns, **known, **lists)  # type: ignore[arg-type]


def predicted_classes(outputs: Array) -> Array:
    """(n, outputs) -> (n,) class indices: of the largest output, or of two classes the sign's."""
    found: Array = outputs.argmax(axis=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).astype(np.int64)
    return found


def _same(name: str, text: str) -> bool:
    """Whether a cell names the class; integers by value, as when the classes were read."""
    if name == text:
        return True
    try:
        return float(name) == float(text)
    except ValueError:
        return False
