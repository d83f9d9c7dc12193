"""Ready-made trainings of a multilayer perceptron on a `Dataset`: what `jitgrad train`, `sweep` and `demo` run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad import checkpoint as checkpoints
from jitgrad import losses, optim, plots
from jitgrad import metrics as measures
from jitgrad.api import recorded_once
from jitgrad.data import Dataset
from jitgrad.errors import ArgumentError, CheckpointError, explain
from jitgrad.predictor import Predictor, network, predicted_classes
from jitgrad.train import FitResult, fit

Array = npt.NDArray[Any]
Params = dict[str, Array]

CLASS_LOSSES = ("hinge", "binary_cross_entropy", "cross_entropy")
NUMBER_LOSSES = ("mse", "huber")
SCHEDULES = ("constant", "cosine", "step")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training besides the data.

    loss: a name from CLASS_LOSSES or NUMBER_LOSSES, or "auto": mse for numbers, binary_cross_entropy for two classes,
        cross_entropy for more
    hidden: widths of the hidden layers; () is a linear model
    activation: a name from `nn.ACTIVATIONS`, such as "tanh" or "relu"
    dtype: of parameters and inputs, "float32" or "float64"
    schedule: of the learning rate, from SCHEDULES: "cosine" falls to 0 over all epochs, after a warm-up over their first
        twentieth; "step" takes a tenth after every third of the epochs
    batch_size: None for all examples in every step
    l1, l2: penalties of the parameters, as in `fit`
    validation: the fraction of the training examples that is measured after each epoch instead, 0 for none
    patience: end after so many epochs in a row without a new best one, whose parameters are taken; None: never
    seed: decides initial parameters, which examples validate, and the order of the minibatches
    """

    loss: str = "auto"
    hidden: tuple[int, ...] = (32, 16)
    activation: str = "tanh"
    learning_rate: float = 1e-2
    schedule: str = "constant"
    epochs: int = 50
    batch_size: int | None = 64
    l1: float = 0.0
    l2: float = 0.0
    validation: float = 0.0
    patience: int | None = None
    seed: int = 0
    dtype: str = "float32"
    device: str = "auto"


MOONS = Recipe(loss="hinge", hidden=(16, 16), activation="relu", epochs=100, batch_size=50)
DIGITS = Recipe(loss="cross_entropy", hidden=(32,), epochs=60)


@dataclass(frozen=True)
class Training:
    """A finished training of `recipe` on `dataset`.

    layers: widths from the inputs to the outputs
    metrics: "train_..." and, if anything is held out, "test_...": accuracy for classes; rmse, in the target's own unit,
        and r2 for numbers
    predictor: the trained network
    objective, examples: what was minimised, as `fit` was given it; examples are the training part
    """

    dataset: Dataset
    recipe: Recipe
    loss: str
    layers: tuple[int, ...]
    result: FitResult
    metrics: dict[str, float]
    predictor: Predictor
    objective: Callable[[Params, Any, Any], Any]
    examples: tuple[Array, Array]

    @property
    def has_boundary(self) -> bool:
        """Whether there are two features and two classes, so that the decision boundary can be drawn."""
        return len(self.dataset.features) == 2 and len(self.dataset.classes) == 2

    def held_out(self) -> tuple[Array, Array]:
        """(inputs, targets) to show results on: what is held out, or all if nothing is."""
        return self.dataset.test if len(self.dataset.test[1]) else self.dataset.train

    def predict(self, inputs: Array) -> Array:
        """(n, features), as `dataset` has them, -> (n, outputs)."""
        return self.predictor.outputs(inputs)

    def predicted_classes(self, inputs: Array) -> Array:
        """(n, features) -> (n,) class indices."""
        return predicted_classes(self.predict(inputs))

    def as_json(self) -> dict[str, Any]:
        """The training as plain numbers and text."""
        data, recipe, result = self.dataset, self.recipe, self.result
        return {
            "dataset": data.name,
            "examples": {"train": len(data.train[1]), "test": len(data.test[1])},
            "features": [
                {"name": name, "mean": mean, "std": std}
                for name, mean, std in zip(data.features, data.mean.tolist(), data.std.tolist(), strict=True)
            ],
            "columns": [column.as_json() for column in data.columns],
            "classes": list(data.classes),
            "target": {"name": data.target, "mean": data.target_mean, "std": data.target_std},
            "layers": list(self.layers),
            "activation": recipe.activation,
            "loss": self.loss,
            "optimizer": repr(optimizer(recipe, len(data.train[1]))),
            "batch_size": recipe.batch_size,
            "l1": recipe.l1,
            "l2": recipe.l2,
            "validation": recipe.validation,
            "patience": recipe.patience,
            "seed": recipe.seed,
            "dtype": recipe.dtype,
            "device": recipe.device,
            "history": [{**epoch._asdict(), "metrics": {name: metric if math.isfinite(metric) else None
                                                        for name, metric in epoch.metrics.items()}}
                        for epoch in result.history],
            "epoch": result.epoch,
            "ended": result.ended,
            "resumed": result.resumed,
            "metrics": self.metrics,
            "seconds": result.seconds,
            "examples_per_second": result.examples_per_second,
        }

    def write(self, folder: str, prefix: str = "", pictures: bool = True) -> list[str]:
        """Write the model, result.json and pictures into `folder`, made if need be; returns the files' names."""
        os.makedirs(folder, exist_ok=True)
        names = []

        def name(ending: str) -> str:
            names.append(os.path.join(folder, prefix + ending))
            return names[-1]

        self.predictor.save(name("model.safetensors"))
        Path(name("result.json")).write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")
        if pictures and self.result.history:
            plots.loss_curve(self.result.history, name("loss.png"), title=f"{self.dataset.name}: {self.loss} loss")
        if pictures and self.has_boundary:
            self.draw_boundary(name("boundary.png"))
        return names

    def draw_boundary(self, path: str) -> None:
        """Write a picture of the decision boundary among the held-out examples; see `has_boundary`."""
        data = self.dataset

        def score(raw: Array) -> Array:
            return _margin(self.predict((raw - data.mean) / data.std))

        inputs, targets = self.held_out()
        first, second = data.features
        negative, positive = data.classes
        accuracy = self.metrics.get("test_accuracy", self.metrics["train_accuracy"])
        plots.decision_boundary(
            score,
            inputs * data.std + data.mean,
            np.where(class_indices(targets), 1, -1),
            path,
            title=f"{data.name}: {'-'.join(map(str, self.layers))} network, accuracy {accuracy:.1%}",
            features=(first, second),
            classes=(negative, positive),
        )


def run(dataset: Dataset, recipe: Recipe, progress: bool | None = None, checkpoint: str | None = None,
        resume: bool = False) -> Training:
    """Train `recipe` on `dataset` and measure it on the held-out examples.

    checkpoint, resume: as in `fit`; the file is a model as well, which `jitgrad.predictor.load` reads
    raises: ArgumentError for a loss that does not fit the targets; CheckpointError for the checkpoint of another table or
        network; whatever `fit` raises
    """
    task = Task.of(dataset, recipe)
    start = task.start(recipe.seed)
    model = task.predictor(start).as_json()
    if checkpoint is not None and resume and os.path.exists(checkpoint):
        _check_same(checkpoint, model)
    result = fit(
        task.objective,
        start,
        task.examples(*dataset.train),
        optimizer=optimizer(recipe, len(dataset.train[1])),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        device=recipe.device,
        l1=recipe.l1,
        l2=recipe.l2,
        validation=recipe.validation or None,
        metrics=task.metrics() if recipe.validation else None,
        patience=recipe.patience,
        checkpoint=checkpoint,
        metadata=None if checkpoint is None else {"model": model},
        resume=resume,
        progress=progress,
    )
    return task.finished(result)


def _check_same(path: str, model: dict[str, Any]) -> None:
    """Raise CheckpointError unless the file is a training's of this model, as far as it says."""
    _, metadata = checkpoints.load(path)
    own = metadata.get("metadata")
    kept = own.get("model") if isinstance(own, dict) else None
    if not isinstance(kept, dict):
        return                                              # no training of ours: `fit` says what it is
    different = [name for name, here in json.loads(json.dumps(model)).items() if kept.get(name, here) != here]
    if different:
        said = [f"{name}: {kept[name]!r} in the file, {model[name]!r} here" if len(repr(kept[name])) < 60 else
                f"{name} differ" for name in different]
        raise CheckpointError(explain("The checkpoint is another training's.", f"{path}: {'; '.join(said)}",
                                      "Go on with the same table and options, or start anew, without resume."))


@dataclass(frozen=True)
class Task:
    """What a recipe makes of a data set: the network's shape, its loss, and the numbers it is trained on."""

    dataset: Dataset
    recipe: Recipe
    loss: str
    layers: tuple[int, ...]
    objective: Callable[[Params, Any, Any], Any]

    @staticmethod
    def of(dataset: Dataset, recipe: Recipe) -> Task:
        """Raises ArgumentError for a loss that does not fit the targets."""
        loss = _loss_for(dataset, recipe.loss)
        layers = (len(dataset.features), *recipe.hidden, len(dataset.classes) if loss == "cross_entropy" else 1)
        return Task(dataset, recipe, loss, layers, _objective(len(layers) - 1, recipe.activation, loss))

    def start(self, seed: int) -> Params:
        """The parameters that a training begins with."""
        return initial_parameters(self.layers, seed, np.dtype(self.recipe.dtype))

    def examples(self, inputs: Array, targets: Array) -> tuple[Array, Array]:
        """A part of the data set as the loss wants it."""
        dtype = np.dtype(self.recipe.dtype)
        return inputs.astype(dtype), _targets_for(self.loss, targets, dtype)

    def metrics(self) -> dict[str, measures.Metric]:
        """What is measured beside the loss: accuracy or R²."""
        measure = measures.accuracy if self.dataset.classes else measures.r2
        return {measure.__name__: measure(network(len(self.layers) - 1, self.recipe.activation), device=self.recipe.device)}

    def predictor(self, params: Params) -> Predictor:
        """The network with these parameters."""
        return Predictor.of(self.dataset, params, self.layers, self.recipe.activation, self.loss, self.recipe.device)

    def finished(self, result: FitResult) -> Training:
        """The finished training, measured."""
        predictor = self.predictor(result.params)
        metrics = _metrics(self.dataset, "train", predictor.outputs)
        if len(self.dataset.test[1]):
            metrics |= _metrics(self.dataset, "test", predictor.outputs)
        return Training(self.dataset, self.recipe, self.loss, self.layers, result, metrics, predictor, self.objective,
                        self.examples(*self.dataset.train))


@lru_cache(maxsize=32)
def _objective(depth: int, activation: str, loss: str) -> Callable[[Params, Any, Any], Any]:
    """The loss of one example; the same function each time, so that a network of a shape is recorded once."""
    scores, loss_function = network(depth, activation), getattr(losses, loss)

    def objective(params: Params, x: Array, y: Any) -> Any:
        outputs = scores(params, x)
        return loss_function(outputs if loss == "cross_entropy" else outputs[0], y)

    return recorded_once(objective)


def optimizer(recipe: Recipe, examples: int) -> optim.Optimizer:
    """Adam with the recipe's schedule, stretched over a training on so many examples, those that validate included."""
    trained = examples - round(recipe.validation * examples)
    by_epoch = -(-trained // min(recipe.batch_size or trained, trained))
    rate, steps = recipe.learning_rate, recipe.epochs * by_epoch
    if recipe.schedule not in SCHEDULES:
        raise ArgumentError(explain("There is no such schedule.", f"schedule={recipe.schedule!r}",
                                    f"Choose from: {', '.join(SCHEDULES)}."))
    if recipe.schedule == "constant":
        return optim.adam(rate)
    return optim.adam(optim.cosine(rate, steps=steps, warmup=steps // 20) if recipe.schedule == "cosine"
                      else optim.step_decay(rate, every=-(-recipe.epochs // 3) * by_epoch))


def initial_parameters(layers: tuple[int, ...], seed: int, dtype: npt.DTypeLike) -> Params:
    """W1 (layers[1], layers[0]), b1 (layers[1],), ...: weights normal of variance 1 / inputs (LeCun 1998), biases zero."""
    generator = np.random.default_rng(seed)
    params: Params = {}
    for number, (inputs, outputs) in enumerate(pairwise(layers), 1):
        params[f"W{number}"] = (generator.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(dtype)
        params[f"b{number}"] = np.zeros(outputs, dtype)
    return params


def _loss_for(dataset: Dataset, loss: str) -> str:
    count = len(dataset.classes)
    if loss == "auto":
        return "mse" if not count else "binary_cross_entropy" if count == 2 else "cross_entropy"
    fitting = NUMBER_LOSSES if not count else CLASS_LOSSES if count == 2 else ("cross_entropy",)
    if loss not in fitting:
        what = f"names {count} classes" if count else "is a number"
        raise ArgumentError(
            explain(f"The target of {dataset.name} {what}, which {loss} cannot fit.", f"loss={loss!r}",
                    f"Choose from: auto, {', '.join(fitting)}.")
        )
    return loss


def class_indices(targets: Array) -> Array:
    """0, 1, 2, ... also where the labels are -1 and +1."""
    return np.maximum(targets, 0)


def _targets_for(loss: str, targets: Array, dtype: np.dtype[Any]) -> Array:
    """The targets as the loss wants them: -1/+1, 0/1, class indices, or numbers."""
    if loss == "hinge":
        return np.where(class_indices(targets), 1, -1).astype(dtype)
    if loss == "binary_cross_entropy":
        return class_indices(targets).astype(dtype)
    return class_indices(targets) if loss == "cross_entropy" else targets.astype(dtype)


def _margin(outputs: Array) -> Array:
    """One score an example, positive for the second of two classes."""
    return outputs[:, 0] if outputs.shape[1] == 1 else outputs[:, 1] - outputs[:, 0]


def _metrics(dataset: Dataset, part: str, predict: Callable[[Array], Array]) -> dict[str, float]:
    inputs, targets = dataset.train if part == "train" else dataset.test
    outputs = predict(inputs)
    if dataset.classes:
        return {f"{part}_accuracy": measures.accuracy_of(outputs, targets)}
    metrics = {f"{part}_rmse": measures.rmse_of(outputs[:, 0], targets) * dataset.target_std}
    if targets.var() > 0.0:
        metrics[f"{part}_r2"] = measures.r2_of(outputs[:, 0], targets)
    return metrics
