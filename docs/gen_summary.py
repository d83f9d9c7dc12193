"""Writes docs/assets/two_moons.svg: what became of micrograd's two moons. `python docs/gen_summary.py` after a change."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

import jitgrad as jg

PICTURE = Path(__file__).parent / "assets" / "two_moons.svg"


def picture() -> str:
    """The picture of the program of micrograd's demo: 100 examples, a 2-16-16-1 network, hinge loss and regulariser."""
    random.seed(1337)
    model = jg.nn.MLP(2, [16, 16, 1])
    draw = np.random.default_rng(1337)
    labels = np.where(np.arange(100) % 2 == 0, -1, 1)
    angle = np.pi * draw.uniform(size=100)
    circles = np.where(labels < 0, [np.cos(angle), np.sin(angle)], [1 - np.cos(angle), 0.5 - np.sin(angle)])
    inputs = circles.T + draw.normal(0, 0.1, (100, 2))
    scores = [model([jg.Value(x) for x in row]) for row in inputs.tolist()]
    losses = [(1 + -label * score).relu() for label, score in zip(labels.tolist(), scores, strict=True)]
    loss = sum(losses) * (1.0 / len(losses)) + 1e-4 * sum(p * p for p in model.parameters())
    return jg.compile(loss, device="cpu").summary().svg


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
