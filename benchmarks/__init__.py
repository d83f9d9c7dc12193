"""jitgrad beside its peers on the same work: `python -m benchmarks`, or `jitgrad bench`."""
