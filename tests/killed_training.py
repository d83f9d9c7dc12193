"""Trainings that tests kill, each a process that this one forks: what a training loads is loaded once, not for each.

Of every line "epochs path" that it reads it prints a training's process id, and when that has ended its exit code.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import numpy as np

import jitgrad as jg
import jitgrad.backends.training  # what the compiled loop loads on first use


def model(params: Any, x: Any, y: Any) -> Any:
    """A network of four hidden units."""
    return (params["v"] @ jg.tanh(params["W"] @ x + params["b"]) - y) ** 2


def train(epochs: int, path: str) -> None:
    """Train, from the checkpoint on if there is one; what was found goes to path.end."""
    draw = np.random.default_rng(0)
    params = {"W": draw.normal(size=(4, 3)), "b": draw.normal(size=4), "v": draw.normal(size=4)}
    data = draw.normal(size=(300, 3)), draw.normal(size=300)
    found = jg.fit(model, params, data, epochs=epochs, batch_size=10, validation=0.2, patience=epochs, device="cpu",
                   checkpoint=path, resume=True)
    jg.save(path + ".end", found.params, {"losses": found.losses, "resumed": found.resumed})


def main() -> None:
    """Fork a training for each line of standard input."""
    for line in sys.stdin:
        epochs, path = line.rstrip("\n").split(" ", 1)
        process = os.fork()
        if not process:
            try:
                train(int(epochs), path)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
