"""`python -m benchmarks.gpu`: one visit to a GPU. What is right, how near the chip's limits, and beside JAX and PyTorch.

The report goes on past whatever fails, and stops beginning new work when its time is up. It is made by a process that this
one watches (`gpu_watch.py`): after a fault, which a process cannot recover from, or a case that does not end, a new one goes
on with the next case. `--simulate` runs all of it at tiny sizes in numba's simulator, in this process: it shows that the
report works, and measures nothing.

Data and parameters lie on the device. Two times are taken of jitgrad's calls: `wall`, of calls in a row until the last has
ended, what a caller waits; and `device`, of calls queued behind other work, so that Python is not waited for. The peers'
are wall times, taken the same way.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import ROOT
from benchmarks.gpu_checks import families, family, table_of_operations
from benchmarks.gpu_kernels import call_cost, elementwise, measure, network, softmax
from benchmarks.gpu_report import Record, Report, copy_bandwidth, describe, float32_rate, is_lost, transfers
from benchmarks.gpu_training import large_batch, many_models, one_model
from benchmarks.gpu_watch import LOST, watch
from benchmarks.models import mlp
from benchmarks.tables import figure_text, table

RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
BUDGET = 430.0                                     # seconds; what is under way then is finished


def cases(report: Report) -> list[tuple[str, str, Callable[[], Any]]]:
    """(heading, name, work) of all there is to do, in order."""
    limits: dict[str, Callable[[], Any]] = {
        "the machine": lambda: describe(report), "copy bandwidth": lambda: copy_bandwidth(report),
        "float32 rate": lambda: float32_rate(report), "transfers": lambda: transfers(report)}
    right: dict[str, Callable[[], Any]] = {}
    for dtype in (np.float32, np.float64):
        right[f"table of operations, {dtype.__name__}"] = partial(table_of_operations, report, dtype)
        for name in families() if dtype in report.sizes.precisions else ():
            if not (report.simulated and name in ("tape", "whole rows")):   # a thousand rows, a thread after the other
                right[f"{name}, {dtype.__name__}"] = partial(family, report, name, dtype)
    fast: dict[str, Callable[[], Any]] = {"a call's cost": lambda: call_cost(report)}
    for kind in ("mse", "hinge", "bce"):
        fast[kind] = partial(measure, report, partial(elementwise, report, kind))
    for sizes in (mlp.SMALL,) if report.simulated else (mlp.SMALL, mlp.WIDE, mlp.CLASSES):
        fast["-".join(map(str, sizes))] = partial(measure, report, partial(network, report, sizes))
    for shape in report.sizes.softmax:
        fast[f"softmax of {shape[1]:,}"] = partial(measure, report, partial(softmax, report, *shape))
    for name, training in (("training", one_model), ("many models", many_models), ("a large batch", large_batch)):
        fast[name] = partial(training, report)
    return [(heading, name, work) for heading, some in (("limits", limits), ("what is right", right), ("how fast", fast))
            for name, work in some.items()]


def everything(report: Report) -> bool:
    """All cases that are not done yet; False where the GPU was lost meanwhile, and a new process must go on."""
    record, heading = report.record, ""
    for number, (group, name, work) in enumerate(cases(report)):
        if number < record["done"]:
            continue
        if group != heading:
            report.say(group)
        heading, record["under way"], failures = group, name, len(record["failures"])
        report.save()
        report.attempt(name, work)
        record["done"] = number + 1
        report.save()
        if len(record["failures"]) > failures and not report.simulated and is_lost():
            return False
    return True


def kernels_table(record: Record) -> str:
    rows = [["work", "device", "a call", "floor", "of the limit", "JAX", "PyTorch"]]
    for k in record["kernels"]:
        taken = k["device"] or k["wall"]
        share = f"{k['floor'] / taken:.0%} of {k['bound']}" if k["floor"] else "–"
        rows.append([k["name"], figure_text(taken, "s"), figure_text(k["wall"], "s"), figure_text(k["floor"], "s"), share,
                     *(figure_text(k["peers"][p], "s") if p in k["peers"] else "–" for p in ("JAX", "PyTorch"))])
    return table(rows)


def picture(record: Record) -> str | None:
    """Each kernel's time and its peers' as multiples of the floor, as SVG; None without matplotlib."""
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        return None
    import io

    from benchmarks.pictures import COLOURS
    figure = Figure(figsize=(9.0, 0.9 + 0.5 * len(record["kernels"])), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    for place, k in enumerate(record["kernels"]):
        for shift, (peer, taken) in enumerate({"jitgrad": k["device"] or k["wall"], **k["peers"]}.items()):
            axes.barh(place + 0.25 * shift, taken * 1e6, height=0.23, color=COLOURS[peer])
        axes.plot([k["floor"] * 1e6] * 2, [place - 0.15, place + 0.65], color="black")
    axes.set_yticks([k + 0.25 for k in range(len(record["kernels"]))], [k["name"] for k in record["kernels"]])
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel(f"µs on {record.get('device')}; black: the floor; blue jitgrad, orange JAX, red PyTorch")
    out = io.StringIO()
    figure.savefig(out, format="svg")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def prepare(environment: MutableMapping[str, str], simulate: bool) -> None:
    """What numba and JAX, which are imported later, find in their environment."""
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")    # JAX would take most of the device's memory
    environment["JITGRAD_DEVICE"] = "cuda"
    if simulate:
        environment |= {"NUMBA_ENABLE_CUDASIM": "1", "JAX_PLATFORMS": "cpu"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; the exit status is 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--simulate", action="store_true", help="tiny sizes in numba's simulator; measures nothing")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help=f"where the report goes (default {RESULTS.relative_to(ROOT)})")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the kernels' times as SVG")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help="begin nothing after (default 430)")
    parser.add_argument("--seed", type=int, default=None, help="of the random inputs; fresh ones by default")
    parser.add_argument("--go-on", action="store_true", help="with the report in --json: what the command starts by itself")
    options = parser.parse_args(arguments)
    prepare(os.environ, options.simulate)
    if not hasattr(np, "row_stack"):                # NumPy 2.5 has dropped a name that numba-cuda 0.30 asks for
        setattr(np, "row_stack", np.vstack)  # noqa: B010
    path = options.json or (None if options.simulate else RESULTS)
    if options.go_on:
        report = Report(options.simulate, options.budget, say, path)
        report.load()
        return 0 if everything(report) else LOST
    from jitgrad.backends import cuda_problem
    problem = None if options.simulate else cuda_problem()
    if problem is not None:
        print(f"nothing to measure: {problem}", file=sys.stderr)
        return 1
    began = time.perf_counter()
    report = Report(options.simulate, options.budget, say, path)
    report.record["seed"] = time.time_ns() % 2**32 if options.seed is None else options.seed
    if options.simulate:
        everything(report)
    else:
        report.save()
        watch(lambda left: [sys.executable, "-m", "benchmarks.gpu", "--go-on", "--json", str(path), "--budget", str(left)],
              report, options.budget)
    record = report.record
    record["seconds"] = round(time.perf_counter() - began)
    report.save()
    drawn = picture(record) if options.picture else None
    if drawn is not None:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        options.picture.write_text(drawn, encoding="utf-8")
    print(f"\n{kernels_table(record)}\n\n{record.get('device')}, {record['seconds']} s")
    for failure in record["failures"]:
        print(f"FAILED {failure['name']}: {failure['why']} ({failure['at']})")
    return 1 if record["failures"] or any(r.get("bad") for r in record["right"]) else 0


def say(text: str) -> None:
    """At once, also where the output is a file."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
