"""How training scales over Dask's workers: `python -m benchmarks.scaling --write`.

Clusters of one and of two worker processes, one thread each, train the same network on the same partitions, checked against
one process first. Trainings of a few steps take turns in an order drawn anew in each round, so that a slow minute of the
machine falls on all alike. The time of a step is that of an epoch of `fit`, the first two left out.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import pickle
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import jitgrad as jg
from benchmarks import machine
from benchmarks.case import ROOT
from benchmarks.command import write
from benchmarks.machine import digits
from benchmarks.models.mlp import SMALL, data, parameters
from benchmarks.tables import table
from jitgrad import losses, optim
from jitgrad.backends import threads
from jitgrad.distributed import Partitions, shipped

RESULTS = ROOT / "benchmarks" / "results" / "scaling.json"
PAGE = ROOT / "docs" / "scaling.md"

WORKERS = (1, 2)
SIZES = (40_000, 400_000, 4_000_000)
PARTITIONS = (2, 4, 16)
MAIN = 4                                    # partitions of the comparison with one process
BATCH, AVERAGES = 65_536, (None, 4, 16)
WARMING, STEPS = 2, 3
TOLERANCE = 1e-12

Report = dict[str, Any]
Say = Callable[[str], None]


def objective(params: Any, x: Any, y: Any) -> Any:
    hidden = jg.relu(params["W1"] @ x + params["b1"])
    hidden = jg.relu(params["W2"] @ hidden + params["b2"])
    return losses.hinge((params["W3"] @ hidden + params["b3"])[0], y)


def run(quick: bool, rounds: int, patience: float, say: Say) -> Report:
    import dask.array as da
    import distributed

    sizes = (400, 4_000) if quick else SIZES
    params = {name: array.astype(np.float64) for name, array in parameters(SMALL).items()}
    x, y = (array.astype(np.float64) for array in data(SMALL, sizes[-1]))

    def chunked(n: int, count: int) -> tuple[Any, Any]:
        return da.from_array(x[:n], chunks=(n // count, 2)), da.from_array(y[:n], chunks=n // count)

    with contextlib.ExitStack() as stack:
        clients = {workers: stack.enter_context(distributed.Client(
            n_workers=workers, threads_per_worker=1, processes=not quick, dashboard_address="127.0.0.1:0",
            set_as_default=False)) for workers in WORKERS}
        say("checking against one process")
        checked = check(params, (x, y), chunked(sizes[-1], MAIN), clients)
        runs: dict[str, Callable[[], list[float]]] = {}
        for n in sizes:
            for count in PARTITIONS:
                for workers, client in clients.items():
                    kept = tuple(client.persist(chunked(n, count)))
                    runs[f"{workers}/{n}/{count}"] = lambda kept=kept, client=client: steps(params, kept, client=client)
        runs["one process"] = lambda: steps(params, (x, y))
        runs["one core"] = lambda: on_one_core(lambda: steps(params, (x, y)))
        whole = tuple(clients[2].persist(chunked(sizes[-1], 2)))
        batch = min(BATCH, sizes[-1] // 2)
        for every in AVERAGES:
            runs[f"minibatches/{every}"] = lambda every=every: minibatches(params, whole, clients[2], batch, every)
        samples, others = measured(runs, rounds, patience, say)
    table = [{"workers": int(w), "examples": int(n), "partitions": int(p), **spread(samples[name])}
             for name in runs if name.count("/") == 2 for w, n, p in [name.split("/")]]
    return {"date": datetime.date.today().isoformat(), "commit": machine.commit(), "machine": machine.description(),
            "versions": machine.versions() | machine_versions(), "quick": quick, "others": others, "checked": checked,
            "examples": sizes[-1], "partitions": MAIN, "parameters": sum(array.size for array in params.values()),
            "bytes": shipped_bytes(params, chunked(sizes[-1], MAIN), clients), "table": table,
            "one_process": spread(samples["one process"]), "one_core": spread(samples["one core"]),
            "minibatches": {"batch_size": batch} | {str(k): spread(samples[f"minibatches/{k}"]) for k in AVERAGES},
            "model": model(table)}


def machine_versions() -> dict[str, str]:
    import dask
    import distributed
    return {"dask": dask.__version__, "distributed": distributed.__version__}


def check(params: Any, arrays: Any, chunks: Any, clients: Any) -> Report:
    """The largest difference from one process, of each array's largest element; whether all workers gave the same bits."""
    step = jg.value_and_grad(objective)
    expected = flat(step(params, *arrays))
    found = [flat(Partitions(step, (params, *chunks), client).call(step, (params, *chunks))) for client in clients.values()]
    error = max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in zip(found[0], expected, strict=True))
    same = all(np.array_equal(a, b) for one in found[1:] for a, b in zip(found[0], one, strict=True))
    if error > TOLERANCE or not same:
        raise SystemExit(f"the workers' gradient differs: {error:.1e} from one process, the same bits: {same}")
    return {"relative_error": digits(error, 2), "same_bits": same}


def flat(answer: Any) -> list[Any]:
    value, grads = answer
    return [np.asarray(value), *(grads[name] for name in sorted(grads))]


def steps(params: Any, arrays: Any, **options: Any) -> list[float]:
    """Seconds of some steps over all examples."""
    result = jg.fit(objective, params, arrays, optimizer=optim.adam(1e-3), epochs=WARMING + STEPS, progress=False, **options)
    return [epoch.seconds for epoch in result.history[WARMING:]]


def minibatches(params: Any, arrays: Any, client: Any, batch_size: int, every: int | None) -> list[float]:
    """Seconds of a step, of an epoch in minibatches."""
    result = jg.fit(objective, params, arrays, optimizer=optim.adam(1e-3), epochs=2, batch_size=batch_size, progress=False,
                    client=client, average_every=every)
    return [result.history[-1].seconds / (result.steps / 2)]


def on_one_core(work: Callable[[], list[float]]) -> list[float]:
    with threads.on_one_core():
        return work()


def measured(runs: Any, rounds: int, patience: float, say: Say) -> tuple[dict[str, list[float]], float | None]:
    """Samples by name, and the greatest share of the machine that others had in a round."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    shares: list[float | None] = []
    for number in range(rounds):
        machine.wait_for_quiet(patience, say)
        say(f"round {number + 1} of {rounds}")
        watched = machine.Others()
        for name in random.Random(number).sample(list(runs), len(runs)):
            samples[name] += runs[name]()
        shares.append(watched.share())
    return samples, None if None in shares else max(filter(None, shares), default=0.0)


def spread(samples: Sequence[float]) -> Report:
    low, middle, high = statistics.quantiles(samples, n=4) if len(samples) > 1 else (samples[0],) * 3
    return {"median": digits(middle), "quartiles": [digits(low), digits(high)], "least": digits(min(samples)),
            "samples": len(samples)}


def shipped_bytes(params: Any, chunks: Any, clients: Any) -> Report:
    """What a step sends for each partition, and what it gets back."""
    step = jg.value_and_grad(objective)
    partitions = Partitions(step, (params, *chunks), clients[1])
    sent = len(pickle.dumps((shipped(step), partitions.arguments((params, *chunks)))))
    return {"function": len(shipped(step)), "sent": sent, "received": 8 * partitions.layout(step)[0].width}


def model(rows: Sequence[Report]) -> Report:
    """Least squares of relative errors: seconds = example * n / W + task * P + step."""
    times = np.array([row["median"] for row in rows])
    columns = np.array([[row["examples"] / row["workers"], row["partitions"], 1.0] for row in rows])
    (example, task, once), *_ = np.linalg.lstsq(columns / times[:, None], np.ones(len(times)), rcond=None)
    errors = np.abs(columns @ [example, task, once] / times - 1)
    return {"example_ns": digits(float(example) * 1e9, 3), "task_ms": digits(float(task) * 1e3, 3),
            "step_ms": digits(float(once) * 1e3, 3), "median_error": digits(float(np.median(errors)), 2),
            "greatest_error": digits(float(np.max(errors)), 2)}


# The page.

def of(report: Report, workers: int, n: int, partitions: int) -> Report:
    return next(row for row in report["table"]
                if (row["workers"], row["examples"], row["partitions"]) == (workers, n, partitions))


def speedup(report: Report, n: int, partitions: int) -> float:
    one, two = (of(report, workers, n, partitions)["median"] for workers in WORKERS)
    return float(one / two)


def milliseconds(row: Report) -> str:
    low, high = row["quartiles"]
    return f"{row['median'] * 1e3:,.0f} ms ({low * 1e3:,.0f} to {high * 1e3:,.0f})"


def efficiency_table(report: Report) -> str:
    n, count = report["examples"], report["partitions"]
    one, two = (of(report, workers, n, count) for workers in WORKERS)
    gain = speedup(report, n, count)
    return table([["computed by", "a step over all examples", "examples/s"]] + [
        [name, milliseconds(row), f"{n / row['median'] / 1e6:,.1f} million"] for name, row in [
            ("two workers, a core each", two), ("one worker", one), ("one process, no Dask, one core", report["one_core"]),
            ("one process, no Dask, both cores", report["one_process"])]]) + (
        f"\n\nTwo workers make {gain:.2f} steps in the time of one: an efficiency of {gain / 2:.0%}. Their gradient differs "
        f"from one process's by {report['checked']['relative_error']:.0e} of its largest element, and both clusters give "
        f"the same bits.")


def sizes_table(report: Report) -> str:
    sizes = sorted({row["examples"] for row in report["table"]})
    counts = sorted({row["partitions"] for row in report["table"]})
    return table([["examples", *(f"{count} partitions" for count in counts)]] + [
        [f"{n:,}", *(f"{of(report, 1, n, p)['median'] * 1e3:,.0f} / {of(report, 2, n, p)['median'] * 1e3:,.0f} ms, "
                     f"×{speedup(report, n, p):.2f}" for p in counts)] for n in sizes])


def minibatch_table(report: Report) -> str:
    found = report["minibatches"]
    return table([["`average_every`", "a step", "steps/s"]] + [
        [str(every), f"{found[str(every)]['median'] * 1e3:,.1f} ms", f"{1 / found[str(every)]['median']:,.0f}"]
        for every in AVERAGES])


def model_text(report: Report) -> str:
    m, sent = report["model"], report["bytes"]
    n = report["examples"]
    rows = [["workers", *(f"{w:,}" for w in (1, 2, 4, 16, 64))]]
    for size in (n, 100 * n):
        rates = [1 / (m["example_ns"] * 1e-9 * size / w + max(m["task_ms"], 0) * 1e-3 * 2 * w + m["step_ms"] * 1e-3)
                 for w in (1, 2, 4, 16, 64)]
        rows.append([f"steps/s of {size:,} examples", *(f"{rate:,.2f}" for rate in rates)])
    return (f"Fitted to all of the table: {m['example_ns']:.0f} ns an example, {m['task_ms']:.1f} ms a partition, "
            f"{m['step_ms']:.1f} ms a step (half of the entries are within {m['median_error']:.0%}, the worst is off by "
            f"{m['greatest_error']:.0%}). With {report['parameters']} parameters a step sends {sent['sent'] / 1e3:.1f} kB "
            f"for each partition, {sent['function'] / 1e3:.1f} kB of it the function with its source, and gets "
            f"{sent['received'] / 1e3:.1f} kB back. With two partitions a worker the model says:\n\n{table(rows)}")


def conditions(report: Report) -> str:
    m, v = report["machine"], report["versions"]
    others = ("how busy other programs kept the machine is not known" if report["others"] is None
              else f"other programs had at most {report['others']:.0%} of the machine")
    return (f"{m['device']}, {m['cores']} cores{', ' + m['simd'] if m['simd'] else ''}; float64; "
            f"jitgrad at {report['commit']}, Python {v['python']}, Dask {v['dask']}, distributed {v['distributed']}; "
            f"{report['date']}; {others}.")


PARTS = {"efficiency": efficiency_table, "sizes": sizes_table, "minibatches": minibatch_table, "model": model_text,
         "conditions": conditions}


def fill(text: str, report: Report) -> str:
    """The page with what stands between `<!-- scaling: NAME -->` and `<!-- scaling end -->` made anew."""
    first, *parts = text.split("<!-- scaling: ")
    for at, part in enumerate(parts):
        name, _, rest = part.partition(" -->")
        after = rest.partition("<!-- scaling end -->")[2]
        parts[at] = f"{name} -->\n\n{PARTS[name](report)}\n\n<!-- scaling end -->{after}"
    return "<!-- scaling: ".join([first, *parts])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; answers the exit status."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    made.add_argument("--quick", action="store_true", help="small sizes, all in this process: shows that it works")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--patience", type=float, default=60.0, metavar="SECONDS",
                      help="how long to wait, before each round, until other programs are idle (default 60; 0: not at all)")
    made.add_argument("--write", action="store_true", help="write the results into the checkout, and the page made of them")
    options = made.parse_args(arguments)
    if options.write and options.quick:
        made.error("a quick run measures nothing to write")
    report = run(options.quick, 1 if options.quick else options.rounds, 0.0 if options.quick else options.patience,
                 lambda text: print(text, file=sys.stderr, flush=True))
    if options.write:
        write(RESULTS, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        write(PAGE, fill(PAGE.read_text(encoding="utf-8"), report))
    for part in PARTS.values():
        print(part(report), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
