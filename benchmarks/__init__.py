"""Timings of jitgrad beside JAX, PyTorch and micrograd on the same work: `python -m benchmarks`."""
