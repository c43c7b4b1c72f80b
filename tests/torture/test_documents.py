"""kill -9 of processes that store documents: afterwards no document without its entries, and none indexed twice."""

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from ambidex import UnifiedStorage
from tests.services import PostgresServer, RedisServer, postgres
from tests.stores.document_support import check
from tests.torture.redis_support import rounds, server_flavour
from tests.torture.sqlite import command, integrity

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]

Open = Callable[[], UnifiedStorage]

WRITER = """
    import sys
    from ambidex import UnifiedStorage
    storage = UnifiedStorage(sys.argv[1], **dict(a.split("=", 1) for a in sys.argv[2:]))
    n = 0
    while True:
        text = "The otter swims in the river. " * (n % 70)
        batch = [{"content": f"{n}-{i} {text}", "metadata": {"path": f"p{(n + i) % 90}"}} for i in range(20)]
        storage.batch_store_documents(batch)
        if n % 3 == 1:
            found = storage.documents.get_by_path(f"p{n % 90}")
            found and storage.documents.delete(found.id)
        if n == 0:
            print("ready", flush=True)
        n += 7
"""

# Ends itself with kill -9 at the given write to the index; "bare" leaves the intents out.
DOOMED = """
    import os, signal, sys
    from ambidex import SyncStorage
    how, nth, url, index = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    storage = SyncStorage(url, search=index)
    records = storage.documents._records
    port, calls = records.index._port, 0
    class Port:
        def __getattr__(self, name):
            return getattr(port, name)
        async def index(self, namespace, items):
            global calls
            calls += 1
            if calls == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            await port.index(namespace, items)
    records.index._port = Port()
    if how == "bare":
        class Bare:
            def __getattr__(self, name):
                return getattr(kv, name)
            async def put(self, key, value, ttl, when):
                return await kv.put(key, value, ttl, when) if ":o:" not in key else True
        kv = records.kv
        records.kv = Bare()
    storage.documents.store_many([{"content": f"otter {n}", "metadata": {"path": f"p{n}"}} for n in range(450)])
"""


@pytest.fixture(params=["one", "split", "postgres", "postgres and sqlite", "redis"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """The URL, and where the index is if that is not the same; the servers live on when a writer is killed."""
    index = f"search=sqlite:///{tmp_path}/index.db"
    if request.param == "one":
        yield [f"sqlite:///{tmp_path}/records.db"]
    elif request.param == "split":
        yield [f"sqlite:///{tmp_path}/records.db", index]
    elif request.param == "redis":
        with RedisServer(server_flavour()) as redis:
            yield [f"{redis.url}?durability=relaxed", index]
    else:
        if reason := postgres.unavailable("wheel"):
            pytest.skip(f"postgres: {reason}")
        with PostgresServer("wheel") as server:
            yield [server.url] if request.param == "postgres" else [server.url, index]


def clients(url: str) -> int:
    """How many connections a PostgreSQL server has beside this one; elsewhere 0.

    What a killed client had sent is still executed: its last COMMIT may come a while after its end.
    """
    if not url.startswith("postgres"):
        return 0
    with psycopg.connect(url, autocommit=True) as admin:
        row = admin.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        ).fetchone()
    return 0 if row is None else int(row[0])


def test_killed_writers_leave_no_document_without_its_entries(places: list[str], tmp_path: Path) -> None:
    url, *more = places
    storage = UnifiedStorage(url, **dict(word.split("=", 1) for word in more))  # type: ignore[arg-type]
    check(storage)
    ours = clients(url)
    for number in range(rounds(3, 50)):
        with subprocess.Popen(command(WRITER, *places), stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            try:
                assert child.stdout.readline() == b"ready\n"
                threading.Event().wait(0.15 + 0.037 * (number % 7))
            finally:
                child.send_signal(signal.SIGKILL)
        while clients(url) > ours:
            threading.Event().wait(0.02)
        storage.sync.documents.recover(force=True)
        check(storage)
    assert check(storage) > 0
    storage.close()
    for file in tmp_path.glob("*.db"):
        assert integrity(file) == "ok"


def killed(how: str, nth: int, folder: Path) -> UnifiedStorage:
    """Return what a process has left that was killed at its nth write to the index, after recovery."""
    places = f"sqlite:///{folder}/records.db", f"sqlite:///{folder}/index.db"
    child = subprocess.run(command(DOOMED, how, nth, *places), check=False, capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    storage = UnifiedStorage(places[0], search=places[1])
    storage.sync.documents.recover(force=True)
    return storage


@pytest.mark.parametrize("nth", [1, 3])
def test_a_process_killed_between_records_and_index_is_finished_by_the_next(tmp_path: Path, nth: int) -> None:
    storage = killed("guarded", nth, tmp_path)
    assert check(storage) == (200, 450)[nth == 3]
    assert storage.sync.documents.recover(force=True) == 0
    storage.close()


def test_control_without_an_intent_the_index_stays_behind(tmp_path: Path) -> None:
    storage = killed("bare", 3, tmp_path)
    with pytest.raises(AssertionError):
        check(storage)
    storage.close()
