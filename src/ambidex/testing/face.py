"""The contract of the faces over a backend: one object, three ways to call it, any thread and loop.

Backends are tested with it. The invariant: what one face stores the others read, at once, and nothing has to be opened
or told which mode comes first.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ambidex.core.ports import Capability
from ambidex.storage import UnifiedStorage
from ambidex.testing.contract import Contract, Subject

__all__ = ["FaceContract"]


class FaceContract(Contract, needs=[Capability.KV]):
    """``UnifiedStorage`` and its faces."""

    async def test_face_flat_methods(self, subject: Subject) -> None:
        """``get``, ``set``, ``delete`` on the face are those of ``kv``."""
        face = subject.face
        assert await face.get("key") is None
        await face.set("key", {"a": 1})
        assert await face.get("key") == {"a": 1}
        assert await subject.kv.get("key") == {"a": 1}
        await face.set("key", 2, 3600)
        left = await subject.kv.ttl("key")
        assert left is not None
        assert await face.delete("key")
        assert not await face.delete("key")

    async def test_face_health(self, subject: Subject) -> None:
        """One true entry for each capability."""
        health = await subject.face.health_check()
        assert health == {str(capability): True for capability in subject.root._core.configured()}

    def test_face_shows_one_storage(self, storage: UnifiedStorage) -> None:
        """Synchronous, asynchronous and detecting calls see each other's writes, in any order."""
        name = Subject.fresh_name()
        bound = storage.tenant(name)
        bound.sync.kv.set("sync", 1)
        assert bound.get("sync") == 1

        async def check() -> None:
            assert await bound.aio.kv.get("sync") == 1
            await bound.aio.kv.set("aio", 2)
            assert await bound.get("aio") == 2
            await bound.kv.set("detecting", 3)
            assert [key async for key in bound.kv.scan("d")] == ["detecting"]

        asyncio.run(check())
        assert bound.sync.kv.get_many(["sync", "aio", "detecting"]) == {"sync": 1, "aio": 2, "detecting": 3}
        assert sorted(bound.sync.kv.scan()) == ["aio", "detecting", "sync"]

    def test_face_is_usable_again_after_close(self, storage: UnifiedStorage) -> None:
        """In either mode, closed from either mode, as often as wanted."""
        bound = storage.tenant(Subject.fresh_name())
        for number in range(3):
            bound.sync.kv.set("key", number)
            storage.close()
            storage.close()
            assert bound.sync.kv.get("key") == number

            async def check(number: int = number) -> None:
                assert await bound.aio.kv.get("key") == number
                await storage.close_async()
                await storage.close_async()
                assert await bound.aio.kv.get("key") == number
                await storage.close_async()

            asyncio.run(check())

    def test_face_initialises_once_and_from_any_mode(self, storage: UnifiedStorage) -> None:
        """Any number of times, at once, in both modes."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: storage.initialize(), range(16)))

        async def check() -> None:
            await asyncio.gather(*(storage.initialize_async() for _ in range(8)))
            await storage.close_async()

        asyncio.run(check())
        with storage as sync:
            sync.kv.set("face-context", 1)
        assert storage.sync.kv.delete("face-context")

    def test_face_serves_loops_one_after_another(self, storage: UnifiedStorage) -> None:
        """Repeated ``asyncio.run`` over one object, without a close in between."""
        bound = storage.tenant(Subject.fresh_name())

        async def count() -> Any:
            return await bound.kv.incr("n")

        assert [asyncio.run(count()) for _ in range(10)] == list(range(1, 11))

    def test_face_serves_threads_and_loops_at_once(self, storage: UnifiedStorage) -> None:
        """Synchronous threads beside threads that run loops of their own; each gets its own answers."""
        bound = storage.tenant(Subject.fresh_name())

        def blocking(worker: int) -> None:
            for number in range(10):
                bound.sync.kv.set(f"{worker}-{number}", [worker, number])
                assert bound.sync.kv.get(f"{worker}-{number}") == [worker, number]
                bound.sync.kv.incr("n")

        async def loop(worker: int) -> None:
            for number in range(10):
                await bound.aio.kv.set(f"{worker}-{number}", [worker, number])
                assert await bound.aio.kv.get(f"{worker}-{number}") == [worker, number]
                await bound.aio.kv.incr("n")

        with ThreadPoolExecutor(12) as pool:
            jobs = [pool.submit(blocking, worker) for worker in range(8)]
            jobs += [pool.submit(asyncio.run, loop(worker)) for worker in range(8, 12)]
            for job in jobs:
                job.result()
        assert bound.sync.kv.get("n") == 120
        assert len(list(bound.sync.kv.scan("1"))) == 30
