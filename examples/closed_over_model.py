"""A model written as an object, closed over: jg.batch makes the whole batch ONE Value whose parents are the parameters.

python examples/closed_over_model.py [EXAMPLES]
"""

import random
import sys

import numpy as np

import jitgrad as jg
from jitgrad import nn

n = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
random.seed(0)
rng = np.random.default_rng(0)
X = rng.normal(size=(n, 2))
Y = np.where((X**2).sum(axis=1) > 1.4, 1, -1)

model = nn.MLP(2, [16, 1])
data_loss = jg.batch(lambda x, y: jg.losses.hinge(model(x), y))

for step in range(150):
    total = data_loss(X, Y) + 1e-4 * sum(p * p for p in model.parameters())     # a fused kernel and eager Values
    model.zero_grad()
    total.backward()
    for p in model.parameters():
        p.data -= 0.3 * p.grad
    if step % 30 == 0:
        print(f"step {step:>3}  loss {total.data:.4f}")

score = jg.jit(model, in_axes=0, reduce=None)
accuracy = float(((score(X) > 0) == (Y > 0)).mean())
print(f"accuracy {accuracy:.1%}")
assert accuracy > 0.85
