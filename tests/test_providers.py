"""Repositories by a backend's name and the environment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ambidex import (
    BaseRepository,
    BaseSyncRepository,
    RepositoryProvider,
    SyncRepositoryProvider,
    get_provider,
    get_sync_provider,
)
from ambidex.errors import ConfigurationError
from ambidex.providers import close_providers, url_of
from ambidex.samples import ActionExecution


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("STORAGE_BACKEND", "POSTGRES_DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SQLITE_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/data.db")
    yield
    close_providers()


def test_one_storage_for_a_url_in_both_modes() -> None:
    with get_sync_provider("sqlite") as provider:
        actions = provider.get_repository(ActionExecution)
        assert isinstance(actions, BaseSyncRepository)
        assert isinstance(provider, SyncRepositoryProvider)
        created = actions.create(ActionExecution(action="a"))

    async def run() -> None:
        async with get_provider("sqlite") as first, get_provider() as second:
            assert isinstance(first.get_repository(ActionExecution), BaseRepository)
            assert await first.get_repository(ActionExecution).get(created.id) == created
            assert first.storage is second.storage
            assert isinstance(first, RepositoryProvider)

    asyncio.run(run())
    with get_sync_provider("sqlite", json_serializer=json.dumps, pool_size=5, max_overflow=0, pre_ping=False) as other:
        assert other.get_repository(ActionExecution).get(created.id) == created
        assert other.storage._core.settings.pool_size == 5


def test_the_defaults_of_the_pool() -> None:
    with get_sync_provider("memory") as provider:
        settings = provider.storage._core.settings
        assert (settings.pool_size, settings.max_overflow) == (20, 30)


@pytest.mark.parametrize(
    ("backend", "environ", "message"),
    [
        ("oracle", {}, "unknown backend 'oracle'; there are: postgres, sqlite, redis, memory"),
        (None, {"STORAGE_BACKEND": "mongo"}, "unknown backend 'mongo'"),
        ("postgres", {}, "needs the environment variable POSTGRES_DATABASE_URL"),
        ("redis", {"REDIS_URL": ""}, "needs the environment variable REDIS_URL"),
        ("sqlite", {}, "needs the environment variable SQLITE_DATABASE_URL"),
        ("sqlite", {"SQLITE_DATABASE_URL": "data.db"}, "not a storage URL"),
        ("sqlite", {"SQLITE_DATABASE_URL": "postgresql://u:pw@h/d"}, r"is a URL of postgres.*u:\*\*\*@h"),
        ("redis", {"REDIS_URL": "memory://"}, "REDIS_URL is a URL of memory, not of redis"),
    ],
)
def test_a_backend_that_is_not_configured(backend: str | None, environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        url_of(backend, environ)


def test_the_environment_names_the_backend() -> None:
    assert url_of(None, {"STORAGE_BACKEND": "memory"}) == "memory://"
    assert url_of(None, {"SQLITE_DATABASE_URL": "sqlite:///x.db"}) == "sqlite:///x.db"
    assert url_of("postgres", {"POSTGRES_DATABASE_URL": "postgresql+asyncpg://h/d"}) == "postgresql+asyncpg://h/d"


def test_a_wrong_option_and_a_dead_backend_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, message in (
        ({"pool_size": 0}, "pool_size"),
        ({"wrong": 1}, "wrong"),
        ({"json_serializer": 5}, "json"),
    ):
        with pytest.raises(ConfigurationError, match=message), get_sync_provider("memory", **options):
            pass
    monkeypatch.setenv("SQLITE_DATABASE_URL", f"sqlite:///{tmp_path}/gone/data.db")
    with pytest.raises(ConfigurationError, match="does not exist"), get_sync_provider("sqlite"):
        pass
