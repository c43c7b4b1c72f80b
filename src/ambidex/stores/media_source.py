"""What callers may hand in as a file (bytes, file objects, streams), read in pieces; ``stores/media.py`` uses it.

The invariant: no more than one piece is held at a time, a blocking read never holds up an event loop, and anything but
bytes is refused where it shows.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any

from ambidex.core.runtime import Runtime, check_deadline, current_deadline
from ambidex.errors import Conflict, UnsupportedValue

__all__ = ["PIECE", "Hashing", "Source", "opened"]

PIECE = 1024 * 1024
"""How much is read at once, in bytes."""

_INLINE = 64 * 1024


@asynccontextmanager
async def opened(data: Any, runtime: Runtime) -> AsyncGenerator[Any, None]:
    """Yield what a caller handed in; a path as the file that it names, which is closed at the end.

    Raises:
        UnsupportedValue: the path names nothing that can be read.
    """
    if not isinstance(data, os.PathLike):
        yield data
        return
    try:
        file = await runtime.offload(lambda: open(data, "rb"))  # noqa: SIM115  # closed below, also off the loop
    except (OSError, ValueError) as error:
        raise UnsupportedValue(f"the file {os.fspath(data)!r} cannot be read: {error}") from None
    try:
        yield file
    finally:
        await runtime.offload(file.close)


class Source:
    """One file to be stored.

    Args:
        data: bytes; an object with ``read`` (from where it stands, blocking or not); an iterable of bytes, asynchronous
            or not.
        runtime: where blocking reads go.

    Raises:
        UnsupportedValue: it is none of these.
    """

    def __init__(self, data: Any, runtime: Runtime) -> None:
        self._runtime = runtime
        self.whole: bytes | None = None
        self._data = data
        self._start: int | None = None
        if isinstance(data, bytes | bytearray | memoryview):
            self.whole = bytes(data)
        elif isinstance(data, str) or not (hasattr(data, "read") or isinstance(data, AsyncIterable | Iterable)):
            raise UnsupportedValue(
                f"media is bytes, a file opened in binary mode or a stream of bytes, not {type(data).__name__}; "
                "a file is named by a pathlib.Path"
            )

    @property
    def repeatable(self) -> bool:
        """Whether it can be read twice: once to name it, once to store it."""
        data = self._data
        if self.whole is not None:
            return True
        if self._start is None and hasattr(data, "read") and not inspect.iscoroutinefunction(data.read):
            try:
                if data.seekable() is True:
                    self._start = data.tell()
            except (AttributeError, OSError, ValueError):
                pass
        return self._start is not None

    async def digest(self) -> str:
        """Return the SHA-256 of a repeatable source."""
        whole = self.whole
        if whole is not None:
            if len(whole) <= _INLINE:
                return hashlib.sha256(whole).hexdigest()
            return await self._runtime.offload(lambda: hashlib.sha256(whole).hexdigest())
        sha = hashlib.sha256()
        async for piece in self.pieces():
            sha.update(piece)
        return sha.hexdigest()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the content; a repeatable source from its start each time."""
        data = self._data
        if self._start is not None:
            data.seek(self._start)
        if hasattr(data, "read"):
            while piece := _checked(await self._result(data.read, PIECE)):
                yield piece
        elif isinstance(data, AsyncIterable):
            gathered = bytearray()
            async for item in data:
                gathered += _checked(item)
                _in_time()
                if len(gathered) >= PIECE:
                    yield bytes(gathered)
                    gathered.clear()
            if gathered:
                yield bytes(gathered)
        else:
            items = iter(data)
            context = copy_context()  # with the deadline, also in another thread
            while piece := await self._runtime.offload(lambda: context.run(_next_piece, items)):
                yield piece

    async def _result(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call what may block, or may be a coroutine function."""
        if inspect.iscoroutinefunction(call):
            return await call(*args)
        made = await self._runtime.offload(lambda: call(*args))
        return await made if inspect.isawaitable(made) else made


class Hashing:
    """Names what passes through it."""

    def __init__(self, expected: str = "") -> None:
        self._sha = hashlib.sha256()
        self._expected = expected
        self.size = 0

    @property
    def digest(self) -> str:
        """The SHA-256 of what has passed."""
        return self._sha.hexdigest()

    async def through(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Yield the pieces; fail at their end if they are not what was expected."""
        async for piece in pieces:
            self._sha.update(piece)
            self.size += len(piece)
            yield piece
        if self._expected and self.digest != self._expected:
            raise Conflict("the file was changed while it was being stored; nothing was stored, store it again")


def _next_piece(items: Iterator[Any]) -> bytes:
    """Return about a piece, b"" at the end: one change of threads for many small items."""
    gathered = bytearray()
    for item in items:
        gathered += _checked(item)
        _in_time()
        if len(gathered) >= PIECE:
            break
    return bytes(gathered)


def _in_time() -> None:
    """Let a stream that trickles be ended by the caller's deadline; without one it may take its time."""
    check_deadline(current_deadline(math.inf), "reading more of the caller's stream")


def _checked(piece: Any) -> bytes:
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, bytearray | memoryview):
        return bytes(piece)
    raise UnsupportedValue(
        f"a media stream yielded {type(piece).__name__}, not bytes; open files in binary mode ('rb')"
    )
