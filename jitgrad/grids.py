"""Sweeps of recipes: a network trained for each combination of settings, those that share a program side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jitgrad.data import Dataset, split
from jitgrad.errors import ArgumentError, NonFiniteError, explain
from jitgrad.layers import ACTIVATIONS
from jitgrad.recipes import Recipe, Task, Training, optimizer
from jitgrad.sweeps import Model, sweep

# Of the settings of a grid, those that one compiled program serves; every combination of the others has its own.
_TOGETHER = ("learning_rate", "seed", "l1", "l2")


def _widths(text: str) -> tuple[int, ...]:
    return () if text == "none" else tuple(_whole(part, 1) for part in text.split("x"))


def _whole(text: str, least: int) -> int:
    found = int(text)
    if found < least:
        raise ValueError
    return found


def _real(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError
    return found


def _one_of(*names: str) -> Callable[[str], str]:
    def chosen(text: str) -> str:
        if text not in names:
            raise ValueError
        return text
    return chosen


# By the name in a grid: the recipe's field, how a value is read, and what values look like.
SETTINGS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "lr": ("learning_rate", _real, "0.01,0.003"),
    "seed": ("seed", lambda text: _whole(text, 0), "0..31"),
    "hidden": ("hidden", _widths, "8,16x16,none (two layers are 16x16)"),
    "activation": ("activation", _one_of(*ACTIVATIONS), "tanh,relu"),
    "batch": ("batch_size", lambda text: _whole(text, 1), "32,64"),
    "epochs": ("epochs", lambda text: _whole(text, 1), "50,100"),
    "schedule": ("schedule", _one_of("constant", "cosine", "step"), "constant,cosine"),
    "l1": ("l1", _real, "0,0.001"),
    "l2": ("l2", _real, "0,0.001"),
}


def read(texts: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """The values of each setting, by the recipe's field, from texts like "lr=0.01,0.003" and "seed=0..31".

    raises: ArgumentError for an unknown or repeated setting, and for a value that is none of its
    """
    grid: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        known = SETTINGS.get(name.strip())
        if known is None or not equals:
            raise ArgumentError(explain("A grid names a setting and its values.", f"--grid {text}",
                                        f"Write NAME=VALUE,VALUE,…; the names are {', '.join(SETTINGS)}."))
        field, convert, example = known
        if field in grid:
            raise ArgumentError(explain(f"The grid names {name.strip()} twice.", f"--grid {text}",
                                        "List all its values in one --grid."))
        try:
            found = tuple(convert(value) for part in values.split(",") for value in _spread(part.strip()))
        except ValueError:
            raise ArgumentError(explain(f"The grid's values for {name.strip()} cannot be read.", f"--grid {text}",
                                        f"They look like {name.strip()}={example}.")) from None
        grid[field] = tuple(dict.fromkeys(found))
    if not grid:
        raise ArgumentError(explain("A sweep needs a grid.", None,
                                    "Pass for example --grid lr=0.01,0.003 --grid seed=0..7"))
    return grid


def _spread(part: str) -> Sequence[str]:
    """`3..6` as 3, 4, 5, 6; anything else as it is."""
    first, dots, last = part.partition("..")
    if not dots:
        return [part]
    low, high = int(first), int(last)
    if not low <= high <= low + 1_000_000:
        raise ValueError
    return [str(number) for number in range(low, high + 1)]


@dataclass(frozen=True)
class Swept:
    """A finished sweep.

    models: from the best to the worst, those that diverged last, with the recipe's fields that varied as settings
    best: the best of them, measured on the held-out examples, which no model was chosen by
    validated: examples that chose it
    """

    models: tuple[Model, ...]
    best: Training
    validated: int

    @property
    def diverged(self) -> int:
        """How many models became NaN or infinite."""
        return sum(model.error is not None for model in self.models)

    def as_json(self) -> dict[str, Any]:
        """The sweep as plain numbers and text."""
        return {"models": [self._model(model) for model in self.models], "validated": self.validated,
                "diverged": self.diverged, "best": self.best.as_json()}

    def _model(self, model: Model) -> dict[str, Any]:
        if model.result is None:
            return {"settings": dict(model.settings), "error": str(model.error)}
        last = model.result.history[model.result.epoch - 1]
        return {"settings": dict(model.settings), "validation_loss": last.validation_loss, "loss": last.loss,
                "metrics": {name: value if math.isfinite(value) else None for name, value in last.metrics.items()},
                "epoch": model.result.epoch}


def run(dataset: Dataset, recipe: Recipe, grid: Mapping[str, Sequence[Any]], progress: bool | None = None) -> Swept:
    """Train a network for each combination of settings, and choose the one of the lowest validation loss.

    recipe: what the grid leaves open; its `validation` is the fraction of the training examples that chooses: the same
        examples for all models, drawn from its seed, stratified by class
    grid: values by the recipe's field
    raises: ArgumentError, also where nothing would validate; NonFiniteError where every training diverged
    """
    inputs, targets = dataset.train
    trained, validating = split(targets, recipe.validation, recipe.seed, stratify=bool(dataset.classes))
    if not len(validating):
        raise ArgumentError(explain(f"Of {len(targets)} training examples none would choose the best model.",
                                    f"validation={recipe.validation}", "A sweep needs a larger fraction, or more examples."))
    apart = [field for field in grid if field not in _TOGETHER]
    together = [field for field in grid if field in _TOGETHER]
    found: list[tuple[Model, Recipe]] = []
    for values in itertools.product(*(grid[field] for field in apart)):
        own = replace(recipe, validation=0.0, **dict(zip(apart, values, strict=True)))
        task = Task.of(dataset, own)
        rates = grid.get("learning_rate", [own.learning_rate])
        steps = {"optimizer": [optimizer(replace(own, learning_rate=rate), len(trained)) for rate in rates],
                 **{field: grid[field] for field in together if field != "learning_rate"}}
        # In the order of the grid that `sweep` is given, so that its models can be told apart by their place.
        order = ["learning_rate", *(field for field in together if field != "learning_rate")]
        chosen = itertools.product(rates, *(grid[field] for field in order[1:]))
        models = sweep(
            task.objective, task.start, task.examples(inputs[trained], targets[trained]), grid=steps,
            epochs=own.epochs, batch_size=own.batch_size, seed=own.seed, l1=own.l1, l2=own.l2, patience=own.patience,
            device=own.device, validation=task.examples(inputs[validating], targets[validating]), metrics=task.metrics(),
            progress=progress)
        for model, picked in zip(models, chosen, strict=True):
            settings = {**dict(zip(apart, values, strict=True)), **dict(zip(order, picked, strict=True))}
            found.append((Model({field: settings[field] for field in grid}, model.result, model.error),
                          replace(own, **settings)))
    found.sort(key=lambda pair: pair[0].loss)               # stable: of equals the first of the grid
    best, best_recipe = found[0]
    if best.error is not None:
        raise NonFiniteError(explain(f"All {len(found)} models diverged; the first:", None, str(best.error)))
    assert best.result is not None
    measured = Task.of(dataset, replace(best_recipe, validation=recipe.validation)).finished(best.result)
    return Swept(tuple(model for model, _ in found), measured, len(validating))
