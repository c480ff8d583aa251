"""The folder of a run, held by one process at a time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gfo.core.errors import GfoError
from gfo.core.files import absolute, cannot_write, make_folder, remove, sweep
from gfo.run.history import HISTORY
from gfo.run.schema import RESULT

if TYPE_CHECKING:
    from types import TracebackType

    from filelock import BaseFileLock

LOCK = ".lock"


class RunFolder(os.PathLike[str]):
    """The folder of a run, to be entered (`with`) while the run writes in it, any number of times at once.

    The lock is the operating system's: it ends with the process that holds it, however that ends.

    Args:
        path: made if missing; a relative one is in the folder that the process works in now.
        resume: whether it may hold a run already.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool = False) -> None:
        self.path = absolute(path)
        self.resume = resume
        self._lock: BaseFileLock | None = None

    @classmethod
    def of(cls, out: str | os.PathLike[str], *, resume: bool = False) -> RunFolder:
        """`out` as a run folder, itself if it is one."""
        return out if isinstance(out, RunFolder) else cls(out, resume=resume)

    def __fspath__(self) -> str:
        return str(self.path)

    def __enter__(self) -> Path:
        """The path, which no other process writes to until the exit.

        Raises:
            GfoError: if it holds a run already, another process runs in it, or it cannot be written.
        """
        if self._lock is None:
            self._lock = self._first()
        else:
            self._lock.acquire()
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        self._lock.release()
        if isinstance(error, KeyboardInterrupt) and not self._lock.is_locked:
            error.args = (self._kept(),)

    def _kept(self) -> str:
        """What a run that was interrupted leaves in the folder, and how it goes on."""
        history = self.path / HISTORY
        steps = history.read_bytes().count(b"\n") if history.is_file() else 0
        if not steps:
            return f"interrupted before the first step; nothing is kept in {self.path}"
        what = "history and result" if (self.path / RESULT).exists() else "the history"
        return (
            f"interrupted; {self.path} keeps {what} of {steps:,} steps; go on with resume=True, or "
            f"gfo resume {self.path}"
        )

    def _first(self) -> BaseFileLock:
        from filelock import FileLock, Timeout

        try:
            make_folder(self.path)
            if (self.path / LOCK).is_symlink():
                remove(self.path / LOCK)
            lock = FileLock(self.path / LOCK, timeout=0)
            lock.acquire()
        except Timeout:
            raise GfoError(
                f"out = {self.path}: another process runs in it; wait for its end, or name another folder"
            ) from None
        except OSError as error:
            raise cannot_write(self.path, error) from None
        sweep(self.path)
        history = self.path / HISTORY
        begun = (history.exists() and history.stat().st_size) or (self.path / RESULT).exists()
        if begun and not self.resume:
            lock.release()
            raise GfoError(
                f"out = {self.path} holds a run already; go on with it (gfo resume, resume=True), name "
                "another folder or delete that one"
            )
        return lock
