"""FastAPI dependencies that give repositories to endpoints of both colours; applications pass them to ``Depends``.

``async def read(provider: AsyncProvider = Depends(get_repository_provider))`` in asynchronous endpoints,
``get_sync_repository_provider`` in plain ``def`` ones, which FastAPI runs in threads. The invariant: both give the same
storage, opened by :func:`lifespan` if that is used, at first use otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from ambidex.providers import AsyncProvider, SyncProvider, close_providers, get_provider, get_sync_provider

__all__ = ["get_repository_provider", "get_sync_repository_provider", "lifespan"]


async def get_repository_provider() -> AsyncIterator[AsyncProvider]:
    """Give an asynchronous provider of the backend named by ``STORAGE_BACKEND``."""
    async with get_provider() as provider:
        yield provider


def get_sync_repository_provider() -> Iterator[SyncProvider]:
    """Give a synchronous provider of the backend named by ``STORAGE_BACKEND``."""
    with get_sync_provider() as provider:
        yield provider


def lifespan(backend: str | None = None, **options: Any) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """Return a lifespan for ``FastAPI(lifespan=...)``: it opens the storage before the first request.

    And closes it after the last.

    Args:
        backend: see :func:`ambidex.providers.url_of`.
        **options: see :func:`ambidex.providers.get_provider`.
    """

    @asynccontextmanager
    async def run(_app: Any) -> AsyncIterator[None]:
        async with get_provider(backend, **options):
            try:
                yield
            finally:
                close_providers()

    return run
