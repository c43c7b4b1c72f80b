"""Ends the servers of a test process that can no longer do so; also the process-tree helpers.

`handle` calls `watch`/`forget`; the same file runs as a small process of its own. That process
holds the reading end of a pipe whose only writer is the test process. However that one dies,
kill -9 included, the pipe ends, and the keeper stops the registered servers and removes their
directories. PR_SET_PDEATHSIG would not do: it fires when the *thread* that started the child
ends, is cleared when the child changes its user, and needs a `preexec_fn`, unsafe with threads.

The file imports only the standard library and runs isolated (-I), so it starts in no time.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

_HAS_PROC = Path("/proc/self/stat").exists()  # Linux; elsewhere `ps` tells the same


class _Pipe:
    """The writing end: starts the keeper at the first word, one for each test process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def tell(self, verb: str, pid: int | None, directory: Path | None) -> None:
        line = json.dumps([verb, pid, str(directory) if directory else None]) + "\n"
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", __file__],
                    stdin=subprocess.PIPE,
                    start_new_session=True,  # a Ctrl-C in the terminal is not for the keeper
                    cwd="/",
                )
            assert self._process.stdin is not None
            # A dead keeper must not fail a test: `stop()` and atexit still do their work.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()

    def close(self) -> None:
        with self._lock:
            if self._process is not None and self._process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    self._process.stdin.close()
                self._process.wait()
            self._process = None

    def disown(self) -> None:
        """In a forked child: while *its* copy is open, the keeper would not see the parent die."""
        self._lock = threading.Lock()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.returncode = 0  # not this process's child: no warning from Popen
        self._process = None


_pipe = _Pipe()
os.register_at_fork(after_in_child=_pipe.disown)


def watch(*, pid: int | None = None, directory: Path | None = None) -> None:
    """Have the keeper end `pid`, or remove `directory`, should this process die."""
    _pipe.tell("watch", pid, directory)


def forget(*, pid: int | None = None, directory: Path | None = None) -> None:
    """Take back `watch`: the process was waited for, or the directory removed."""
    _pipe.tell("forget", pid, directory)


def close() -> None:
    """End the keeper, which removes what is still registered; at interpreter exit."""
    _pipe.close()


def alive(pid: int) -> bool:
    """Is `pid` running? A zombie is not: where nothing reaps orphans, it would stay forever."""
    state = _state(pid)
    return state is not None and state not in "ZX"


def stopped(pid: int) -> bool:
    """Is `pid` stopped by SIGSTOP, or gone?"""
    return (_state(pid) or "T") in "tTZX"


def tree(pid: int) -> list[int]:
    """Return `pid` and all its descendants, parents first."""
    found, table = [pid], _parents()
    for parent in found:  # grows while it is read
        found += [child for child, its_parent in table if its_parent == parent]
    return found


def freeze(pid: int) -> list[int]:
    """SIGSTOP the whole tree under `pid` and return it, once every member has stopped.

    The parent first: a stopped parent forks no more, so the second look at the tree is complete.
    """
    members: list[int] = []
    while (now := tree(pid)) != members:
        members = now
        send(members, signal.SIGSTOP)
        wait_until(lambda: all(map(stopped, now)), 5)
    return members


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each process that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll `condition` until it holds; False when `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _state(pid: int) -> str | None:
    """The one-letter state of a process, None without such a process."""
    if _HAS_PROC:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return None
    shown = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], check=False, capture_output=True, text=True)
    return shown.stdout.strip()[:1] or None


def _parents() -> list[tuple[int, int]]:
    """(pid, parent's pid) of every process."""
    if not _HAS_PROC:
        shown = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], check=False, capture_output=True, text=True)
        return [(int(pid), int(parent)) for pid, parent in map(str.split, shown.stdout.splitlines())]
    table = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # ended meanwhile
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                table.append((int(entry.name), int(stat[1])))
    return table


def _clean_up(pids: set[int], directories: set[str]) -> None:
    # The pids are still the servers': their parent, who alone could have reaped one and so freed
    # its number, takes a pid back with "forget" and died only this moment.
    members = [member for pid in pids for member in tree(pid)]
    send(members, signal.SIGCONT)
    send(pids, signal.SIGTERM)  # lets PostgreSQL give its shared memory back
    if not wait_until(lambda: not any(map(alive, members)), 3):
        send(members, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, members)), 3)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _main() -> None:
    pids: set[int] = set()
    directories: set[str] = set()
    for line in sys.stdin:
        verb, pid, directory = json.loads(line)
        if pid is not None:
            (pids.add if verb == "watch" else pids.discard)(pid)
        if directory is not None:
            (directories.add if verb == "watch" else directories.discard)(directory)
    _clean_up(pids, directories)


if __name__ == "__main__":
    _main()
