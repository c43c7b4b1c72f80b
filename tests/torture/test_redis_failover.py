"""A Cluster's master dies before its replica has everything: which acknowledged writes are lost, counted.

The guide says what a failover may cost, and what ``wait_replicas`` gives; these are the figures behind it.
"""

import asyncio
import time
from collections.abc import Iterator

import pytest

from ambidex import UnifiedStorage
from ambidex.errors import AmbidexError, NotReplicated
from tests.services import RedisCluster, RedisServer
from tests.torture.redis_support import LONG, rounds, server_flavour

pytestmark = [pytest.mark.torture, pytest.mark.timeout(300)]

WRITES = 50
PLACE = "ambidex:k:kv:::{}"
"""The key that a name has in the server."""


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster(server_flavour()) as cluster:
        yield cluster


def replica_of(cluster: RedisCluster, master: RedisServer) -> RedisServer:
    for node in cluster.nodes:
        role = node.call("ROLE")
        if isinstance(role, list) and role[0] == "slave" and role[2] == master.port:
            return node
    raise AssertionError("the master has no replica")


def names_at(cluster: RedisCluster, master: RedisServer, form: str, count: int) -> list[str]:
    """Names whose keys, made by the form, lie in slots of that master."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        if cluster.master_of(form.format(f"key-{number}")) is master:
            found.append(f"key-{number}")
        number += 1
    return found


def written(storage: UnifiedStorage, keys: list[str], value: int, mode: str) -> list[str]:
    """Write each key and return those that were acknowledged."""

    async def main() -> list[str]:
        ends = await asyncio.gather(*(storage.aio.kv.set(key, value) for key in keys), return_exceptions=True)
        await storage.aio.close()
        return [key for key, end in zip(keys, ends, strict=True) if end is None]

    if mode == "async":
        return asyncio.run(main())
    for key in keys:
        storage.sync.kv.set(key, value)
    return keys


def failover(storage: UnifiedStorage, key: str) -> set[type]:
    """Wait until a dead master's slots are served again; return the errors of the meantime."""
    kinds: set[type] = set()
    began = time.monotonic()
    while time.monotonic() - began < 30:
        try:
            storage.sync.kv.set(key, 3)
            return kinds
        except AmbidexError as error:
            kinds.add(type(error))
            time.sleep(0.1)
    raise AssertionError(f"no replica took over: {kinds}")


def waited_for(cluster: RedisCluster, names: list[str], value: int, mode: str) -> list[str]:
    """Write, waiting for a replica each time; return the names that were acknowledged."""
    storage = UnifiedStorage(f"{cluster.url}?wait_replicas=1&wait_timeout=0.2")

    async def set_all() -> list[str]:
        ends = await asyncio.gather(*(storage.aio.kv.set(name, value) for name in names), return_exceptions=True)
        await storage.aio.close()
        assert {type(end) for end in ends} <= {type(None), NotReplicated}
        return [name for name, end in zip(names, ends, strict=True) if end is None]

    if mode == "async":
        return asyncio.run(set_all())
    acknowledged = []
    for name in names:
        try:
            storage.sync.kv.set(name, value)
            acknowledged.append(name)
        except NotReplicated:
            pass
    storage.close()
    return acknowledged


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_failover_costs_what_had_not_reached_the_replica_and_nothing_else(cluster: RedisCluster, mode: str) -> None:
    """The replica stands still and is cut off: in real life, for a moment; here for as long as the writes take."""
    storage = UnifiedStorage(cluster.url)
    victim = cluster.master_of(PLACE.format("key-0"))
    replica = replica_of(cluster, victim)
    *names, probe = names_at(cluster, victim, PLACE, WRITES + 6)
    names, waiting = names[:WRITES], names[WRITES:]
    others = [node for node in cluster.nodes if node.call("ROLE")[0] == "master" and node is not victim]  # type: ignore[index]
    elsewhere = [name for other in others for name in names_at(cluster, other, PLACE, 5)]
    assert written(storage, [*names, *elsewhere], 1, mode) == [*names, *elsewhere]
    assert waited_for(cluster, [*waiting, *elsewhere], 1, mode) == [*waiting, *elsewhere]
    victim.wait_replicated()
    replica.pause()
    victim.call("CLIENT", "KILL", "TYPE", "REPLICA")  # what was sent before is still read, what follows never is
    acknowledged = written(storage, [*names, *elsewhere], 2, mode)
    with_wait = waited_for(cluster, waiting, 2, mode)
    victim.kill()
    replica.resume()
    assert failover(storage, probe)
    found = storage.sync.kv.get_many([*names, *elsewhere])
    lost = [name for name in acknowledged if found[name] != 2]
    assert lost == names  # all that this master acknowledged meanwhile, as the guide says; and nothing older
    assert {found[name] for name in names} == {1}
    # One who counts only what a replica has confirmed loses nothing, having had nothing acknowledged.
    assert with_wait == []
    assert set(storage.sync.kv.get_many(waiting).values()) == {1}
    storage.close()


@pytest.mark.parametrize("mode", ["sync", "async"] if LONG else ["async"])
def test_once_the_replica_has_taken_over_nothing_that_is_acknowledged_is_lost(cluster: RedisCluster, mode: str) -> None:
    storage = UnifiedStorage(cluster.url)
    for turn in range(rounds(1, 3)):
        cluster.wait_settled()
        victim = cluster.master_of(PLACE.format("key-0"))
        *names, probe = names_at(cluster, victim, PLACE, WRITES + 1)
        written(storage, names, turn, mode)
        victim.wait_replicated()
        victim.kill()
        assert failover(storage, probe)
        assert storage.sync.kv.get_many(names) == dict.fromkeys(names, turn)  # everything had reached the replica
        assert written(storage, names, turn + 100, mode) == names
        assert storage.sync.kv.get_many(names) == dict.fromkeys(names, turn + 100)
        victim.start()
        cluster.wait_settled()
        assert storage.sync.kv.get_many(names) == dict.fromkeys(names, turn + 100)  # the old master follows now
    storage.close()
