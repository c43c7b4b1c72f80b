"""What the fault tests of SQLite share: how many rounds to run, and code that runs in a process of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

LONG = os.environ.get("AMBIDEX_TORTURE", "quick") == "long"


def rounds(quick: int, long: int) -> int:
    return long if LONG else quick


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def command(code: str, *args: object) -> list[str]:
    return [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)]


def run(code: str, *args: object, timeout: float = 60) -> str:
    """Run Python code in a fresh process and return what it printed; it must end well."""
    done = subprocess.run(command(code, *args), capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def integrity(path: Path) -> str:
    """Ask SQLite, in a process of its own, whether the file is whole."""
    return run(
        "import apsw, sys; print(apsw.Connection(sys.argv[1]).execute('PRAGMA integrity_check').fetchall()[0][0])", path
    )
