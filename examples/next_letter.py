"""A table of letters read by index: an embedding and a classifier of the letter that follows.

python examples/next_letter.py [EPOCHS]
"""

import sys

import numpy as np

import jitgrad as jg

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
text = "the quick brown fox jumps over the lazy dog and the dog sleeps on and on in the sun " * 4
alphabet = sorted(set(text))
letters = np.array([alphabet.index(c) for c in text])       # integers: they are read by, never differentiated
rng = np.random.default_rng(0)
size = 6
params = {"table": 0.3 * rng.normal(size=(len(alphabet), size)), "out": 0.3 * rng.normal(size=(len(alphabet), size)),
          "bias": np.zeros(len(alphabet))}


def objective(params, letter, following):                   # ONE pair of neighbouring letters
    return jg.losses.cross_entropy(params["out"] @ jg.take(params["table"], letter) + params["bias"], following)


result = jg.fit(objective, params, (letters[:-1], letters[1:]), optimizer=jg.optim.adam(0.05), epochs=epochs,
                batch_size=64, seed=0)
print(result)


def logits(params, letter):
    return params["out"] @ jg.take(params["table"], letter) + params["bias"]


scores = jg.jit(logits, reduce=None)(result.params, np.arange(len(alphabet)))
for letter in "tqhdj":
    print(f"after {letter!r} comes {alphabet[int(scores[alphabet.index(letter)].argmax())]!r}")
assert alphabet[int(scores[alphabet.index("q")].argmax())] == "u"
