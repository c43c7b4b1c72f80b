"""What ``import ambidex`` costs a new process; run by ``python -m bench --only imports``.

Every sample is a process of its own, and the kinds take turns, so that caches are equally warm for both.
"""

from __future__ import annotations

import subprocess
import sys
import time

from bench.harness import ADDED_MS, SLOWER, Bench, Samples, Side, at_most, require, row


def _process(code: str) -> Side:
    def side(number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            subprocess.run([sys.executable, "-c", code], check=True, stdin=subprocess.DEVNULL)
        return time.perf_counter() - start

    return side


@row("imports.ambidex", "import ambidex", against="a bare interpreter", kind=ADDED_MS, target=at_most(50))
def ambidex(bench: Bench) -> Samples:
    return bench.compare(_process("import ambidex"), _process("pass"), least=3)


@row(
    "imports.storage",
    "from ambidex import UnifiedStorage (loaded when it is asked for)",
    against="a bare interpreter",
    kind=ADDED_MS,
)
def storage(bench: Bench) -> Samples:
    return bench.compare(_process("from ambidex import UnifiedStorage"), _process("pass"), least=3)


@row("imports.redis", "a process that imports ambidex", against="one that imports redis.asyncio", kind=SLOWER)
def redis(bench: Bench) -> Samples:
    require("redis")
    return bench.compare(_process("import ambidex"), _process("import redis.asyncio"))
