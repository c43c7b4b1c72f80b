"""kill -9 of a writing process: what it was told is stored is stored, and the file is whole."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ambidex import UnifiedStorage
from tests.torture.sqlite import command, integrity, rounds

pytestmark = pytest.mark.torture

SYNC = """
    import sys, threading
    from ambidex import SyncStorage
    storage = SyncStorage(f"sqlite:///{sys.argv[1]}")
    def write(thread):
        for i in range(10**9):
            storage.kv.set(f"{sys.argv[2]}:{thread}:{i}", {"i": i, "pad": "x" * 300})
            sys.stdout.write(f"{thread} {i}\\n"); sys.stdout.flush()
    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""

ASYNC = """
    import asyncio, sys
    from ambidex import AsyncStorage
    async def main():
        storage = AsyncStorage(f"sqlite:///{sys.argv[1]}")
        async def write(task):
            for i in range(10**9):
                await storage.kv.set(f"{sys.argv[2]}:{task}:{i}", {"i": i, "pad": "x" * 300})
                sys.stdout.write(f"{task} {i}\\n"); sys.stdout.flush()
        await asyncio.gather(*map(write, range(16)))
    asyncio.run(main())
"""

# The same without the protection: acknowledged when it is queued, not when it is committed.
TOO_EARLY = """
    import asyncio, sys
    from ambidex import AsyncStorage
    async def main():
        storage = AsyncStorage(f"sqlite:///{sys.argv[1]}")
        await storage.initialize()
        tasks = []
        for i in range(10**9):
            tasks.append(asyncio.create_task(storage.kv.set(f"{sys.argv[2]}:0:{i}", {"i": i, "pad": "x" * 300})))
            sys.stdout.write(f"0 {i}\\n"); sys.stdout.flush()
            if i % 50 == 0:
                await asyncio.sleep(0)
    asyncio.run(main())
"""


def lost_after_kill(code: str, path: Path, turn: int, pause: float) -> tuple[int, int]:
    """Return how many writes were acknowledged before the kill, and how many of those are missing."""
    with subprocess.Popen(command(code, path, turn), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        lines = (first + process.stdout.read()).decode().splitlines(keepends=True)
    told = [line.split() for line in lines if line.endswith("\n")]
    with UnifiedStorage(f"sqlite:///{path}") as storage:
        keys = [f"{turn}:{worker}:{i}" for worker, i in told]
        found = {}
        for start in range(0, len(keys), 5000):
            found.update(storage.kv.get_many(keys[start : start + 5000]))
    return len(told), sum(found.get(key, {}).get("i") != int(key.rsplit(":", 1)[1]) for key in keys)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("code", [SYNC, ASYNC], ids=["sync", "async"])
def test_every_acknowledged_write_survives_kill_9(code: str, tmp_path: Path) -> None:
    path = tmp_path / "killed.db"
    told = 0
    for turn in range(rounds(4, 100)):
        acknowledged, lost = lost_after_kill(code, path, turn, random.uniform(0.02, 0.2))
        assert lost == 0
        told += acknowledged
        assert integrity(path) == "ok"
    assert told > rounds(4, 100)


def test_the_kill_would_show_a_write_that_is_acknowledged_too_early(tmp_path: Path) -> None:
    lost = sum(lost_after_kill(TOO_EARLY, tmp_path / "killed.db", turn, 0.1)[1] for turn in range(3))
    assert lost > 0
