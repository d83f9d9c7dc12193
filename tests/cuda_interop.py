"""Run by test_cuda_arrays.py in a process of its own under NUMBA_ENABLE_CUDASIM=1: calls with arrays of other libraries.

In the simulator the processor's memory is the device's, so that a fake library is NumPy that says its arrays are on a GPU.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
from referees import assert_close, assert_same_bits

import jitgrad as jg
from jitgrad import device_calls, errors, losses
from jitgrad.backends import cuda, cuda_copies, cuda_memory, device_arrays
from jitgrad.backends.device_arrays import DeviceArray


class Fake:
    """An array on GPU 0."""

    def __init__(self, array: Any):
        self.array = array if isinstance(array, np.ndarray) else np.asarray(array)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


class FakeCupy(Fake):
    """One that has the CUDA Array Interface, as CuPy's, PyTorch's and numba's."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        found = self.array.__array_interface__
        return {"version": 3, "shape": found["shape"], "typestr": found["typestr"], "data": found["data"],
                "strides": found["strides"], "stream": 1}


class FakeJax(Fake):
    """One that comes by DLPack."""

    def __dlpack__(self, *, stream: Any = None) -> Any:
        assert stream == device_arrays.DEFAULT_STREAM
        return self.array.__dlpack__()


def install(name: str, place: str, cls: type[Fake]) -> None:
    cls.__module__ = f"{name}.fake"
    module = types.ModuleType(place)
    module.from_dlpack = lambda given: cls(np.from_dlpack(given))  # type: ignore[attr-defined]
    sys.modules[place] = module


def loss(p: Any, x: Any, y: Any) -> Any:
    return losses.mse(p["w"] @ x + p["b"], y)


def drawn(n: int, dtype: Any) -> tuple[dict[str, Any], Any, Any]:
    rng = np.random.default_rng(n)
    params = {"w": rng.normal(size=3).astype(dtype), "b": rng.normal(size=()).astype(dtype)}
    return params, rng.normal(size=(n, 3)).astype(dtype), rng.normal(size=n).astype(dtype)


def check_both_ways(cls: type[Fake], dtype: Any) -> None:
    params, x, y = drawn(9, dtype)
    step, reference = jg.value_and_grad(loss), jg.value_and_grad(loss, device="interpret")
    step({k: cls(v) for k, v in params.items()}, cls(x), cls(y))       # tables that never change are copied in once
    uploads: list[int] = []
    fill = cuda_memory.fill
    cuda_memory.fill = lambda target, host: uploads.append(host.size) or fill(target, host)  # type: ignore[func-returns-value]
    try:
        value, grads = step({k: cls(v) for k, v in params.items()}, cls(x), cls(y))
        expected, wanted = reference(params, x, y)
        assert type(value) is type(grads["w"]) is cls
        assert max(uploads, default=0) < x.size, "data went through the host"
        # Parameters that stay where they are, data on the host: it is copied in, the results stay.
        mixed, _ = step({k: cls(v) for k, v in params.items()}, x, y)
        assert_same_bits(mixed.array, value.array)
        # Parameters on the host: their gradients are where the data are.
        other = step(params, cls(x), cls(y))[1]
        assert_same_bits(other["w"].array, grads["w"].array)
    finally:
        cuda_memory.fill = fill
    tolerance = 2e-6 if dtype == np.float32 else 1e-13
    assert value.array.dtype == dtype
    assert value.array.shape == ()
    assert_close(value.array, expected, tolerance)
    for k in params:
        assert grads[k].array.shape == params[k].shape
        assert_close(grads[k].array, wanted[k], tolerance)


def check_layouts() -> None:
    """Other dtypes, axes and strides, and memory that begins anywhere, are put in order on the device."""
    params, x, _ = drawn(8, np.float32)
    step = jg.value_and_grad(loss, in_axes=(None, 1, 0))
    expected, wanted = jg.value_and_grad(loss, device="interpret")(params, x, np.arange(8))
    room = np.zeros(8 * 3 + 1, np.float32)
    room[1:] = x.T.reshape(-1)
    ways = {"another axis": FakeCupy(np.ascontiguousarray(x.T)), "a transposed view": FakeCupy(x.T),
            "every second column": FakeCupy(np.repeat(x.T, 2, axis=1)[:, ::2]), "off by 4": FakeCupy(room[1:].reshape(3, 8))}
    for label, given in ways.items():
        value, grads = step(params, given, FakeCupy(np.arange(8)))
        assert_close(value.array, expected, 2e-6, label)
        assert_close(grads["w"].array, wanted["w"], 2e-6, label)
    p, t = np.ones((1, 5), np.float32), np.arange(5.0, dtype=np.float32)[None]
    rows = jg.grad(lambda p, t: losses.mse(p[0], t[0]), in_axes=(1, 1), reduce="sum")(FakeCupy(p), FakeCupy(t))
    assert_close(rows.array, 2 * (p - t), 2e-6)
    wide = jg.grad(lambda p, t: losses.mse(p[0], t), in_axes=(0, 0))(FakeCupy(p.T), FakeCupy(t[0].astype(np.float64)))
    assert wide.array.dtype == np.float32
    assert_close(wide.array, 2 * (p.T - t.T) / 5, 2e-6)


def check_sums_come_to_the_host() -> None:
    """As a Dask worker adds up a partition that lies on its GPU; an error has the caller's numbers."""
    params, x, y = drawn(9, np.float64)
    step, reference = jg.value_and_grad(loss), jg.value_and_grad(loss, device="interpret")
    assert_close(step.sums((params, FakeCupy(x), FakeCupy(y))), reference.sums((params, x, y)), 1e-13)
    labelled = jg.value_and_grad(lambda w, x, y: losses.hinge(w @ x, y))
    with pytest.raises(errors.LabelError, match="example 104 of"):
        labelled.sums((params["w"], FakeCupy(x), FakeCupy(np.where(np.arange(9) == 4, 0, 1))), range(100, 109))


def check_errors() -> None:
    params, x, y = drawn(4, np.float32)
    with pytest.raises(errors.DeviceError, match=r"(?s)lies on the GPU \(cuda\).*device 'cpu' computes elsewhere"):
        jg.value_and_grad(loss, device="cpu")(params, FakeCupy(x), y)
    with pytest.raises(errors.ArgumentError, match="out= takes NumPy arrays"):
        jg.value_and_grad(loss)(params, FakeCupy(x), y, out=params)
    second = FakeCupy(x)
    second.__class__ = type("Second", (FakeCupy,), {"__dlpack_device__": lambda self: (2, 1)})
    with pytest.raises(errors.DeviceError, match="several GPUs: x on cuda:1, y on cuda:0"):
        jg.value_and_grad(loss)(params, second, FakeCupy(y))
    label = jg.value_and_grad(lambda w, x, y: losses.hinge(w * x, y))
    with pytest.raises(errors.LabelError, match=r"0\.5"):
        label(1.0, FakeCupy(x[:, 0].copy()), FakeCupy(np.array([1, -1, 0.5, 1], np.float32)))
    root = jg.value_and_grad(lambda w, x: jg.sqrt(w * x))
    with jg.debug_nans(), pytest.raises(errors.NonFiniteError, match="sqrt"):
        root(FakeCupy(np.float32(-1.0)), FakeCupy(np.ones(3, np.float32)))
    recording = type("Tensor", (FakeCupy,), {"__cuda_array_interface__": property(_refuse)})
    with pytest.raises(errors.DtypeError, match=r"(?s)requires grad.*x\.detach\(\)"):
        label(1.0, recording(x[:, 0]), y)
    with pytest.raises(errors.DtypeError, match="dtype float16"):
        label(1.0, FakeCupy(x[:, 0].astype(np.float16)), y)


def _refuse(self: Any) -> Any:
    raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad")


def check_a_model_of_values() -> None:
    w = jg.Value(2.0)
    made = jg.batch(lambda x: losses.mse(w * x, 1.0))(FakeCupy(np.arange(4.0)))
    made.backward()
    assert made.data == np.mean((2.0 * np.arange(4.0) - 1)**2)
    assert w.grad == np.mean(2 * (2.0 * np.arange(4.0) - 1) * np.arange(4.0))


def check_parameters_of_every_kind() -> None:
    """On the device, on the host, closed over, and the size of the batch that a derivative an example is divided by."""
    v, x = jg.Value(3.0), np.arange(4.0)
    step = jg.grad(lambda w, u, x: losses.mse(w * x + u, v), argnums=(0, 1, 2), in_axes=(None, None, 0))
    reference = jg.grad(lambda w, u, x: losses.mse(w * x + u, v), argnums=(0, 1, 2), in_axes=(None, None, 0),
                        device="interpret")
    found = step(FakeCupy(np.float64(2.0)), 1.0, FakeCupy(x))
    for a, b in zip(found, reference(np.float64(2.0), 1.0, x), strict=True):
        assert_close(a.array, b, 1e-13)


def check_predictions_and_other_arrays() -> None:
    """A class of no known library gives jitgrad's own arrays, which go in again."""
    class Unknown(Fake):
        __cuda_array_interface__ = FakeCupy.__cuda_array_interface__
    predict = jg.jit(lambda p, x: [p * x, p + x], reduce=None)
    found = predict(Unknown(np.float32(2.0)), Unknown(np.arange(5.0, dtype=np.float32)))
    assert all(type(a) is DeviceArray for a in found)
    assert_same_bits(found[0].copy_to_host(), 2 * np.arange(5.0, dtype=np.float32))
    again = predict(2.0, found[1])
    assert_same_bits(again[1].copy_to_host(), np.arange(5.0, dtype=np.float32) + 4)


def check_a_tape() -> None:
    from jitgrad.compiler import schedule
    limit, schedule.FUSED_LIMIT, schedule.TILE_THREADS = schedule.FUSED_LIMIT, -1, 8
    try:
        check_both_ways(FakeCupy, np.float64)
    finally:
        schedule.FUSED_LIMIT = limit


def check_launches() -> None:
    """Parameters gathered by one launch, the program, its sums: three, with all on the device and as it is read."""
    params, x, y = drawn(9, np.float32)
    step, launched = jg.value_and_grad(loss), list[str]()
    given = {k: FakeCupy(v) for k, v in params.items()}, FakeCupy(x), FakeCupy(y)
    step(*given)
    start = cuda_copies.launch

    def count(kernel: Any, *args: Any, **options: Any) -> None:
        launched.append(str(kernel))
        start(kernel, *args, **options)
    cuda_copies.launch = cuda.launch = count  # type: ignore[assignment]
    try:
        step(*given)
        assert len(launched) == 3, launched
    finally:
        cuda_copies.launch = cuda.launch = start


def main() -> None:
    install("cupy", "cupy", FakeCupy)
    install("jaxlib", "jax.numpy", FakeJax)
    check_both_ways(FakeCupy, np.float32)
    check_both_ways(FakeJax, np.float64)
    check_launches()
    limit, device_calls.GATHERED = device_calls.GATHERED, 1
    check_both_ways(FakeCupy, np.float32)
    device_calls.GATHERED = limit
    check_layouts()
    check_sums_come_to_the_host()
    check_errors()
    check_a_model_of_values()
    check_parameters_of_every_kind()
    check_predictions_and_other_arrays()
    check_a_tape()
    assert not device_arrays._given, "memory that nobody holds any more"


if __name__ == "__main__":
    sys.exit(main())
