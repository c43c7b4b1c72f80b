"""What is particular to Redis: settings at start, credentials, TLS, scans, pipelining, the stored form."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from ambidex import UnifiedStorage, deadline, operation_id
from ambidex.backends.redis import scan as scanning
from ambidex.errors import (
    AuthenticationFailed,
    CapabilityMissing,
    ConfigurationError,
    Corrupted,
    DeadlineExceeded,
    PermissionDenied,
    StorageFull,
    Unavailable,
)
from ambidex.runtime import guard
from tests.services import Certificates, Proxy, RedisCluster, RedisOptions, RedisServer
from tests.services.handle import External, Service

Open = Callable[..., UnifiedStorage]


@pytest.fixture
def opened() -> Iterator[Open]:
    made: list[UnifiedStorage] = []

    def open_one(url: str, **options: Any) -> UnifiedStorage:
        made.append(UnifiedStorage(url, **options))
        return made[-1]

    yield open_one
    for storage in made:
        storage.close()


@pytest.fixture
def own_server(redis_server: Service) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers of the same flavour with other settings."""
    if isinstance(redis_server, External):
        pytest.skip("an existing server is not reconfigured")
    started: list[RedisServer] = []

    def start(**options: Any) -> RedisServer:
        started.append(RedisServer(redis_server.flavour, options=RedisOptions(**options)).start())
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def raw(redis_server: Service) -> Iterator["redis.Redis"]:
    client = redis.Redis.from_url(redis_server.url)
    yield client
    client.close()


# ---------------------------------------------------------------- start


def test_a_server_that_evicts_everything_is_refused(own_server: Any, opened: Open) -> None:
    server = own_server(maxmemory="50mb", maxmemory_policy="allkeys-lru")
    with pytest.raises(ConfigurationError, match="allkeys-lru"):
        opened(server.url).initialize()
    with pytest.raises(ConfigurationError, match="durability=relaxed"):
        opened(server.url).sync.get("key")
    with pytest.raises(ConfigurationError, match="allkeys-lru"):
        asyncio.run(opened(server.url).initialize_async())


def test_with_relaxed_durability_it_is_a_warning(
    own_server: Any, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server(maxmemory="50mb", maxmemory_policy="allkeys-lru")
    storage = opened(server.url, durability="relaxed")
    with caplog.at_level(logging.WARNING, "ambidex"):
        storage.initialize()
        storage.sync.set("key", 1)
    assert [record.getMessage().count("allkeys-lru") for record in caplog.records] == [1]


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({}, "appendonly no"),
        ({"appendonly": True}, "appendfsync everysec"),
        ({"appendonly": True, "appendfsync": "always"}, None),
    ],
)
def test_settings_that_lose_writes_are_named_once(
    own_server: Any, opened: Open, caplog: pytest.LogCaptureFixture, options: dict[str, Any], warning: str | None
) -> None:
    storage = opened(own_server(**options).url)
    with caplog.at_level(logging.WARNING, "ambidex"):
        storage.sync.set("key", 1)
        asyncio.run(storage.aio.get("key"))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (warning is not None)
    assert all(str(warning) in message for message in messages)


def test_where_config_is_forbidden_the_server_is_taken_as_it_is(
    own_server: Any, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server()
    server.call("ACL", "SETUSER", "app", "on", ">pw", "~ambidex:*", "+@all", "-config")
    storage = opened(server.url.replace("://", "://app:pw@"))
    with caplog.at_level(logging.DEBUG, "ambidex"):
        storage.sync.set("key", 1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "cannot be read" in caplog.text


# ---------------------------------------------------------------- errors


def test_wrong_credentials(own_server: Any, opened: Open) -> None:
    server = own_server(password="right")
    for user in (":wrong-secret@", ""):
        url = f"redis://{user}{server.host}:{server.port}"
        with pytest.raises(AuthenticationFailed) as raised:
            opened(url).sync.get("key")
        assert "wrong-secret" not in str(raised.value)
        with pytest.raises(AuthenticationFailed):
            asyncio.run(opened(url).aio.get("key"))
    opened(server.url).sync.set("key", 1)


def test_a_user_without_rights(own_server: Any, opened: Open) -> None:
    server = own_server()
    server.call("ACL", "SETUSER", "app", "on", ">pw", "~other:*", "+@all")
    with pytest.raises(PermissionDenied):
        opened(server.url.replace("://", "://app:pw@")).sync.get("key")


def test_a_full_server(own_server: Any, opened: Open) -> None:
    server = own_server(maxmemory="3mb")
    storage = opened(server.url)
    storage.sync.set("small", 1)
    with pytest.raises(StorageFull, match="maxmemory"):
        for number in range(100):
            storage.sync.set(f"big-{number}", b"x" * 100_000)
    with pytest.raises(StorageFull):
        for number in range(10_000):
            storage.sync.kv.incr(f"counter-{number}")
    assert storage.sync.get("small") == 1


def test_no_server(opened: Open) -> None:
    storage = opened("redis://127.0.0.1:1")
    with pytest.raises(Unavailable):
        storage.sync.get("key")
    with pytest.raises(Unavailable):
        asyncio.run(storage.aio.get("key"))
    assert storage.sync.health_check() == {"kv": False, "log": False, "records": False}


def test_a_certificate_that_is_not_trusted(redis_server: Service, certificates: Certificates, opened: Open) -> None:
    with Proxy(redis_server.url, tls=certificates) as proxy:
        with pytest.raises(ConfigurationError, match="ssl_ca_certs"):
            opened(proxy.url).sync.get("key")
        with pytest.raises(ConfigurationError, match="ssl_ca_certs"):
            asyncio.run(opened(proxy.url).aio.get("key"))
        lax = opened(f"{proxy.url}?ssl_cert_reqs=none")
        lax.sync.set("key", b"x" * 3_000_000)

        async def main() -> None:
            values = await asyncio.gather(*(lax.aio.get("key") for _ in range(5)))
            assert all(value == b"x" * 3_000_000 for value in values)
            await lax.aio.set("key", b"y" * 3_000_000)

        asyncio.run(main())
        assert lax.sync.get("key") == b"y" * 3_000_000


def test_what_redis_cannot_do_is_said(redis_server: Service, opened: Open) -> None:
    storage = opened(redis_server.url)
    with pytest.raises(CapabilityMissing), storage.sync.transaction():
        pass
    with pytest.raises(CapabilityMissing):
        storage.sync.search("text")


# ---------------------------------------------------------------- stored form


def test_foreign_keys_are_never_touched(redis_server: Service, raw: Any, opened: Open) -> None:
    raw.set("foreign", "1")
    storage = opened(f"{redis_server.url}?prefix=mine:")
    storage.sync.set("key", 1)
    assert storage.sync.kv.clear() >= 1
    assert raw.get("foreign") == b"1"
    assert not raw.keys("mine:*")


def test_a_value_that_somebody_else_wrote_is_called_corrupted(redis_server: Service, raw: Any, opened: Open) -> None:
    storage = opened(f"{redis_server.url}?prefix=odd:")
    storage.sync.set("key", 1)
    (name,) = raw.keys("odd:*")
    raw.set(name, "plain")
    with pytest.raises(Corrupted):
        storage.sync.get("key")
    raw.delete(name)
    raw.rpush(name, "list")
    with pytest.raises(Corrupted):
        storage.sync.get("key")


def test_an_operation_id_appends_once(redis_server: Service, opened: Open) -> None:
    storage = opened(f"{redis_server.url}?prefix=once:")
    events = storage.sync.events
    events.drop("stream")
    with operation_id("first"):
        place = events.append("stream", "a")
        assert events.append("stream", "b") == place
    assert events.append("stream", "c") == place + 1
    assert [record.value for record in events.tail("stream")] == ["a", "c"]


def test_places_go_on_behind_an_evicted_counter(redis_server: Service, raw: Any, opened: Open) -> None:
    events = opened(f"{redis_server.url}?prefix=evicted:").sync.events
    events.append("stream", 1)
    events.append("stream", 2)
    (counter,) = raw.keys("{evicted:*}seq")
    raw.delete(counter)
    assert events.append("stream", 3) == 3


# ---------------------------------------------------------------- scans


def test_a_scan_returns_each_key_once_while_the_table_is_resized(
    redis_server: Service, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "WINDOW", 150)
    monkeypatch.setattr(scanning, "_COUNT", 10)
    storage = opened(f"{redis_server.url}?prefix=scan:")
    kv = storage.sync.kv
    stable = [f"stable-{number}" for number in range(500)]
    kv.set_many(dict.fromkeys(stable, 1))
    found: list[str] = []
    for turn, page in enumerate(kv.scan(page=20).pages()):
        found += page
        if turn % 3 == 0:
            kv.set_many({f"moving-{number}": 1 for number in range(3_000)})
        elif turn % 3 == 1:
            kv.delete_many([f"moving-{number}" for number in range(3_000)])
    assert len(found) == len(set(found))
    assert set(stable) <= set(found)
    kv.clear()


def test_a_scan_goes_on_from_the_text_of_its_token(redis_server: Service, opened: Open) -> None:
    storage = opened(f"{redis_server.url}?prefix=token:")
    storage.sync.kv.set_many({f"k{number:03}": 1 for number in range(50)})
    port = storage._core.leaf(next(iter(storage._core.configured())), blocking=False).kv

    async def main() -> list[str]:
        keys, after = await port.scan("kv:", None, 7)
        while after is not None:
            page, after = await port.scan("kv:", str.__str__(after), 7)
            keys += page
        return keys

    keys = asyncio.run(main())
    assert len(keys) == len(set(keys)) == 50


def test_glob_characters_of_a_prefix_count_as_themselves(redis_server: Service, opened: Open) -> None:
    storage = opened(f"{redis_server.url}?prefix=glob:")
    port = storage._core.leaf(next(iter(storage._core.configured())), blocking=False).kv

    async def main() -> None:
        from ambidex.core.ports import When

        for key in ("a*b1", "aXb2", "a[c]3", "ac4", "a\\5"):
            await port.put(key, 1, None, When.ALWAYS)
        assert (await port.scan("a*", None, 10))[0] == ["a*b1"]
        assert (await port.scan("a[c]", None, 10))[0] == ["a[c]3"]
        assert (await port.scan("a\\", None, 10))[0] == ["a\\5"]

    asyncio.run(main())


# ---------------------------------------------------------------- colours


def test_commands_of_one_tick_share_a_write(redis_server: Service, opened: Open, raw: Any) -> None:
    storage = opened(f"{redis_server.url}?prefix=tick:")

    async def main() -> tuple[int, int]:
        kv = storage.aio.kv
        await kv.set("key", 1)
        before = raw.info("stats")["total_reads_processed"]
        await asyncio.gather(*(kv.get("key") for _ in range(500)))
        return before, raw.info("stats")["total_reads_processed"]

    before, after = asyncio.run(main())
    assert after - before < 50  # 500 commands, and the one that asks


def test_a_caller_that_gives_up_disturbs_nobody(redis_server: Service, opened: Open) -> None:
    with Proxy(redis_server.url) as proxy:
        storage = opened(proxy.url)

        async def main() -> None:
            kv = storage.aio.kv
            await kv.set("key", 1)
            proxy.delay(replies=0.2)
            patient = [asyncio.create_task(kv.get("key")) for _ in range(10)]
            with pytest.raises(DeadlineExceeded), deadline(0.05):
                await kv.get("key")
            hasty = asyncio.create_task(kv.get("key"))
            await asyncio.sleep(0.01)
            hasty.cancel()
            assert await asyncio.gather(*patient) == [1] * 10
            assert hasty.cancelled()
            assert proxy.accepted == 1  # the connection goes on

        asyncio.run(main())


def test_a_silent_connection_is_replaced(redis_server: Service, opened: Open) -> None:
    with Proxy(redis_server.url) as proxy:
        storage = opened(proxy.url)

        async def main() -> None:
            kv = storage.aio.kv
            await kv.set("key", 1)
            proxy.freeze(requests=False)
            with pytest.raises(DeadlineExceeded), deadline(0.7):
                await kv.get("key")
            proxy.reset_all()
            proxy.thaw()
            assert await kv.get("key") == 1
            assert 2 <= proxy.accepted <= 3  # a read that is tried again may open one more

        asyncio.run(main())


def test_a_blocking_call_inside_a_loop_warns_once(
    redis_server: Service, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_warned", set())
    storage = opened(redis_server.url)

    async def main() -> None:
        with pytest.warns(RuntimeWarning, match=r"KeyValue\.set .*await storage\.aio\.\.\.set") as seen:
            storage.sync.kv.set("key", 1)
        assert seen[0].filename == __file__
        storage.sync.kv.set("key", 2)
        assert await storage.get("key") == 2  # the face that looks chooses the asynchronous form itself

    asyncio.run(main())


def test_close_reaches_every_thread_and_loop(redis_server: Service, raw: Any, opened: Open) -> None:
    storage = opened(f"{redis_server.url}?prefix=close:")

    def connections() -> int:
        return sum(client["name"] == "ambidex" for client in raw.client_list())

    before = connections()
    with storage:
        storage.sync.set("key", 1)
        other = threading.Thread(target=lambda: storage.sync.get("key"))
        other.start()
        other.join()
    assert connections() == before
    assert storage.sync.get("key") == 1  # it opens again


# ---------------------------------------------------------------- Cluster


def test_moved_slots_are_followed(redis_cluster: Service, opened: Open) -> None:
    if not isinstance(redis_cluster, RedisCluster):
        pytest.skip("an existing cluster is not rearranged")
    storage = opened(f"{redis_cluster.url}?prefix=moved:")
    kv = storage.sync.kv
    kv.set("key", 1)
    name = "moved:k:kv:::key"
    source = redis_cluster.master_of(name)
    others = (redis_cluster.master_of(f"other-{number}") for number in range(1000))
    target = next(node for node in others if node.port != source.port)
    slot = int(str(source.call("CLUSTER", "KEYSLOT", name)))
    ids = {node: str(node.call("CLUSTER", "MYID")) for node in (source, target)}
    target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    found = source.call("CLUSTER", "GETKEYSINSLOT", slot, 100)
    assert isinstance(found, list)
    for key in found:
        source.call("MIGRATE", target.host, target.port, str(key), 0, 1000)
    assert kv.get("key") == 1  # ASK
    assert kv.incr("key") == 2
    assert asyncio.run(storage.aio.get("key")) == 2
    for node in (target, source):
        node.call("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    assert kv.get("key") == 2  # MOVED
    assert kv.get_many(["key", "absent"]) == {"key": 2}
    assert asyncio.run(storage.aio.kv.incr("key")) == 3
    redis_cluster.wait_settled()


def test_a_lone_server_is_no_cluster(redis_server: Service, opened: Open) -> None:
    with pytest.raises(ConfigurationError, match="no Cluster node"):
        opened(redis_server.url.replace("redis://", "redis+cluster://")).sync.get("key")
