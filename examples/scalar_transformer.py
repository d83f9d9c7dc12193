"""A character-level transformer in scalar arithmetic, trained on a list of names, and asked for new ones.

The loss is written for ONE name: loops over letters, layers and heads, NumPy arrays of scalars, causal attention as a
list that grows by one letter a step. Names are padded to one length; a mask keeps what is padded out of the loss.

python examples/scalar_transformer.py [--steps 400] [--batch 64] [--layers 1] [--heads 4] [--width 16] [--float64]
"""

import argparse
import time
from pathlib import Path

import numpy as np

import jitgrad as jg

parser = argparse.ArgumentParser(description="A character-level transformer, trained on names.")
for name, default in {"steps": 400, "batch": 64, "layers": 1, "heads": 4, "width": 16}.items():
    parser.add_argument(f"--{name}", type=int, default=default)
parser.add_argument("--float64", action="store_true", help="compute in float64 instead of float32")
options = parser.parse_args()
rng = np.random.default_rng(1)

# Data: token 0 begins and ends a name. Row k of `tokens` is 0, the letters, 0, and padding.
names = (Path(__file__).parent / "data" / "names.txt").read_text(encoding="utf-8").split()
alphabet = "." + "".join(sorted(set("".join(names))))
longest = max(map(len, names))
tokens = np.zeros((len(names), longest + 2), np.int64)
for row, text in zip(tokens, names):
    row[1:len(text) + 1] = [alphabet.index(letter) for letter in text]
lengths = np.array([len(text) + 1 for text in names])       # letters to predict, the end among them
shuffled = rng.permutation(len(names))
train, held_out = shuffled[len(names) // 10:], shuffled[:len(names) // 10]

width, heads = options.width, options.heads
dtype = np.float64 if options.float64 else np.float32


def matrix(rows, columns, scale=1.0):
    return (rng.normal(size=(rows, columns)) * scale / np.sqrt(columns)).astype(dtype)


params = {
    "letter": matrix(len(alphabet), width), "place": matrix(longest + 1, width), "out": matrix(len(alphabet), width),
    "layers": [{"query": matrix(width, width), "key": matrix(width, width), "value": matrix(width, width),
                "mix": matrix(width, width, 0.5), "grow": matrix(4 * width, width), "shrink": matrix(width, 4 * width, 0.5)}
               for _ in range(options.layers)],
}
size = sum(w.size for part in [params, *params["layers"]] for w in part.values() if isinstance(w, np.ndarray))
print(f"{len(names)} names of up to {longest} letters, {size:,} parameters, {dtype.__name__}")


def norm(x):
    return x * (sum(v * v for v in x) / len(x) + 1e-5) ** -0.5


def attend(query, keys, values):                            # one letter looks at itself and at those before it
    mixed = []
    for first in range(0, width, width // heads):
        head = slice(first, first + width // heads)
        weights = jg.softmax([(query[head] @ key[head]) / np.sqrt(width / heads) for key in keys])
        mixed += list(sum(w * value[head] for w, value in zip(weights, values)))
    return np.array(mixed)


def logits(params, letters):                                # of the letter that follows each of `letters`
    seen = [([], []) for _ in params["layers"]]
    scores = []
    for letter, place in zip(letters, params["place"]):
        x = norm(jg.take(params["letter"], letter) + place)
        for layer, (keys, values) in zip(params["layers"], seen):
            h = norm(x)
            keys.append(layer["key"] @ h)
            values.append(layer["value"] @ h)
            x = x + layer["mix"] @ attend(layer["query"] @ h, keys, values)
            x = x + layer["shrink"] @ jg.relu(layer["grow"] @ norm(x))
        scores.append(params["out"] @ x)
    return np.array(scores)


def loss(params, name, length):                             # ONE name, the mean over its letters
    terms = [jg.losses.cross_entropy(score, target) for score, target in zip(logits(params, name[:-1]), name[1:])]
    return sum(jg.where(k < length, term, 0.0) for k, term in enumerate(terms)) / length


step = jg.value_and_grad(loss)
measure = jg.jit(loss)
optimizer = jg.optim.adamw(0.005, b2=0.99, weight_decay=0.3)
state = optimizer.init(params)

started = time.perf_counter()
order = np.concatenate([rng.permutation(train) for _ in range(-(-options.steps * options.batch // len(train)))])
for k in range(options.steps):
    chosen = order[k * options.batch:(k + 1) * options.batch]
    value, grads = step(params, tokens[chosen], lengths[chosen])
    params, state = optimizer.update(grads, state, params)
    if k == 0:
        first, compiled = value, time.perf_counter()
        print(f"first step, recorded and compiled: {compiled - started:.2f} s")
    if k % 50 == 0 or k == options.steps - 1:
        print(f"step {k:>4}  loss {value:.3f}")
if options.steps > 1:
    print(f"{(time.perf_counter() - compiled) / (options.steps - 1) * 1e3:.2f} ms a step of {options.batch} names")
print(f"loss of names never seen: {measure(params, tokens[held_out], lengths[held_out]):.3f}"
      f" (knowing nothing: {np.log(len(alphabet)):.3f})")
assert value < first

# Sixteen new names, a letter at a time: one call scores all of them.
scores = jg.jit(logits, reduce=None)
written = np.zeros((16, longest + 1), np.int64)
for k in range(longest):
    odds = np.exp(scores(params, written)[:, k] / 0.7)      # a temperature below 1: rather the likely letters
    cumulative = np.cumsum(odds / odds.sum(axis=1, keepdims=True), axis=1)
    chosen = (rng.random((16, 1)) > cumulative[:, :-1]).sum(axis=1)
    written[:, k + 1] = np.where((written[:, k] == 0) & (k > 0), 0, chosen)
drawn = ["".join(alphabet[t] for t in row if t) for row in written]
print("new names:", " ".join(name for name in drawn if name not in names))
print("known names:", " ".join(name for name in drawn if name in names))
