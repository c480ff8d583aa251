"""Files written so that no stop leaves half of one, and what to say if they cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from gfo.core.errors import GfoError


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that, whenever the process is stopped, there is all of it or what was there before.

    Raises:
        GfoError: if it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)  # it may hold the room that is missing
        raise cannot_write(path.parent, error) from None


def cannot_write(folder: Path, error: OSError) -> GfoError:
    """What to say if a run folder cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "make room and go on with gfo resume or resume=True" if full else "name another folder"
    return GfoError(f"out = {folder}: cannot write there ({error.strerror}); {what}")
