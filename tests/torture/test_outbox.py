"""kill -9 of a process that works on two backends in one unit: never half for ever, never applied twice."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from ambidex import SyncStorage
from ambidex.core.spec import Id
from tests.services import RedisServer
from tests.torture.redis_support import server_flavour
from tests.torture.sqlite import command, rounds

pytestmark = pytest.mark.torture


@dataclass
class Step:
    id: Annotated[int, Id()]


MODEL = """
    import asyncio, os, signal, sys
    from dataclasses import dataclass
    from typing import Annotated
    from ambidex import AsyncStorage, SyncStorage
    from ambidex.core.spec import Id
    from ambidex.stores.outbox import Outbox

    @dataclass
    class Step:
        id: Annotated[int, Id()]

    main, other, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
    def told(i):
        sys.stdout.write(f"{i}\\n"); sys.stdout.flush()
"""

SYNC = """
    storage = SyncStorage(main, kv=other, log=other)
    steps = storage.repository(Step)
    for i in range(first, 10**9):
        with storage.transaction():
            steps.create(Step(i))
            storage.kv.set(f"step-{i}", i)
            storage.kv.set("last", i)
            storage.events.append("steps", i)
        told(i)
"""

ASYNC = """
    async def work():
        storage = AsyncStorage(main, kv=other, log=other)
        steps = storage.repository(Step)
        for i in range(first, 10**9):
            async with storage.transaction():
                await steps.create(Step(i))
                await storage.kv.set(f"step-{i}", i)
                await storage.kv.set("last", i)
                await storage.events.append("steps", i)
            told(i)
    asyncio.run(work())
"""

# The same without the protection: one write after the other.
PLAIN = """
    storage = SyncStorage(main, kv=other, log=other)
    steps = storage.repository(Step)
    for i in range(first, 10**9):
        steps.create(Step(i))
        storage.kv.set(f"step-{i}", i)
        storage.kv.set("last", i)
        storage.events.append("steps", i)
        told(i)
"""

# Ends itself at one place of the twentieth unit.
AT = """
    def die(): os.kill(os.getpid(), signal.SIGKILL)
    place, units = sys.argv[4], 0
    def patched(name, before):
        original = getattr(Outbox, name)
        async def method(self, *args):
            if before and units == 20: die()
            result = await original(self, *args)
            if not before and units == 20: die()
            return result
        setattr(Outbox, name, method)
    name, when = place.split("-")
    patched(name, when == "before")
    storage = SyncStorage(main, kv=other, log=other)
    steps = storage.repository(Step)
    for i in range(first, 10**9):
        units += 1
        with storage.transaction():
            steps.create(Step(i))
            storage.kv.set(f"step-{i}", i)
            storage.kv.set("last", i)
            storage.events.append("steps", i)
        told(i)
"""


@pytest.fixture(params=["sqlite", "redis"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    main = f"sqlite:///{tmp_path}/main.db"
    if request.param == "sqlite":
        yield main, f"sqlite:///{tmp_path}/other.db"
    else:
        with RedisServer(server_flavour()) as server:
            yield main, server.url


def killed(code: str, places: tuple[str, str], first: int, *more: str, pause: float | None = None) -> int:
    """Run a program until it is killed; return the last step that it told of."""
    with subprocess.Popen(command(MODEL + code, *places, first, *more), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = process.stdout.readline()
        if pause is not None:
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
        lines += process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    told = [line for line in lines.decode().splitlines(keepends=True) if line.endswith("\n")]
    return int(told[-1])


def halves(storage: SyncStorage) -> tuple[set[int], list[int], set[int]]:
    """Return the steps on the main backend, those in the stream, and those by key."""
    kept = {step.id for step in storage.repository(Step).iterate()}
    stream = [record.value for record in storage.events.iterate("steps")]
    keys = {int(key.removeprefix("step-")) for key in storage.kv.scan("step-")}
    return kept, stream, keys


def check_whole(places: tuple[str, str], told: int) -> int:
    """Check that all is there once and in order; return the next step."""
    storage = SyncStorage(places[0], kv=places[1], log=places[1])
    storage.recover()
    kept, stream, keys = halves(storage)
    assert told in kept
    assert stream == sorted(kept)
    assert keys == kept
    assert storage.kv.get("last") == max(kept)
    assert storage.recover() == 0
    storage.close()
    return max(kept) + 1


@pytest.mark.timeout(900)
@pytest.mark.parametrize("code", [SYNC, ASYNC], ids=["sync", "async"])
def test_a_unit_is_whole_after_kill_9(code: str, places: tuple[str, str]) -> None:
    following = 0
    for _ in range(rounds(3, 50)):
        told = killed(code, places, following, pause=random.uniform(0.02, 0.2))
        following = check_whole(places, told)
    assert following > rounds(3, 50)


@pytest.mark.parametrize(
    "place", ["_write-before", "_write-after", "_after-before", "_apply_group-after", "_apply-after", "_settle-after"]
)
def test_a_unit_is_whole_after_a_kill_at_this_place(place: str, places: tuple[str, str]) -> None:
    told = killed(AT, places, 0, place)
    assert told == 18  # the twentieth unit did not return
    assert check_whole(places, told) == (19 if place in {"_write-before", "_write-after"} else 20)


def test_control_two_plain_writes_are_left_half(places: tuple[str, str]) -> None:
    following = 0
    for _ in range(40):
        following = killed(PLAIN, places, following, pause=random.uniform(0.02, 0.1)) + 2
        storage = SyncStorage(places[0], kv=places[1], log=places[1])
        storage.recover()
        kept, stream, keys = halves(storage)
        storage.close()
        if sorted(kept) != stream or keys != kept:
            return
    pytest.fail("no kill came between the two writes")
