"""What `jitgrad show FILE:FUNCTION` prints: the recorded graph, the tape, the cost, and the place under the roofline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from jitgrad import backends, roofline
from jitgrad.api import value_and_grad
from jitgrad.discover import Subject
from jitgrad.lowered import Lowered
from jitgrad.roofline import Position

# A form that one device alone has decides the device, where none is asked for.
_DEVICE_OF = {"ptx": "cuda", "sass": "cuda", "asm": "cpu", "jaxpr": "jax"}
FORMS = ("graph", "tape", "llvm", "asm", "ptx", "sass", "jaxpr")
_LINES = 24
_COST_NAMES = {"flops": "flops (a tanh counts as one)", "bytes": "bytes moved"}


def lower(subject: Subject, device: str, form: str | None, reduce: str | None) -> Lowered:
    """The value and gradient of a function, lowered for its example arguments; nothing is run."""
    if form in _DEVICE_OF and backends.check_name(device) == "auto":
        device = _DEVICE_OF[form]
    step = value_and_grad(subject.function, argnums=subject.argnums, in_axes=subject.in_axes, reduce=reduce, device=device)
    return step.lower(*subject.args)


def position(lowered: Lowered, limits: str | None, timed: bool) -> Position | None:
    """The place under the roofline; None where the machine's limits are neither stated nor to be measured.

    limits: "BYTES,FLOPS" a second; None measures this computer's, which says nothing about a GPU
    """
    on_gpu = lowered.device == "cuda"
    if limits is None and (on_gpu or not timed):
        return None
    found = roofline.measured(lowered.program.dtype) if limits is None else roofline.stated(limits)
    return roofline.position(lowered, found, timed and not (on_gpu and backends.cuda_problem() is not None))


@dataclass(frozen=True)
class Overview:
    """Everything about a lowered function that fits a screen.

    origin: where its arguments came from
    """

    target: str
    origin: str
    lowered: Lowered
    position: Position | None

    def as_json(self) -> dict[str, Any]:
        """As plain numbers and text."""
        lowered, found = self.lowered, self.position
        record: dict[str, Any] = {
            "target": self.target,
            "arguments": self.origin,
            "device": lowered.device,
            "dtype": str(lowered.program.dtype),
            "leaves": [{"path": leaf.path, "shape": list(leaf.shape), "shared": leaf.shared, "kind": leaf.kind}
                       for leaf in lowered.program.leaves],
            "nodes": len(lowered.program.graph.nodes),
            "cost": lowered.cost_analysis(),
            "graph": lowered.as_text("graph"),
            "tape": lowered.as_text("tape"),
            "roofline": None,
        }
        if found is not None:
            record["roofline"] = {
                "bytes_per_second": found.limits.bytes_per_second, "flops_per_second": found.limits.flops_per_second,
                "limits": found.limits.origin, "flops_per_byte": found.intensity if found.bytes else None,
                "bound": found.bound, "floor_seconds": found.floor, "seconds": found.seconds,
                "examples": found.examples, "share": found.share}
        return record

    def print(self, console: Console) -> None:
        """For a person at a terminal."""
        lowered, program = self.lowered, self.lowered.program
        console.print(f"[bold]{_plain(self.target)}[/bold]: value and gradient, {program.dtype}, lowered for "
                      f"{lowered.device}")
        console.print(f"arguments: {self.origin}", markup=False)
        table = Table("argument", "shape", "", box=None, pad_edge=False)
        for leaf in program.leaves:
            shape = "×".join(map(str, leaf.shape)) or "scalar"
            kind = "" if leaf.kind == "real" else f", {leaf.kind}"
            table.add_row(_plain(leaf.path), shape, ("shared" if leaf.shared else "one an example") + kind)
        console.print(table)
        self._excerpt(console, "graph", f"the loss: {len(program.graph.nodes):,} nodes")
        cost = lowered.cost_analysis()
        self._excerpt(console, "tape", f"rolled up, with the gradient: {cost['instructions']:,} instructions, "
                                       f"{cost['rows']:,} rows")
        console.print("\n[bold]cost[/bold] of one example: " + ", ".join(
            f"{number:,} {_COST_NAMES.get(name, name)}" for name, number in cost.items()
            if number is not None and name not in ("instructions", "rows")))
        console.print("\n[bold]roofline[/bold]")
        if self.position is None:
            console.print("Not placed: state the machine's limits with --limits BYTES,FLOPS (a second)"
                          + ("." if lowered.device == "cuda" else ", or leave out --no-measure."), markup=False)
            return
        for line in (*roofline.explained(self.position), roofline.chart(self.position)):
            console.print(line, markup=False)

    def _excerpt(self, console: Console, form: str, what: str) -> None:
        # The inputs stand in the table above.
        lines = [line for line in self.lowered.as_text(form).splitlines() if " = input " not in line]
        console.print(f"\n[bold]{form}[/bold] ({what})")
        console.print("\n".join(lines[:_LINES]), markup=False)
        if (more := len(lines) - _LINES) > 0:
            console.print(f"… {more:,} more line{'s' * (more > 1)}: --form {form}", markup=False)


def _plain(text: str) -> str:
    """Text in which brackets are no markup."""
    return text.replace("[", "\\[")
