"""micrograd's two-moons demo. The import is changed; one line is new, and another stands where two stood: both are marked.

python examples/micrograd_moons.py [EXAMPLES] [STEPS]
"""

import random
import sys

import numpy as np

import jitgrad as jg
from jitgrad import Value
from jitgrad.nn import MLP

examples, steps = (int(a) for a in (sys.argv[1:] + ["40", "60"][len(sys.argv) - 1:]))
np.random.seed(1337)
random.seed(1337)

# Two half circles, as scikit-learn's make_moons draws them; labels -1 and +1.
angle = np.pi * np.random.rand(examples)
y = np.where(np.arange(examples) % 2 == 0, -1, 1)
upper, lower = np.stack([np.cos(angle), np.sin(angle)], 1), np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)
X = np.where(y[:, None] < 0, upper, lower)
X += 0.1 * np.random.randn(examples, 2)

model = MLP(2, [16, 16, 1])
print(model)
print("number of parameters", len(model.parameters()))


def loss():
    inputs = [list(map(Value, xrow)) for xrow in X]
    scores = list(map(model, inputs))
    losses = [(1 + -yi * scorei).relu() for yi, scorei in zip(y, scores)]
    data_loss = sum(losses) * (1.0 / len(losses))
    reg_loss = 1e-4 * sum(p * p for p in model.parameters())
    return data_loss + reg_loss


total_loss = loss()
program = jg.compile(total_loss)                            # new: the unrolled graph, rolled up
print(program.summary())

for k in range(steps):
    model.zero_grad()
    program.backward()                                      # was: total_loss = loss(); total_loss.backward()
    learning_rate = 1.0 - 0.9 * k / steps
    for p in model.parameters():
        p.data -= learning_rate * p.grad
    if k % 10 == 0 or k == steps - 1:
        print(f"step {k} loss {total_loss.data:.4f}")

right = sum((model(list(map(Value, xrow))).data > 0) == (yi > 0) for xrow, yi in zip(X, y))
print(f"accuracy {right / examples:.0%}")
