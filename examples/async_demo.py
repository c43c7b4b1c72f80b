"""Asynchronous code: jobs in a stream, taken by workers that run at once. Run it by its path; it needs nothing."""

import asyncio

from ambidex import AsyncStorage, UnifiedStorage


async def worker(storage: AsyncStorage, jobs: list[int]) -> None:
    for job in jobs:
        if await storage.kv.add(f"taken-{job}", True, ttl=60):  # only one worker gets each job
            await storage.events.append("done", job)


async def main() -> None:
    async with UnifiedStorage("memory://") as storage:
        await storage.events.append("jobs", *range(20))
        jobs = [record.value async for record in storage.events.iterate("jobs")]
        await asyncio.gather(*(worker(storage, jobs) for _ in range(4)))
        done = [record.value async for record in storage.events.iterate("done")]
        print(sorted(done) == jobs, len(done))  # -> True 20


if __name__ == "__main__":
    asyncio.run(main())
