"""A private Redis Cluster: masters with one replica each, made with CLUSTER commands alone.

`start()` returns once every node sees the whole cluster, all slots are served and every replica is
in step: killing a master before that ends in no failover at all.
"""

import signal
import time
from collections.abc import Callable
from typing import Self

from tests.services import keeper, resp
from tests.services.handle import Flavour, Service, StartFailed
from tests.services.redis import RedisOptions, RedisServer, credentials, unavailable

SLOTS = 16_384


class ClusterNode(RedisServer):
    """A server of the cluster; the bus listens on its port + 10,000."""

    kind = "cluster-node"
    needs_bus = True

    def directives(self) -> dict[str, str]:
        own = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": "2000",
            "cluster-replica-validity-factor": "0",
            "repl-diskless-sync-delay": "0",  # five seconds by default
        }
        return own | super().directives()  # the caller's `extra` wins


class RedisCluster(Service):
    """`masters` masters and as many replicas; `nodes` are ordinary servers to kill or pause."""

    kind = "cluster"

    def __init__(
        self,
        flavour: Flavour = "wheel",
        *,
        masters: int = 3,
        options: RedisOptions | None = None,
    ) -> None:
        self.flavour = flavour
        self._options = options or RedisOptions()
        self._masters = masters
        self.nodes: list[RedisServer] = []

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [node.address for node in self.nodes]

    @property
    def url(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"redis+cluster://{credentials(self._options.password)}{hosts}"

    def start(self) -> Self:
        if self.nodes:
            return self
        if self._options.tls is not None:
            raise StartFailed("cluster: TLS is not supported by this helper")
        try:
            for _ in range(2 * self._masters):
                node = ClusterNode(self.flavour, options=self._options)
                self.nodes.append(node.start())
            self._join()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        while self.nodes:  # kill -9: a graceful end would begin a failover at every step
            node = self.nodes.pop()
            node.stop_signal = signal.SIGKILL
            node.stop()

    def master_of(self, key: str) -> RedisServer:
        """The node that serves `key` now, as a majority-side node sees it."""
        ask = self._running()[0]
        slot = ask.call("CLUSTER", "KEYSLOT", key)
        slots = ask.call("CLUSTER", "SLOTS")
        assert isinstance(slot, int)
        assert isinstance(slots, list)
        for entry in slots:
            assert isinstance(entry, list)
            first, last, master, *_ = entry
            assert isinstance(first, int)
            assert isinstance(last, int)
            assert isinstance(master, list)
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise LookupError(f"nobody serves slot {slot}")

    def settled(self) -> bool:
        """Do all running nodes agree that every slot is served, and are their replicas in step?"""
        return all(map(_node_settled, self._running()))

    def wait_settled(self, seconds: float = 20.0) -> None:
        """Return once `settled()`; raise TimeoutError after `seconds`."""
        if not keeper.wait_until(_forgiving(self.settled), seconds):
            raise TimeoutError(f"the cluster is not settled after {seconds} s")

    def _running(self) -> list[RedisServer]:
        return [node for node in self.nodes if node.running]

    def _join(self) -> None:
        masters, replicas = self.nodes[: self._masters], self.nodes[self._masters :]
        bounds = [index * SLOTS // self._masters for index in range(self._masters + 1)]
        for epoch, node in enumerate(self.nodes, start=1):
            # Distinct epochs from the start spare the nodes a round of conflict resolution.
            node.call("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for index, node in enumerate(masters):
            node.call("CLUSTER", "ADDSLOTSRANGE", bounds[index], bounds[index + 1] - 1)
        for node in self.nodes[1:]:  # gossip does the rest within the 2 s that a master takes anyway
            self.nodes[0].call("CLUSTER", "MEET", node.host, node.port)
        for master, replica in zip(masters, replicas, strict=True):
            self._replicate(replica, str(master.call("CLUSTER", "MYID")))
        self.wait_settled()

        def all_known() -> bool:
            return all(self._known(node) == len(self.nodes) for node in self.nodes)

        if not keeper.wait_until(all_known, 20):
            raise StartFailed("cluster: the nodes did not find each other")

    def _replicate(self, replica: RedisServer, master_id: str) -> None:
        deadline = time.monotonic() + 20
        while True:  # refused until gossip has told the replica of its master
            try:
                replica.call("CLUSTER", "REPLICATE", master_id)
            except resp.ReplyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def _known(self, node: RedisServer) -> int:
        """How many nodes `node` knows in their final role, itself included."""
        text = str(node.call("CLUSTER", "NODES"))
        roles = [line.split()[2] for line in text.splitlines()]
        if sum("slave" in role for role in roles) != self._masters:
            return 0
        return sum("handshake" not in role and "fail" not in role for role in roles)


def _node_settled(node: RedisServer) -> bool:
    if resp.info(node.call("CLUSTER", "INFO"))["cluster_state"] != "ok":
        return False
    replication = resp.info(node.call("INFO", "replication"))
    return replication["role"] == "master" or replication["master_link_status"] == "up"


def _forgiving(condition: Callable[[], bool]) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            return condition()
        except (OSError, resp.ReplyError):
            return False

    return ask


__all__ = ["RedisCluster", "unavailable"]
