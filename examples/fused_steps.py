"""Training steps without Python in between: a thousand Adam steps in one call, and the same steps made one by one.

python examples/fused_steps.py [STEPS [DEVICE]]

`jg.fit` makes batch, loss, gradient and update in compiled code, on the CPU or on a GPU (device "cuda"). There parameters
stay in a block's own memory from the first step to the last. On the CPU the numbers are the same to the last bit.
"""

import sys
import time

import numpy as np

import jitgrad as jg

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
device = sys.argv[2] if len(sys.argv) > 2 else "auto"
rng = np.random.default_rng(0)
angle = rng.uniform(0, np.pi, 100)
upper = rng.random(100) < 0.5
moons = np.where(upper, [np.cos(angle), np.sin(angle)], [1 - np.cos(angle), 0.5 - np.sin(angle)])
X = (moons.T + rng.normal(0, 0.1, (100, 2))).astype(np.float32)
Y = np.where(upper, 1, -1).astype(np.float32)
sizes = [("1", 2, 16), ("2", 16, 16), ("3", 16, 1)]
start = {f"W{k}": (rng.normal(size=(b, a)) / np.sqrt(a)).astype(np.float32) for k, a, b in sizes}
start |= {f"b{k}": np.zeros(b, np.float32) for k, _, b in sizes}


def objective(params, x, y):
    hidden = jg.relu(params["W1"] @ x + params["b1"])
    hidden = jg.relu(params["W2"] @ hidden + params["b2"])
    return jg.losses.hinge((params["W3"] @ hidden + params["b3"])[0], y)


def fused():
    return jg.fit(objective, start, (X, Y), optimizer=jg.optim.adam(1e-2), epochs=steps, device=device, progress=False)


step, optimizer = jg.value_and_grad(objective, device=device), jg.optim.adam(1e-2)


def one_by_one():
    params, state = start, optimizer.init(start)
    for _ in range(steps):
        loss, grads = step(params, X, Y)
        params, state = optimizer.update(grads, state, params)
    return params, loss


for make in (fused, one_by_one):                            # compile first
    make()
began = time.perf_counter()
result = fused()
middle = time.perf_counter()
params, loss = one_by_one()
ended = time.perf_counter()
print(f"fused:      {steps / (middle - began):10,.0f} steps/s, loss {result.losses[-1]:.6f}")
print(f"one by one: {steps / (ended - middle):10,.0f} steps/s, loss {loss:.6f}")
difference = max(float(np.abs(params[name] - result.params[name]).max()) for name in params)
print(f"largest difference between the parameters: {difference:g}")
