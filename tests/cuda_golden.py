"""What compiled CUDA kernels are held to: the committed counts of registers and instructions, and no float64 in float32."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden" / "cuda_resources.json"
COUNTED = ("spills", "shared_memory")


def assert_float32_alone(ptx: str) -> None:
    """The one exception: beyond 105,615, libdevice's sinf and cosf reduce their argument with one product in float64."""
    names = "add|sub|mul|fma|div|sqrt|rcp|min|max|setp|selp|neg|abs"
    arithmetic = re.findall(rf"^\s*(?:@\S+\s+)?((?:{names})\S*\.f64\s.*);", ptx, re.MULTILINE)
    assert [line for line in arithmetic if not re.fullmatch(r"mul\S*\s+%fd\d+, %fd\d+, 0d3BF921FB54442D19", line)] == []


def assert_as_committed(key: str, found: dict[str, Any], loop: dict[str, int] | None,
                        spilling: Collection[str] = ()) -> None:
    """Registers, spills and the hot loop of a kernel; JITGRAD_GOLDEN=write commits them. loop: None without nvdisasm."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    if os.environ.get("JITGRAD_GOLDEN") == "write":
        assert loop is not None, "nvdisasm is not installed: jitgrad[cuda] has it"
        golden[key] = found | {"loop": loop}
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(golden, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    committed = golden[key]
    assert found["spills"] == 0 or key in spilling
    # Another release of NVVM or ptxas moves a few registers; a lost optimisation moves many.
    assert found["registers"] <= 1.15 * committed["registers"] + 4
    assert {k: found[k] for k in COUNTED} == {k: committed[k] for k in COUNTED}
    if loop is not None:
        assert loop["instructions"] <= 1.15 * committed["loop"]["instructions"] + 8
        assert {k: loop[k] for k in ("loads", "stores")} == {k: committed["loop"][k] for k in ("loads", "stores")}
        assert loop["float64"] == 0 or "float64" in key
