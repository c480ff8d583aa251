"""Deletes run folders, and nothing that is none."""

from __future__ import annotations

import shutil
from pathlib import Path

from gfo.core.errors import GfoError
from gfo.core.files import cannot_write
from gfo.run.folder import RunFolder
from gfo.run.history import HISTORY
from gfo.run.runs import folders_in
from gfo.run.schema import RESULT, RUN, read_result
from gfo.run.stored import REFIT


def contents(folder: Path) -> str:
    """What a run folder holds, in words.

    Raises:
        GfoError: for a link, what is no run folder, or one that other runs are in.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise GfoError(f"rm: {folder} is no folder; give that of a run")
    if not all((folder / name).is_file() for name in (HISTORY, RUN)):
        _check_result(folder)
    others = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != REFIT)
    inner = [each for path in others for each in folders_in(path)]
    if inner:
        raise GfoError(f"rm: {inner[0]} is a run in {folder}; delete or move it first")
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return f"{len(files):,} files of {sum(path.stat().st_size for path in files):,} bytes"


def _check_result(folder: Path) -> None:
    """Raise GfoError for a folder without what gfo writes of a run."""
    if not (folder / RESULT).is_file():
        raise GfoError(f"rm: {folder} holds no run of gfo; give the folder of a run")
    try:
        read_result(folder)
    except GfoError as error:
        raise GfoError(f"rm: {folder} is left as it is: {error}") from None


def remove_run(folder: Path) -> None:
    """Delete a run folder and all that is in it.

    Raises:
        GfoError: as `contents`, and where a process runs in it or it cannot be deleted.
    """
    contents(folder)
    with RunFolder(folder, resume=True) as path:
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise cannot_write(path, error) from None
