"""A training: the parameters and the optimizer's state, the epochs that were made, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jitgrad import optim
from jitgrad.arguments import flatten, unflatten
from jitgrad.backends import threads
from jitgrad.batches import Batches, Noise
from jitgrad.errors import ArgumentError, NonFiniteError, explain
from jitgrad.examples import Examples, Update, check_finite
from jitgrad.history import ALL_EPOCHS, CALLBACK, PATIENCE, Epoch, FitResult, History
from jitgrad.loop import Loop
from jitgrad.problem import Evaluation, Problem
from jitgrad.progress import Progress
from jitgrad.ravel import Raveled, Vector
from jitgrad.settings import Settings

if TYPE_CHECKING:
    from jitgrad.resume import TrainingFile

Tree = Any
Callback = Callable[[Epoch, Tree], bool | None]


class Moment(NamedTuple):
    """Where a training stands; its arrays are never written to, so that a moment can be kept.

    vectors: the parameters, one vector per dtype; layout: how they lie in them; state: the optimizer's
    steps: updates made; loss: of the last one, None before it
    """

    vectors: tuple[Vector, ...]
    layout: Raveled
    state: Any
    steps: int
    loss: float | None

    @property
    def params(self) -> Tree:
        """The parameters as views into the vectors."""
        return self.layout.unravel(self.vectors)


class Starts(NamedTuple):
    """Parameters of one layout, one table per dtype, with a row for each tree of them."""

    layout: Raveled
    tables: tuple[npt.NDArray[Any], ...]


def starts(trees: Iterable[Tree]) -> tuple[list[Starts], list[tuple[int, int]]]:
    """Trees of parameters by their layouts, and of each tree (the number of its layout, its row there).

    raises: ArgumentError, DtypeError, DataError for a tree that training cannot begin with, naming the leaf
    """
    kinds: dict[Any, tuple[int, list[list[Any]]]] = {}
    places = []
    for tree in trees:
        leaves, spec = flatten(tree)
        kind = spec, *[(leaf.dtype, leaf.shape) if isinstance(leaf, np.ndarray) else leaf.__class__ for leaf in leaves]
        number, members = kinds.setdefault(kind, (len(kinds), []))
        places.append((number, len(members)))
        members.append(leaves)
    found = []
    for (spec, *_), (_, members) in kinds.items():
        optim.check_parameters(members[0], spec)
        if not sum(map(np.size, members[0])):
            raise ArgumentError(explain("There is nothing to train: params holds no numbers.", f"params={tree!r}",
                                        "Pass the arrays that the objective computes with."))
        layout = Raveled.of(members[0], spec)
        found.append(Starts(layout, layout.pack_all(members)))
        if not all(np.isfinite(table).all() for table in found[-1].tables):
            for leaves in members:
                for at, leaf in enumerate(leaves):
                    check_finite(np.asarray(leaf), optim.leaf_path("params", spec, at), "Start from finite parameters.")
    return found, places


@lru_cache(64)
def _zero_state(optimizer: optim.Optimizer, layout: Raveled) -> Any:
    """The state that a rule's optimizer begins with, which is the same for all parameters: thousands of models share it."""
    return optimizer.init(layout.zeros())


class Trainer:
    """The parameters and the optimizer's state; an update that fails leaves both as they were."""

    def __init__(self, optimizer: optim.Optimizer, params: Tree) -> None:
        ((layout, tables),), _ = starts([params])
        self.optimizer, self.rule, self.layout = optimizer, optimizer.rule, layout
        # One vector per dtype instead of the tree: an update then costs the same few NumPy calls for any model.
        vectors = tuple(table[0] for table in tables)
        if optimizer.any_layout and optimizer.rule is not None:
            state = _zero_state(optimizer, self.layout)
        else:
            state = optimizer.init(vectors if optimizer.any_layout else self.layout.unravel(vectors))
        # Replaced as a whole: whoever is interrupted finds all of one moment.
        self.now = Moment(vectors, self.layout, state, 0, None)

    def copy(self, moment: Moment | None = None) -> Tree:
        """The parameters, now or then, sharing no memory with later updates or with the caller's tree."""
        return self.layout.unravel([vector.copy() for vector in (moment or self.now).vectors])

    def begin(self, params: Tree, state: Any, steps: int, loss: float | None) -> None:
        """Go on from here."""
        self.now = self.moment(params, state, steps, loss)

    def moment(self, params: Tree, state: Any, steps: int, loss: float | None) -> Moment:
        """These parameters as a moment."""
        return Moment(self.layout.ravel(params), self.layout, state, steps, loss)

    def numbers(self) -> tuple[Vector, npt.NDArray[Any]]:
        """Parameters that lie in one vector, and the averages that the optimizer keeps of them, (averages, parameters)."""
        vector, averages = self.now.vectors[0], self.now.state.averages
        return vector, np.array([average for (average,) in averages], vector.dtype).reshape(len(averages), len(vector))

    def load(self, numbers: npt.NDArray[Any], steps: int, loss: float | None) -> None:
        """Take over parameters and, below them, averages that were trained elsewhere."""
        vector, *averages = numbers.copy()
        state = optim.State(steps, tuple((average,) for average in averages))
        self.now = Moment((vector,), self.layout, state, steps, self.now.loss if loss is None else loss)

    def flat(self) -> npt.NDArray[np.float64]:
        """All that updates change, parameters and optimizer state, in one vector."""
        return np.concatenate([np.asarray(leaf, np.float64).reshape(-1)
                               for leaf in (*self.now.vectors, *flatten(self.now.state)[0])])

    def settle(self, numbers: npt.NDArray[np.float64], steps: int, loss: float) -> None:
        """Take over what `flat` lists, after so many steps; whole numbers, such as a count of steps, are rounded."""
        leaves, spec = flatten(self.now.state)
        found, at = [], 0
        for leaf in (*self.now.vectors, *leaves):
            array = np.asarray(leaf)
            part = numbers[at:at + array.size].reshape(array.shape)
            part = (part if array.dtype.kind == "f" else np.rint(part)).astype(array.dtype)
            found.append(part if isinstance(leaf, np.ndarray) else part[()] if isinstance(leaf, np.generic)
                         else type(leaf)(part.item()))
            at += array.size
        vectors = tuple(found[:len(self.now.vectors)])
        self.now = Moment(vectors, self.layout, unflatten(spec, found[len(vectors):]), steps, loss)

    def update(self, loss: float, grads: Tree, when: str) -> None:
        """Make a step."""
        if not np.isfinite(loss):
            raise self.diverged(f"The loss became {loss} at {when}")
        # A NaN or infinite gradient, and an overflowing step, both end as non-finite parameters: one check for both.
        with np.errstate(all="ignore"):
            if self.optimizer.any_layout:
                vectors, state = self.optimizer.update(self.layout.ravel(grads), self.now.state, self.now.vectors)
            else:
                params, state = self.optimizer.update(grads, self.now.state, self.now.params)
                vectors = self.layout.ravel(params)
        for vector in vectors:
            if not np.isfinite(vector).all():
                found = _first_non_finite(grads, self.layout.unravel(vectors))
                raise self.diverged(f"{found} became NaN or infinite at {when}")
        self.now = Moment(vectors, self.layout, state, self.now.steps + 1, loss)

    def diverged(self, happened: str) -> NonFiniteError:
        """The error of a training that cannot go on."""
        before = "on the very first step" if self.now.loss is None else f"after a loss of {self.now.loss:.6g}"
        return NonFiniteError(
            explain(
                f"{happened}, {before}.",
                f"optimizer={self.optimizer.description}",
                "Try a smaller learning rate, standardised inputs, or smaller initial parameters; "
                "`with jg.debug_nans():` names the operation that made the first NaN.",
            )
        )


class Training:
    """One training: its parameters, the epochs it has made, what is measured after each, and when it ends.

    Whoever makes its steps (`one_by_one`, `together.together`) brings `trainer` up to date and enters the epochs.
    callback, file, every: as in `fit`; left: epochs to be made, 0 once it has ended; error: why it ended early
    """

    def __init__(self, problem: Problem, params: Tree, batches: Examples, settings: Settings, evaluation: Evaluation,
                 callback: Callback | None = None, file: TrainingFile | None = None, every: int = 1):
        self.settings, self.batches, self.batch_size = settings, batches, settings.steps_of(batches)
        self.steps_per_epoch = 1 if self.batch_size is None else -(-batches.count // self.batch_size)
        self.trainer, self.progress = Trainer(settings.stepper(), params), Progress()
        self.left, self.ended, self.resumed = settings.epochs, ALL_EPOCHS, 0
        self.error: NonFiniteError | None = None
        self.loops, self._evaluation, self._callback, self._file, self._every = (
            problem.loops, evaluation, callback, file, every)
        self.noise = None if problem.noise is None else Noise(problem.noise, settings.seed)
        self._noisy: tuple[int, Examples] = -1, batches
        self._history, self._best_epoch = History(batches.count), 0
        self._best: Moment | None = None

    @cached_property
    def generator(self) -> np.random.Generator:
        """What the order of the examples is drawn from."""
        return np.random.default_rng(self.settings.seed)

    @property
    def watched(self) -> bool:
        """Whether something is done at the end of every epoch."""
        return (self._callback is not None or self._file is not None or self.settings.patience is not None
                or bool(self._evaluation) or self.noise is not None)

    def loop(self, models: int = 1) -> Loop | None:
        """What makes its steps, if not Python; see `Loops.of`."""
        return self.loops.of(self.trainer, self.examples(), self.batch_size, models)

    def examples(self) -> Examples:
        """The examples, with the noise of the next step's epoch."""
        epoch = self.trainer.now.steps // self.steps_per_epoch
        if self.noise is not None and self._noisy[0] != epoch:
            assert isinstance(self.batches, Batches)            # or noise has been refused
            self._noisy = epoch, self.noise.joined(self.batches, epoch)
        return self._noisy[1]

    def resume(self, file: TrainingFile) -> None:
        """Go on from where the file's training stood."""
        epochs, self._best = file.read(self.trainer, self.generator)
        for epoch in epochs:
            self._history.append(epoch)
        self.resumed, patience = len(epochs), self.settings.patience
        self._best_epoch = min(range(1, self.resumed + 1), key=lambda number: epochs[number - 1].score, default=0)
        self.left = max(0, self.settings.epochs - self.resumed)
        if patience is not None and self.resumed - self._best_epoch >= patience:
            self._end(PATIENCE)

    def _end(self, why: str) -> None:
        self.ended, self.left = why, 0

    def enter(self, totals: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64]) -> None:
        """Epochs have been made: the sums of their losses over the examples, and how long they took.

        Where the training is `watched` they come one at a time, the parameters being those of the epoch's end.
        """
        if not self.watched:
            self._history.extend(totals / self.batches.count, seconds)
            self.left -= len(totals)
            return
        ((total,), (taken,)) = totals.tolist(), seconds.tolist()
        number, patience = len(self._history) + 1, self.settings.patience
        loss, metrics = self._evaluation.of(self.trainer.copy(), number) if self._evaluation else (None, {})
        epoch = self._history.made(total / self.batches.count, taken)._replace(validation_loss=loss, metrics=metrics)
        self._history.append(epoch)
        self.left -= 1
        self.progress.measured(loss)
        if number == 1 or epoch.score < self._history[self._best_epoch - 1].score:
            self._best_epoch, self._best = number, None if patience is None else self.trainer.now
        if self._callback is not None and self._callback(epoch, self.trainer.copy()):
            self._end(CALLBACK)
        elif patience is not None and number - self._best_epoch >= patience:
            self._end(PATIENCE)
        if self._file is not None and (not self.left or number % self._every == 0):
            self._file.write(self.trainer, self._best, self.generator, self._history)

    def _when(self, later: int) -> str:
        epoch, index = divmod(self.trainer.now.steps + later, self.steps_per_epoch)
        return f"epoch {epoch + 1}, step {index + 1} of {self.steps_per_epoch}"

    def one_by_one(self) -> None:
        """Make all epochs, each step from Python."""
        options, apart = (self.loops.step, self.batch_size, self.generator), self.settings.average_every
        while self.left:
            started, total, examples = time.perf_counter(), 0.0, self.examples()
            for step in examples.steps(*options) if apart is None else examples.rounds(*options, apart):
                threads.still_wanted()
                for size, loss in step.make(self.trainer, self._when):
                    total += loss * size if self.loops.mean else loss
                    self.progress.advance(loss, 1)
            self.enter(np.array([total]), np.array([time.perf_counter() - started]))

    def explain(self, step: Update, loss: float) -> None:
        """Raise the error of a step that has failed elsewhere, with this loss: made from Python, it says what happened."""
        before, when = self.trainer.now, self._when(0)
        step.make(self.trainer, self._when)
        # From Python it is rounded in another way, and just succeeded.
        self.trainer.now = before
        what = "A parameter became NaN or infinite" if np.isfinite(loss) else f"The loss became {loss}"
        raise self.trainer.diverged(f"{what} at {when}")

    def result(self) -> FitResult:
        """The training as it stands; raises the error that ended it."""
        found = self.end()
        if isinstance(found, NonFiniteError):
            raise found
        return found

    def end(self) -> FitResult | NonFiniteError:
        """The training as it stands, or the error that ended it."""
        if self.error is not None:
            return self.error
        epoch = len(self._history) if self._best is None else self._best_epoch
        return FitResult(self.trainer.copy(self._best), self._history, self.trainer.now.steps, epoch, self.ended,
                         self.resumed)


def _first_non_finite(grads: Tree, params: Tree) -> str:
    for what, tree in (("The gradient of ", grads), ("", params)):
        leaves, spec = flatten(tree)
        for position, leaf in enumerate(leaves):
            if not np.isfinite(leaf).all():
                return what + optim.leaf_path("params", spec, position)
    return "A parameter"
