"""Parameters and trainings on disk: safetensors files whose metadata are JSON, written so that no reader meets half of one.

A file holds named trees of numbers. Each number or array is a tensor, named by its place in its tree as a JSON pointer:
`params/layers/0/W`. The metadata, under the key "jitgrad", say which trees there are and of which containers, carry a
checksum of the tensors, and whatever else the writer added. Nothing that is read is ever executed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
import os
import secrets
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.arguments import flatten, unflatten
from jitgrad.errors import ArgumentError, CheckpointError, explain
from jitgrad.optim import leaf_path

Tree = Any
Array = npt.NDArray[Any]
Path = str | os.PathLike[str]
Tensors = dict[str, Array]

VERSION = 1
_DTYPES = {"bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
_NUMBERS: dict[str, type] = {"float": float, "int": int, "bool": bool}


def save(path: Path, params: Tree, metadata: Mapping[str, Any] | None = None) -> None:
    """Write parameters to a safetensors file, which other tools can read too.

    params: a pytree (dicts, lists, tuples, named tuples, dataclasses, None) of numbers and of arrays of float16, float32,
        float64, integers or bools
    metadata: what JSON can hold; `load` returns it

    The file appears whole or not at all: it is written under another name, forced to the disk, and renamed. A process
    that is killed meanwhile leaves PATH.XXXXXXXX.partial, which nothing reads.
    raises: ArgumentError for what cannot be stored; OSError
    """
    write(path, {"params": params}, {} if metadata is None else metadata)


def load(path: Path, like: Tree = None) -> tuple[Tree, Any]:
    """(params, metadata) of a file that `save` or `fit(..., checkpoint=path)` wrote.

    like: parameters whose containers, number types, shapes and dtypes the file must fit, and which are returned in them;
        None: dicts, lists and tuples as they were saved, a named tuple as a tuple and a dataclass as a dict
    raises: CheckpointError for a file that is torn or not jitgrad's, or that does not fit `like`; OSError
    """
    file = File(path)
    return file.tree("params") if like is None else file.tree_like("params", like), file.metadata


def write(path: Path, trees: Mapping[str, Tree], metadata: Any) -> None:
    """Write named trees; see `save`."""
    tensors: Tensors = {}
    nodes = {name: _node(tree, name, tensors) for name, tree in trees.items()}
    try:
        text = json.dumps({"version": VERSION, "trees": nodes, "crc32": _checksum(tensors), "metadata": metadata})
    except (TypeError, ValueError) as error:
        raise ArgumentError(explain(f"The metadata cannot be written as JSON: {error}.", os.fspath(path),
                                    "Use dicts with text keys, lists, text, numbers, bools and None.")) from None
    from safetensors.numpy import save as serialised  # loaded only where files are
    _replace(os.fspath(path), serialised(tensors, {"jitgrad": text}))


class File:
    """A file that `write` wrote, read and checked as a whole."""

    def __init__(self, path: Path):
        self.path = os.fspath(path)
        self._tensors, text = _read(self.path)
        try:
            content = json.loads(text)
            version, self._nodes = content["version"], content["trees"]
            checksum, self.metadata = content["crc32"], content["metadata"]
            if not isinstance(self._nodes, dict):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self.unusable("its metadata are not those of jitgrad") from None
        if version != VERSION:
            raise self.unusable(f"it has version {version!r} of the format, and this jitgrad reads {VERSION}")
        if checksum != _checksum(self._tensors):
            raise self.unusable("its numbers are not those that were written (the checksum differs)")

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def unusable(self, why: str) -> CheckpointError:
        """The error that says so."""
        return CheckpointError(explain(f"This file cannot be used: {why}.", self.path,
                                       "It may be damaged, or another program's. Use another one, or start anew."))

    def tree(self, name: str) -> Tree:
        """A tree in dicts, lists and tuples."""
        try:
            return _built(self._nodes[name], name, self._tensors)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            raise self.unusable(f"its {name} are not described as jitgrad describes them") from None

    def tree_like(self, name: str, like: Tree) -> Tree:
        """A tree in the containers and number types of `like`, which must have the same places, shapes and dtypes."""
        leaves, spec = flatten(like)
        places = [_pointer((name, *accessor.path)) for accessor in spec.accessors()]
        stored = {place for place in self._tensors if place == name or place.startswith(f"{name}/")}
        different = sorted(stored.symmetric_difference(places))
        if different:
            where = "is only in the file" if different[0] in stored else "is not in the file"
            raise self._unlike(f"{different[0]} {where}")
        found = []
        for position, (place, leaf) in enumerate(zip(places, leaves, strict=True)):
            array, wanted = self._tensors[place], np.asarray(leaf)
            if (array.dtype, array.shape) != (wanted.dtype, wanted.shape):
                raise self._unlike(f"{leaf_path(name, spec, position)} is {wanted.dtype}{list(wanted.shape)}, and in the "
                                   f"file {array.dtype}{list(array.shape)}")
            found.append(array if isinstance(leaf, np.ndarray)
                         else array[()] if isinstance(leaf, np.generic) else array.item())
        return unflatten(spec, found)

    def _unlike(self, what: str) -> CheckpointError:
        return CheckpointError(explain(f"The file does not fit: {what}.", self.path,
                                       "jg.load(path) without `like` returns what it holds."))


def _node(tree: Tree, place: str, tensors: Tensors) -> Any:
    """The containers of a tree as JSON; its leaves go to `tensors`."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        for key in tree:
            if type(key) not in (str, int):
                raise ArgumentError(explain(f"A dict with the key {key!r} cannot be stored.", place,
                                            "Keys must be text or whole numbers."))
        return {"dict": [[key, _node(value, _pointer((place, key)), tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return {"list" if isinstance(tree, list) else "tuple":
                [_node(value, _pointer((place, k)), tensors) for k, value in enumerate(tree)]}
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return {"dict": [[field.name, _node(getattr(tree, field.name), _pointer((place, field.name)), tensors)]
                         for field in dataclasses.fields(tree)]}
    array = np.asarray(tree)
    if not isinstance(tree, np.ndarray | np.generic | float | int) or array.dtype.name not in _DTYPES:
        raise ArgumentError(explain(f"A {type(tree).__name__} of dtype {array.dtype} cannot be stored.", place,
                                    "Trees of numbers and of real arrays can: dicts, lists, tuples, dataclasses."))
    if place in tensors:
        raise ArgumentError(explain("Two leaves have the same place.", place, "Do not use 0 and '0' as keys of one dict."))
    # Little-endian and in C order is how the file lays numbers out.
    tensors[place] = np.array(array, array.dtype.newbyteorder("<"), order="C")
    kind = "array" if isinstance(tree, np.ndarray) else "scalar" if isinstance(tree, np.generic) else type(tree).__name__
    return {"leaf": kind if kind in ("array", "scalar", *_NUMBERS) else "scalar"}


def _built(node: Any, place: str, tensors: Tensors) -> Tree:
    """The inverse of `_node`; KeyError, TypeError or ValueError for what `_node` does not make."""
    if node is None:
        return None
    ((kind, content),) = node.items()
    if kind == "dict":
        return {key: _built(value, _pointer((place, key)), tensors) for key, value in content}
    if kind in ("list", "tuple"):
        found = [_built(value, _pointer((place, k)), tensors) for k, value in enumerate(content)]
        return found if kind == "list" else tuple(found)
    if kind != "leaf":
        raise ValueError(kind)
    array = tensors[place]
    if content == "array":
        return array
    return array[()] if content == "scalar" else _NUMBERS[content](array.item())


def _pointer(parts: Iterable[Any]) -> str:
    """A JSON pointer (RFC 6901) below a first part that is one already."""
    first, *rest = parts
    return "/".join([str(first), *(str(part).replace("~", "~0").replace("/", "~1") for part in rest)])


def _checksum(tensors: Tensors) -> int:
    found = 0
    for name in sorted(tensors):
        array = tensors[name]
        found = zlib.crc32(array.tobytes(), zlib.crc32(f"{name} {array.dtype.name} {array.shape}".encode(), found))
    return found


def _read(path: str) -> tuple[Tensors, str]:
    from safetensors import SafetensorError, safe_open
    with open(path, "rb"):                        # a file that is missing or must not be read is an OSError, as everywhere
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise CheckpointError(explain(f"This is no whole safetensors file: {error}.", path,
                                      "It may be damaged, or another program's. Use another one, or start anew.")) from None
    if "jitgrad" not in metadata:
        raise CheckpointError(explain("This safetensors file was not written by jitgrad.", path,
                                      "Read it with safetensors.numpy.load_file, which returns its arrays by name."))
    return tensors, metadata["jitgrad"]


def discard_partial(path: Path) -> None:
    """Remove what processes that were killed while they wrote this file have left beside it."""
    for partial in glob.glob(f"{glob.escape(os.fspath(path))}.{'[0-9a-f]' * 8}.partial"):
        with contextlib.suppress(OSError):
            os.unlink(partial)


def _replace(path: str, content: bytes) -> None:
    """Make `path` a file of this content, or leave it as it is."""
    partial = f"{path}.{secrets.token_hex(4)}.partial"
    try:
        with open(partial, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    if os.name == "posix":                        # the new name must be on the disk too
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
