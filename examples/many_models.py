"""Many small models at once: an ensemble that knows where it is unsure, and a sweep over learning rates and seeds.

python examples/many_models.py [MODELS [EPOCHS [DEVICE]]]

Each model is trained by the compiled loop on one core, or on a GPU (device "cuda") by one block of a launch for all of them,
and gets the numbers that `jg.fit` alone would give it there.
"""

import sys
import time

import numpy as np

import jitgrad as jg

models = int(sys.argv[1]) if len(sys.argv) > 1 else 64
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 300
device = sys.argv[3] if len(sys.argv) > 3 else "auto"
rng = np.random.default_rng(0)
angle = rng.uniform(0, np.pi, 100)
upper = rng.random(100) < 0.5
moons = np.where(upper, [np.cos(angle), np.sin(angle)], [1 - np.cos(angle), 0.5 - np.sin(angle)])
X = moons.T + rng.normal(0, 0.1, (100, 2))
Y = np.where(upper, 1.0, -1.0)


def start(seed):                                            # a model is a function of its seed
    draw = np.random.default_rng(seed)
    return {"W1": draw.normal(size=(16, 2)), "b1": np.zeros(16), "W2": draw.normal(size=(16, 16)) / 4, "b2": np.zeros(16),
            "w3": draw.normal(size=16) / 4, "b3": np.zeros(())}


def score(params, x):
    hidden = jg.relu(params["W1"] @ x + params["b1"])
    hidden = jg.relu(params["W2"] @ hidden + params["b2"])
    return params["w3"] @ hidden + params["b3"]


def objective(params, x, y):
    return jg.losses.hinge(score(params, x), y)


began = time.perf_counter()
ensemble = jg.fit(objective, start, (X, Y), ensemble=models, epochs=epochs, device=device, progress=False)
steps = sum(model.result.steps for model in ensemble)
print(f"{ensemble}: {steps:,} steps in {time.perf_counter() - began:.1f} s")

predict = jg.jit(score, reduce=None)
points = np.array([[0.0, 1.0], [0.5, 0.25], [3.0, 3.0]])    # on the upper moon, between the two, and far from both
scores = np.array([predict(model.result.params, points) for model in ensemble])
for point, mean, spread in zip(points, scores.mean(axis=0), scores.std(axis=0)):
    print(f"at {point}: {mean:+.2f} ± {spread:.2f}")

rates = [0.001, 0.01, 0.1]
sweep = jg.sweep(objective, start, (X, Y), grid={"optimizer": [jg.optim.adam(rate) for rate in rates], "seed": range(4)},
                 batch_size=20, epochs=max(epochs // 10, 1), device=device, progress=False)
for rate, losses in zip(rates, sweep.losses[:, -1].reshape(len(rates), 4)):
    print(f"adam({rate}): loss {losses.mean():.3f} ± {losses.std():.3f}")
print("best:", dict(sweep.best.settings))
