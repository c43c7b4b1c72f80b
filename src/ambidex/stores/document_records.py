"""The records and index entries behind documents, and how they stay in step; ``stores.documents`` has one of these.

Keys are ``d:`` the head of a document, ``b:`` the content of a version, ``v:`` which content an earlier version had,
``p:`` and ``f:`` the claim that makes a document the only one with its path or content, ``t:`` and ``c:`` labels to
list it by, ``o:`` and ``l:`` intents and their leases. The invariant: an intent is written before, and deleted after,
whatever no transaction holds together.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar
from uuid import uuid4

from ambidex.core.codec import Encoded, Stored, decode, encode
from ambidex.core.keys import escape, unescape
from ambidex.core.ports import Capability, IndexItem, Put, When
from ambidex.core.runtime import in_unit, partly_applied, time_limit
from ambidex.errors import AlreadyExists, AmbidexError, Conflict, NotFound, PartialFailure, VersionConflict
from ambidex.stores.document_parts import Draft, Head, cut, index_items, uuid7
from ambidex.stores.scope import Scope
from ambidex.stores.search import Index

__all__ = ["Records", "Target"]

T = TypeVar("T")

_GROUP = 200
_GROUP_CHARACTERS = 4_000_000  # a transaction must end within its lease
_CUT_AT_ONCE = 20_000
_PAGE = 500
_ATTEMPTS = 40
_TRANSACTIONS = 8
_INTENT_LEASE_MS = 30_000
_RECOVER_EVERY = 30.0
_GONE_MS = 60_000


class Target(NamedTuple):
    """A draft, and which document it is the next version of, where the caller said so."""

    draft: Draft
    id: str | None = None
    version: int | None = None


class _Plan(NamedTuple):
    """What is to be written of one document: its new head, also in stored form, and the old one with its version."""

    draft: Draft
    head: Head
    stored: Stored
    before: Head | None
    entry_version: int


class Records:
    """See the module.

    Args:
        kv: where the records are kept.
        search: where the chunks are indexed; None: nowhere.
        namespace: a space of its own, for records and index alike.
    """

    def __init__(self, kv: Scope, search: Scope | None, namespace: str) -> None:
        self._scope = kv
        self._kv, self._runtime, self._max, self._timeout = kv.leaf.kv, kv.runtime, kv.max_bytes, kv.timeout
        self._namespace = namespace
        self.index = None if search is None else Index(search)
        self._prefix = kv.prefix("doc", namespace)
        one_backend = search is None or search.leaf is kv.leaf
        self._unit = kv.leaf.transaction if one_backend and Capability.TRANSACTIONS in kv.capabilities else None
        self._recovered_at = -_RECOVER_EVERY

    # ---------------------------------------------------------------- keys and records

    def _key(self, kind: str, name: str) -> str:
        """Return a key; d: heads, p: ids by path, f: ids by fingerprint."""
        return f"{self._prefix}{kind}:{escape(name)}"

    def _body(self, id_: str, body: str) -> str:
        return f"{self._prefix}b:{escape(id_)}:{body}"

    def _past(self, id_: str, versions: Iterable[int]) -> list[str]:
        return [f"{self._prefix}v:{escape(id_)}:{version}" for version in versions]

    def _claim(self, of: Draft | Head) -> str:
        """Return the key that makes a document the only one with its path, or else with its content."""
        return self._key("f", of.fingerprint) if of.path is None else self._key("p", of.path)

    def _labels(self, head: Head) -> list[str]:
        """Return the keys by which a document is listed."""
        id_ = escape(head.id)
        keys = [f"{self._key('t', tag)}:{id_}" for tag in head.tags]
        return keys if head.category is None else [*keys, f"{self._key('c', head.category)}:{id_}"]

    async def head(self, id_: str) -> Head | None:
        """Return a document's current record, or None."""
        stored = await self._kv.get(self._key("d", id_))
        return None if stored is None else _head(stored)

    async def heads(self, ids: Sequence[str]) -> list[Head | None]:
        """Return the current records, in order."""
        found = await self._kv.get_many([self._key("d", id_) for id_ in ids]) if ids else []
        return [None if stored is None else _head(stored) for stored in found]

    async def body(self, head: Head) -> str | None:
        """Return the content of a version, or None where it was deleted meanwhile."""
        stored = await self._kv.get(self._body(head.id, head.body))
        return None if stored is None else str(decode(stored)["content"])

    async def past(self, head: Head, versions: Sequence[int]) -> list[Head]:
        """Return those of a document's earlier versions that exist, in order."""
        links = await self._kv.get_many(self._past(head.id, versions)) if versions else []
        names = [self._body(head.id, decode(link)) for link in links if link is not None]
        bodies = await self._kv.get_many(names) if names else []
        return [Head(**decode(stored)["head"]) for stored in bodies if stored is not None]

    async def owner(self, path: str) -> str | None:
        """Return the id of the document with this path, or None."""
        stored = await self._kv.get(self._key("p", path))
        return None if stored is None else str(decode(stored))

    async def ids(
        self,
        tag: str | None = None,
        category: str | None = None,
        path: str | None = None,
        page: int = _PAGE,
        after: str | None = None,
    ) -> AsyncGenerator[list[str], None]:
        """Yield pages of ids; the narrowest of the conditions chooses the keys, the caller checks the others.

        ``after`` is an id that was yielded without conditions; those behind it are yielded.
        """
        if tag is not None:
            start = self._key("t", tag) + ":"
        elif category is not None:
            start = self._key("c", category) + ":"
        elif path is not None:
            start = self._key("p", path)
        else:
            start = self._prefix + "d:"
        token = None if after is None else self._key("d", after)
        while True:
            keys, token = await self._kv.scan(start, token, page)
            if path is not None and tag is None and category is None:
                owners = await self._kv.get_many(keys) if keys else []
                yield [decode(owner) for owner in owners if owner is not None]
            else:
                yield [unescape(key.rsplit(":", 1)[1]) for key in keys]
            if token is None:
                return

    async def counts(self, kind: str) -> dict[str, int]:
        """Count the documents by tag ("t") or category ("c")."""
        start, after = f"{self._prefix}{kind}:", None
        counts: dict[str, int] = {}
        while True:
            keys, after = await self._kv.scan(start, after, _PAGE)
            for key in keys:
                name = unescape(key[len(start) :].split(":", 1)[0])
                counts[name] = counts.get(name, 0) + 1
            if after is None:
                return dict(sorted(counts.items()))

    # ---------------------------------------------------------------- writing

    async def _atomically(self, work: Callable[[bool], Awaitable[T]]) -> T:
        """Run a unit, again while others win, and tell it whether a transaction holds it together.

        A backend whose transactions fail when anybody else writes anything may never let one through; after a few
        attempts the unit runs behind an intent instead, which conflicts only with writers of the same document.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                if self._unit is None or attempt > _TRANSACTIONS:
                    return await work(False)
                async with self._unit():
                    return await work(True)
            except Conflict:
                if attempt == _ATTEMPTS:
                    raise
                await self._runtime.sleep(random.uniform(0, min(0.1, 0.001 * 2**attempt)))  # noqa: S311  # jitter
        raise AssertionError("unreachable")

    async def write(self, targets: list[Target]) -> list[str]:
        """Store documents unit by unit and return their ids, in order. Each unit has the time of one operation."""
        self._scope.check_at_once("kv", "storing documents")
        ids: list[str] = []
        for group in self._groups(targets):
            try:
                with time_limit(self._timeout):
                    if not ids:
                        await self.recover_sometimes()
                    ready = await self._embedded(await self._cut(group))
                    ids += await self._atomically(functools.partial(self._apply, ready))
            except AmbidexError as error:
                if len(targets) == 1:
                    raise
                failed = dict.fromkeys(range(len(ids), len(ids) + len(group)), error)
                raise PartialFailure(
                    f"documents from {len(ids)} on were not stored",
                    failed,
                    [*ids, *[None] * (len(targets) - len(ids))],
                ) from error
        return ids

    async def _cut(self, group: list[Target]) -> list[Target]:
        """Cut the contents, elsewhere than on an event loop where it takes a while."""

        def work() -> list[Target]:
            return [target._replace(draft=target.draft.cut()) for target in group]

        short = sum(len(target.draft.content) for target in group) <= _CUT_AT_ONCE
        return work() if short else await self._runtime.offload(work)

    async def _embedded(self, group: list[Target]) -> list[Target]:
        """Make the vectors of what is new before the transaction, which must not wait for a model."""
        if self.index is None or not self.index.embeds:
            return group
        known = await self._known(group)
        wanted = [
            target.draft
            for target, (_, _, before) in zip(group, known, strict=True)
            if target.draft.indexed and (before is None or not _is_same(before, target.draft))
        ]
        bare = [IndexItem("", draft.title, chunk.text, {}) for draft in wanted for chunk in draft.chunks]
        made = iter([item.vector for item in await self.index._embedded(bare, self._namespace)])
        ready = {id(draft): draft._replace(vectors=[next(made) for _ in draft.chunks]) for draft in wanted}
        return [target._replace(draft=ready.get(id(target.draft), target.draft)) for target in group]

    def _groups(self, targets: list[Target]) -> Iterable[list[Target]]:
        """Cut a batch into units in which no document comes twice."""
        group: list[Target] = []
        seen: set[str] = set()
        size = 0
        for target in targets:
            claim, length = self._claim(target.draft), len(target.draft.content)
            if group and (claim in seen or len(group) >= _GROUP or size + length > _GROUP_CHARACTERS):
                yield group
                group, seen, size = [], set(), 0
            group.append(target)
            seen.add(claim)
            size += length
        if group:
            yield group

    async def _apply(self, group: list[Target], together: bool) -> list[str]:
        """Store the documents of one unit."""
        plans, ids = await self._plan(group)
        if not plans:
            return ids
        changed = [*(plan.head for plan in plans), *(plan.before for plan in plans if plan.before is not None)]
        intent = [] if together else await self._intend(changed)
        try:
            await self._put_records(plans, intent)
        except Conflict:
            if intent:  # no transaction undoes it, so bring what was written into order before the next attempt
                await self._settle(changed)
                await self._kv.delete_many(intent)
            raise
        if intent:
            with partly_applied():
                await self._settle(changed)
                await self._kv.delete_many(intent)
        else:
            await self._put_rest(plans)
        return ids

    async def _plan(self, group: list[Target]) -> tuple[list[_Plan], list[str]]:
        plans: list[_Plan] = []
        ids: list[str] = []
        now = datetime.now(UTC)
        packed_now = Encoded(encode(now))
        for target, (id_, owner, before) in zip(group, await self._known(group), strict=True):
            _check_target(target, before, owner)
            if id_ is not None and before is None:
                raise Conflict(f"document {id_!r} is being stored or deleted by somebody else")
            if before is not None and _is_same(before, target.draft):
                ids.append(before.id)
                continue
            version = 0
            if before is not None:
                entry = await self._kv.entry(self._key("d", before.id))
                if entry is None or _head(entry.value) != before:
                    raise Conflict(f"document {before.id!r} was changed by somebody else")
                version = entry.version
            head = target.draft.head(id_ or uuid7(), before, now)
            fields = head.stored() | {"metadata": Encoded(target.draft.packed), "updated_at": packed_now}
            if before is None:
                fields["created_at"] = packed_now
            stored = encode(fields, self._max)
            plans.append(_Plan(target.draft, head, stored, before, version))
            ids.append(head.id)
        return plans, ids

    async def _known(self, group: list[Target]) -> list[tuple[str | None, str | None, Head | None]]:
        """Return for each target the id of its document, whose its path or content is, and the document's record."""
        claims = await self._kv.get_many([self._claim(target.draft) for target in group])
        owners = [None if claim is None else str(decode(claim)) for claim in claims]
        ids = [target.id or owner for target, owner in zip(group, owners, strict=True)]
        there = [id_ for id_ in ids if id_ is not None]
        heads = dict(zip(there, await self.heads(there), strict=True))
        return [(id_, owner, None if id_ is None else heads[id_]) for id_, owner in zip(ids, owners, strict=True)]

    async def _put_records(self, plans: list[_Plan], intent: list[str]) -> None:
        """Write contents, claims and heads, in this order: a head never stands without the others."""
        bodies = [
            Put(
                self._body(p.head.id, p.head.body),
                encode({"head": Encoded(p.stored), "content": p.draft.content}, self._max),
            )
            for p in plans
        ]
        await self._kv.put_many(bodies, None)
        await self._put_claims(plans)
        if intent and not await self._kv.touch(intent[1], _INTENT_LEASE_MS):
            raise Conflict("this took so long that somebody else has undone it")
        new = [Put(self._key("d", p.head.id), p.stored) for p in plans if p.before is None]
        if new:
            await self._kv.put_many(new, None)
        with partly_applied() if intent and new else nullcontext():
            await self._put_heads([plan for plan in plans if plan.before is not None])

    async def _put_heads(self, plans: list[_Plan]) -> None:
        for plan in plans:
            if await self._kv.swap(self._key("d", plan.head.id), plan.stored, plan.entry_version, None) is None:
                raise Conflict(f"document {plan.head.id!r} was changed by somebody else")

    async def _put_claims(self, plans: list[_Plan]) -> None:
        new = [p for p in plans if p.before is None or self._claim(p.before) != self._claim(p.head)]
        claims = [Put(self._claim(plan.head), encode(plan.head.id)) for plan in new]
        claimed = await self._kv.add_many(claims, None) if claims else []
        for plan, mine in zip(new, claimed, strict=True):
            if not mine and (plan.before is None or plan.head.path is not None):
                raise Conflict(f"somebody else is storing {plan.head.path or 'the same content'!r}")

    async def _put_rest(self, plans: list[_Plan]) -> None:
        """Write labels and index, in the transaction that has written the records."""
        puts = {key: encode(1) for plan in plans for key in self._labels(plan.head)}
        drop, stale, entries = set[str](), set[str](), set[str]()
        for plan in plans:
            entries.update(plan.head.chunk_ids())
            if plan.before is not None:
                stale.update(plan.before.chunk_ids())
                drop.update(set(self._labels(plan.before)) - set(self._labels(plan.head)))
                drop.update(await self._claims_of([plan.before], self._claim(plan.head)))
                puts[self._past(plan.head.id, [plan.before.version])[0]] = encode(plan.before.body)
        if puts:
            await self._kv.put_many([Put(key, value) for key, value in puts.items()], None)
        if drop:
            await self._kv.delete_many(sorted(drop))
        if self.index is not None:
            items = [
                item for p in plans if p.head.indexed for item in index_items(p.head, p.draft.chunks, p.draft.vectors)
            ]
            await self.index._put(items, self._namespace)  # made of what was checked as a draft
            await self._unindex(stale - entries)

    async def _claims_of(self, heads: Iterable[Head], keep: str | None) -> list[str]:
        """Return the claims of these heads, but one, that their document holds."""
        claims = {self._claim(head): head.id for head in heads}
        claims.pop(keep or "", None)
        owners = await self._kv.get_many(list(claims)) if claims else []
        held = zip(claims.items(), owners, strict=True)
        return [claim for (claim, id_), owner in held if owner is not None and decode(owner) == id_]

    async def remove(self, id_: str) -> bool:
        """Delete a document with everything that belongs to it; False if there is none."""
        self._scope.check_at_once("kv", "deleting documents")
        await self.recover_sometimes()
        return await self._atomically(functools.partial(self._remove, id_))

    async def _remove(self, id_: str, together: bool) -> bool:
        entry = await self._kv.entry(self._key("d", id_))
        head = None if entry is None else _head(entry.value)
        if entry is None or head is None:
            return False
        intent = [] if together else await self._intend([head])
        if await self._kv.swap(self._key("d", id_), encode({"gone": True}), entry.version, _GONE_MS) is None:
            raise Conflict(f"document {id_!r} was changed while it was deleted")
        with partly_applied() if intent else nullcontext():
            await self._settle([head])
            await self._kv.delete_many([self._key("d", id_), *intent])
        return True

    # ---------------------------------------------------------------- intents

    async def _intend(self, heads: list[Head]) -> list[str]:
        """Write down what is going to change, where no transaction holds it together; return the keys to delete."""
        name = uuid4().hex
        keys = [f"{self._prefix}o:{name}", f"{self._prefix}l:{name}"]
        await self._kv.put(keys[1], 1, _INTENT_LEASE_MS, When.ALWAYS)
        await self._kv.put(keys[0], encode([head.stored() for head in heads]), None, When.ALWAYS)
        return keys

    async def recover_sometimes(self) -> None:
        """Finish what others left, at first use and then every half minute; it is no part of the caller's unit."""
        if in_unit():
            return
        if time.monotonic() - self._recovered_at > _RECOVER_EVERY:
            await self.recover(force=False)

    async def _settle(self, heads: list[Head]) -> None:
        """Make everything else agree with what is stored of these heads' documents, whatever was written of it."""
        ids = list(dict.fromkeys(head.id for head in heads))
        drop: set[str] = set()
        puts: dict[str, Stored] = {}
        known = await self.heads(ids)
        for id_, now in zip(ids, known, strict=True):
            mine = [head for head in heads if head.id == id_]
            labels = set() if now is None else set(self._labels(now))
            puts |= dict.fromkeys(labels, encode(1))
            drop |= {key for head in mine for key in self._labels(head)} - labels
            drop.update(await self._claims_of(mine, None if now is None else self._claim(now)))
            versions = range(1, max(head.version for head in mine) + 1)
            keys = self._past(id_, versions)
            past = await self._kv.get_many(keys)
            if now is None:
                drop.update(keys)
                drop.update(self._body(id_, decode(link)) for link in past if link is not None)
                drop.update(self._body(id_, head.body) for head in mine)
                continue
            links = {version: decode(link) for version, link in zip(versions, past, strict=True) if link is not None}
            for head in mine:
                if head.version < now.version and head.version not in links and _precedes(head, mine):
                    puts[keys[head.version - 1]] = encode(head.body)
                elif _was_refused(head, now, links.get(head.version)):
                    drop.add(self._body(id_, head.body))
        if drop:
            await self._kv.delete_many(sorted(drop))
        if puts:
            await self._kv.put_many([Put(key, value) for key, value in puts.items()], None)
        await self._relabel(ids, known)
        await self.sync(ids, {name for head in heads for name in head.chunk_ids()})

    async def _relabel(self, ids: Sequence[str], written: Sequence[Head | None]) -> None:
        """Replace the labels written for these heads, again and again, if other writers changed the heads meanwhile."""
        while (now := await self.heads(ids)) != written:
            wanted = {key for head in now if head is not None for key in self._labels(head)}
            gone = {key for head in written if head is not None for key in self._labels(head)} - wanted
            if gone:
                await self._kv.delete_many(sorted(gone))
            if wanted:
                await self._kv.put_many([Put(key, encode(1)) for key in sorted(wanted)], None)
            written = now

    async def sync(self, ids: Sequence[str], stale: set[str]) -> None:
        """Index the current versions and remove other entries; again, if the documents changed meanwhile."""
        if self.index is None:
            return
        heads = await self.heads(ids)
        while True:
            there = [head for head in heads if head is not None and head.indexed]
            bodies = await self._kv.get_many([self._body(head.id, head.body) for head in there]) if there else []
            items: list[IndexItem] = []
            for head, stored in zip(there, bodies, strict=True):
                if stored is not None:
                    items += index_items(head, cut(decode(stored)["content"], head.chunk_size, head.chunk_overlap))
            await self.index.add_many(items, namespace=self._namespace)
            entries = {item.id for item in items}
            await self._unindex(stale - entries)
            again = await self.heads(ids)
            if again == heads:
                return
            stale |= entries
            heads = again

    async def _unindex(self, names: set[str]) -> None:
        if names and self.index is not None:
            await self.index.remove(*sorted(names), namespace=self._namespace)

    async def recover(self, force: bool) -> int:
        """Finish the intents whose writers are gone; return how many."""
        self._scope.check_at_once("kv", "recovering documents")
        done, after = 0, None
        self._recovered_at = time.monotonic()
        while True:
            keys, after = await self._kv.scan(self._prefix + "o:", after, _PAGE)
            for key in keys:
                lease = self._prefix + "l:" + key[len(self._prefix) + 2 :]
                if not force and await self._kv.get(lease) is not None:
                    continue
                stored = await self._kv.get(key)
                if stored is not None:
                    heads = [Head(**head) for head in decode(stored)]
                    await self._settle(heads)
                    await self._kv.delete_many([key, lease])
                    done += 1
            if after is None:
                return done


def _head(stored: Stored) -> Head | None:
    """Return a head, or None for what a deletion leaves for a minute."""
    fields = decode(stored)
    return None if "gone" in fields else Head(**fields)


def _is_same(before: Head, draft: Draft) -> bool:
    """Tell whether storing a draft would change nothing."""
    return before.fingerprint == draft.fingerprint and before.path == draft.path and before.indexed >= draft.indexed


def _precedes(head: Head, mine: list[Head]) -> bool:
    """Tell whether an intent names a head as the one that was there before."""
    return any(other.version == head.version + 1 for other in mine)


def _was_refused(head: Head, now: Head, link: str | None) -> bool:
    """Tell whether another writer's version stands where this one would.

    A version below the current one whose link is missing may have been stored: its link is still to come.
    """
    if head.version >= now.version:
        return head.body != now.body
    return link is not None and link != head.body


def _check_target(target: Target, before: Head | None, owner: str | None) -> None:
    """Refuse an update of what is not there any more as it was seen, or to a path that is taken."""
    if target.id is None:
        return
    if before is None:
        raise NotFound(f"there is no document {target.id!r}")
    if target.version is not None and before.version != target.version:
        raise VersionConflict(f"document {target.id!r} has version {before.version} by now, not {target.version}")
    if owner is not None and owner != target.id and target.draft.path is not None:
        raise AlreadyExists(f"another document has the path {target.draft.path!r}")
