"""kill -9 of a process that works on two backends in one unit: never half for ever, never applied twice."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from ambidex import SyncStorage
from ambidex.core.spec import Id, Version
from tests.services import PostgresServer, RedisServer
from tests.services.postgres import unavailable as no_postgres
from tests.torture.redis_support import server_flavour
from tests.torture.sqlite import command, rounds

pytestmark = pytest.mark.torture


@dataclass
class Step:
    id: Annotated[int, Id()]


@dataclass
class Count:
    id: Annotated[str, Id()]
    last: int = 0
    version: Annotated[int, Version()] = 0


MODEL = """
    import asyncio, os, signal, sys
    from dataclasses import dataclass
    from typing import Annotated
    from ambidex import AsyncStorage, SyncStorage
    from ambidex.core.spec import Id, Version
    from ambidex.stores.outbox import Outbox

    @dataclass
    class Step:
        id: Annotated[int, Id()]

    @dataclass
    class Count:
        id: Annotated[str, Id()]
        last: int = 0
        version: Annotated[int, Version()] = 0

    main, other, first = sys.argv[1], sys.argv[2], int(sys.argv[4])
    elsewhere = {name: other for name in sys.argv[3].split(",")}
    def told(i):
        sys.stdout.write(f"{i}\\n"); sys.stdout.flush()

    def writes(storage, i):
        yield lambda: storage.repository(Step).upsert(Step(i))
        yield lambda: storage.repository(Count).upsert(Count("n", i))
        yield lambda: storage.kv.set(f"step-{i}", i)
        yield lambda: storage.kv.set("last", i)
        yield lambda: storage.events.append("steps", i)
"""

SYNC = """
    storage = SyncStorage(main, **elsewhere)
    for i in range(first, 10**9):
        with storage.transaction():
            for write in writes(storage, i): write()
        told(i)
"""

ASYNC = """
    async def work():
        storage = AsyncStorage(main, **elsewhere)
        for i in range(first, 10**9):
            async with storage.transaction():
                for write in writes(storage, i): await write()
            told(i)
    asyncio.run(work())
"""

# The same without the protection: one write after the other.
PLAIN = """
    storage = SyncStorage(main, **elsewhere)
    for i in range(first, 10**9):
        for write in writes(storage, i): write()
        told(i)
"""

# Ends itself at one place of the twentieth unit.
AT = """
    def die(): os.kill(os.getpid(), signal.SIGKILL)
    place, units = sys.argv[5], 0
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
    storage = SyncStorage(main, **elsewhere)
    for i in range(first, 10**9):
        units += 1
        with storage.transaction():
            for write in writes(storage, i): write()
        told(i)
"""

Places = tuple[str, str, str]
"""The main backend, the other one, and what lies there."""

ALL = [
    f"{pair} {elsewhere}"
    for pair in ("sqlite+sqlite", "sqlite+redis", "postgres+redis")
    for elsewhere in ("kv,log", "records")
]
SOME = ["sqlite+sqlite kv,log", "sqlite+redis kv,log", "sqlite+redis records"]


@pytest.fixture
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Places]:
    pair, elsewhere = request.param.split(" ")
    # A machine under load may stop a process for longer than the usual lease.
    main, other = f"sqlite:///{tmp_path}/main.db?lease_timeout=60", f"sqlite:///{tmp_path}/other.db"
    with ExitStack() as servers:
        if pair.startswith("postgres"):
            if reason := no_postgres("wheel"):
                pytest.skip(reason)
            main = servers.enter_context(PostgresServer("wheel")).url
        if pair.endswith("redis"):
            other = servers.enter_context(RedisServer(server_flavour())).url
        yield main, other, elsewhere


def killed(code: str, places: Places, first: int, *more: str, pause: float | None = None) -> int:
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


def opened(places: Places) -> SyncStorage:
    main, other, elsewhere = places
    where: dict[str, Any] = dict.fromkeys(elsewhere.split(","), other)
    return SyncStorage(main, **where)


def halves(storage: SyncStorage) -> tuple[set[int], list[int], set[int]]:
    """Return the steps among the records, those in the stream, and those by key."""
    kept = {step.id for step in storage.repository(Step).iterate()}
    stream = [record.value for record in storage.events.iterate("steps")]
    keys = {int(key.removeprefix("step-")) for key in storage.kv.scan("step-")}
    return kept, stream, keys


def check_whole(places: Places, told: int) -> tuple[int, int]:
    """Check that all is there once and in order; return the next step, and how many units had been left half."""
    storage = opened(places)
    left = storage.recover()
    kept, stream, keys = halves(storage)
    assert told in kept
    assert stream == sorted(kept)
    assert keys == kept
    assert storage.kv.get("last") == max(kept)
    assert storage.repository(Count).get("n") == Count("n", max(kept), version=len(kept))
    assert storage.recover() == 0
    storage.close()
    return max(kept) + 1, left


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("places", ALL, indirect=True)
def test_a_unit_is_whole_after_kill_9(places: Places) -> None:
    """In both modes by turns; units that were left half were made whole."""
    following = left = 0
    for number in range(rounds(2, 50)):
        told = killed(ASYNC if number % 2 else SYNC, places, following, pause=random.uniform(0.02, 0.2))
        following, more = check_whole(places, told)
        left += more
    assert following > rounds(2, 50)
    print(f"{rounds(2, 50)} rounds, {following} units, {left} of them found half and made whole")


@pytest.mark.parametrize("places", SOME, indirect=True)
@pytest.mark.parametrize(
    "place", ["_write-before", "_write-after", "_after-before", "_apply_group-after", "_apply-after", "_settle-after"]
)
def test_a_unit_is_whole_after_a_kill_at_this_place(place: str, places: Places) -> None:
    told = killed(AT, places, 0, place)
    assert told == 18  # the twentieth unit did not return
    following, _ = check_whole(places, told)
    assert following == (19 if place in {"_write-before", "_write-after"} else 20)


@pytest.mark.parametrize("places", SOME, indirect=True)
def test_control_two_plain_writes_are_left_half(places: Places) -> None:
    following = 0
    for number in range(1, 41):
        following = killed(PLAIN, places, following, pause=random.uniform(0.02, 0.1)) + 2
        storage = opened(places)
        storage.recover()
        kept, stream, keys = halves(storage)
        storage.close()
        if sorted(kept) != stream or keys != kept:
            print(f"left half for ever after {number} rounds")
            return
    pytest.fail("no kill came between the two writes")
