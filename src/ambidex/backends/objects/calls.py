"""How obstore is called: its blocking functions on this thread, or its asynchronous ones on the running loop.

:mod:`ambidex.backends.objects.blobs` makes its port of either. The invariant: a call ends within its deadline, with an
ambidex error or with what the caller's own iterator raised; and a process that ends right after an asynchronous call
ends cleanly.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import obstore

from ambidex.backends.objects.errors import translate
from ambidex.backends.objects.target import Target
from ambidex.core.dual import drive
from ambidex.core.runtime import check_deadline, current_deadline, remaining
from ambidex.errors import AmbidexError, Closed, DeadlineExceeded, ForkedUse

__all__ = ["AsyncCalls", "BlockingCalls", "Calls"]

_WRITES = {"put", "delete"}
_ABORT_SECONDS = 2.0
_AT_EXIT_SECONDS = 0.05

_user = 0
"""The process that has used obstore, whose threads a fork does not copy."""


class Calls(ABC):
    """One colour of calls.

    Args:
        target: the bucket.
    """

    def __init__(self, target: Target) -> None:
        self.target = target

    @abstractmethod
    async def call(self, name: str, key: str, *args: Any, **options: Any) -> Any:
        """Call the function of obstore with the blob's key and arguments."""

    @abstractmethod
    async def whole(self, key: str) -> bytes:
        """Return a blob that is known to be small."""

    @abstractmethod
    async def first_page(self, prefix: str, after: str | None, limit: int) -> list[Any]:
        """Return the first page of a listing."""

    @abstractmethod
    async def upload(self, key: str, pieces: AsyncIterator[bytes], **options: Any) -> None:
        """Write a blob in parts; where the iterator fails or the caller gives up, the parts are removed again."""

    def _until(self, name: str) -> float:
        global _user  # noqa: PLW0603  # one runtime of obstore a process
        until = current_deadline(self.target.timeout)
        check_deadline(until, f"{name} in {self.target.place}")
        if _user != os.getpid():
            if _user:
                raise ForkedUse(
                    "this process was forked from one that had used an object store, whose threads do not exist here; "
                    "start processes with the method 'spawn', or use blobs only after the fork"
                )
            _user = os.getpid()
        return until

    def _translated(self, error: Exception, name: str, key: str) -> AmbidexError:
        if isinstance(error, AmbidexError):
            return error
        if isinstance(error, TimeoutError):
            return DeadlineExceeded(f"{self.target.place} did not answer before the deadline")
        return translate(error, self.target.place, key, name in _WRITES)


class BlockingCalls(Calls):
    """On the calling thread."""

    async def call(self, name: str, key: str, *args: Any, **options: Any) -> Any:
        client = self.target.client(remaining(self._until(name)))
        try:
            return getattr(obstore, name)(client, *args, **options)
        except Exception as error:
            raise self._translated(error, name, key) from None

    async def whole(self, key: str) -> bytes:
        client = self.target.client(remaining(self._until("get")))
        try:
            return bytes(obstore.get(client, key).bytes())
        except Exception as error:
            raise self._translated(error, "get", key) from None

    async def first_page(self, prefix: str, after: str | None, limit: int) -> list[Any]:
        client = self.target.client(remaining(self._until("list")))
        try:
            return list(next(obstore.list(client, prefix or None, offset=after, chunk_size=limit), []))
        except Exception as error:
            raise self._translated(error, "list", "") from None

    async def upload(self, key: str, pieces: AsyncIterator[bytes], **options: Any) -> None:
        client = self.target.client(remaining(self._until("put")))
        feed = _Pull(pieces, lambda: self._until("put"))
        try:
            obstore.put(client, key, feed, **options)
        except BaseException as error:
            if feed.error is not None:
                raise feed.error from None
            if isinstance(error, Exception):
                raise self._translated(error, "put", key) from None
            raise


class AsyncCalls(Calls):
    """On the running loop."""

    async def call(self, name: str, key: str, *args: Any, **options: Any) -> Any:
        return await self._in_time(
            name, key, lambda client: getattr(obstore, f"{name}_async")(client, *args, **options)
        )

    async def whole(self, key: str) -> bytes:
        async def read(client: Any) -> bytes:
            found = await obstore.get_async(client, key)
            return bytes(await found.bytes_async())

        found: bytes = await self._in_time("get", key, read)
        return found

    async def first_page(self, prefix: str, after: str | None, limit: int) -> list[Any]:
        async def page(client: Any) -> list[Any]:
            async for found in obstore.list(client, prefix or None, offset=after, chunk_size=limit):
                return list(found)
            return []

        found: list[Any] = await self._in_time("list", "", page)
        return found

    async def upload(self, key: str, pieces: AsyncIterator[bytes], **options: Any) -> None:
        self._until("put")
        feed = _Push()
        client = self.target.client(self.target.timeout)
        writing = asyncio.ensure_future(_awaited(obstore.put_async(client, key, feed, **options)))
        writing.add_done_callback(_retrieved)
        try:
            async for piece in pieces:
                await self._hand(feed, piece, writing, key)
            await self._hand(feed, None, writing, key)
            await self._waited(writing, key)
        except BaseException:
            feed.stop()  # not a cancel: obstore then removes the parts that it has written
            await asyncio.wait({writing}, timeout=_ABORT_SECONDS)
            writing.cancel()
            raise
        finally:
            _rest_at_exit()

    async def _hand(self, feed: _Push, piece: bytes | None, writing: asyncio.Future[Any], key: str) -> None:
        """Give the upload its next piece as soon as it takes one, or raise what it has failed with."""
        handing = asyncio.ensure_future(feed.queue.put(piece))
        try:
            await asyncio.wait(
                {handing, writing}, timeout=remaining(self._until("put")), return_when=asyncio.FIRST_COMPLETED
            )
            if writing.done():
                await self._waited(writing, key)
            elif not handing.done():
                raise DeadlineExceeded(f"{self.target.place} did not take a part before the deadline")
        finally:
            handing.cancel()

    async def _waited(self, writing: asyncio.Future[Any], key: str) -> None:
        try:
            async with asyncio.timeout(remaining(self._until("put"))):
                await asyncio.shield(writing)
        except Exception as error:
            raise self._translated(error, "put", key) from None

    async def _in_time(self, name: str, key: str, call: Callable[[Any], Awaitable[Any]]) -> Any:
        until = self._until(name)
        try:
            async with asyncio.timeout(remaining(until)):
                return await call(self.target.client(self.target.timeout))
        except Exception as error:
            raise self._translated(error, name, key) from None
        finally:
            _rest_at_exit()


class _Pull(Iterator[bytes]):
    """The pieces for obstore's blocking upload, taken one by one on the thread that uploads."""

    def __init__(self, pieces: AsyncIterator[bytes], check: Callable[[], object]) -> None:
        self._pieces, self._check = pieces, check
        self.error: BaseException | None = None

    def __next__(self) -> bytes:
        try:
            self._check()
            return drive(_next(self._pieces))
        except StopAsyncIteration:
            raise StopIteration from None
        except BaseException as error:
            self.error = error
            raise


class _Push(AsyncIterator[bytes]):
    """The pieces for obstore's asynchronous upload, handed over by the task that reads them.

    That task, not obstore, iterates the caller's stream: a stream may depend on the task in which it is read.
    """

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._stopped = False

    def stop(self) -> None:
        """Make the upload fail."""
        self._stopped = True
        if self.queue.empty():
            self.queue.put_nowait(None)

    async def __anext__(self) -> bytes:
        piece = await self.queue.get()
        if self._stopped:
            raise Closed("the upload was given up")
        if piece is None:
            raise StopAsyncIteration
        return piece


async def _next(pieces: AsyncIterator[bytes]) -> bytes:
    return await pieces.__anext__()


async def _awaited(call: Awaitable[Any]) -> Any:
    return await call


def _retrieved(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()


# A thread of obstore that has answered an asynchronous call still lets go of Python objects; where the interpreter ends
# in that moment, the process aborts. So whoever ends right after a call waits a moment first.

_last_call = 0.0
_registered = False


def _rest_at_exit() -> None:
    global _last_call, _registered  # noqa: PLW0603  # one interpreter, one end
    _last_call = time.monotonic()
    if not _registered:
        _registered = True
        atexit.register(_rest)


def _rest() -> None:
    left = _AT_EXIT_SECONDS - (time.monotonic() - _last_call)
    if left > 0:
        time.sleep(left)
