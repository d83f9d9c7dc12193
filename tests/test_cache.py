"""The code cache: content decides, a bad file is compiled anew, and nothing about it can make a program fail."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jitgrad.cli import app
from jitgrad.compiler import cache


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JITGRAD_CACHE_DIR", str(tmp_path / "code"))
    return tmp_path / "code"


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_was_saved_is_loaded() -> None:
    name = cache.key("a program", "a compiler")
    assert cache.load(name) is None
    cache.save(name, b"machine code")
    assert cache.load(name) == b"machine code"


def test_keys_tell_every_part_apart() -> None:
    assert len({cache.key("ab", "c"), cache.key("a", "bc"), cache.key("abc"), cache.key("ab", "c", "")}) == 4


@pytest.mark.parametrize("damage", [
    lambda content: content[:-1], lambda content: b"", lambda content: content[:10],
    lambda content: content[:-1] + bytes([content[-1] ^ 1]), lambda content: b"\x7fELF something foreign",
    lambda content: content + b"more"])
def test_a_torn_or_foreign_file_is_not_trusted(damage, own_folder: Path) -> None:
    name = cache.key("program")
    cache.save(name, b"machine code")
    path = only_file(own_folder)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load(name) is None
    cache.save(name, b"machine code")
    assert cache.load(name) == b"machine code"


def test_a_file_under_another_programs_name_is_not_trusted(own_folder: Path) -> None:
    cache.save(cache.key("one"), b"code of one")
    only_file(own_folder).rename(own_folder / (cache.key("other") + ".code"))
    assert cache.load(cache.key("other")) is None


def test_a_folder_that_cannot_be_made_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("JITGRAD_CACHE_DIR", str(tmp_path / "file" / "below"))
    cache.save(cache.key("program"), b"code")
    assert cache.load(cache.key("program")) is None
    assert cache.files() == []
    assert cache.clear() == 0


def test_a_user_without_a_home_keeps_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JITGRAD_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.os.path, "expanduser", lambda path: path)       # as Python answers where it finds no home
    monkeypatch.chdir(tmp_path)
    cache.save("a", b"code")
    assert cache.load("a") is None
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_file_behind(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "replace", full)
    cache.save(cache.key("program"), b"code")
    assert list(own_folder.iterdir()) == []


def test_many_writers_of_one_name_leave_one_whole_file(own_folder: Path) -> None:
    name, code = cache.key("program"), bytes(range(256)) * 1000

    def race(_: int) -> None:
        cache.save(name, code)
        assert cache.load(name) == code
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(race, range(64)))
    assert [p.suffix for p in own_folder.iterdir()] == [".code"]


def test_it_stays_below_its_limit_and_the_least_recently_used_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LIMIT_BYTES", 3500)
    names = [cache.key(str(k)) for k in range(4)]
    for age, name in enumerate(names[:3]):
        cache.save(name, bytes(1000))
        os.utime(cache.folder() / (name + ".code"), (1000 + age, 1000 + age))
    assert cache.load(names[0]) is not None                 # used now, and so the youngest
    cache.save(names[3], bytes(1000))
    assert [cache.load(name) is not None for name in names] == [True, False, True, True]


PROGRAM = """
import numpy as np, sys
import jitgrad as jg
from jitgrad.backends import native
compiled = []
before = native._optimised
native._optimised = lambda module: compiled.append(module) or before(module)
step = jg.value_and_grad(lambda w, x: jg.sin(w * x) * 3.0, device="cpu")
value, grad = step(0.5, np.arange(5.0))
print(len(compiled), value, grad)
"""


def test_a_second_process_compiles_nothing_and_gets_the_same_bits(own_folder: Path) -> None:
    runs = [subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout.split()
            for _ in range(2)]
    assert runs[0][0] == "3"                                # the shells, what moves numbers, and the program itself
    assert runs[1][0] == "0"
    assert runs[0][1:] == runs[1][1:]
    for path in own_folder.iterdir():
        path.write_bytes(path.read_bytes()[:100])           # torn, as after a crash
    torn = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout.split()
    assert torn == runs[0]


def test_the_command_line_tells_and_clears() -> None:
    cache.save(cache.key("program"), b"code")
    told = CliRunner().invoke(app, ["cache", "info"])
    assert told.exit_code == 0
    assert "1 files" in told.output
    assert CliRunner().invoke(app, ["cache", "clear"]).exit_code == 0
    assert cache.files() == []


FORKED = """
import os
import numpy as np
import jitgrad as jg
X = np.random.default_rng(0).normal(size=(100_000, 2))
step = jg.value_and_grad(lambda w, x: jg.tanh(w @ x), device="cpu")
here = step(np.ones(2), X)[0]
child = os.fork()
if child == 0:
    os._exit(0 if step(np.ones(2), X)[0] == here else 1)
assert os.waitpid(child, 0)[1] == 0
"""

READ_ONLY = """
import numba.core.caching as caching
def nowhere(self, function):
    raise RuntimeError("cannot cache function: no locator available")
caching.CacheImpl.__init__ = nowhere
import numpy as np
import jitgrad as jg
assert jg.value_and_grad(lambda w, x: w * x, device="cpu")(2.0, np.arange(3.0)) == (2.0, 1.0)
"""


@pytest.mark.parametrize("program", [pytest.param(FORKED, marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")),
                                     READ_ONLY], ids=["forked", "read-only"])
def test_a_fork_and_an_installation_nobody_can_write_to(program: str) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode == 0, done.stderr
