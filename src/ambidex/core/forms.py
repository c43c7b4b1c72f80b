"""What streams and contexts hand out in each mode; the marks of ``ambidex.core.dual`` make these.

The invariant: both forms go through the same generator, a page at a time, and end it however they are left.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, TypeVar, cast

from ambidex.core.driving import drive
from ambidex.errors import UsageError

__all__ = ["AsyncContext", "BlockingContext", "BlockingPageStream", "EitherContext", "PageStream"]

T = TypeVar("T")
_END = object()


class PageStream(AsyncIterator[T]):
    """The asynchronous form of a :func:`stream`: iterates items, fetching a page when the last one is used up."""

    def __init__(self, pages: AsyncGenerator[Sequence[T], None]) -> None:
        self._pages = pages
        self._page: Iterator[T] = iter(())

    def __aiter__(self) -> PageStream[T]:
        return self

    async def __anext__(self) -> T:
        while (item := next(self._page, _END)) is _END:
            self._page = iter(await self._pages.__anext__())
        return cast("T", item)

    async def pages(self) -> AsyncIterator[Sequence[T]]:
        """Iterate whole pages instead of items."""
        async for page in self._pages:
            yield page

    async def aclose(self) -> None:
        """End the stream and release what it holds."""
        self._page = iter(())
        await self._pages.aclose()

    async def __aenter__(self) -> PageStream[T]:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()


class BlockingPageStream(Iterator[T]):
    """The synchronous form of a :func:`stream`: the generator is driven once a page, items come from a list."""

    def __init__(self, pages: AsyncGenerator[Sequence[T], None]) -> None:
        self._pages = pages
        self._page: Iterator[T] = iter(())

    def __iter__(self) -> BlockingPageStream[T]:
        return self

    def __next__(self) -> T:
        while (item := next(self._page, _END)) is _END:
            self._page = iter(self._next_page())
        return cast("T", item)

    def _next_page(self) -> Sequence[T]:
        try:
            return drive(_next(self._pages))
        except StopAsyncIteration:
            raise StopIteration from None

    def pages(self) -> Iterator[Sequence[T]]:
        """Iterate whole pages instead of items."""
        try:
            while True:
                yield drive(_next(self._pages))
        except StopAsyncIteration:
            return

    def close(self) -> None:
        """End the stream and release what it holds."""
        self._page = iter(())
        drive(_close(self._pages))

    def __enter__(self) -> BlockingPageStream[T]:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


async def _next(source: AsyncGenerator[T, Any]) -> T:
    return await source.__anext__()


async def _close(source: AsyncGenerator[Any, Any]) -> None:
    await source.aclose()


class AsyncContext(AbstractAsyncContextManager[T, bool | None]):
    """The asynchronous form of a :func:`context`: the generator's one value is what ``as`` binds."""

    def __init__(self, body: AsyncGenerator[T, None]) -> None:
        self._body = body

    async def __aenter__(self) -> T:
        return await self._body.__anext__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if exc is None:
            try:
                await self._body.__anext__()
            except StopAsyncIteration:
                return False
            raise UsageError("a @context body yielded twice")
        try:
            await self._body.athrow(exc)
        except StopAsyncIteration:
            return True
        except BaseException as raised:
            # an async generator turns these two into RuntimeError (PEP 479, PEP 525)
            wrapped = isinstance(exc, (StopIteration, StopAsyncIteration)) and raised.__cause__ is exc
            if raised is exc or wrapped:
                return False
            raise
        raise UsageError("a @context body yielded after an exception")


class BlockingContext(AbstractContextManager[T, bool | None]):
    """The synchronous form of a :func:`context`."""

    def __init__(self, body: AsyncGenerator[T, None]) -> None:
        self._inner = AsyncContext(body)

    def __enter__(self) -> T:
        return drive(self._inner.__aenter__())

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return drive(self._inner.__aexit__(kind, exc, trace))


class EitherContext:
    """A context on a detecting view: ``with`` enters the synchronous form, ``async with`` the asynchronous one."""

    def __init__(self, aio: Callable[[], Any], blocking: Callable[[], Any]) -> None:
        self._make_aio, self._make_blocking = aio, blocking

    def __enter__(self) -> Any:
        self._entered = self._make_blocking()
        return self._entered.__enter__()

    def __exit__(self, *exc: object) -> Any:
        return self._entered.__exit__(*exc)

    async def __aenter__(self) -> Any:
        self._entered = self._make_aio()
        return await self._entered.__aenter__()

    async def __aexit__(self, *exc: object) -> Any:
        return await self._entered.__aexit__(*exc)
