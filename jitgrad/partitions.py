"""Training over Dask arrays: each worker computes on the partitions that lie with it; see `jitgrad.distributed`.

*Full batches.* A step is a call over all partitions.

*Minibatches.* An epoch draws one number from the training's generator; with it each partition shuffles its own examples.
These orders, one after the other, are dealt to the epoch's steps like cards: step s of S takes the examples at places s,
s + S, s + 2S, … So each step has its share of every partition, steps differ by one example at most, every example is met
once an epoch, and nothing of it depends on the workers.

*Averaging.* With `average_every=k` every partition is a replica: it makes k steps with its share of each batch, beginning
with the common parameters and optimizer state, and both are then averaged, weighted by the examples that each has met (local
SGD: Stich 2019). With plain `sgd` and k = 1 that is a step of the whole batch. A replica's step sees fewer examples the more
partitions there are; one or two for each core are enough.

Partitions that fill at most half of the workers' memory are kept there for the training. Larger ones are computed anew, read
from where they lie, for every step of full batches; minibatches keep them too, and Dask puts on disk what does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad import debug
from jitgrad.api import Transformed
from jitgrad.arguments import flatten
from jitgrad.backends import threads
from jitgrad.blocks import Vector
from jitgrad.compiler.program import Results
from jitgrad.distributed import Arguments, Client, Partitions, shipped, unshipped
from jitgrad.errors import ArgumentError, explain
from jitgrad.examples import FINITE_ADVICE, Examples, GradientUpdate, Step, check_finite, check_kind
from jitgrad.optim import leaf_path
from jitgrad.trainer import Trainer

Tree = Any
Array = npt.NDArray[Any]

KEPT_ORDERS = 64                    # shuffled partitions that a worker process remembers


class Partitioned(Examples):
    """Dask arrays as examples.

    loss: the objective as a jit of (params, *example); name: what the caller calls data; client: as in `fit`
    raises: as `Partitions`; DtypeError, DataError as `Batches`
    """

    def __init__(self, loss: Transformed, params: Tree, data: tuple[Tree, ...], name: str, client: Client | None) -> None:
        self._data = data
        self._partitions = partitions = Partitions(loss, (params, *data), client)
        parameters = len(flatten(params)[0])
        if partitions.places[0] < parameters:
            raise ArgumentError(explain("Parameters with a batch axis cannot be trained over Dask arrays.", name,
                                        "Train them in memory, for example a partition at a time."))
        self.count, self.arguments = partitions.count, len(data)
        spec = flatten(data)[1]
        names = [leaf_path(name, spec, k - parameters) for k in partitions.places]
        for (dtype, _), path in zip(partitions.kinds, names, strict=True):
            check_kind(np.dtype(dtype), path)
        self._kept = False
        self._keep(self._fits())
        partitions.total(_checked, names, partitions.axes)

    def kinds(self) -> list[tuple[str, list[int]]]:
        """The dtype and shape of every array, and the examples of each partition."""
        return [*self._partitions.kinds, ("partitions", list(self._partitions.chunks))]

    def measure(self, metric: Callable[..., Any], params: Tree) -> Any:
        """A metric of the caller's own Dask arrays, computed by the same workers."""
        with self._partitions.as_current():
            return metric(params, *self._data)

    def mean(self, loss: Transformed, params: Tree) -> float:
        """The mean of a jit over all examples."""
        return float(self._partitions.call(loss, (params, *self._data)))

    def steps(self, step: Transformed, batch_size: int | None, generator: np.random.Generator) -> Iterator[Step]:
        """One epoch: all partitions in one step, or each step with its share of all."""
        if batch_size is None:
            yield GradientUpdate(lambda params: self._partitions.call(step, (params, *self._data)), self.count)
            return
        self._keep(True)
        for deal in self._deals(batch_size, generator):
            yield GradientUpdate(lambda params, deal=deal: self._gradient(step, params, deal), deal.size)  # type: ignore[misc]

    def _deals(self, batch_size: int, generator: np.random.Generator) -> list[_Deal]:
        seed, steps = int(generator.integers(1 << 62)), -(-self.count // batch_size)
        return [_Deal(seed, s, steps, self.count) for s in range(steps)]

    def _gradient(self, step: Transformed, params: Tree, deal: _Deal) -> Any:
        partitions = self._partitions
        layout, answer = partitions.layout(step)
        total = partitions.total(_share, shipped(step), partitions.arguments((params, *self._data)), deal, partitions.axes,
                                 layout.width, debug.nans_are_errors())
        return answer.of(*layout.finish(Results(total, []), deal.size))

    def rounds(self, step: Transformed, batch_size: int | None, generator: np.random.Generator,
               average_every: int) -> Iterator[Step]:
        """One epoch of replicas that are averaged."""
        assert batch_size is not None
        deals = self._deals(batch_size, generator)
        smallest = min(size for size in self._partitions.chunks if size)
        if smallest < len(deals):
            raise ArgumentError(explain(
                f"A partition has {smallest} examples and an epoch {len(deals)} steps; every replica needs one for each.",
                f"batch_size={batch_size}", "Rechunk the arrays to fewer partitions, or pass a larger batch_size."))
        self._keep(True)
        for s in range(0, len(deals), average_every):
            yield _Round(self._partitions, self._data, step, deals[s:s + average_every])

    def _fits(self) -> bool:
        memory = self._partitions.memory()
        return memory is None or self._partitions.nbytes <= memory / 2

    def _keep(self, wanted: bool) -> None:
        if wanted and not self._kept:
            self._partitions.persist()
            self._kept = True


class _Deal:
    """Which examples of a partition belong to a step, by the rule at the head of the module. size: of the step."""

    def __init__(self, seed: int, step: int, steps: int, count: int):
        self._seed, self._step, self._steps = seed, step, steps
        self.size = len(range(step, count, steps))

    def of(self, first: int, count: int) -> npt.NDArray[np.intp]:
        """The places within a partition of so many examples, of which the first has this number in the whole."""
        return _order(self._seed, first, count)[(self._step - first) % self._steps::self._steps]


@lru_cache(KEPT_ORDERS)
def _order(seed: int, first: int, count: int) -> npt.NDArray[np.intp]:
    return np.random.default_rng([seed, first]).permutation(count)


class _Round:
    """Steps of all replicas apart, and their average."""

    def __init__(self, partitions: Partitions, data: tuple[Tree, ...], step: Transformed, deals: list[_Deal]):
        self._partitions, self._data, self._step, self._deals = partitions, data, step, deals

    def make(self, trainer: Trainer, when: Callable[[int], str]) -> list[tuple[int, float]]:
        """A moment of the trainer becomes the average of what the replicas made of it."""
        now, partitions, deals = trainer.now, self._partitions, self._deals
        total = partitions.total(_replica, shipped(self._step), shipped(trainer.optimizer),
                                 partitions.arguments((now.params, *self._data)), now.state, now.steps, deals,
                                 [when(n) for n in range(len(deals))], partitions.axes, debug.nans_are_errors())
        (weight, *sums), numbers = total[:1 + len(deals)].tolist(), total[1 + len(deals):]
        losses = [(deal.size, loss / deal.size if self._step.reduce == "mean" else loss)
                  for deal, loss in zip(deals, sums, strict=True)]
        trainer.settle(numbers / weight, now.steps + len(deals), losses[-1][1])
        return losses


def _checked(names: Sequence[str], axes: Sequence[int], first: int, *blocks: Array) -> Vector:
    """A task: raise DataError for a number that is none."""
    for block, path, axis in zip(blocks, names, axes, strict=True):
        check_finite(np.moveaxis(block, axis, 0), path, FINITE_ADVICE, first)
    return np.zeros(1)


def _share(function: bytes, arguments: Arguments, deal: _Deal, axes: Sequence[int], width: int, nans_are_errors: bool,
           first: int, *blocks: Array) -> Vector:
    """A task: the sums of a step's share of a partition."""
    chosen = deal.of(first, blocks[0].shape[axes[0]])
    if not len(chosen):
        return np.zeros(width)
    args = arguments.whole([block.take(chosen, axis) for block, axis in zip(blocks, axes, strict=True)])
    with threads.on_one_core(), debug.nans_as_errors(nans_are_errors):
        sums: Vector = unshipped(function).sums(args, first + chosen)
    return sums


def _replica(function: bytes, optimizer: bytes, arguments: Arguments, state: Tree, made: int, deals: Sequence[_Deal],
             when: Sequence[str], axes: Sequence[int], nans_are_errors: bool, first: int, *blocks: Array) -> Vector:
    """A task: a partition's share of some steps, one after the other.

    returns: the examples met, the sum of the losses in each step, and parameters and state, weighted by the examples
    """
    step: Transformed = unshipped(function)
    params = arguments.whole(blocks)[0]
    trainer = Trainer(unshipped(optimizer), params)
    trainer.begin(params, state, made, None)
    met, losses = 0, []
    with threads.on_one_core(), debug.nans_as_errors(nans_are_errors):
        for deal, name in zip(deals, when, strict=True):
            chosen = deal.of(first, blocks[0].shape[axes[0]])
            args = (trainer.now.params, *arguments.whole([b.take(chosen, a) for b, a in zip(blocks, axes, strict=True)])[1:])
            layout, answer = step.layout(args)
            sums = step.sums(args, first + chosen)
            # Of a sum, what the whole step's would be if all its examples were like these.
            scale = deal.size / len(chosen) if step.reduce == "sum" else 1.0
            value, grads = answer.of(*layout.finish(Results(sums * scale, []), len(chosen)))
            trainer.update(float(value), grads, name)
            losses.append(float(value) / scale if step.reduce == "sum" else float(value) * len(chosen))
            met += len(chosen)
    return np.concatenate(([met], losses, met * trainer.flat()))
