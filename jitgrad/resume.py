"""A training on disk: everything from which it goes on to the same bits as if it had never stopped."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jitgrad import checkpoint
from jitgrad.arguments import flatten, unflatten
from jitgrad.errors import ArgumentError, CheckpointError, explain
from jitgrad.history import Epoch
from jitgrad.trainer import Moment, Trainer

Tree = Any


class TrainingFile:
    """The checkpoint of one training, written at the ends of epochs.

    settings: what must be equal in the training that goes on, by the names that its user knows
    metadata: the user's own, kept beside them

    Its "params" are what `fit` would return: the best so far with `patience`, else the last, which are then "last".
    """

    def __init__(self, path: checkpoint.Path, settings: Mapping[str, Any],
                 metadata: Mapping[str, Any] | None = None):
        self._path, self._settings = path, dict(settings)
        self._metadata = {} if metadata is None else {"metadata": dict(metadata)}
        if os.path.isdir(path) or not os.path.isdir(os.path.dirname(os.fspath(path)) or "."):
            raise ArgumentError(explain("A checkpoint is a file in a folder that exists.", f"checkpoint={os.fspath(path)!r}",
                                        "Make its folder first."))
        checkpoint.discard_partial(path)

    def write(self, trainer: Trainer, best: Moment | None, generator: np.random.Generator, history: Sequence[Epoch]) -> None:
        """Write the training as it stands at an epoch's end, where its file holds an earlier one or nothing."""
        now = trainer.now
        trees = {"params": now.params, "optimizer": flatten(now.state)[0]}
        if best is not None:
            trees |= {"params": best.params, "last": now.params}
        checkpoint.write(self._path, trees, {
            **self._metadata, "settings": self._settings, "epoch": len(history), "steps": now.steps, "loss": now.loss,
            "random": generator.bit_generator.state, "history": [[*epoch[1:-1], dict(epoch.metrics)] for epoch in history]})

    def read(self, trainer: Trainer, generator: np.random.Generator) -> tuple[list[Epoch], Moment | None]:
        """Bring trainer and generator to where the file's training stood: (its history, its best moment).

        Nothing happens where there is no file. Raises CheckpointError for one that is not this training's.
        """
        if not os.path.exists(self._path):
            return [], None
        file = checkpoint.File(self._path)
        found = file.metadata.get("settings") if isinstance(file.metadata, dict) else None
        if not isinstance(found, dict):
            raise file.unusable("it holds parameters, and no training to go on with")
        different = [f"{name}: {found.get(name)!r} in the file, {now!r} here"
                     for name, now in self._settings.items() if found.get(name) != now]
        if different:
            raise CheckpointError(explain(
                "The checkpoint is another training's.", f"{file.path}: {'; '.join(different)}",
                "Call fit as it was called, or start a new training from jg.load(path)[0], without resume."))
        stored, best = file.tree_like("last" if "last" in file else "params", trainer.now.params), None
        try:
            meta = file.metadata
            history = [Epoch(number, *numbers) for number, numbers in enumerate(meta["history"], 1)]
            leaves, structure = flatten(trainer.now.state)
            kept = [_like(leaf, found) for leaf, found in zip(leaves, file.tree("optimizer"), strict=True)]
            generator.bit_generator.state = meta["random"]
            if "last" in file:
                best = trainer.moment(file.tree_like("params", trainer.now.params), None, 0, None)
            trainer.begin(stored, unflatten(structure, kept), int(meta["steps"]), meta["loss"])
            if len(history) != meta["epoch"]:
                raise ValueError
        except (KeyError, TypeError, ValueError, AttributeError):
            raise file.unusable("it does not describe a training as jitgrad describes one") from None
        return history, best


def _like(leaf: Any, found: Any) -> Any:
    """An optimizer's number as its `init` makes them; ValueError for one that differs in more than its value."""
    if isinstance(leaf, np.ndarray | np.generic):
        if np.shape(found) != leaf.shape or np.asarray(found).dtype != leaf.dtype:
            raise ValueError
        return found
    return type(leaf)(found)
