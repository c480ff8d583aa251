"""Programs that a model wrote, each run by a process of its own within limits.

Limits (`Limits`) hold against accidents: endless loops, memory, output, processes that stay. Where bubblewrap
is installed a program has no network either, sees no files but those of Python, and runs as nobody. Without
it Python's audit events keep it from sockets, processes and files elsewhere, which a program that means harm
gets around: a sandbox by limits is no sandbox against malice.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gfo.core.errors import GfoError
from gfo.tasks.parts import contained

NOBODY = 65534
GRACE = 5.0  # seconds in which the process that runs a program cleans up
TRIAL = "import json, math, random, re, typing\nwith open('trial', 'w') as file:\n    file.write('1')\n"
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache")  # what Python itself is linked with
UNSHARED = ("--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent")


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        cpu: seconds of a processor.
        wall: seconds of the clock.
        memory: bytes of address space.
        file_size: bytes of a file, and of all that it prints.
        files: open at once.
        processes: and threads that it starts; without effect on root, whose are ended all the same.
    """

    cpu: int = 3
    wall: float = 15.0
    memory: int = 2**29
    file_size: int = 2**20
    files: int = 32
    processes: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    Attributes:
        passed: whether it came to its end, without an exception and without leaving processes behind.
        in_time: whether that was within the wall seconds.
        left: processes that it left behind, which were ended.
    """

    passed: bool
    in_time: bool
    left: int


@dataclass(frozen=True)
class Sandbox:
    """Runs programs in Python.

    Args:
        limits: of each.
        bubblewrap: the program bwrap, or None for none.
        guard: whether Python's audit events are watched.

    Raises:
        GfoError: on other systems than Linux, or where no program runs within the limits.
    """

    limits: Limits = Limits()
    bubblewrap: str | None = shutil.which("bwrap")
    guard: bool = True

    @cached_property
    def way(self) -> tuple[bool, bool]:
        """Whether programs run in bubblewrap, and as nobody: the safest of what works here."""
        if sys.platform != "linux":
            raise GfoError("pass@k: programs are run on Linux alone; take another metric here")
        ways = [(True, True)] if self.bubblewrap else []
        ways += [(False, True)] if os.geteuid() == 0 else []
        for wrapped, nobody in (*ways, (False, False)):
            if self._run(TRIAL, wrapped, nobody).passed:
                return wrapped, nobody
        raise GfoError(f"pass@k: no program runs within {self.limits}; raise the limits")

    @property
    def shortcomings(self) -> str:
        """What is not contained, in words; empty in bubblewrap."""
        wrapped, nobody = self.way
        if wrapped:
            return ""
        who = "as nobody" if nobody else "with your rights"
        return (
            f"programs that the model writes are run {who}, with limits on time, memory and output; files "
            "can be read, and network, files and processes are kept from them by Python's audit events "
            "alone, which is no sandbox against malice: install bubblewrap, or run gfo in a container"
        )

    def run(self, program: str) -> Outcome:
        """Run one program; what it does ends with it."""
        return self._run(program, *self.way)

    def run_all(self, programs: Sequence[str]) -> list[Outcome]:
        """Run programs, some at a time; equal ones once."""
        different = list(dict.fromkeys(programs))
        self.way  # noqa: B018  before there are threads
        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            found = dict(zip(different, pool.map(self.run, different), strict=True))
        finally:
            pool.shutdown(cancel_futures=True)
        return [found[program] for program in programs]

    def _run(self, program: str, wrapped: bool, nobody: bool) -> Outcome:
        root = os.geteuid() == 0
        order = {
            **asdict(self.limits),
            "program": program,
            "guard": self.guard,
            "user": NOBODY if nobody and root else None,  # else bubblewrap calls the user so
        }
        with tempfile.TemporaryDirectory(prefix="gfo-answer-", ignore_cleanup_errors=True) as folder:
            if order["user"] is not None:
                os.chown(folder, NOBODY, NOBODY)
            command = [sys.executable, "-I", "-B", str(Path(contained.__file__).resolve())]
            if wrapped:
                command = [*self._wrapping(folder, root), *command]
            return _finished(command, order, folder)

    def _wrapping(self, folder: str, root: bool) -> list[str]:
        """bubblewrap's part of the command."""
        who = () if root else ("--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY))
        wanted = (*SYSTEM, sys.base_prefix, sys.prefix, str(Path(contained.__file__).resolve().parent))
        above = {str(parent) for path in (*wanted, folder) for parent in Path(path).parents}
        made = itertools.chain(*(("--dir", path) for path in sorted(above - {"/"})))  # else root's alone
        seen = itertools.chain(*(("--ro-bind-try", path, path) for path in wanted))
        rest = ("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp")
        last = ("--bind", folder, folder, "--chdir", folder, "--")
        return [str(self.bubblewrap), *UNSHARED, *who, *rest, *made, *seen, *last]


def _finished(command: Sequence[str], order: dict[str, Any], folder: str) -> Outcome:
    """What the process that runs the program says of it."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C reaches gfo alone
    )
    try:
        said, _ = process.communicate(json.dumps(order).encode(), timeout=order["wall"] + GRACE)
        found = json.loads(said)
    except (subprocess.TimeoutExpired, ValueError):  # it was ended itself, or held up
        return Outcome(passed=False, in_time=False, left=0)
    finally:
        _end(process)
    return Outcome(found["passed"] and not found["left"], found["in_time"], found["left"])


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process that runs a program, if it has not ended, which ends the program first."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
