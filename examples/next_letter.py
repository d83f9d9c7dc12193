"""A table of letters read by index, made of two layers: an embedding, and a classifier of the letter that follows.

python examples/next_letter.py [EPOCHS]
"""

import sys

import numpy as np

import jitgrad as jg
from jitgrad import nn

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
text = "the quick brown fox jumps over the lazy dog and the dog sleeps on and on in the sun " * 4
alphabet = sorted(set(text))
letters = np.array([alphabet.index(c) for c in text])       # integers: they are read by, never differentiated
model = nn.Sequential(nn.Embedding(len(alphabet), 6, seed=0), nn.Linear(6, len(alphabet), seed=1))
print(model)


def objective(params, letter, following):                   # ONE pair of neighbouring letters
    return jg.losses.cross_entropy(model.bind(params)(letter), following)


result = jg.fit(objective, model.arrays(), (letters[:-1], letters[1:]), optimizer=jg.optim.adam(0.05), epochs=epochs,
                batch_size=64, seed=0)
print(result)

model.load(result.params)                                   # into the Values, micrograd's way
scores = jg.jit(model, in_axes=0, reduce=None)(np.arange(len(alphabet)))
for letter in "tqhdj":
    print(f"after {letter!r} comes {alphabet[int(scores[alphabet.index(letter)].argmax())]!r}")
assert alphabet[int(scores[alphabet.index("q")].argmax())] == "u"
