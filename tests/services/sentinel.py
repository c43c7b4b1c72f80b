"""A private Sentinel trio over one master and one replica.

`start()` returns once every Sentinel knows the other two and the replica, and the replica is in
step; a failover (`down-after` 1 s, quorum 2) is possible from then on.
"""

import signal
from typing import Self

from tests.services import keeper, resp
from tests.services.handle import Flavour, Service, StartFailed
from tests.services.redis import RedisOptions, RedisServer, credentials, unavailable

SERVICE_NAME = "ambidex"
SENTINELS = 3


class DataNode(RedisServer):
    """The master, or a replica of the master that `follows` names at first."""

    kind = "sentinel-data"

    def __init__(self, flavour: Flavour, *, options: RedisOptions, follows: RedisServer | None) -> None:
        super().__init__(flavour, options=options)
        self._follows = follows

    def configure(self, *, fresh: bool) -> None:
        if fresh:  # later the Sentinels own the file: they rewrite `replicaof` at a failover
            super().configure(fresh=fresh)

    def directives(self) -> dict[str, str]:
        return {"repl-diskless-sync-delay": "0"} | super().directives()

    def follow(self) -> None:
        """Become a replica, and write that down."""
        if self._follows is not None:
            self.call("REPLICAOF", self._follows.host, self._follows.port)
            self.call("CONFIG", "REWRITE")


class SentinelNode(RedisServer):
    """One Sentinel; its configuration file is also its memory."""

    kind = "sentinel-node"

    def __init__(self, flavour: Flavour, *, master: RedisServer) -> None:
        super().__init__(flavour)
        self._master = master

    def configure(self, *, fresh: bool) -> None:
        if not fresh:
            return
        password, name = self._master.options.password, SERVICE_NAME
        lines = [
            f"port {self.port}",
            f"bind {self.host}",
            f'dir "{self.directory}"',
            f"sentinel monitor {name} {self._master.host} {self._master.port} 2",
            f"sentinel down-after-milliseconds {name} 1000",
            f"sentinel failover-timeout {name} 5000",
            f"sentinel parallel-syncs {name} 1",
        ]
        if password is not None:
            lines.append(f'sentinel auth-pass {name} "{password}"')
        self.config.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [*super().command(), "--sentinel"]


class RedisSentinel(Service):
    """`sentinels` watch `data`; `master()` asks them who leads."""

    kind = "sentinel"
    service_name = SERVICE_NAME

    def __init__(self, flavour: Flavour = "wheel", *, options: RedisOptions | None = None) -> None:
        self.flavour = flavour
        self._options = options or RedisOptions()
        self.data: list[DataNode] = []
        self.sentinels: list[SentinelNode] = []

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where the Sentinels listen."""
        return [node.address for node in self.sentinels]

    @property
    def url(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.addresses)
        user = credentials(self._options.password)
        return f"redis+sentinel://{user}{hosts}/{self.service_name}/0"

    def start(self) -> Self:
        if self.sentinels:
            return self
        if self._options.tls is not None:
            raise StartFailed("sentinel: TLS is not supported by this helper")
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        for nodes in (self.sentinels, self.data):  # the watchers first: no failover on the way out
            while nodes:
                node = nodes.pop()
                node.stop_signal = signal.SIGKILL
                node.stop()

    def master(self) -> DataNode:
        """The data node that the Sentinels call master now."""
        ask = next(node for node in self.sentinels if node.running)
        reply = ask.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service_name)
        assert isinstance(reply, list)
        return next(node for node in self.data if str(node.port) == reply[1])

    def _start(self) -> None:
        master = DataNode(self.flavour, options=self._options, follows=None)
        self.data.append(master.start())
        replica = DataNode(self.flavour, options=self._options, follows=master)
        self.data.append(replica.start())
        replica.follow()
        for _ in range(SENTINELS):
            self.sentinels.append(SentinelNode(self.flavour, master=master).start())
        if not keeper.wait_until(self._complete, 30):
            raise StartFailed("sentinel: the Sentinels did not find each other or the replica")

    def _complete(self) -> bool:
        if resp.info(self.data[1].call("INFO", "replication"))["master_link_status"] != "up":
            return False
        for node in self.sentinels:
            reply = node.call("SENTINEL", "MASTER", self.service_name)
            assert isinstance(reply, list)
            state = dict(zip(map(str, reply[::2]), map(str, reply[1::2]), strict=True))
            if (state["num-other-sentinels"], state["num-slaves"]) != (str(SENTINELS - 1), "1"):
                return False
        return True


__all__ = ["RedisSentinel", "unavailable"]
