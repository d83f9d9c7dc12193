"""Logistic regression, written for one example in scalars, on 100,000 of them.

python examples/logistic_regression.py [EXAMPLES]
"""

import sys

import numpy as np

import jitgrad as jg

n = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
rng = np.random.default_rng(0)
true = np.array([1.5, -2.0, 0.5])
X = rng.normal(size=(n, 3))
Y = (rng.random(n) < 1 / (1 + np.exp(-(X @ true)))).astype(float)


def objective(params, x, y):                                # ONE example: x holds three numbers, y is 0 or 1
    logit = params["bias"]
    for weight, feature in zip(params["weights"], x):
        logit = logit + weight * feature
    return jg.losses.binary_cross_entropy(logit, y)


result = jg.fit(objective, {"weights": np.zeros(3), "bias": 0.0}, (X, Y), optimizer=jg.optim.adam(0.05), epochs=200)
print(result)
print("true weights   ", true)
print("fitted weights ", result.params["weights"].round(2))
assert np.abs(result.params["weights"] - true).max() < 20 / np.sqrt(n)
