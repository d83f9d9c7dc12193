"""Pictures of a run, as SVG text: the same report makes the same text."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.tables import best, factor_text, figure_text, ratio, rival, share

Record = dict[str, Any]
COLOURS = {"jitgrad": "#2f6db3", "JAX": "#d9822b", "PyTorch": "#b3392f", "Dr.Jit": "#3d8b57", "micrograd": "#7a5ba8",
           "Python": "#666666"}


def fingerprint(report: Record) -> str:
    """What a picture says it was drawn from."""
    return "drawn from results " + hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()[:16]


def draw(report: Record) -> dict[str, str]:
    """File name -> SVG, of each picture."""
    return {f"{name}.svg": text for name, picture in PICTURES.items() for text in [_svg(report, picture)]}


def _svg(report: Record, picture: Callable[[Any, Record], None]) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    # Text stays text: smaller files, and independent of the fonts of the machine that draws.
    style = {"svg.hashsalt": "jitgrad", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9.0,
             "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure = Figure(layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        picture(figure, report)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": "jitgrad benchmarks",
                                                    "Description": fingerprint(report)})
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _record(report: Record, name: str) -> Record | None:
    return next((r for r in report["cases"] if r["name"] == name), None)


def _series(report: Record, names: Sequence[str], peers: Sequence[str]) -> Iterator[tuple[str, list[int], list[float]]]:
    """For each peer: at which of the named cases it has a figure, and the figures."""
    for peer in peers:
        found = [(at, e["median"]) for at, name in enumerate(names) for r in [_record(report, name)] if r is not None
                 for e in [best(r, peer)] if e is not None]
        if found:
            yield peer, [at for at, _ in found], [figure for _, figure in found]


def speedups(figure: Any, report: Record) -> None:
    """How many times faster than the fastest of the others."""
    shown = [(r, factor, other) for r in report["cases"] if r["headline"] and r["unit"] == "s"
             for factor, other in [(ratio(r), rival(r))] if factor is not None and other is not None]
    figure.set_size_inches(9.0, 0.9 + 0.26 * len(shown))
    axes = figure.subplots()
    factors = [factor for _, factor, _ in shown]
    axes.barh([r["title"].replace("`", "") for r, _, _ in shown], [f - 1 for f in factors], left=1, height=0.7,
              color=[COLOURS["jitgrad"] if f >= 1 else "#c0c0c0" for f in factors])
    for at, (_, factor, other) in enumerate(shown):
        axes.annotate(f"{factor_text(factor)} {other['peer']}", (max(factor, 1), at), xytext=(4, 0),
                      textcoords="offset points", va="center")
    axes.set_xscale("log")
    axes.set_xlim(min([0.2, *factors]) / 1.2, max([10, *factors]) * 30)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("times faster than the fastest of the others (blue), or slower (grey)")


def networks(figure: Any, report: Record) -> None:
    """Time of an example against the batch size."""
    kinds = {"2-16-16-1": ("100", "10k", "1M"), "16-64-64-1": ("100", "10k", "1M"), "64-128-10": ("100", "10k", "200k")}
    figure.set_size_inches(9.0, 3.2)
    for axes, (kind, sizes) in zip(figure.subplots(1, 3), kinds.items(), strict=True):
        names = [f"mlp-{kind}/{size}" for size in sizes]
        for peer, at, figures in _series(report, names, ("jitgrad", "JAX", "PyTorch")):
            counts = [(_record(report, names[k]) or {})["items"] for k in at]
            axes.loglog(counts, [f / n * 1e9 for f, n in zip(figures, counts, strict=True)], marker="o", markersize=4,
                        color=COLOURS[peer], label=peer)
        axes.set_title(kind)
        axes.set_xlabel("examples N")
    figure.axes[0].set_ylabel("ns an example, value and gradient")
    _legend(figure)


def compilation(figure: Any, report: Record) -> None:
    """First call and later calls of straight-line formulas, and of a process."""
    counts = (100, 1_000, 3_000, 10_000, 20_000)
    figure.set_size_inches(9.0, 3.2)
    first, later, start = figure.subplots(1, 3)
    for axes, kind, title, unit in ((first, "compile", "first call", 1.0), (later, "run", "later calls, N = 10,000", 1e-3)):
        for peer, at, figures in _series(report, [f"{kind}-{count}" for count in counts], ("jitgrad", "JAX")):
            axes.loglog([counts[k] for k in at], [f / unit for f in figures], marker="o", markersize=4, color=COLOURS[peer],
                        label=peer)
        axes.set_title(title)
        axes.set_xlabel("operations")
        axes.set_ylabel("s" if unit == 1.0 else "ms")
    states, peers = ("empty", "filled"), ("jitgrad", "JAX", "PyTorch")
    found = list(_series(report, [f"cold-start/{state}" for state in states], peers))
    for number, (peer, at, figures) in enumerate(found):
        start.bar([k + 0.26 * (number - 1) for k in at], figures, width=0.24, color=COLOURS[peer], label=peer)
    start.set_xticks(range(len(states)), [f"caches {state}" for state in states])
    start.set_title("process start to first gradient")
    start.set_ylabel("s")
    _legend(figure)


def limits(figure: Any, report: Record) -> None:
    """Fractions of the limit that binds."""
    shown = [(r, ours, rival(r)) for r in report["cases"] for ours in [best(r, "jitgrad")]
             if ours is not None and share(report, r, ours) is not None and (r["items"] or 0) >= 10_000]
    figure.set_size_inches(9.0, 0.9 + 0.26 * len(shown))
    axes = figure.subplots()
    for place, (record, ours, other) in enumerate(shown):
        for entry, shift in ((ours, -0.18), (other, 0.18)):
            found = None if entry is None else share(report, record, entry)
            if entry is not None and found is not None:
                axes.barh(place + shift, found[0], height=0.34, color=COLOURS[entry["peer"]])
                axes.annotate(f"{entry['peer']}, {figure_text(entry['median'], 's')}, {found[0]:.0%} of {found[1]}",
                              (found[0], place + shift), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(shown)), [r["name"] for r, _, _ in shown])
    axes.set_xlim(0, 1.35)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("fraction of the machine's limit that binds: copy bandwidth, or sgemm")


def _legend(figure: Any) -> None:
    handles = {label: handle for axes in figure.axes
               for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)


PICTURES: dict[str, Callable[[Any, Record], None]] = {
    "speedups": speedups, "networks": networks, "compilation": compilation, "limits": limits}
