"""The FastAPI dependencies over real HTTP, from asynchronous and plain endpoints on one storage."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import httpx
import pytest
import uvicorn
from fastapi import Depends, FastAPI

from ambidex.integrations.fastapi import get_repository_provider, get_sync_repository_provider, lifespan
from ambidex.providers import AsyncProvider, SyncProvider
from ambidex.samples import ActionExecution


def _app() -> FastAPI:
    app = FastAPI(lifespan=lifespan())

    @app.post("/actions/{name}")
    async def create(name: str, provider: Annotated[AsyncProvider, Depends(get_repository_provider)]) -> str:
        created = await provider.get_repository(ActionExecution).create(ActionExecution(action=name))
        return created.id

    @app.get("/actions")
    def names(provider: Annotated[SyncProvider, Depends(get_sync_repository_provider)]) -> list[str]:
        return [found.action for found in provider.get_repository(ActionExecution).list(order_by="action")]

    @app.get("/count")
    async def count(provider: Annotated[AsyncProvider, Depends(get_repository_provider)]) -> int:
        return await provider.get_repository(ActionExecution).count()

    return app


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("STORAGE_BACKEND", "sqlite")
    monkeypatch.setenv("SQLITE_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/data.db")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        running = uvicorn.Server(uvicorn.Config(_app(), log_level="warning"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


def test_both_kinds_of_endpoints_share_one_storage(server: str) -> None:
    with httpx.Client(base_url=server, timeout=30) as client:
        ids = {client.post(f"/actions/{name}").raise_for_status().json() for name in ("b", "a", "c")}
        assert len(ids) == 3
        assert client.get("/actions").raise_for_status().json() == ["a", "b", "c"]
        assert client.get("/count").raise_for_status().json() == 3


def test_requests_at_the_same_time(server: str) -> None:
    def work(number: int) -> None:
        with httpx.Client(base_url=server, timeout=30) as client:
            for _ in range(5):
                client.post(f"/actions/{number}").raise_for_status()
                client.get("/actions").raise_for_status()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert httpx.get(f"{server}/count", timeout=30).json() == 20
