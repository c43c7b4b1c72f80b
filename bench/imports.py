"""What ambidex costs a new process; run by ``python -m bench --only imports``.

Every sample is a process of its own, and the kinds take turns, so that caches are equally warm for both. Bytecode is
kept for all of them, as an installer leaves it: without it, a row would tell how fast Python compiles.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.harness import ADDED_MS, SLOWER, Bench, Samples, Side, at_most, require, row

_MAKE = "from ambidex import UnifiedStorage; UnifiedStorage('memory://')"
_OURS = """
import tempfile
from ambidex import UnifiedStorage
with tempfile.TemporaryDirectory() as folder, UnifiedStorage(f"sqlite:///{folder}/data.db") as storage:
    storage.kv.set("key", [1])
    assert storage.kv.get("key") == [1]
"""
_RAW = """
import tempfile, apsw, msgspec
with tempfile.TemporaryDirectory() as folder:
    conn = apsw.Connection(f"{folder}/data.db")
    conn.execute("PRAGMA journal_mode = WAL").fetchall()
    conn.execute("CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
    conn.execute("INSERT INTO kv VALUES (?, ?)", ("key", msgspec.msgpack.encode([1])))
    ((value,),) = conn.execute("SELECT value FROM kv WHERE key = ?", ("key",))
    assert msgspec.msgpack.decode(value) == [1]
    conn.close()
"""


@contextmanager
def _processes() -> Iterator[Callable[[str], Side]]:
    with tempfile.TemporaryDirectory(prefix="ambidex-bench-") as folder:
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environ["PYTHONPYCACHEPREFIX"] = folder

        def process(code: str) -> Side:
            def side(number: int) -> float:
                start = time.perf_counter()
                for _ in range(number):
                    subprocess.run([sys.executable, "-c", code], check=True, stdin=subprocess.DEVNULL, env=environ)
                return time.perf_counter() - start

            return side

        yield process


@row("imports.ambidex", "import ambidex", against="a bare interpreter", kind=ADDED_MS, target=at_most(50))
def ambidex(bench: Bench) -> Samples:
    with _processes() as process:
        return bench.compare(process("import ambidex"), process("pass"), least=3)


@row(
    "imports.storage",
    "making a UnifiedStorage, which is loaded when it is asked for",
    against="a bare interpreter",
    kind=ADDED_MS,
    target=at_most(100),
)
def storage(bench: Bench) -> Samples:
    with _processes() as process:
        return bench.compare(process(_MAKE), process("pass"), least=3)


@row(
    "imports.sqlite",
    "a first kv.set and kv.get in a new SQLite file, from import to close",
    against="apsw + msgspec by hand",
    kind=ADDED_MS,
    target=at_most(100),
)
def sqlite(bench: Bench) -> Samples:
    require("apsw")
    with _processes() as process:
        return bench.compare(process(_OURS), process(_RAW), least=3)


@row("imports.redis", "a process that imports ambidex", against="one that imports redis.asyncio", kind=SLOWER)
def redis(bench: Bench) -> Samples:
    require("redis")
    with _processes() as process:
        return bench.compare(process("import ambidex"), process("import redis.asyncio"))
