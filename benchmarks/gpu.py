"""`python -m benchmarks.gpu`: one visit to a GPU. What is right, how near the chip's limits, and beside JAX and PyTorch.

The report goes on past whatever fails, and stops beginning new work when its time is up. `--simulate` runs all of it at
tiny sizes in numba's simulator: it shows that the report works, and measures nothing.

Data and parameters lie on the device. Two times are taken of jitgrad's calls: `wall`, of calls in a row until the last has
ended, what a caller waits; and `device`, of calls queued behind other work, so that Python is not waited for. The peers'
are wall times, taken the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.case import ROOT
from benchmarks.gpu_checks import families, family, table_of_operations
from benchmarks.gpu_kernels import call_cost, elementwise, measure, network, softmax
from benchmarks.gpu_report import Record, Report, copy_bandwidth, describe, float32_rate, transfers
from benchmarks.gpu_training import large_batch, many_models, one_model
from benchmarks.models import mlp
from benchmarks.tables import figure_text, table

RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
BUDGET = 430.0                                     # seconds; what is under way then is finished


def everything(report: Report) -> Record:
    began, say = time.perf_counter(), report.say
    report.attempt("the machine", lambda: describe(report))
    say(f"{report.record.get('device')}: limits")
    report.attempt("copy bandwidth", lambda: copy_bandwidth(report))
    report.attempt("float32 rate", lambda: float32_rate(report))
    report.attempt("transfers", lambda: transfers(report))
    say("what is right")
    for dtype in (np.float32, np.float64):
        report.attempt(f"table of operations, {dtype.__name__}", lambda dtype=dtype: table_of_operations(report, dtype))
        for name in families() if dtype in report.sizes.precisions else ():
            if name in ("tape", "whole rows") and report.simulated:
                continue                            # a thousand rows, a thread after the other: minutes
            report.attempt(f"{name}, {dtype.__name__}", lambda name=name, dtype=dtype: family(report, name, dtype))
    say("how fast")
    report.attempt("a call's cost", lambda: call_cost(report))
    for kind in ("mse", "hinge", "bce"):
        report.attempt(kind, lambda kind=kind: measure(report, lambda: elementwise(report, kind)))
    networks_ = (mlp.SMALL,) if report.simulated else (mlp.SMALL, mlp.WIDE, mlp.CLASSES)
    for sizes in networks_:
        report.attempt("-".join(map(str, sizes)), lambda sizes=sizes: measure(report, lambda: network(report, sizes)))
    for shape in report.sizes.softmax:
        report.attempt(f"softmax of {shape[1]:,}", lambda shape=shape: measure(report, lambda: softmax(report, *shape)))
    for name, training in (("training", one_model), ("many models", many_models), ("a large batch", large_batch)):
        report.attempt(name, lambda training=training: training(report))
    report.record["seconds"] = round(time.perf_counter() - began)
    return report.record


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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; the exit status is 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--simulate", action="store_true", help="tiny sizes in numba's simulator; measures nothing")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help=f"where the report goes (default {RESULTS.relative_to(ROOT)})")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the kernels' times as SVG")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help="begin nothing after (default 430)")
    parser.add_argument("--seed", type=int, default=None, help="of the random inputs; fresh ones by default")
    options = parser.parse_args(arguments)
    # Before numba or JAX is imported: JAX would take most of the device's memory for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ["JITGRAD_DEVICE"] = "cuda"
    if options.simulate:
        os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
        os.environ["JAX_PLATFORMS"] = "cpu"
    if not hasattr(np, "row_stack"):                # NumPy 2.5 has dropped a name that numba-cuda 0.30 asks for
        setattr(np, "row_stack", np.vstack)  # noqa: B010
    from jitgrad.backends import cuda_problem
    problem = None if options.simulate else cuda_problem()
    if problem is not None:
        print(f"nothing to measure: {problem}", file=sys.stderr)
        return 1
    seed = time.time_ns() % 2**32 if options.seed is None else options.seed
    report = Report(options.simulate, options.budget, seed, lambda text: print(text, flush=True))
    record = everything(report)
    path = options.json or (None if options.simulate else RESULTS)
    for target, text in ((path, json.dumps(record, indent=1, ensure_ascii=False) + "\n"),
                         (options.picture, picture(record) if options.picture else None)):
        if target is not None and text is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    print(f"\n{kernels_table(record)}\n\n{record['device']}, {record['seconds']} s")
    for failure in record["failures"]:
        print(f"FAILED {failure['name']}: {failure['why']} ({failure['at']})")
    return 1 if record["failures"] or any(r.get("bad") for r in record["right"]) else 0


if __name__ == "__main__":
    sys.exit(main())
