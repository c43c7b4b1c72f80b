"""The contract of append-only streams; backends are tested with it.

The invariant: the places that a backend gives out may have gaps, so the tests compare their order and never their
numbers.
"""

from __future__ import annotations

from functools import partial

import pytest

from ambidex.core.ports import Capability
from ambidex.errors import InvalidKey, InvalidQuery, UnsupportedValue
from ambidex.stores.log import Log
from ambidex.testing.contract import Contract, Subject
from ambidex.testing.names import BAD_NAMES, HOSTILE
from ambidex.testing.values import REFUSED, VALUES, same

__all__ = ["LogContract"]

_SHORT, _LONG = 0.04, 3600.0


async def _values(log: Log, stream: str) -> list[object]:
    return [record.value async for record in log.iterate(stream)]


class LogContract(Contract, needs=[Capability.LOG]):
    """Methods of ``storage.events``."""

    async def test_log_keeps_order_and_places(self, subject: Subject) -> None:
        """Entries of one call stay together; places grow; the last one is returned."""
        log = subject.log
        first = await log.append("s", "a")
        last = await log.append("s", "b", "c", "d")
        records = await log.range("s")
        assert [record.value for record in records] == ["a", "b", "c", "d"]
        places = [record.seq for record in records]
        assert places == sorted(set(places))
        assert (places[0], places[-1]) == (first, last)
        assert first > 0
        assert await log.length("s") == 4

    async def test_log_of_an_absent_stream(self, subject: Subject) -> None:
        """Everything is empty, and nothing makes it."""
        log = subject.log
        assert await log.tail("s") == []
        assert await log.range("s") == []
        assert await _values(log, "s") == []
        assert await log.length("s") == 0
        assert await log.trim("s", 0) == 0
        assert not await log.expire("s", _LONG)
        assert not await log.drop("s")
        assert [name async for name in log.streams()] == []

    async def test_log_tail(self, subject: Subject) -> None:
        """The last entries, oldest first."""
        await subject.log.append("s", *range(50))
        for count in (1, 7, 50, 10_000):
            records = await subject.log.tail("s", count)
            assert [record.value for record in records] == list(range(50))[-count:]
        assert len(await subject.log.tail("s")) == 20

    async def test_log_range_and_iterate(self, subject: Subject) -> None:
        """From any place, in pages of any size."""
        log = subject.log
        await log.append("s", *range(25))
        records = await log.range("s")
        for start in (0, 1, 10, 24):
            after = 0 if start == 0 else records[start - 1].seq
            assert await log.range("s", after) == records[start:]
            assert await log.range("s", after, 3) == records[start : start + 3]
            for page in (1, 5, 25, 26, 10_000):
                assert [record async for record in log.iterate("s", after, page=page)] == records[start:]
        assert await log.range("s", records[-1].seq) == []
        assert await log.range("s", 2**63 - 1) == []

    async def test_log_follow(self, subject: Subject) -> None:
        """A reader gets what is there, then what is appended while it reads, and misses none."""
        log = subject.log
        await log.append("s", *range(5))
        seen: list[int] = []
        following = log.follow("s", page=2)
        async for record in following:
            seen.append(record.value)
            if len(seen) < 20 and len(seen) % 5 == 0:
                await log.append("s", *range(len(seen), len(seen) + 5))
            if len(seen) == 20:
                break
        await following.aclose()
        assert seen == list(range(20))

    async def test_log_values(self, subject: Subject) -> None:
        """As in key-value: the same comes back, or it is refused and nothing of the call is stored."""
        await subject.log.append("s", *VALUES)
        back = await _values(subject.log, "s")
        assert len(back) == len(VALUES)
        for value, got in zip(VALUES, back, strict=True):
            assert same(got, value), f"{value!r:.200} came back as {got!r:.200}"
        length = await subject.log.length("s")
        for name, value in REFUSED:
            with pytest.raises(UnsupportedValue):
                await subject.log.append("s", "before", value, "after")
                pytest.fail(f"{name} was accepted")
        assert await subject.log.length("s") == length

    async def test_log_trim(self, subject: Subject) -> None:
        """Keeps the last entries with their places; what was trimmed never comes back."""
        log = subject.log
        await log.append("s", *range(10))
        records = await log.range("s")
        assert await log.trim("s", 20) == 0
        assert await log.trim("s", 4) == 6
        assert await log.range("s") == records[6:]
        assert await log.range("s", records[2].seq) == records[6:]
        assert await log.tail("s", 10) == records[6:]
        assert await log.length("s") == 4
        assert await log.trim("s", 0) == 4
        assert await log.length("s") == 0
        assert await log.range("s") == []
        assert await log.append("s", "next") > records[-1].seq, "a place is not given out twice"
        assert await _values(log, "s") == ["next"]

    async def test_log_port_trims_by_place_and_ends_a_stream(self, subject: Subject) -> None:
        """As conversations need it: what others add meanwhile is not counted, and no place comes back."""
        log, port = subject.log, subject.log._port
        await log.append("s", *range(10))
        records, name = await log.range("s"), log._key("s")
        assert await port.trim_before(name, records[0].seq) == 0
        assert await port.trim_before(name, records[6].seq) == 6
        assert await log.range("s") == records[6:]
        assert await port.trim_before(name, records[2].seq) == 0
        assert await log.range("s") == records[6:]
        assert await log.append("s", "next") > records[-1].seq
        assert await port.trim_before(name, records[-1].seq + 100) == 5
        assert await log.length("s") == 0
        last = await log.append("s", "again")
        assert await _values(log, "s") == ["again"]
        assert await port.expire(name, 0)
        assert await log.length("s") == 0
        assert [stream async for stream in log.streams()] == []
        assert not await port.expire(name, 0)
        assert await port.trim_before(name, last) == 0
        assert await log.append("s", "anew") > last
        assert await _values(log, "s") == ["anew"]

    async def test_log_drop(self, subject: Subject) -> None:
        """Deletes one stream and no other."""
        await subject.log.append("s", 1, 2)
        await subject.log.append("t", 3)
        assert await subject.log.drop("s")
        assert not await subject.log.drop("s")
        assert await _values(subject.log, "s") == []
        assert await _values(subject.log, "t") == [3]
        await subject.log.append("s", 4)
        assert await _values(subject.log, "s") == [4]

    async def test_log_expiry_is_seen_by_every_method(self, subject: Subject) -> None:
        """Each method meets a stream that has expired and that nobody has read since."""
        log = subject.log
        names = ("tail", "range", "iterate", "length", "trim", "expire", "drop", "append", "probe")
        last = {name: await log.append(name, 1, 2, 3) for name in names}
        for name in names:
            assert await log.expire(name, _SHORT)

        async def gone() -> bool:
            return [name async for name in log.streams()] == []

        await subject.until(gone, "the expiry of every stream")
        assert await log.tail("tail") == []
        assert await log.range("range") == []
        assert await _values(log, "iterate") == []
        assert await log.length("length") == 0
        assert await log.trim("trim", 1) == 0
        assert not await log.expire("expire", _LONG)
        assert await log.length("expire") == 0
        assert not await log.drop("drop")
        assert await log.append("append", "new") > last["append"], "a place is not given out twice"
        assert await _values(log, "append") == ["new"]

    async def test_log_that_is_revived_stays(self, subject: Subject) -> None:
        """An append to an expired stream starts it anew, without the old time to live."""
        log = subject.log
        await log.append("s", "old", ttl=_SHORT)

        async def gone() -> bool:
            return await log.length("s") == 0

        await subject.until(gone, "the expiry of the stream")
        await log.append("s", "new")
        await subject.sleep(2 * _SHORT)
        assert await _values(log, "s") == ["new"]

    async def test_log_time_to_live_of_the_stream(self, subject: Subject) -> None:
        """An append with one gives it to the whole stream, one without keeps it, ``expire(None)`` takes it away."""
        log = subject.log
        await log.append("kept", 1, ttl=_SHORT)
        await log.append("kept", 2)
        await log.append("ever", 1, ttl=_LONG)
        await log.append("saved", 1, ttl=1.0)
        assert await log.expire("saved", None)

        async def gone() -> bool:
            return await log.length("kept") == 0

        await subject.until(gone, "the expiry of the stream")
        await subject.sleep(1.0)
        assert await log.length("ever") == 1
        assert await log.length("saved") == 1

    async def test_log_names(self, subject: Subject) -> None:
        """Each hostile name is a stream of its own, listed as itself; bad ones are refused."""
        for name in HOSTILE:
            await subject.log.append(name, name)
        for name in HOSTILE:
            assert await _values(subject.log, name) == [name]
        for prefix in ("", "a", "a:", "%", "é"):
            found = [name async for name in subject.log.streams(prefix, page=7)]
            assert sorted(found) == sorted(name for name in HOSTILE if name.startswith(prefix))
        for bad in BAD_NAMES:
            with pytest.raises(InvalidKey):
                await subject.log.append(bad, 1)  # type: ignore[arg-type]
            with pytest.raises(InvalidKey):
                await subject.log.tail(bad)  # type: ignore[arg-type]

    async def test_log_tenants(self, subject: Subject) -> None:
        """Streams of one tenant are not there for another."""
        other = subject.of_tenant(subject.tenant + ":log")
        await subject.log.append("s", "mine")
        assert await other.log.length("s") == 0
        await other.log.append("s", "other")
        assert [name async for name in subject.log.streams()] == ["s"]
        assert await _values(subject.log, "s") == ["mine"]

    async def test_log_refuses_bad_arguments(self, subject: Subject) -> None:
        """Before any I/O."""
        log = subject.log
        await log.append("s", 1)
        for bad in (0, -1, 10_001, True, 1.5, "1", None):
            with pytest.raises(InvalidQuery):
                await log.tail("s", bad)  # type: ignore[arg-type]
            with pytest.raises(InvalidQuery):
                await log.range("s", 0, bad)  # type: ignore[arg-type]
        for bad in (-1, True, 1.5, "1", None, 2**70):
            with pytest.raises(InvalidQuery):
                await log.trim("s", bad)  # type: ignore[arg-type]
            with pytest.raises(InvalidQuery):
                await log.range("s", bad)  # type: ignore[arg-type]
        with pytest.raises(InvalidQuery):
            await log.append("s")
        for ttl in (0, -1, float("nan")):
            with pytest.raises(InvalidQuery):
                await log.append("s", 2, ttl=ttl)
            with pytest.raises(InvalidQuery):
                await log.expire("s", ttl)
        assert await _values(log, "s") == [1]

    async def test_log_concurrent_appends_lose_nothing(self, subject: Subject) -> None:
        """Every entry is there once, those of one call side by side, and places are unique."""

        async def write(caller: int) -> None:
            for number in range(5):
                await subject.log.append("s", *((caller, number, part) for part in range(3)))

        await subject.together([partial(write, caller) for caller in range(6)])
        records = [record async for record in subject.log.iterate("s", page=11)]
        assert len({record.seq for record in records}) == len(records) == 6 * 5 * 3
        groups = [tuple(record.value for record in records[at : at + 3]) for at in range(0, len(records), 3)]
        for group in groups:
            assert [value[2] for value in group] == [0, 1, 2]
            assert len({value[:2] for value in group}) == 1
        for caller in range(6):
            assert [group[0][1] for group in groups if group[0][0] == caller] == list(range(5))
