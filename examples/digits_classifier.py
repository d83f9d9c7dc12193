"""Handwritten digits, 64-32-10: every neuron a Python loop, and the whole batch one kernel.

A loop over neurons costs what `W @ x` costs: both are recorded scalar by scalar, and rolled into the same dense layers.
The images are those bundled with scikit-learn.

python examples/digits_classifier.py [EPOCHS] [HIDDEN NEURONS]
"""

import itertools
import sys

import numpy as np

import jitgrad as jg
from jitgrad.data import load_digits

epochs, hidden = (int(a) for a in (sys.argv[1:] + ["60", "32"][len(sys.argv) - 1:]))
digits = load_digits()
print(digits)
rng = np.random.default_rng(0)
sizes = [64, hidden, 10]
params = [(rng.normal(size=(n, m)).astype(np.float32) * np.sqrt(2 / m, dtype=np.float32), np.zeros(n, np.float32))
          for m, n in itertools.pairwise(sizes)]


def neuron(weights, bias, inputs):
    total = bias
    for weight, number in zip(weights, inputs):
        total = total + weight * number
    return total


def scores(params, pixels):                                 # ONE image: 64 numbers; ten scores
    activations = list(pixels)
    for k, (W, b) in enumerate(params):
        activations = [neuron(weights, bias, activations) for weights, bias in zip(W, b)]
        if k < len(params) - 1:
            activations = [jg.relu(a) for a in activations]
    return activations


def objective(params, pixels, digit):
    return jg.losses.cross_entropy(scores(params, pixels), digit)


X, Y = digits.train
result = jg.fit(objective, params, (X.astype(np.float32), Y), optimizer=jg.optim.adam(2e-3), epochs=epochs, batch_size=64)
print(result)

predict = jg.jit(scores, reduce=None)
X, Y = digits.test
right = np.argmax(predict(result.params, X.astype(np.float32)), axis=0) == Y
print(f"accuracy on {len(Y)} images never seen: {right.mean():.1%}")
assert right.mean() > 0.85
