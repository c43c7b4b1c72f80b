"""What people and programs read of a run: the table, the JSON, the progress; ``bench.__main__`` calls this.

The invariant: the table goes to standard output and everything else to standard error, so that either can be kept.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sqlite3
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.harness import Bench, Result

__all__ = ["Progress", "environment", "table", "write_json"]

_PACKAGES = (
    "ambidex", "advanced-alchemy", "aiosqlite", "apsw", "asgiref", "asyncpg", "chromadb", "coredis", "diskcache",
    "hiredis", "lancedb", "msgspec", "numkong", "numpy", "psycopg", "psycopg-pool", "py-key-value-aio", "redis",
    "redis-om", "sqlalchemy", "valkey-glide",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Describe what the figures were taken on; no names of machines or people."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    apsw = sys.modules.get("apsw")
    return {
        "taken": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "sqlite3": sqlite3.sqlite_version,
        "sqlite of apsw": apsw.sqlite_lib_version() if apsw is not None else None,
        "packages": versions,
    }


def write_json(path: Path, results: Sequence[Result], bench: Bench) -> None:
    """Write everything that was measured, with every round."""
    data = {
        "environment": environment(),
        "rounds": bench.rounds,
        "seconds_a_turn": bench.slot,
        "rows": [result.as_data() for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def table(results: Sequence[Result]) -> str:
    """Return the results as aligned text, followed by what could not run."""
    head = ("row", "figure", "spread", "target", "met", "ours", "theirs", "against")
    lines = [head, *(_cells(result) for result in results if result.samples is not None)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    shown.insert(1, "  ".join("-" * width for width in widths))
    missing = [result for result in results if result.samples is None]
    if missing:
        shown.append("")
    for result in missing:
        last = result.reason.strip().splitlines()[-1]
        shown.append(f"{result.row.name}: {'BROKE' if result.broken else 'cannot run'}: {last}")
    return "\n".join(shown)


def _cells(result: Result) -> tuple[str, ...]:
    about = result.row
    assert result.samples is not None
    return (
        about.name,
        about.kind.show(result.median),
        f"{min(result.values):.3g} … {max(result.values):.3g}",
        "" if about.target is None else str(about.target),
        {None: "", True: "yes", False: "NO"}[result.met],
        _seconds(statistics.median(result.samples.ours)),
        _seconds(statistics.median(result.samples.theirs)),
        f"{about.against} ({result.samples.about})" if result.samples.about else about.against,
    )


def _seconds(value: float) -> str:
    for unit, scale in (("s ", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if abs(value) * scale >= 1:
            return f"{value * scale:6.2f} {unit}"
    return f"{value * 1e9:6.0f} ns"


class Progress:
    """Which row runs, and how far it is, once a run has taken a second; a bar where there is a terminal and rich."""

    def __init__(self, rows: int, rounds: int) -> None:
        self._total, self._turns = rows, 2 * rounds
        self._start = time.monotonic()
        self._done = 0
        self._part = 0
        self._name = ""
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, name: str) -> None:
        """Say that a row begins."""
        self._name, self._part = name, 0
        if not sys.stderr.isatty():
            if self._late():
                print(f"[{self._done + 1}/{self._total}] {name}", file=sys.stderr, flush=True)
            return
        self._show()

    def tick(self) -> None:
        """Count a turn of a side; the clock is not running."""
        self._part += 1
        if sys.stderr.isatty():
            self._show()

    def end(self) -> None:
        """Count a row."""
        self._done, self._part = self._done + 1, 0

    def _late(self) -> bool:
        return time.monotonic() - self._start > 1

    def _show(self) -> None:
        if not self._late():
            return
        at = self._done + min(self._part / self._turns, 1)
        if self._bar is None:
            self._open()
        if self._bar is None:
            print(f"\r[{self._done + 1}/{self._total}] {self._name:<40}", end="", file=sys.stderr, flush=True)
        else:
            self._bar.update(self._task, completed=at, description=self._name)
            self._bar.refresh()

    def _open(self) -> None:
        try:
            from rich.console import Console
            from rich.progress import Progress as Bar
        except ImportError:
            return
        # its refreshing thread would run while a side is timed
        self._bar = Bar(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._bar.start()
        self._task = self._bar.add_task(self._name, total=self._total)
