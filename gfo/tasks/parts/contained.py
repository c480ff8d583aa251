"""The other side of `gfo.tasks.parts.sandbox`: a process of its own that runs one program within limits.

It is started as a script, reads an order (JSON) from standard input, and writes what became of the program to
standard output. It forks: the child takes the limits upon itself and runs the program; this process waits,
and then ends whatever the program has left behind, also what went into another session: orphans of its
descendants become its children (PR_SET_CHILD_SUBREAPER). Linux; nothing here imports gfo.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

PR_SET_CHILD_SUBREAPER = 36
PASSED = b"passed"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
OUTPUT = "output"
# Python's own events: https://docs.python.org/3/library/audit_events.html
REFUSED: tuple[str, ...] = ("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn")
REFUSED += ("os.system", "os.kill", "pty.spawn", "sqlite3.", "signal.pthread_kill")
OF_PATHS = {  # event -> how many of its arguments are paths that it changes
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown"), 1),
    **dict.fromkeys(("os.utime", "os.setxattr", "os.removexattr"), 1),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink"), 2),
}


def main() -> None:
    """Run the program of the order on standard input."""
    order = json.loads(sys.stdin.read())
    adopt_orphans()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        run(order, writes)
    os.close(writes)
    in_time = wait(child, order["wall"])
    left = end_descendants()
    passed = in_time and os.read(reads, len(PASSED)) == PASSED
    print(json.dumps({"passed": passed, "in_time": in_time, "left": left - (not in_time)}))


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent has ended."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait(child: int, seconds: float) -> bool:
    """Whether the child has ended in so many seconds, and without being told to (SIGTERM)."""
    end = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        left = end - time.monotonic()
        if left <= 0:
            return False
        found = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, min(left, 0.1))
        if found is not None and found.si_signo == signal.SIGTERM:
            return False
    return True


def end_descendants() -> int:
    """Kill all that runs below this process, until nothing does: how many there were."""
    ended: set[int] = set()
    while True:
        reap()
        if not (alive := descendants()):
            return len(ended)
        for pid in alive:
            ended.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def reap() -> None:
    """Collect the children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def descendants() -> set[int]:
    """The processes below this one."""
    parent: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parent[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
    found: set[int] = set()
    new = {os.getpid()}
    while new:
        new = {pid for pid, of in parent.items() if of in new} - found
        found |= new
    return found


def run(order: dict[str, Any], writes: int) -> NoReturn:
    """In the child: run the program, say on a pipe that it came to its end, and end."""
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        become(order["user"])
        redirect()
        take_limits(order)
        if order["guard"]:
            sys.addaudithook(guard(os.path.realpath(os.getcwd())))
        exec(compile(order["program"], "answer", "exec"), {"__name__": "__main__"})
        sys.stdout.flush()
    except BaseException:  # also SystemExit: a program that ends before its tests has not passed them
        os._exit(1)
    os.write(writes, PASSED)
    os._exit(0)


def become(user: int | None) -> None:
    """Be that user, for good."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def redirect() -> None:
    """Read nothing, and write to a file in the folder, for which the limit on files holds."""
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, OUTPUT, os.O_WRONLY | os.O_CREAT)):
        os.dup2(os.open(path, flags, 0o600), number)
    os.dup2(1, 2)


def take_limits(order: dict[str, Any]) -> None:
    """The limits of this process and of those that it starts."""
    seconds = order["cpu"]
    for limit, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, order["memory"]),
        (resource.RLIMIT_FSIZE, order["file_size"]),
        (resource.RLIMIT_NOFILE, order["files"]),
        (resource.RLIMIT_NPROC, order["processes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))


def guard(folder: str) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook: no sockets, no processes, and changes of files in the folder alone."""
    real, decode, inside = os.path.realpath, os.fsdecode, os.path.join(folder, "")

    def check(path: Any) -> None:
        if not isinstance(path, int) and not real(decode(path)).startswith(inside):
            raise PermissionError(f"an answer writes in its own folder alone, not to {path!r}")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if args[2] & WRITING:
                check(args[0])
        elif event in OF_PATHS:
            for path in args[: OF_PATHS[event]]:
                check(path)
        elif event.startswith(REFUSED):
            raise PermissionError(f"an answer does no {event}")

    return hook


if __name__ == "__main__":
    main()
