"""A formula fitted to every row: ten thousand decays with their errors, as curve_fit would fit them one by one.

Then the fitted numbers as features: which of two substances a decay comes from, in a scikit-learn pipeline.

python examples/curve_fits.py [CURVES]
"""

import sys
import time

import numpy as np
from scipy.optimize import curve_fit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jitgrad.estimators import JitCurveFitter

count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
rng = np.random.default_rng(0)
times = np.linspace(0.0, 3.0, 32)
substance = rng.integers(0, 2, count)
height, floor = rng.uniform(0.5, 2.0, count), rng.uniform(0.0, 0.2, count)
rate = np.where(substance == 1, 1.2, 0.8) + 0.1 * rng.normal(size=count)
true = np.stack([height, rate, floor], axis=1)


def decay(t, height, rate, floor):                          # as for curve_fit
    return height * np.exp(-rate * t) + floor


measured = np.stack([decay(times, *row) for row in true]) + 0.01 * rng.normal(size=(count, len(times)))

fitter = JitCurveFitter(decay, times, bounds=(0.0, np.inf))
started = time.perf_counter()
found = fitter.fit_transform(measured)
seconds = time.perf_counter() - started
print(f"{count} curves in {seconds:.2f} s, compilation included; {fitter.converged_.mean():.1%} converged")

some = min(count, 50)
started = time.perf_counter()
loop = np.array([curve_fit(decay, times, curve, bounds=(0.0, np.inf))[0] for curve in measured[:some]])
print(f"a loop over curve_fit would take {(time.perf_counter() - started) * count / some:.0f} s")
inside = (found[:some] > 1e-3).all(axis=1)                  # at a bound, scipy's method stops a little short of it
print("largest difference between the two:", f"{np.abs(found[:some] - loop)[inside].max():.0e}")

pulls = (found - true) / fitter.standard_errors_
free = (found > 0.0).all(axis=1)
print("errors, in standard errors (1 would be perfect):", pulls[free].std(axis=0).round(2))

pipeline = make_pipeline(JitCurveFitter(decay, times, bounds=(0.0, np.inf)), StandardScaler(), LogisticRegression())
accuracy = cross_val_score(pipeline, measured, substance, cv=3).mean()
print(f"substance recognised: {accuracy:.1%}")
assert accuracy > 0.8
