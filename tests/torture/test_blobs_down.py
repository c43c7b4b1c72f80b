"""An object store, or several servers at once, killed or frozen: media ends typed and in time, health names each."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.core.dual import drive
from ambidex.errors import AmbidexError
from tests.services import PostgresServer, RedisServer, S3Server, postgres, s3
from tests.services.handle import Server
from tests.stores.conftest import Awaited
from tests.torture.redis_support import server_flavour, timed, timed_async
from tests.torture.together import all_at_once

pytestmark = [pytest.mark.torture, pytest.mark.timeout(300)]

TIMEOUT = 0.5
PROBE = 2.0
GRACE = 1.0
"""What a busy machine may add; two servers that are waited for one after another take far longer."""
RETURN = 2.0
LARGE = 20 * 1024 * 1024
"""Bytes that are written in parts and read in ranges, each with a limit of its own."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Server]:
    if reason := s3.unavailable():
        pytest.skip(f"s3: {reason}")
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def servers(bucket: S3Server) -> Iterator[dict[str, Server]]:
    """A server for each of three capabilities."""
    if reason := postgres.unavailable("wheel"):
        pytest.skip(f"postgres: {reason}")
    with ExitStack() as stack:
        yield {
            "kv": stack.enter_context(RedisServer(server_flavour())),
            "records": stack.enter_context(PostgresServer("wheel")),
            "blobs": bucket,
        }


def run(mode: str, storage: UnifiedStorage, body: Callable[[Any], Any]) -> None:
    if mode == "sync":
        drive(body(Awaited(storage.sync)))
        return

    async def main() -> None:
        await body(storage.aio)
        await storage.aio.close()

    asyncio.run(main())


async def clocked(mode: str, call: Callable[[], Any]) -> tuple[float, Any]:
    return await timed_async(call) if mode == "async" else timed(lambda: drive(call()))


def uses(face: Any, small: str, large: str) -> dict[str, Callable[[], Any]]:
    """Every use of media that asks the object store."""
    media = face.media
    return {
        "store": lambda: media.store(b"new", "new"),
        "store again": lambda: media.store(b"small", "other"),
        "store a stream": lambda: media.store((b"x" * 1024 * 1024 for _ in range(20)), "stream"),
        "store a large one": lambda: media.store(b"y" * LARGE, "large"),
        "read": lambda: media.read(small),
        "read a large one": lambda: media.read(large),
        "sweep": media.sweep,
    }


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_media_is_refused_in_time_and_back_soon(
    mode: str, fault: str, bucket: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "ambidex")
    places = f"sqlite:///{tmp_path}/r.db?durability=relaxed", bucket.url
    storage = UnifiedStorage(places[0], blobs=places[1], timeout=TIMEOUT)
    patient = UnifiedStorage(places[0], blobs=places[1])
    small, large = patient.sync.media.store(b"small", "a"), patient.sync.media.store(b"l" * LARGE, "b")

    async def body(face: Any) -> None:
        (bucket.kill if fault == "killed" else bucket.pause)()
        try:
            ends = await all_at_once(mode, uses(face, small, large))
            seconds, health = await clocked(mode, face.health_check)
        finally:
            (bucket.start if fault == "killed" else bucket.resume)()
        began = time.monotonic()
        for name, (took, outcome) in ends.items():
            assert isinstance(outcome, AmbidexError), (name, outcome)
            assert took < TIMEOUT + GRACE, (name, took)
        assert seconds < PROBE + GRACE
        assert [name for name, well in health.items() if not well] == ["blobs"]
        while isinstance(url := (await clocked(mode, lambda: face.media.store(b"after", "after")))[1], AmbidexError):
            assert time.monotonic() - began < RETURN + GRACE
        assert await face.media.read(url) == b"after"
        assert all((await face.health_check()).values())

    run(mode, storage, body)
    if fault == "frozen":  # one that is killed comes back empty
        assert patient.sync.media.read(small) == b"small"
        assert len(patient.sync.media.read(large)) == LARGE
    storage.close()
    patient.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("frozen", [("kv", "records", "blobs"), ("records", "blobs"), ("kv",)])
def test_servers_are_probed_side_by_side(
    mode: str, frozen: tuple[str, ...], servers: dict[str, Server], tmp_path: Path
) -> None:
    """However many are frozen, the check takes the time of one, and the others are well."""
    places = {name: server.url for name, server in servers.items()}
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/main.db", **places)  # type: ignore[arg-type]

    async def body(face: Any) -> None:
        well = await face.health_check()
        assert set(places) | {"search", "log", "transactions"} <= set(well)
        assert all(well.values())
        for name in frozen:
            servers[name].pause()
        try:
            seconds, health = await clocked(mode, face.health_check)
        finally:
            for name in frozen:
                servers[name].resume()
        assert seconds < PROBE + GRACE
        assert {name for name, good in health.items() if not good} == set(frozen)

    run(mode, storage, body)
    storage.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_upload_whose_server_freezes_midway_ends_one_limit_later(mode: str, bucket: S3Server) -> None:
    """A long upload may take as long as it likes; what it may not is wait for an answer that does not come."""
    limit = 2.5
    storage = UnifiedStorage("memory://", blobs=bucket.url, timeout=limit)
    frozen: list[float] = []

    def pieces() -> Iterator[bytes]:
        for number in range(60):
            if number == 20:
                bucket.pause()
                frozen.append(time.monotonic())
            yield b"x" * 1024 * 1024

    async def body(face: Any) -> None:
        try:
            _, outcome = await clocked(mode, lambda: face.media.store(pieces(), "large"))
        finally:
            bucket.resume()
        assert isinstance(outcome, AmbidexError), outcome
        assert time.monotonic() - frozen[0] < limit + GRACE

    run(mode, storage, body)
    storage.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_connecting_to_frozen_servers_takes_one_deadline_together(
    mode: str, servers: dict[str, Server], tmp_path: Path
) -> None:
    places = {name: server.url for name, server in servers.items()}
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/main.db", timeout=1.5, **places)  # type: ignore[arg-type]

    async def body(face: Any) -> None:
        for server in servers.values():
            server.pause()
        try:
            seconds, outcome = await clocked(mode, face.initialize)
        finally:
            for server in servers.values():
                server.resume()
        assert isinstance(outcome, AmbidexError), outcome
        assert seconds < 1.5 + GRACE

    run(mode, storage, body)
    storage.close()
