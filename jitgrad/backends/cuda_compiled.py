"""CUDA kernels that this process has made, by what they compute: numba takes seconds to compile one.

Every transform of a function and every training records it anew, to the same program as before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from jitgrad.compiler.emit_cuda import Layout
from jitgrad.compiler.identity import of_program

MOST = 256                         # kernels kept; the one that was asked for longest ago goes first

_LOCK = threading.Lock()
_made: OrderedDict[Hashable, Any] = OrderedDict()


def identity(layout: Layout) -> str:
    """Equal for layouts of programs that are computed by the same code, from arrays of the same widths."""
    return f"{of_program(layout.program)} {layout.shared} {layout.batched} {layout.in_widths}"


def once(make: Callable[[], Any], *parts: Hashable) -> Any:
    """What `make` makes, or what was made before for equal parts."""
    with _LOCK:
        if parts not in _made:
            _made[parts] = make()
        _made.move_to_end(parts)
        while len(_made) > MOST:
            _made.popitem(last=False)
        return _made[parts]
