"""What keeps documents and index in step where no transaction holds both, and makes either anew from the heads.

The invariant: an intent, which names the heads that change, is written before and deleted after whatever no
transaction holds together; so whoever finds one whose lease is over can finish it. To settle a document may be
repeated at any time, and ends in the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from uuid import uuid4

from ambidex.core.codec import Stored, decode, encode
from ambidex.core.ports import IndexItem, KeyValuePort, Put, When
from ambidex.core.runtime import deadline, in_unit
from ambidex.errors import Conflict, FinalError
from ambidex.stores.document_drafts import cut
from ambidex.stores.document_parts import Head, index_items
from ambidex.stores.document_records import LABEL, Records, read_head

__all__ = ["Intent", "Intents"]

_log = logging.getLogger("ambidex")

_LEASE_MS = 30_000
_HELD_SECONDS = 25.0  # nothing that is begun within it reaches a server after the lease
_RENEWED_SECONDS = 10.0
_RECOVER_EVERY = 30.0
_PAGE = 500


class Intent:
    """What one writer has written down, and until when nobody else finishes it.

    Args:
        kv: where it stands.
        key: its own key.
        lease: that of its lease.
    """

    def __init__(self, kv: KeyValuePort, key: str, lease: str) -> None:
        self._kv, self._key, self._lease = kv, key, lease
        self._until = 0.0

    async def begin(self, heads: list[Head]) -> None:
        """Write it down."""
        self._until = time.monotonic() + _HELD_SECONDS
        await self._kv.put(self._lease, 1, _LEASE_MS, When.ALWAYS)
        await self._kv.put(self._key, encode([list(head) for head in heads]), None, When.ALWAYS)

    def rest(self) -> deadline:
        """Return the deadline by which its writer must have written: then others may undo what he has."""
        return deadline(self._until - time.monotonic())

    async def renew(self, *, surely: bool = False) -> None:
        """Take more time, where little is left.

        Args:
            surely: however much is left, make sure that nobody has finished it.

        Raises:
            Conflict: somebody has, because this took so long.
        """
        if not surely and self._until - time.monotonic() > _HELD_SECONDS - _RENEWED_SECONDS:
            return
        until = time.monotonic() + _HELD_SECONDS
        if not await self._kv.touch(self._lease, _LEASE_MS):
            raise Conflict("this took so long that somebody else has undone it")
        self._until = until

    async def end(self, *also: str) -> None:
        """Delete it, with other keys."""
        await self._kv.delete_many([*also, self._key, self._lease])


class Intents:
    """See the module."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._recovered_at = -_RECOVER_EVERY

    async def begin(self, heads: list[Head]) -> Intent:
        """Write down what is going to change, where no transaction holds it together."""
        name, prefix = uuid4().hex, self._records.prefix
        intent = Intent(self._records.kv, f"{prefix}o:{name}", f"{prefix}l:{name}")
        await intent.begin(heads)
        return intent

    async def recover_sometimes(self) -> None:
        """Finish what others left, at first use and then every half minute; it is no part of the caller's unit."""
        if in_unit() or time.monotonic() - self._recovered_at <= _RECOVER_EVERY:
            return
        try:
            await self.recover(force=False)
        except FinalError as error:  # the caller wants something else
            _log.warning("documents that others have left half done could not be finished: %s", error)

    async def settle(self, heads: list[Head]) -> None:
        """Make everything else agree with what is stored of these heads' documents, whatever was written of it."""
        ids = list(dict.fromkeys(head.id for head in heads))
        drop: set[str] = set()
        puts: dict[str, Stored] = {}
        known = await self._records.heads(ids)
        for id_, now in zip(ids, known, strict=True):
            mine = [head for head in heads if head.id == id_]
            labels = set() if now is None else set(self._records.labels(now))
            puts |= dict.fromkeys(labels, LABEL)
            drop |= {key for head in mine for key in self._records.labels(head)} - labels
            drop.update(await self._records.claims_of(mine, None if now is None else self._records.claim(now)))
            versions = range(1, max(head.version for head in mine) + 1)
            keys = self._records.past_keys(id_, versions)
            found = zip(versions, await self._records.kv.get_many(keys), strict=True)
            bodies = {version: read_head(decode(past)).body for version, past in found if past is not None}
            if now is None:
                drop.update(keys)
                drop.update(self._records.body_key(id_, body) for body in bodies.values())
                drop.update(self._records.body_key(id_, head.body) for head in mine)
                continue
            for head in mine:
                if head.version < now.version and head.version not in bodies and _precedes(head, mine):
                    puts[keys[head.version - 1]] = encode(list(head))
                elif _was_refused(head, now, bodies.get(head.version)):
                    drop.add(self._records.body_key(id_, head.body))
        if drop:
            await self._records.kv.delete_many(sorted(drop))
        if puts:
            await self._records.kv.put_many([Put(key, value) for key, value in puts.items()], None)
        await self._claim(known)
        await self._relabel(ids, known)
        await self.sync(ids, {name for head in heads for name in head.chunk_ids()})

    async def _claim(self, heads: Sequence[Head | None]) -> None:
        """Make claims anew that somebody has dropped who knew an older head."""
        claims = {self._records.claim(head): head.id for head in heads if head is not None}
        if claims:
            await self._records.kv.add_many([Put(claim, encode(id_)) for claim, id_ in claims.items()], None)

    async def _relabel(self, ids: Sequence[str], written: Sequence[Head | None]) -> None:
        """Replace the labels written for these heads, again and again, if other writers changed the heads meanwhile."""
        while (now := await self._records.heads(ids)) != written:
            wanted = {key for head in now if head is not None for key in self._records.labels(head)}
            gone = {key for head in written if head is not None for key in self._records.labels(head)} - wanted
            if gone:
                await self._records.kv.delete_many(sorted(gone))
            if wanted:
                await self._records.kv.put_many([Put(key, LABEL) for key in sorted(wanted)], None)
            await self._claim(now)
            written = now

    async def sync(self, ids: Sequence[str], stale: set[str]) -> None:
        """Index the current versions and remove other entries; again, if the documents changed meanwhile."""
        if self._records.index is None:
            return
        heads = await self._records.heads(ids)
        while True:
            there = [head for head in heads if head is not None and head.indexed]
            bodies = (
                await self._records.kv.get_many([self._records.body_key(head.id, head.body) for head in there])
                if there
                else []
            )
            items: list[IndexItem] = []
            for head, stored in zip(there, bodies, strict=True):
                if stored is not None:
                    items += index_items(head, cut(decode(stored), head.chunk_size, head.chunk_overlap))
            await self._records.index.add_many(items, namespace=self._records.namespace)
            entries = {item.id for item in items}
            await self.unindex(stale - entries)
            again = await self._records.heads(ids)
            if again == heads:
                return
            stale |= entries
            heads = again

    async def unindex(self, names: set[str]) -> None:
        """Remove entries of the index by the names of their chunks."""
        if names and self._records.index is not None:
            await self._records.index.remove(*sorted(names), namespace=self._records.namespace)

    async def recover(self, force: bool) -> int:
        """Finish the intents whose writers are gone; return how many.

        One that cannot be finished stays, and the first of their errors is raised when the others are done.
        """
        self._records.scope.check_at_once("kv", "recovering documents")
        done, after = 0, None
        failure: FinalError | None = None
        self._recovered_at = time.monotonic()
        while True:
            keys, after = await self._records.kv.scan(self._records.prefix + "o:", after, _PAGE)
            for key in keys:
                lease = self._records.prefix + "l:" + key[len(self._records.prefix) + 2 :]
                if not force and await self._records.kv.get(lease) is not None:
                    continue
                stored = await self._records.kv.get(key)
                if stored is None:
                    continue
                try:
                    await self.settle([read_head(fields) for fields in decode(stored)])
                except FinalError as error:
                    failure = failure or error
                    continue
                await self._records.kv.delete_many([key, lease])
                done += 1
            if after is None:
                break
        if failure is not None:
            raise failure
        return done


def _precedes(head: Head, mine: list[Head]) -> bool:
    """Tell whether an intent names a head as the one that was there before."""
    return any(other.version == head.version + 1 for other in mine)


def _was_refused(head: Head, now: Head, past: str | None) -> bool:
    """Tell whether another writer's version stands where this one would.

    A version below the current one that is not among the past ones may have been stored: its record is still to come.
    """
    if head.version >= now.version:
        return head.body != now.body
    return past is not None and past != head.body
