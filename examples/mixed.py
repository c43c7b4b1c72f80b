"""Both at once: a thread writes a stream, an event loop follows it, on one storage object. Run it by its path."""

import asyncio
import tempfile

from ambidex import AsyncStorage, SyncStorage, UnifiedStorage


def measure(storage: SyncStorage) -> None:
    """Synchronous: stands for a library that knows nothing of event loops."""
    for degrees in (18, 21, 19, 24):
        storage.events.append("temperatures", degrees)
    storage.events.append("temperatures", None)  # the end


async def watch(storage: AsyncStorage) -> int:
    """Asynchronous: returns the highest temperature, once the end has come."""
    highest = -273
    async with storage.events.follow("temperatures") as records:
        async for record in records:
            if record.value is None:
                break
            highest = max(highest, record.value)
    return highest


async def main(storage: UnifiedStorage) -> None:
    watching = asyncio.create_task(watch(storage.aio))
    await asyncio.to_thread(measure, storage.sync)
    print(await watching)  # -> 24
    await storage.close_async()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(UnifiedStorage(f"sqlite:///{folder}/temperatures.db")))
