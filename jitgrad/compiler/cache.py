"""Compiled code kept on disk between processes, under the hash of everything it depends on.

A file is written whole under another name and then renamed, so that many processes may race; it begins with the hash
of its own content, so that a torn or foreign file is noticed and compiled anew, never trusted. A folder that cannot be
read or written costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from pathlib import Path

LIMIT_BYTES = 256 << 20
_DIGEST = 32
_SUFFIX = ".code"


def folder() -> Path:
    """Where code is kept: JITGRAD_CACHE_DIR, else the user's cache folder."""
    chosen = os.environ.get("JITGRAD_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME")
    base = base or os.path.expanduser("~/.cache")
    # A user without a home folder, as in some containers, keeps no code, rather than a folder of that name.
    return Path(os.devnull if base.startswith("~") else base) / "jitgrad"


def key(*parts: str) -> str:
    """The name for code that depends on exactly these texts."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def load(name: str) -> bytes | None:
    """The code of that name, or None where there is none that can be trusted."""
    path = folder() / (name + _SUFFIX)
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(name.encode() + content[_DIGEST:]).digest() != content[:_DIGEST]:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)                                  # the least recently used file goes first
    return content[_DIGEST:]


def save(name: str, code: bytes) -> None:
    """Keep code under a name; quietly does nothing where that is not possible."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder(), suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(name.encode() + code).digest() + code)
            os.replace(temporary, folder() / (name + _SUFFIX))
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            return
        _trim()
    except OSError:
        return


def files() -> list[Path]:
    """Every file of code there is, the least recently used first."""
    found = []
    with contextlib.suppress(OSError):
        for path in folder().glob("*" + _SUFFIX):
            with contextlib.suppress(OSError):
                found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found)]


def size(paths: list[Path]) -> int:
    """Bytes in these files."""
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


def clear() -> int:
    """Remove all kept code; returns how many files went."""
    gone = 0
    for path in files():
        with contextlib.suppress(OSError):
            path.unlink()
            gone += 1
    return gone


def _trim() -> None:
    kept = files()
    excess = size(kept) - LIMIT_BYTES
    for path in kept:
        if excess <= 0:
            return
        with contextlib.suppress(OSError):
            excess -= path.stat().st_size
            path.unlink()
