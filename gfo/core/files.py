"""The one way files are written: whole or not at all, through no link, and with what to say if that fails."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from gfo.core.errors import GfoError

BEGUN = (".gfo-", ".partial")  # how the names of files begin and end that were not written to their end
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # fails where there is anything, a link too
_MORE = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0)  # and waits for no reader of a pipe
_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def absolute(path: str | os.PathLike[str], name: str = "out") -> Path:
    """A path that means the same wherever the process goes; "~" is the home folder.

    Args:
        path: as given.
        name: what errors call it.

    Raises:
        GfoError: for what is no path, or an empty one, which would be the working folder.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise GfoError(f"{name} = {path!r} is no path; name a file or folder, as in 'runs/first'")
    return Path(os.path.abspath(os.path.expanduser(text)))


def write_whole(path: Path, content: bytes | str, *, name: str = "") -> None:
    """Write a file so that, whenever the process is stopped, there is all of it or what was there before.

    A link in its place is replaced, not followed. Permissions are those of any new file.

    Args:
        path: of the file, in a folder that is there.
        content: of all of it.
        name: what errors call it, where it is not part of a run folder.

    Raises:
        GfoError: if it cannot be written, or something stands there that is no file, such as a pipe.
    """
    partial = path.with_name(secrets.token_hex(8).join(BEGUN))
    try:
        _check_replaceable(path)
        try:
            _write(partial, _NEW, content, sync=True)
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell of
                os.unlink(partial)  # it may hold the room that is missing
            raise
    except OSError as error:
        if name:
            reason = error.strerror or error
            raise GfoError(f"{name}: {path}: cannot write there ({reason}); name another file") from None
        raise cannot_write(path.parent, error) from None
    sync_folder(path.parent)


def append(path: Path, content: bytes | str, *, sync: bool = False) -> None:
    """Write behind the end of a file that is there.

    Args:
        path: of the file, which must be no link.
        content: to add.
        sync: whether it has to be on the disk when this returns.

    Raises:
        GfoError: if it cannot be written.
    """
    try:
        _write(path, _MORE, content, sync=sync)
    except OSError as error:
        raise cannot_write(path.parent, error) from None


def cut(path: Path, size: int) -> None:
    """Shorten a file, which must be no link, to a number of bytes; nothing is done if it has them.

    Raises:
        GfoError: if it cannot be written.
    """
    try:
        if os.stat(path).st_size == size:
            return
        fd = os.open(path, _MORE | _PLAIN)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise cannot_write(path.parent, error) from None


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` once all of it is written.

    What it replaces may be a folder; a link is replaced, not followed. All files get the permissions of new
    ones, whatever wrote them.

    Raises:
        OSError: if it cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    begun = folder.with_name(secrets.token_hex(8).join(BEGUN))
    begun.mkdir()
    try:
        yield begun
        for path in begun.rglob("*"):
            if path.is_file():
                path.chmod(begun.stat().st_mode & 0o666)
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
        os.replace(begun, folder)
    except BaseException:
        shutil.rmtree(begun, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def remove(path: Path) -> None:
    """Remove a file, if it is there; of a link the link.

    Raises:
        GfoError: if it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path.parent, error) from None


def make_folder(path: Path) -> Path:
    """Make a folder, and those above it, if it is missing.

    Raises:
        GfoError: if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None
    return path


def sync_folder(folder: Path) -> None:
    """Have names of new files on the disk, where the file system can do so."""
    with contextlib.suppress(OSError):  # the files are there; not every system can open folders
        fd = os.open(folder, os.O_RDONLY | _PLAIN)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written; called by the one process that writes there."""
    for path in folder.glob("*".join(BEGUN)):
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def cannot_write(folder: Path, error: OSError) -> GfoError:
    """What to say if a run folder cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "make room and go on with gfo resume or resume=True" if full else "name another folder"
    return GfoError(f"out = {folder}: cannot write there ({error.strerror or error}); {what}")


def _write(path: Path, flags: int, content: bytes | str, *, sync: bool) -> None:
    left = memoryview(content.encode("utf-8") if isinstance(content, str) else content)
    fd = os.open(path, flags | _PLAIN, 0o666)
    try:
        while left:
            left = left[os.write(fd, left) :]  # it may take less than all
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _check_replaceable(path: Path) -> None:
    """Fail where a device, a pipe or a folder stands, also behind a link: that is no file to replace."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return  # also behind a link
    if not stat.S_ISREG(mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, f"{path.name} is {kind_of(mode)}")


def kind_of(mode: int) -> str:
    """What something in a file system is, by its mode."""
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
