"""Lookups and upserts of one loop tick as one statement; the asynchronous leaf queues its own here.

The invariant: each caller gets the answer to its own key, its own error and its own deadline. A caller that is
cancelled leaves the others alone. Of two writes of one key in a batch the later one is stored. Nothing of a transaction
is ever queued here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from ambidex.backends.postgres.aio import AsyncPool
from ambidex.backends.relational.sql import Args, Row, Statement
from ambidex.errors import AmbidexError, DeadlineExceeded

__all__ = ["Lookup", "Lookups", "Upsert", "Upserts"]

_MOST_KEYS = 500
_MOST_BYTES = 4 * 1024 * 1024
_LOCK_WAIT = 0.1


class Lookup(NamedTuple):
    """A point read in two forms.

    Both take one argument and give the key first.
    """

    one: str
    """For one key."""
    many: str
    """For a bound list of keys."""
    listing: Callable[[Sequence[str]], bytes]
    """Makes that list."""


class Upsert(NamedTuple):
    """A write of one row in two forms."""

    one: str
    """Takes the row's values; the first is its key."""
    many: str
    """Takes one bound list a column."""
    columns: Callable[[Sequence[Args]], Args]
    """Turns rows into those lists."""


class _Waiter(NamedTuple):
    future: asyncio.Future[Any]
    deadline: float


Answer = Callable[[Sequence[Statement], float], Awaitable[list[list[Row]]]]
"""The leaf's way to run statements of its own, by a deadline; it retries and translates errors."""
Late = Callable[[], AmbidexError]
"""Makes the error for a caller whose deadline passed while its batch was under way."""


class _Batch:
    """What is common: collecting within a tick, and telling those whose time is over."""

    def __init__(self, pool: AsyncPool, answer: Answer, late: Late) -> None:
        self._pool, self._answer, self._late = pool, answer, late

    def _watch(self, waiters: Sequence[_Waiter]) -> float:
        """Arrange that each is told when its own deadline passes; return the latest of these."""
        deadlines = [waiter.deadline for waiter in waiters]
        earliest, latest = min(deadlines), max(deadlines)
        if latest - earliest > 0.001:
            for waiter in waiters:
                if latest - waiter.deadline > 0.001:
                    timer = self._pool.loop.call_later(waiter.deadline - time.monotonic(), self._tell_late, waiter)
                    waiter.future.add_done_callback(lambda _future, timer=timer: timer.cancel())  # type: ignore[misc]
        return latest

    def _tell_late(self, waiter: _Waiter) -> None:
        if not waiter.future.done():
            waiter.future.set_exception(self._late())


def _fail(waiters: Sequence[_Waiter], error: BaseException) -> None:
    for waiter in waiters:
        if not waiter.future.done():
            waiter.future.set_exception(error)


class Lookups(_Batch):
    """Point reads with one statement, on one loop."""

    def __init__(self, pool: AsyncPool, lookup: Lookup, answer: Answer, late: Late) -> None:
        super().__init__(pool, answer, late)
        self._lookup = lookup
        self._waiting: dict[str, list[_Waiter]] = {}

    def find(self, key: str, deadline: float) -> asyncio.Future[Row | None]:
        """Queue a lookup."""
        future: asyncio.Future[Row | None] = self._pool.loop.create_future()
        waiting = self._waiting
        if not waiting:
            self._pool.loop.call_soon(self._flush)
        same = waiting.get(key)
        if same is None:
            waiting[key] = [_Waiter(future, deadline)]
        else:
            same.append(_Waiter(future, deadline))
        return future

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, {}
        if len(waiting) <= _MOST_KEYS:
            self._send(waiting)
            return
        items = list(waiting.items())
        for start in range(0, len(items), _MOST_KEYS):
            self._send(dict(items[start : start + _MOST_KEYS]))

    def _send(self, batch: dict[str, list[_Waiter]]) -> None:
        deadline = self._watch([waiter for same in batch.values() for waiter in same])
        keys = list(batch)
        statement: Statement = (self._lookup.one, (keys[0],))
        if len(keys) > 1:
            statement = (self._lookup.many, (self._lookup.listing(keys),))
        connection = self._pool.take()
        if connection is None:
            self._pool.spawn(self._run(batch, statement, deadline))
            return

        def done(rows: list[list[Row]] | None, _error: BaseException | None) -> None:
            if rows is not None:
                _deliver(batch, rows[0])
            else:  # the leaf's way retries it once, or finds the right words
                self._pool.spawn(self._run(batch, statement, deadline))

        connection.start((statement,), deadline, done)

    async def _run(self, batch: dict[str, list[_Waiter]], statement: Statement, deadline: float) -> None:
        try:
            rows = await self._answer((statement,), deadline)
        except BaseException as error:
            for same in batch.values():
                _fail(same, error)
            if not isinstance(error, Exception):
                raise
        else:
            _deliver(batch, rows[0])


def _deliver(batch: dict[str, list[_Waiter]], rows: Sequence[Row]) -> None:
    for row in rows:
        for waiter in batch.pop(row[0]):
            if not waiter.future.done():
                waiter.future.set_result(row)
    for same in batch.values():
        for waiter in same:
            if not waiter.future.done():
                waiter.future.set_result(None)


class _Write(NamedTuple):
    row: Args
    waiter: _Waiter


class Upserts(_Batch):
    """Writes with one statement, on one loop: one batch at a time, so that they commit in the order of their ticks."""

    def __init__(self, pool: AsyncPool, upsert: Upsert, answer: Answer, late: Late) -> None:
        super().__init__(pool, answer, late)
        self._upsert = upsert
        self._waiting: list[_Write] = []
        self._busy = False
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")

    def put(self, row: Args, deadline: float) -> asyncio.Future[None]:
        """Queue a write."""
        future: asyncio.Future[None] = self._pool.loop.create_future()
        if not self._waiting and not self._busy:
            self._busy = True
            self._pool.loop.call_soon(self._flush)
        self._waiting.append(_Write(row, _Waiter(future, deadline)))
        if deadline < self._alarm_at:
            self._set_alarm(deadline)
        return future

    def _set_alarm(self, moment: float) -> None:
        """See to it that those who wait behind a slow batch are told when their time is over."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = moment
        self._alarm = self._pool.loop.call_later(moment - time.monotonic(), self._ring)

    def _ring(self) -> None:
        self._alarm, self._alarm_at = None, float("inf")
        now = time.monotonic()
        for write in self._waiting:
            if write.waiter.deadline <= now and not write.waiter.future.done():
                write.waiter.future.set_exception(
                    DeadlineExceeded("the deadline passed before the write was sent", applied="no")
                )
        self._waiting = [write for write in self._waiting if not write.waiter.future.done()]
        if self._waiting:
            self._set_alarm(min(write.waiter.deadline for write in self._waiting))

    def _flush(self) -> None:
        batch, size = 0, 0
        for write in self._waiting:
            size += len(write.row[1] or b"") + 100
            batch += 1
            if size > _MOST_BYTES or batch == _MOST_KEYS:
                break
        writes, self._waiting = self._waiting[:batch], self._waiting[batch:]
        # those that gave up before anything was sent are not written
        writes = [write for write in writes if not write.waiter.future.done()]
        if not writes:
            self._next()
            return
        self._pool.spawn(self._store(writes))

    def _next(self) -> None:
        self._busy = bool(self._waiting)
        if self._busy:
            self._pool.loop.call_soon(self._flush)

    async def _store(self, writes: list[_Write]) -> None:
        try:
            await self._together(writes)
        except BaseException as error:
            _fail([write.waiter for write in writes], error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._next()

    async def _together(self, writes: list[_Write]) -> None:
        deadline = self._watch([write.waiter for write in writes])
        if len(writes) > 1:
            # In the order of the keys, so that two such statements cannot lock rows crosswise.
            rows = sorted({write.row[0]: write.row for write in writes}.values(), key=_key)
            # A row that some transaction holds must not hold up the others for long.
            try:
                await self._answer((_patience(_LOCK_WAIT), (self._upsert.many, self._upsert.columns(rows))), deadline)
            except AmbidexError as error:
                if error.applied != "no":
                    raise
                self._pool.spawn(self._singly(writes, contended=True))
            else:
                _store_done(writes)
        else:
            self._pool.spawn(self._singly(writes, contended=False))

    async def _singly(self, writes: list[_Write], *, contended: bool) -> None:
        """Write one after another of each key, the keys at once, so that an error reaches only its owner."""
        by_key: dict[str, list[_Write]] = {}
        for write in writes:
            by_key.setdefault(write.row[0], []).append(write)
        await asyncio.gather(*(self._in_turn(same, contended) for same in by_key.values()))

    async def _in_turn(self, writes: list[_Write], contended: bool) -> None:
        for write in writes:
            statements: list[Statement] = [(self._upsert.one, write.row)]
            if contended:  # the server gives up a little before the caller, who so learns that nothing was stored
                statements.insert(0, _patience((write.waiter.deadline - time.monotonic()) * 0.9))
            try:
                await self._answer(statements, write.waiter.deadline)
            except BaseException as error:
                _fail([write.waiter], error)
                if not isinstance(error, Exception):
                    raise
            else:
                _store_done([write])


def _patience(seconds: float) -> Statement:
    """Return what makes the server wait at most so long for a row's lock, in this request only."""
    return "SELECT set_config('lock_timeout', ?, true)", (f"{max(1, int(seconds * 1000))}ms",)


def _key(row: Args) -> str:
    return str(row[0])


def _store_done(writes: Sequence[_Write]) -> None:
    for write in writes:
        if not write.waiter.future.done():
            write.waiter.future.set_result(None)
