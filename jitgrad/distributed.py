"""Dask as the engine: batches that are Dask arrays, whose partitions Dask's workers compute, each with its own kernel.

A partition is a chunk along the batch axis. A task answers with a partition's sums over its examples, a float64 vector as
long as the gradient, and depends on nothing but its inputs: one that is lost with its worker is computed again to the same
bits. The vectors are added up in the fixed tree of `jitgrad.blocks`, so that the partitions decide the bits, and neither the
number of workers nor which of them took a partition does.

A function travels as bytes and is recorded and compiled once by each worker process. A task keeps to one core, since the
others have tasks of their own; on a machine with a GPU, large partitions take it, as everywhere (`device="auto"`).
"""

from __future__ import annotations

import io
import linecache
import pickle
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from types import CodeType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from jitgrad import debug, errors
from jitgrad.arguments import Bound, flatten, unflatten
from jitgrad.backends import threads
from jitgrad.blocks import Sums, Vector, is_dask
from jitgrad.compiler.program import Results
from jitgrad.value import Value

if TYPE_CHECKING:
    from jitgrad.api import Answer, Transformed
    from jitgrad.calls import Layout

FOLDED = 16                         # vectors that one task adds up, a power of two: whole branches of the tree
KEPT_FUNCTIONS = 64                 # by a worker process

_UNSHIPPING = threading.Lock()
_SHIPPED: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()

Client = Any                        # distributed.Client
Block = Any                         # an array of a partition's examples, on Dask's side of the fence


def over_partitions(step: Transformed, args: tuple[Any, ...], out: Any = None) -> Any:
    """The call of arguments some of which are Dask arrays."""
    if step.returns == "batch":
        raise errors.ArgumentError(errors.explain(
            "batch() closes over Values, and Dask's workers do not have this process's Values.", None,
            "Pass the parameters as an argument, to jg.value_and_grad."))
    if out is not None:
        raise errors.ArgumentError("out= takes what is computed in this process; Dask's results are new arrays")
    partitions = Partitions(step, args)
    return partitions.rows(step, args) if step.returns == "jit" and step.reduce is None else partitions.call(step, args)


class Partitions:
    """The batched arguments of a call, cut along the batch axis into the chunks of the first that is a Dask array.

    args: of `step`; the others may be arrays in memory; client: see `client_of`
    chunks: examples of each partition; count: of all
    kinds, axes: dtype and shape, and batch axis, of each batched argument; places: their numbers among all leaves
    raises: what a call of `step` raises for such arguments; ArgumentError for chunks of unknown size and for collections
        other than arrays
    """

    def __init__(self, step: Transformed, args: tuple[Any, ...], client: Client | None = None):
        array = _dask_array()
        leaves, structure = flatten(args)
        for leaf in leaves:
            if is_dask(leaf):
                _check_collection(leaf, array)
        stand_ins = [_stand_in(leaf) if is_dask(leaf) else leaf for leaf in leaves]
        bound = step.bind(unflatten(structure, stand_ins))
        self._client, self._bound, self._structure = client_of(client), bound, structure
        dask = [k for k, leaf in enumerate(leaves) if is_dask(leaf)]
        first = next((k for k in dask if bound.axes[k] is not None), None)
        if first is None or bound.n is None:
            raise errors.ShapeError(errors.explain(
                "Only arguments that the batch shares are Dask arrays.", f"argument {bound.path(dask[0])}",
                "Compute them (array.compute()): every worker needs the whole of them."))
        self.count = bound.n
        self._shared = {k: self._client.compute(leaves[k]).result() for k in dask if bound.axes[k] is None}
        self.chunks = leaves[first].chunks[_axis(bound, first)]
        self._firsts = [0, *np.cumsum(self.chunks).tolist()]
        self.places = [k for k, axis in enumerate(bound.axes) if axis is not None]
        self.axes = [_axis(bound, k) for k in self.places]
        self.kinds = [(bound.arrays[k].dtype.str, list(bound.arrays[k].shape)) for k in self.places]
        self.nbytes = sum(bound.arrays[k].nbytes for k in self.places)
        columns = [self._column(leaves[k], axis, array) for k, axis in zip(self.places, self.axes, strict=True)]
        # Empty chunks, as selections leave them, have nothing to add.
        self._numbers = [p for p, size in enumerate(self.chunks) if size]
        self._blocks = [[column[p] for column in columns] for p in self._numbers]

    def _column(self, leaf: Any, axis: int, array: Any) -> list[Block]:
        chunks = tuple(self.chunks if k == axis else -1 for k in range(leaf.ndim))
        if not is_dask(leaf):
            leaf = array.from_array(np.asarray(leaf), chunks=chunks)
        blocks: list[Block] = leaf.rechunk(chunks).to_delayed().ravel().tolist()
        return blocks

    def call(self, step: Transformed, args: tuple[Any, ...]) -> Any:
        """What a call answers, computed by the workers. args: as at first but for numbers."""
        layout, answer = self.layout(step)
        total = self.total(sums_of, shipped(step), self.arguments(args), debug.nans_are_errors())
        return answer.of(*layout.finish(Results(total, []), self.count))

    def layout(self, step: Transformed) -> tuple[Layout, Answer]:
        """How to finish the sums. Raises ArgumentError for a function that has results for each example."""
        layout, answer = step.layout(unflatten(self._structure, self._bound.given))
        if not layout.is_reduced:
            raise errors.ArgumentError(errors.explain(
                "Over Dask arrays only sums and means are computed, and this call has results for each example.", None,
                "Use reduce='mean' or 'sum' and parameters that the batch shares; of a jit, reduce=None makes Dask arrays."))
        return layout, answer

    def rows(self, step: Transformed, args: tuple[Any, ...]) -> Any:
        """What a jit answers for each example, as Dask arrays with the partitions as their chunks, not computed yet."""
        from dask.delayed import delayed
        array = _dask_array()
        layout, answer = step.layout(unflatten(self._structure, self._bound.given))
        common, dtype = (shipped(step), self.arguments(args), debug.nans_are_errors()), layout.program.dtype
        parts = [delayed(rows_of, pure=False)(*common, *blocks) for blocks in self._blocks]
        found = [array.concatenate([array.from_delayed(part[k], (self.chunks[p], *shape), dtype)
                                    for p, part in zip(self._numbers, parts, strict=True)])
                 for k, shape in enumerate(layout.recorded.shapes)]
        return answer.of(unflatten(layout.recorded.result, found), [])

    def arguments(self, args: tuple[Any, ...]) -> Arguments:
        """The arguments but for those that are cut."""
        leaves, structure = flatten(args)
        for k, leaf in enumerate(leaves):
            if k in self.places:
                leaves[k] = BLOCK
            elif k in self._shared:
                leaves[k] = self._shared[k]
            elif isinstance(leaf, Value):                   # its number; the Value belongs to a graph of this process
                leaves[k] = leaf.data
        return Arguments(unflatten(structure, leaves))

    def total(self, task: Callable[..., Vector], *common: Any) -> Vector:
        """The sum, in the fixed tree, of task(*common, number of the first example, *blocks) over the partitions."""
        from dask.delayed import delayed
        # Not pure, which would look for a name in all that goes in; what comes out still depends on nothing else.
        parts = [delayed(task, pure=False)(*common, self._firsts[p], *blocks)
                 for p, blocks in zip(self._numbers, self._blocks, strict=True)]
        while len(parts) > FOLDED:
            parts = [delayed(folded, pure=False)(parts[k:k + FOLDED]) for k in range(0, len(parts), FOLDED)]
        return folded(self._client.gather(self._client.compute(parts)))

    def as_current(self) -> AbstractContextManager[Any]:
        """Inside, Dask computes with the workers of these partitions whatever is asked for."""
        found: AbstractContextManager[Any] = self._client.as_current()
        return found

    def persist(self) -> None:
        """Keep the partitions in the workers' memory; what a worker loses is computed again."""
        flat = self._client.persist([block for blocks in self._blocks for block in blocks])
        width = len(self.places)
        self._blocks = [flat[k:k + width] for k in range(0, len(flat), width)]

    def memory(self) -> int | None:
        """The workers' memory in bytes; None where a worker has no limit."""
        limits = [worker["memory_limit"] for worker in self._client.scheduler_info(n_workers=-1)["workers"].values()]
        return sum(limits) if all(limits) else None


class Placeholder:
    """Stands in a tree of arguments for a block that a task is given besides."""


BLOCK = Placeholder()


class Arguments:
    """A tree of arguments with placeholders, made whole by a task."""

    def __init__(self, tree: Any):
        self._tree = tree

    def whole(self, blocks: Sequence[npt.NDArray[Any]]) -> tuple[Any, ...]:
        """The arguments with these blocks in their places."""
        leaves, structure = flatten(self._tree)
        rest = iter(blocks)
        found: tuple[Any, ...] = unflatten(structure, [next(rest) if isinstance(leaf, Placeholder) else leaf
                                                       for leaf in leaves])
        return found


def sums_of(function: bytes, arguments: Arguments, nans_are_errors: bool, first: int, *blocks: Any) -> Vector:
    """A task: the sums of a partition whose first example has this number in the whole batch."""
    step = unshipped(function)
    args = arguments.whole(blocks)
    numbers = range(first, first + step.bind(args).n)
    with threads.on_one_core(), debug.nans_as_errors(nans_are_errors):
        sums: Vector = step.sums(args, numbers)
    return sums


def rows_of(function: bytes, arguments: Arguments, nans_are_errors: bool, *blocks: Any) -> list[Any]:
    """A task: what a jit answers for each example of a partition."""
    with threads.on_one_core(), debug.nans_as_errors(nans_are_errors):
        return flatten(unshipped(function)(*arguments.whole(blocks)))[0]


def folded(vectors: Sequence[Vector]) -> Vector:
    """A task: the sum of neighbours in the tree."""
    return Sums(vectors).total()


def shipped(function: Any) -> bytes:
    """A transformed function or an optimizer as bytes, always the same ones for the same object."""
    found = _SHIPPED.get(function)
    if found is None:
        try:
            found = _SHIPPED[function] = _pickled(function)
        except Exception as error:
            raise errors.ArgumentError(errors.explain(
                f"{function!r} cannot be sent to Dask's workers: {error}", None,
                "Something it closes over cannot be pickled (an open file, a lock, a generator); pass numbers and arrays.")
            ) from error
    return found


def unshipped(function: bytes) -> Any:
    """The inverse of `shipped`: for the same bytes the same object, with all that has been compiled for it."""
    with _UNSHIPPING:                                       # or tasks that begin together would each have their own
        return _unpickled(function)


@lru_cache(KEPT_FUNCTIONS)
def _unpickled(function: bytes) -> Any:
    sources, content = pickle.loads(function)
    for filename, lines in sources.items():
        if not linecache.getlines(filename):                # a file that is not on this machine, a notebook's cell
            linecache.cache[filename] = sum(map(len, lines)), None, lines, filename
    return pickle.loads(content)


def _pickled(function: Any) -> bytes:
    """Bytes as of cloudpickle, and the source lines of the code in them: errors show them, and cloudpickle drops even the
    names of their files.
    """
    import cloudpickle
    plain = cloudpickle.Pickler.dispatch_table[CodeType]
    used: defaultdict[str, set[int]] = defaultdict(set)

    def reduced(code: CodeType) -> Any:
        make, args, *_ = plain(code)
        used[code.co_filename] |= {line for *_, line in code.co_lines() if line is not None}
        return _code, (make, args, code.co_filename)

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table = cloudpickle.Pickler.dispatch_table.new_child({CodeType: reduced})
    with io.BytesIO() as content:
        Pickler(content).dump(function)
        sources = {name: [line if number in used[name] else "\n" for number, line in enumerate(linecache.getlines(name), 1)]
                   for name in sorted(used)}
        return pickle.dumps((sources, content.getvalue()))


def _code(make: Callable[..., CodeType], args: tuple[Any, ...], filename: str) -> CodeType:
    return make(*args).replace(co_filename=filename)


def client_of(client: Client | None) -> Client:
    """This client; without one the current one, or else that of a cluster inside this process, made on first use.

    raises: ArgumentError for what is no distributed.Client, or where `distributed` is not installed
    """
    try:
        import distributed
    except ImportError as error:
        raise errors.ArgumentError(_INSTALL) from error
    if client is not None:
        if not isinstance(client, distributed.Client) or client.asynchronous:
            raise errors.ArgumentError(errors.explain("client must be a distributed.Client that waits for its results.",
                                                      f"client={client!r}", "Write distributed.Client(), say."))
        return client
    try:
        return distributed.get_client()
    except ValueError:
        return _embedded()


@lru_cache(1)
def _embedded() -> Client:
    """A cluster of threads: kernels leave Python's lock alone, and the data need not be copied to other processes."""
    from distributed import Client
    return Client(processes=False, n_workers=1, threads_per_worker=threads.cores(), dashboard_address="127.0.0.1:0",
                  set_as_default=False)


def _dask_array() -> Any:
    try:
        import dask.array as array
    except ImportError as error:                        # `pip install dask` alone has no arrays
        raise errors.ArgumentError(_INSTALL) from error
    return array


_INSTALL = errors.explain("Dask arrays need Dask with arrays and a scheduler, which cannot be imported here.", None,
                          "Install them with: pip install 'jitgrad[dask]'.")


def _check_collection(leaf: Any, array: Any) -> None:
    if not isinstance(leaf, array.Array):
        raise errors.ArgumentError(errors.explain(
            f"A {type(leaf).__name__} of Dask's is no array.", None,
            "Of a dask.dataframe take the columns as one: frame[columns].to_dask_array(lengths=True)."))
    if not all(isinstance(size, int | np.integer) for chunks in leaf.chunks for size in chunks):
        raise errors.ArgumentError(errors.explain(
            "A Dask array does not know how long its chunks are.", f"an array of shape {leaf.shape}",
            "Call array.compute_chunk_sizes() first; of a dask.dataframe: to_dask_array(lengths=True)."))


def _stand_in(leaf: Any) -> npt.NDArray[Any]:
    """An array of that dtype and shape in no memory: all that the checks of a call look at."""
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def _axis(bound: Bound, k: int) -> int:
    axis = bound.axes[k]
    assert axis is not None
    return axis % bound.arrays[k].ndim
