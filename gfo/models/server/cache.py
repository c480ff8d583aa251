"""Answers of servers, kept on disk: what was asked once is not asked again, by any run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from gfo.core.errors import GfoError

TABLE = "create table if not exists answers (request text primary key, reply text not null) without rowid"
BUSY = 60.0  # seconds to wait for other processes that write
AT_ONCE = 500  # keys of a query


def key_of(*parts: Any) -> str:
    """What stands for a request: of the same values the same, and nothing can be read of it."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Answers:
    """Replies by their requests' keys.

    Args:
        path: of the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    @contextlib.contextmanager
    def opened(self) -> Iterator[Opened]:
        """The file, open.

        Raises:
            GfoError: if it cannot be read or written.
        """
        if self.path is None:
            yield Opened(None)
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=False)
            with contextlib.closing(file):
                file.execute("pragma journal_mode = wal")
                file.execute("pragma synchronous = normal")
                file.execute(TABLE)
                yield Opened(file)
        except (sqlite3.Error, OSError) as error:
            raise GfoError(
                f"cache: {self.path}: {error}; delete it, or name another file, or give cache = False"
            ) from None


class Opened:
    """The file while it is open."""

    def __init__(self, file: sqlite3.Connection | None) -> None:
        self._file = file

    def get(self, keys: Collection[str]) -> dict[str, dict[str, Any]]:
        """The replies that are known, by key."""
        if self._file is None:
            return {}
        found: dict[str, dict[str, Any]] = {}
        wanted = list(keys)
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"select request, reply from answers where request in ({marks})"
            for key, reply in self._file.execute(query, some):
                found[key] = json.loads(reply)
        return found

    def put(self, key: str, reply: Mapping[str, Any]) -> None:
        """Keep a reply; it is on the disk, whatever comes of the process."""
        if self._file is not None:
            self._file.execute("insert or replace into answers values (?, ?)", (key, json.dumps(reply)))
