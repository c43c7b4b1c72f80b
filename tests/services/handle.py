"""What every private server can do: start, stop, die, freeze, come back. The kinds subclass it.

A handle owns one process tree, one port and one temporary directory. `kill()` and `restart()` keep
port and directory; `stop()` leaves neither process nor directory behind. A server counts as started
only once it answered over its own protocol *and* its process still lives.
"""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal, Self

from tests.services import keeper
from tests.services.accounts import Account
from tests.services.ports import HOST, free_port

Flavour = Literal["wheel", "system", "external"]
"""`wheel`: from pip alone; `system`: what the machine has; `external`: not ours, only a URL."""


class StartFailed(RuntimeError):
    """The server cannot run or did not become ready; the message ends with the end of its log."""


class _PortTaken(StartFailed):
    pass


class Service(ABC):
    """Anything with a URL that tests talk to: a server, a group of them, a proxy, `External`."""

    kind: str
    flavour: Flavour

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def start(self) -> Self: ...

    @abstractmethod
    def stop(self) -> None: ...

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.flavour}>"


class External(Service):
    """A server that somebody else runs; it can be talked to and never stopped or hurt."""

    flavour: Flavour = "external"

    def __init__(self, kind: str, url: str) -> None:
        self.kind, self._url = kind, url

    @property
    def url(self) -> str:
        return self._url

    def start(self) -> Self:
        return self

    def stop(self) -> None:
        pass


class Server(Service):
    """One private server process (and its children) on a loopback port."""

    host = HOST
    start_seconds = 30.0
    stop_seconds = 10.0
    stop_signal = signal.SIGTERM
    needs_bus = False
    account = Account()

    def __init__(self, flavour: Flavour) -> None:
        self.flavour = flavour
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None
        self._port = 0
        self._owner = os.getpid()

    # --- what a kind says about itself ---

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why this server, with these options, cannot run here; None when it can."""

    @abstractmethod
    def configure(self, *, fresh: bool) -> None:
        """Write what the next `command` needs; `fresh` unless this is a restart."""

    @abstractmethod
    def command(self) -> list[str]:
        """The words to execute; the process must stay in the foreground."""

    @abstractmethod
    def check(self) -> None:
        """Ask over the protocol whether *this* server is ready; raise any Exception if not."""

    def released(self) -> None:
        """Give back what a killed server left outside its directory; called by `stop()`."""

    # --- what tests see ---

    @property
    def port(self) -> int:
        assert self._port, "the server was never started"
        return self._port

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def directory(self) -> Path:
        assert self._directory is not None, "the server was never started, or is stopped"
        return self._directory

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    def start(self) -> Self:
        """Start; after `kill()` on the same port and data. Returns when the server answers."""
        assert self._owner == os.getpid(), "a forked child must not start its parent's server"
        if self.running:
            return self
        if reason := self.unavailable():
            raise StartFailed(f"{self.kind} ({self.flavour}): {reason}")
        fresh = self._directory is None
        try:
            self._start(fresh)
        except BaseException:
            if fresh:
                self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server, paused or not, and remove its directory. Stopping twice is fine."""
        if self._owner != os.getpid():  # a fork's copy of the handle owns nothing
            return
        self._end(self.stop_signal)
        if self._directory is not None:
            self.released()
            shutil.rmtree(self._directory, ignore_errors=True)
            keeper.forget(directory=self._directory)
            self._directory = None
        _started.pop(id(self), None)

    def kill(self) -> None:
        """kill -9 the whole tree, as a crash would; data and port stay for `start()`."""
        if self._process is not None:
            members = keeper.freeze(self.pid)  # so that no child outlives the look at the tree
            keeper.send(members, signal.SIGKILL)
            self._reap(members)

    def pause(self) -> None:
        """SIGSTOP the whole tree: sockets stay open and nothing answers. Returns once it stands."""
        keeper.freeze(self.pid)

    def resume(self) -> None:
        """SIGCONT what `pause` stopped; children first, so that no parent sees a stopped one."""
        keeper.send(reversed(keeper.tree(self.pid)), signal.SIGCONT)

    def restart(self) -> Self:
        """Stop gracefully and start on the same port and data directory."""
        self._end(self.stop_signal)
        return self.start()

    # --- how ---

    def _start(self, fresh: bool) -> None:
        deadline = time.monotonic() + self.start_seconds
        while True:
            if fresh:
                self._port = free_port(bus=self.needs_bus)
            if self._directory is None:
                self._directory = self._make_directory()
            self.configure(fresh=fresh)
            logged = self.log.stat().st_size if self.log.exists() else 0
            self._spawn()
            try:
                return self._await_ready(deadline, logged)
            except _PortTaken:  # fresh: try another one; restart: its holder may go
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _make_directory(self) -> Path:
        _started[id(self)] = self
        directory = Path(tempfile.mkdtemp(prefix=f"ambidex-{self.kind}-"))
        keeper.watch(directory=directory)
        self.account.own(directory)
        return directory

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},  # no PG*, no proxies
                user=self.account.uid,
                group=self.account.gid,
                extra_groups=self.account.groups,
                umask=0o077,
                start_new_session=True,  # Ctrl-C goes to the tests, which then stop the servers
            )
        keeper.watch(pid=self._process.pid)

    def _await_ready(self, deadline: float, logged: int) -> None:
        problem: Exception | None = None
        while self.running and time.monotonic() < deadline:
            try:
                self.check()
            except Exception as not_yet:
                problem = not_yet
                time.sleep(0.01)
                continue
            if self.running:  # else the answer came from a stranger on the same port
                return
        died = not self.running
        self._end(signal.SIGKILL)
        text = self.log.read_bytes()[logged:].decode(errors="replace")
        failure = _PortTaken if died and "in use" in text.lower() else StartFailed
        what = "ended at once" if died else f"was not ready in {self.start_seconds} s: {problem!r}"
        raise failure(f"{self.kind} ({self.flavour}) {what}\n{text[-2000:]}") from problem

    def _end(self, number: signal.Signals) -> None:
        """Signal the server and wait for its whole tree; after `stop_seconds` with kill -9."""
        if self._process is None:
            return
        members = keeper.tree(self.pid) if self.running else []
        if members:
            keeper.send([self.pid], number)
            keeper.send(members, signal.SIGCONT)  # after the signal: no time to do anything else
        try:
            self._process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            self._reap(members)

    def _reap(self, members: list[int]) -> None:
        assert self._process is not None
        self._process.wait()
        keeper.forget(pid=self.pid)
        if not keeper.wait_until(lambda: not any(map(keeper.alive, members)), 5):
            keeper.send(filter(keeper.alive, members), signal.SIGKILL)
        self._process = None


_started: dict[int, Server] = {}


def _stop_all() -> None:
    for server in reversed(list(_started.values())):
        server.stop()
    keeper.close()


atexit.register(_stop_all)
