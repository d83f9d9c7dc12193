"""Everything that was generated for a program, as text and as counts."""

from __future__ import annotations

from typing import Any

from jitgrad import errors
from jitgrad.backends import Kernel
from jitgrad.compiler.program import Program


class Lowered:
    """A program lowered for one device; nothing has been run."""

    def __init__(self, program: Program, device: str, kernel: Kernel):
        self.program, self.device, self.kernel = program, device, kernel

    def __repr__(self) -> str:
        tape, _ = self.program.rolled
        return (f"<lowered for {self.device}: {len(self.program.graph.nodes)} nodes, {len(tape.instructions)} "
                f"instructions, {self.program.dtype}>")

    def as_text(self, form: str = "graph") -> str:
        """The program in one of its forms.

        "graph": the loss, a line a node with the user's line beside it; "tape": the rolled program, gradient included;
        "llvm", "asm": what runs on the CPU; "llvm", "ptx", "sass": what runs on CUDA; "jaxpr": what JAX was asked.
        Raises ArgumentError for a form this device has not.
        """
        if form == "graph":
            return self.program.graph.text([(f"value {k}" if len(self.program.values) > 1 else "value", v)
                                            for k, v in enumerate(self.program.values)])
        if form == "tape":
            return self.program.rolled[0].text()
        text = self.kernel.as_text(form)
        if text is None:
            raise errors.ArgumentError(f"device {self.device!r} has no form {form!r}. Every device has 'graph' and 'tape', "
                                       f"the CPU 'llvm' and 'asm', CUDA 'llvm', 'ptx' and 'sass', JAX 'jaxpr'")
        return text

    def cost_analysis(self) -> dict[str, Any]:
        """Counts for one example: flops, bytes moved, rows and instructions of the tape, and what the device knows.

        "registers" and "spills" (bytes) are CUDA's, from ptxas where there is one, else None.
        """
        tape, _ = self.program.rolled
        itemsize = self.program.dtype.itemsize
        written = sum(len(rows) for rows in self.program.example_outputs)
        cost: dict[str, Any] = {
            "flops": tape.operations(),
            "bytes": itemsize * (sum(leaf.width for leaf in self.program.batched) + written),
            "instructions": len(tape.instructions), "rows": tape.size, "registers": None, "spills": None}
        resources = getattr(self.kernel, "resources", None)
        if resources is not None:
            cost.update(resources())
        return cost
