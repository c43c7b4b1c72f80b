"""Sending commands to the right server, once for both colours; the ports in ``kv`` and ``log`` speak to this.

Written as ``async def`` over two primitives that each colour provides: making a connection (``_dial``) and a round
trip on a pooled or shared one (``_exchange``). Everything else stands here: login, Sentinel, Cluster redirections,
scripts. The invariant: a command is sent again only where the server said that it did not execute it; all else is
left to the layer that retries.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from ambidex.backends.redis import checks
from ambidex.backends.redis.errors import code_of, late, refused
from ambidex.backends.redis.target import Address, Login, Target
from ambidex.backends.redis.topology import Topology, redirection, slot_of
from ambidex.backends.redis.wire import ReplyError, Script, Word, check_login, login_commands, pack
from ambidex.core.runtime import Runtime, current_deadline, remaining
from ambidex.errors import (
    AmbidexError,
    ConfigurationError,
    DeadlineExceeded,
    NotReplicated,
    OutcomeUnknown,
    Unavailable,
)
from ambidex.settings import Settings

__all__ = ["Client", "Command", "Link", "Shared"]

Command = tuple[bytes, str]
"""A packed command, and the key by which its node is found."""

_SENTINEL_MASTER = Address("", 0)
_REDIRECTIONS = 8
_ASK_SECONDS = 1.0
"""The longest wait for one of several nodes that can tell where the data is."""

_SENTINEL_ASKED = "SENTINEL", "GET-MASTER-ADDR-BY-NAME"


class Link(Protocol):
    """One connection."""

    async def request(self, packed: bytes, count: int, until: float, *, write: bool) -> Any:
        """Send ``count`` commands; return their reply, or the list of their replies where there are several."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class Shared:
    """What both colours of one backend share.

    Attributes:
        target: the parsed URL.
        timeout: seconds for a call.
        durability: what was asked for.
        topology: of a Cluster, once known.
        stale: somebody could not be reached, so the topology may have changed.
    """

    def __init__(self, target: Target, settings: Settings) -> None:
        self.target = target
        self.timeout = settings.timeout
        self.durability = settings.durability
        self.tls = target.context()
        self.topology: Topology | None = None
        self.stale = False
        self._examined: set[Address] = set()

    def examination(self, address: Address) -> list[bytes]:
        """Return the commands that ask for a server's settings, once for each server."""
        return [] if address in self._examined else checks.COMMANDS

    def examine(self, address: Address, replies: Iterable[Any]) -> None:
        """Judge the answers."""
        checks.examine(replies, self.durability, str(address))
        self._examined.add(address)


class Client(ABC):
    """One colour's way to the servers."""

    def __init__(self, shared: Shared, runtime: Runtime) -> None:
        self.shared, self.target, self.runtime = shared, shared.target, runtime
        self.timeout = shared.timeout
        self.clustered = self.target.mode == "cluster"
        self._one = _SENTINEL_MASTER if self.target.mode == "sentinel" else self.target.hosts[0]
        self._round_trip = self._confirmed if self.target.wait_replicas else self._exchange

    @abstractmethod
    async def _dial(self, address: Address, until: float) -> Link:
        """Make a connection, TLS included, without logging in; raise what :func:`unreachable` gives."""

    @abstractmethod
    async def _exchange(self, node: Address, packed: bytes, count: int, until: float, write: bool) -> Any:
        """Send ``count`` commands to a node; return the reply, or the list of replies where there are several."""

    @abstractmethod
    async def _refresh(self, until: float) -> Topology:
        """Run :meth:`_learn` once for all who ask at the same time, each waiting until its own deadline."""

    @abstractmethod
    def _discard(self, node: Address) -> None:
        """Use none of the present connections to a node any more."""

    # ------------------------------------------------------------ commands

    async def one(self, packed: bytes, key: str, *, write: bool = False) -> Any:
        """Run one command on the node of ``key`` and return its reply."""
        until = current_deadline(self.timeout)
        if self.clustered:
            reply = await self._routed(packed, key, until, write)
        else:
            reply = await self._round_trip(self._one, packed, 1, until, write)
        if type(reply) is ReplyError:
            raise self._refusal(reply, self._one)
        return reply

    async def many(self, commands: Sequence[Command], *, write: bool = False) -> list[Any]:
        """Run independent commands, in one round trip to each node, and return their replies in order.

        Raises:
            OutcomeUnknown: some of several nodes failed while others may have written.
        """
        until = current_deadline(self.timeout)
        if self.clustered:
            replies = await self._routed_many(commands, until, write)
        elif len(commands) == 1:
            replies = [await self._round_trip(self._one, commands[0][0], 1, until, write)]
        else:
            packed = b"".join([command[0] for command in commands])
            replies = await self._round_trip(self._one, packed, len(commands), until, write)
        for reply in replies:
            if type(reply) is ReplyError:
                raise self._refusal(reply, self._one)
        return replies

    async def atomic(self, commands: Sequence[bytes]) -> list[Any]:
        """Run commands as one MULTI block; not for a Cluster."""
        packed = b"".join((pack("MULTI"), *commands, pack("EXEC")))
        until = current_deadline(self.timeout)
        *queued, results = await self._round_trip(self._one, packed, len(commands) + 2, until, True)
        for reply in (*queued, *(results if isinstance(results, list) else [results])):
            if isinstance(reply, ReplyError):
                raise self._refusal(reply, self._one)
        return list(results)

    async def script(self, script: Script, keys: Sequence[str], args: Iterable[Word], *, write: bool = True) -> Any:
        """Run a script whose keys share the slot of the first."""
        args = list(args)
        until = current_deadline(self.timeout)
        reply = await self._send(script.by_sha(keys, args), keys[0], until, write)
        if type(reply) is ReplyError and code_of(reply) == "NOSCRIPT":
            reply = await self._send(script.whole(keys, args), keys[0], until, write)
        if type(reply) is ReplyError:
            raise self._refusal(reply, self._one)
        return reply

    async def _send(self, packed: bytes, key: str, until: float, write: bool) -> Any:
        if self.clustered:
            return await self._routed(packed, key, until, write)
        return await self._round_trip(self._one, packed, 1, until, write)

    async def _confirmed(self, node: Address, packed: bytes, count: int, until: float, write: bool) -> Any:
        """As :meth:`_exchange`; a write has reached so many replicas as the URL asks for when this returns.

        Raises:
            NotReplicated: it has not, in the time that the URL gives; a failover would lose it.
        """
        if not write:
            return await self._exchange(node, packed, count, until, write)
        wanted = self.target.wait_replicas
        seconds = max(0.001, min(self.target.wait_timeout, remaining(until)))
        waiting = pack("WAIT", wanted, round(seconds * 1000))
        *replies, reached = await self._exchange(node, packed + waiting, count + 1, until, write)
        if any(type(reply) is not ReplyError for reply in replies):  # else nothing was written
            if type(reached) is ReplyError:
                raise self._refusal(reached, node)
            if reached < wanted:
                raise NotReplicated(
                    f"{self._where(node)} has made a write that {reached} of {wanted} replicas have after {seconds:g} "
                    "seconds; if it fails now, the write is lost"
                )
        return replies[0] if count == 1 else replies

    async def masters(self) -> tuple[Address, ...]:
        """Return the nodes that hold data, as they are now."""
        if not self.clustered:
            return (self._one,)
        return (await self._learn(current_deadline(self.timeout))).masters

    async def at(self, node: Address, packed: bytes) -> Any:
        """Run one reading command on a node."""
        reply = await self._exchange(node, packed, 1, current_deadline(self.timeout), False)
        if isinstance(reply, ReplyError):
            raise self._refusal(reply, node)
        return reply

    def _refusal(self, reply: Exception, node: Address) -> AmbidexError:
        if code_of(reply) in ("READONLY", "MASTERDOWN"):  # the master has become a replica: find the new one
            self._discard(node)
            self.shared.stale = True
        return refused(reply, self._where(node))

    def _where(self, node: Address) -> str:
        return f"Redis at {self.target.display if node == _SENTINEL_MASTER else node}"

    # ------------------------------------------------------------ Cluster

    async def _routed(self, packed: bytes, key: str, until: float, write: bool) -> Any:
        """Run one command where its key is; return the reply, or the error reply that is no redirection."""
        slot = slot_of(key)
        topology = await self._topology(until)
        node, asking = topology.owner(slot), False
        reply: Any = None
        for turn in range(_REDIRECTIONS):
            try:
                if asking:
                    _, reply = await self._round_trip(node, pack("ASKING") + packed, 2, until, write)
                else:
                    reply = await self._round_trip(node, packed, 1, until, write)
            except (Unavailable, OutcomeUnknown, DeadlineExceeded):
                self.shared.stale = True
                raise
            code = code_of(reply) if isinstance(reply, ReplyError) else ""
            asking = code == "ASK"
            if code in ("MOVED", "ASK"):
                node = redirection(str(reply), node)
                if code == "MOVED":
                    topology.correct(slot, node)
                    self.shared.stale = True
            elif code == "TRYAGAIN":
                await self.runtime.sleep(min(0.01 * 2**turn, max(remaining(until), 0.0)))
            else:
                if code in ("READONLY", "CLUSTERDOWN"):
                    self.shared.stale = True
                return reply
        return reply

    async def _routed_many(self, commands: Sequence[Command], until: float, write: bool) -> list[Any]:
        topology = await self._topology(until)
        groups: dict[Address, list[int]] = {}
        for place, (_, key) in enumerate(commands):
            groups.setdefault(topology.owner(slot_of(key)), []).append(place)
        calls = [
            partial(self._group, node, [commands[i] for i in places], until, write) for node, places in groups.items()
        ]
        outcomes = await self.runtime.gather([partial(_outcome, call) for call in calls])
        errors = [outcome for outcome in outcomes if isinstance(outcome, AmbidexError)]
        if errors:
            if write and len(errors) < len(outcomes) and errors[0].applied == "no":
                raise OutcomeUnknown(f"some nodes of the Cluster failed while others wrote: {errors[0]}")
            raise errors[0]
        replies: list[Any] = [None] * len(commands)
        for places, group in zip(groups.values(), outcomes, strict=True):
            for place, reply in zip(places, group, strict=True):
                replies[place] = reply
        return replies

    async def _group(self, node: Address, commands: Sequence[Command], until: float, write: bool) -> list[Any]:
        """Run commands on one node, and those that it redirects one by one."""
        packed = b"".join([command[0] for command in commands])
        try:
            replies = await self._round_trip(node, packed, len(commands), until, write)
        except (Unavailable, OutcomeUnknown, DeadlineExceeded):
            self.shared.stale = True
            raise
        replies = [replies] if len(commands) == 1 else replies
        for place, reply in enumerate(replies):
            if isinstance(reply, ReplyError) and code_of(reply) in ("MOVED", "ASK", "TRYAGAIN"):
                self.shared.stale = True
                replies[place] = await self._routed(*commands[place], until, write)
        return list(replies)

    async def _topology(self, until: float) -> Topology:
        topology = self.shared.topology
        if topology is None or self.shared.stale:
            topology = await self._refresh(until)
        return topology

    async def _learn(self, until: float) -> Topology:
        """Ask one node after another where the slots are."""
        self.shared.stale = False
        before = self.shared.topology
        problem: AmbidexError = Unavailable(f"no node of {self.target.display} answers")
        for node in dict.fromkeys(
            (*(before.masters if before else ()), *self.target.hosts, *(before.known if before else ()))
        ):
            soon = min(until, time.monotonic() + _ASK_SECONDS)
            try:
                reply = await self._exchange(node, pack("CLUSTER", "SLOTS"), 1, soon, False)
            except (Unavailable, DeadlineExceeded) as error:
                problem = error
                continue
            if isinstance(reply, ReplyError):
                if "cluster support disabled" in str(reply):
                    raise ConfigurationError(f"{node} is no Cluster node; write redis:// instead of redis+cluster://")
                problem = refused(reply, self._where(node))
                continue
            self.shared.topology = Topology(reply, node)
            return self.shared.topology
        self.shared.stale = True
        if remaining(until) <= 0:
            raise late(f"the Cluster at {self.target.display}", sent=False)
        raise problem

    # ------------------------------------------------------------ connecting

    async def _connect(self, node: Address, until: float) -> Link:
        """Return a connection that is logged in.

        Raises:
            DeadlineExceeded: the call's time ran out meanwhile; nothing was applied.
            Unavailable: it cannot be made.
        """
        limit = min(until, time.monotonic() + self.target.connect_timeout)
        address = node
        try:
            if node == _SENTINEL_MASTER:
                address = await self._ask_sentinels(limit)
            link = await self._dial(address, limit)
            try:
                await self._log_in(link, address, self.target.login, limit)
            except BaseException:
                link.close()
                raise
        except (DeadlineExceeded, TimeoutError):
            if remaining(until) <= 0:
                raise late(self._where(node), sent=False) from None
            raise Unavailable(
                f"{self._where(node)} did not answer a connection attempt within {self.target.connect_timeout:g} s"
            ) from None
        return link

    async def _log_in(self, link: Link, address: Address, login: Login, until: float) -> None:
        commands, examination = login_commands(login, self.target.db), self.shared.examination(address)
        first = len(commands)
        replies = await link.request(b"".join(commands + examination), first + len(examination), until, write=False)
        replies = replies if isinstance(replies, list) else [replies]
        hello = check_login(replies[:first], f"Redis at {address}")
        if self.target.mode == "sentinel" and hello.get(b"role") != b"master":
            raise Unavailable(f"{address} is not the master any more", retry_after=0.05)
        if examination:
            self.shared.examine(address, replies[first:])

    async def _ask_sentinels(self, until: float) -> Address:
        """Return where the master is."""
        problem: AmbidexError | None = None
        for host in self.target.hosts:
            soon = min(until, time.monotonic() + _ASK_SECONDS)
            try:
                link = await self._dial(host, soon)
            except AmbidexError as error:
                problem = error
                continue
            try:
                hello = login_commands(self.target.sentinel_login, 0)
                question = pack(*_SENTINEL_ASKED, self.target.service)
                greeting, reply = await link.request(hello[0] + question, 2, soon, write=False)
                check_login([greeting], f"the Sentinel at {host}")
            except (Unavailable, DeadlineExceeded) as error:
                problem = error
                continue
            finally:
                link.close()
            if isinstance(reply, list):
                return Address(reply[0].decode(), int(reply[1]))
            problem = ConfigurationError(f"the Sentinel at {host} knows no master named {self.target.service!r}")
        raise problem or Unavailable("no Sentinel answers")


async def _outcome(call: Callable[[], Awaitable[Any]]) -> Any:
    """Return the result, or the error, so that one node's failure does not cancel what others do."""
    try:
        return await call()
    except AmbidexError as error:
        return error
