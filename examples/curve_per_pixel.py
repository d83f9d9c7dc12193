"""One little model for each pixel: ten thousand exponential decays, fitted in one kernel.

The parameters have a batch axis of their own (in_axes), so each example's gradient is its own row.

python examples/curve_per_pixel.py [PIXELS]
"""

import sys

import numpy as np

import jitgrad as jg

pixels = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
rng = np.random.default_rng(0)
times = np.linspace(0.0, 3.0, 24)
true = np.stack([rng.uniform(0.5, 2.0, pixels), rng.uniform(0.3, 1.5, pixels), rng.uniform(0.0, 0.2, pixels)], axis=1)
measured = true[:, :1] * np.exp(-true[:, 1:2] * times) + true[:, 2:] + 0.001 * rng.normal(size=(pixels, len(times)))


def misfit(theta, curve):                                   # ONE pixel: three numbers, and its 24 measurements
    height, rate, floor = theta
    return jg.losses.huber(height * np.exp(-rate * times) + floor, curve, delta=0.1, reduction="sum")


start = np.tile([1.0, 1.0, 0.1], (pixels, 1))
result = jg.fit(misfit, start, (measured,), in_axes=(0, 0), reduce="sum", optimizer=jg.optim.adam(0.02), epochs=800)
error = np.abs(result.params - true)
print(result)
print("median error of height, rate and floor:", np.median(error, axis=0).round(4))
assert np.median(error) < 0.02
