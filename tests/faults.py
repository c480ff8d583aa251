"""A layer over the calls by which files are written: the n-th of them fails, below one folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

NAMES = ("open", "write", "fsync", "replace", "ftruncate", "mkdir", "unlink", "close")
CODES = {"ENOSPC": errno.ENOSPC, "EROFS": errno.EROFS, "EIO": errno.EIO}
KINDS = (*CODES, "short", "torn")  # half of a write is done, and the rest asked for; or half, and then EIO


class Faults:
    """Within (`with`), the n-th call that touches the folder fails in a way; `calls` are all, by name.

    Args:
        folder: below which calls count.
        at: which of them fails, from 0; None none.
        reads: whether calls that read count, too.
        kind: one of KINDS; a short or torn write is an ordinary call or an EIO of anything but a write.
    """

    def __init__(self, folder: Path, at: int | None = None, kind: str = "EIO", *, reads: bool = True) -> None:
        self.folder, self.at, self.kind, self.reads = str(folder), at, kind, reads
        self.calls: list[str] = []
        self._ours: set[int] = set()
        self._real = {name: getattr(os, name) for name in NAMES}

    def __enter__(self) -> Faults:
        for name in NAMES:
            setattr(os, name, self._call(name))
        return self

    def __exit__(self, *error: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)

    def _call(self, name):
        def call(first, *rest, **options):
            ours = first in self._ours if isinstance(first, int) else os.fspath(first).startswith(self.folder)
            if name == "open" and not self.reads:
                ours = ours and bool(rest[0] & (os.O_WRONLY | os.O_RDWR))
            if ours:
                self.calls.append(name)
                if len(self.calls) - 1 == self.at:
                    return self._fail(name, first, *rest, **options)
            found = self._real[name](first, *rest, **options)
            if ours and name == "open":
                self._ours.add(found)
            if name == "close":
                self._ours.discard(first)
            return found

        return call

    def _fail(self, name, first, *rest, **options):
        if name == "write" and self.kind in ("short", "torn"):
            done = self._real["write"](first, bytes(rest[0])[: len(rest[0]) // 2])
            if self.kind == "short":
                return done
        if name == "close":  # the descriptor is gone also where closing fails
            self._real["close"](first)
            self._ours.discard(first)
        if self.kind == "short":
            return self._real[name](first, *rest, **options) if name != "close" else None
        code = CODES.get(self.kind, errno.EIO)
        raise OSError(code, os.strerror(code), None if isinstance(first, int) else os.fspath(first))
