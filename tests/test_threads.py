"""The team of threads: errors and Ctrl-C end a call after its works, and leave the team fit for the next one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jitgrad.backends import threads

# Ctrl-C comes while the caller waits for a worker, twice; the next call must not take an old work's end for its own.
INTERRUPTED = """
import os, signal, threading, time
from jitgrad.backends import threads
ended = []
def slow():
    time.sleep(0.6)
    ended.append("first")
for later in (0.1, 0.3):
    threading.Timer(later, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    threads.together([lambda: None, slow])
except KeyboardInterrupt:
    print("interrupted after", ended)
for _ in range(3):
    ended.clear()
    threads.together([lambda: None, lambda: (time.sleep(0.05), ended.append("next"))])
    print(*ended)
"""


def test_an_interrupt_waits_for_the_works_and_spoils_no_later_call() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).resolve().parent.parent)
    assert done.stdout.splitlines() == ["interrupted after ['first']", "next", "next", "next"]


def test_a_failing_caller_ends_works_that_ask_whether_they_are_wanted() -> None:
    begun, ended = threading.Event(), []

    def long() -> None:
        begun.set()
        try:
            while True:
                threads.still_wanted()
                time.sleep(0.001)
        finally:
            ended.append(True)

    def failing() -> None:
        assert begun.wait(10.0)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        threads.together([failing, long])
    assert ended == [True]
    threads.still_wanted()                                  # of a thread without a call: always


def test_a_work_that_was_not_begun_is_not_begun_later() -> None:
    begun: list[bool] = []

    def failing() -> None:
        raise ValueError("at once")
    for _ in range(50):
        with pytest.raises(ValueError, match="at once"):
            threads.together([failing, lambda: begun.append(True)])
        count = len(begun)
        time.sleep(0.001)
        assert len(begun) == count


def test_a_workers_error_is_the_callers() -> None:
    def failing() -> None:
        raise ValueError("in a worker")
    done: list[int] = []
    with pytest.raises(ValueError, match="in a worker"):
        threads.together([lambda: done.append(0), failing, lambda: done.append(2)])
    assert sorted(done) == [0, 2]
