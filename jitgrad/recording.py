"""Which function this thread is recording, if any."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Recording(threading.local):
    """The recorder of the function that this thread is recording, or None; `watch` is told of one more (1) or less (-1)."""

    def __init__(self, watch: Callable[[int], None]) -> None:
        self._recorder: Any = None
        self._watch = watch

    @property
    def recorder(self) -> Any:
        return self._recorder

    @recorder.setter
    def recorder(self, recorder: Any) -> None:
        self._watch((recorder is not None) - (self._recorder is not None))
        self._recorder = recorder
