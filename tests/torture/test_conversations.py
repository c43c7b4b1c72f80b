"""Many processes append to one conversation: every message once, each writer's order kept; on every shared backend."""

import subprocess
from collections.abc import Iterator

import pytest

from ambidex import UnifiedStorage
from tests.services import PostgresServer, RedisServer, postgres
from tests.torture.redis_support import rounds, server_flavour
from tests.torture.sqlite import command

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]

PROCESSES, TASKS, MESSAGES = rounds(4, 16), rounds(4, 8), rounds(10, 40)

# Every other process appends from threads through the synchronous face, the others from tasks. All begin together.
APPEND = """
    import asyncio, sys, threading
    from ambidex import UnifiedStorage
    url, process, tasks, messages = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    storage = UnifiedStorage(url)
    def made(task, n):
        return {"role": "user", "content": f"{process}-{task} {n}"}
    def thread(task):
        for n in range(messages):
            storage.sync.conversations.append("shared", made(task, n))
    async def task(number):
        for n in range(messages):
            await storage.aio.conversations.append("shared", made(number, n))
    async def main():
        await asyncio.gather(*map(task, range(tasks)))
        await storage.aio.close()
    print("ready", flush=True)
    sys.stdin.readline()
    if process % 2:
        asyncio.run(main())
    else:
        threads = [threading.Thread(target=thread, args=(number,)) for number in range(tasks)]
        for one in threads: one.start()
        for one in threads: one.join()
        storage.close()
"""

# The same with a list under one key, read, changed and written back.
READ_MODIFY_WRITE = """
    import sys, threading
    from ambidex import SyncStorage
    url, process, tasks, messages = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    storage = SyncStorage(url)
    def thread(task):
        for n in range(messages):
            storage.kv.set("shared", [*(storage.kv.get("shared") or []), f"{process}-{task} {n}"])
    print("ready", flush=True)
    sys.stdin.readline()
    threads = [threading.Thread(target=thread, args=(number,)) for number in range(tasks)]
    for one in threads: one.start()
    for one in threads: one.join()
    storage.close()
"""


@pytest.fixture(scope="module", params=["sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A place that many processes can share."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('shared')}/shared.db"
    elif request.param == "redis":
        with RedisServer(server_flavour()) as redis:
            yield f"{redis.url}?durability=relaxed"
    else:
        if reason := postgres.unavailable("wheel"):
            pytest.skip(f"postgres: {reason}")
        # each writing thread of each process may hold a connection
        with PostgresServer("wheel", settings={"max_connections": "300"}) as server:
            yield server.url


def together(code: str, url: str, processes: int = PROCESSES) -> None:
    """Run the code in all processes at once; each must end well."""
    children = [
        subprocess.Popen(
            command(code, url, process, TASKS, MESSAGES),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for process in range(processes)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write(b"go\n")
            child.stdin.flush()
        for child in children:
            _, errors = child.communicate(timeout=600)
            assert child.returncode == 0, errors.decode()
    finally:
        for child in children:
            child.kill()
            child.communicate()


def faults(found: list[str]) -> list[str]:
    """Say which writers' messages are not there once each and in their order."""
    by_writer: dict[str, list[int]] = {}
    for text in found:
        writer, n = text.split(" ")
        by_writer.setdefault(writer, []).append(int(n))
    writers = [f"{process}-{task}" for process in range(PROCESSES) for task in range(TASKS)]
    assert set(by_writer) <= set(writers)
    return [writer for writer in writers if by_writer.get(writer) != list(range(MESSAGES))]


def test_every_message_is_there_once_and_in_its_writers_order(url: str) -> None:
    together(APPEND, url)
    with UnifiedStorage(url) as storage:
        found = [message["content"] for message in storage.conversations.history("shared")]
        assert faults(found) == []
        assert len(found) == PROCESSES * TASKS * MESSAGES
        window = storage.conversations.window("shared", last=10)
        assert [message["content"] for message in window or []] == found[-10:]


def test_control_a_list_that_is_read_and_written_back_loses_messages(url: str) -> None:
    kept = []
    for _ in range(5):  # two processes that a busy machine runs one after the other lose nothing
        together(READ_MODIFY_WRITE, url, 2)
        with UnifiedStorage(url) as storage:
            kept.append(len(storage.kv.get("shared")))
            storage.kv.delete("shared")
        if kept[-1] < 2 * TASKS * MESSAGES:
            break
    assert min(kept) < 2 * TASKS * MESSAGES
