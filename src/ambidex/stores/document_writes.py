"""One unit of documents, stored or deleted; ``stores.document_batches`` runs it, in a transaction or behind an intent.

The invariant: contents and claims are written before heads, so that a head never stands without the others; whoever
finds that somebody else was faster raises ``Conflict``, having left nothing behind.
"""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from typing import NamedTuple

from ambidex.core.codec import Encoded, Stored, decode, encode
from ambidex.core.ports import Put
from ambidex.core.runtime import deadline, partly_applied
from ambidex.errors import AlreadyExists, Conflict, NotFound, VersionConflict
from ambidex.stores.document_drafts import Draft
from ambidex.stores.document_intents import Intent, Intents
from ambidex.stores.document_parts import Head, index_items, uuid7
from ambidex.stores.document_records import Records, head_of

__all__ = ["Target", "Writes", "is_same"]

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


class Writes:
    """See the module."""

    def __init__(self, records: Records, intents: Intents) -> None:
        self._records, self._intents = records, intents

    async def apply(self, group: list[Target], together: bool) -> list[str]:
        """Store the documents of one unit."""
        plans, ids = await self._plan(group)
        if not plans:
            return ids
        changed = [*(plan.head for plan in plans), *(plan.before for plan in plans if plan.before is not None)]
        intent = None if together else await self._intents.begin(changed)
        try:
            await self._put_records(plans, intent)
        except Conflict:
            if intent is not None:  # no transaction undoes it, so bring it into order before the next attempt
                await self._intents.settle(changed)
                await intent.end()
            raise
        if intent is not None:
            with partly_applied():
                await self._intents.settle(changed)
                await intent.end()
        else:
            await self._put_rest(plans)
        return ids

    async def _plan(self, group: list[Target]) -> tuple[list[_Plan], list[str]]:
        plans: list[_Plan] = []
        ids: list[str] = []
        now = datetime.now(UTC)
        packed_now = Encoded(encode(now))
        for target, (id_, owner, before) in zip(group, await self.known(group), strict=True):
            _check_target(target, before, owner)
            if id_ is not None and before is None:
                raise Conflict(f"document {id_!r} is being stored or deleted by somebody else")
            if before is not None and is_same(before, target.draft):
                ids.append(before.id)
                continue
            version = 0
            if before is not None:
                entry = await self._records.kv.entry(self._records.key("d", before.id))
                if entry is None or head_of(entry.value) != before:
                    raise Conflict(f"document {before.id!r} was changed by somebody else")
                version = entry.version
            head = target.draft.head(id_ or uuid7(), before, now)
            fields = head.stored() | {"metadata": Encoded(target.draft.packed), "updated_at": packed_now}
            if before is None:
                fields["created_at"] = packed_now
            stored = encode(fields, self._records.scope.max_bytes)
            plans.append(_Plan(target.draft, head, stored, before, version))
            ids.append(head.id)
        return plans, ids

    async def known(self, group: list[Target]) -> list[tuple[str | None, str | None, Head | None]]:
        """Return for each target the id of its document, whose its path or content is, and the document's record."""
        claims = await self._records.kv.get_many([self._records.claim(target.draft) for target in group])
        owners = [None if claim is None else str(decode(claim)) for claim in claims]
        ids = [target.id or owner for target, owner in zip(group, owners, strict=True)]
        there = [id_ for id_ in ids if id_ is not None]
        heads = dict(zip(there, await self._records.heads(there), strict=True))
        return [(id_, owner, None if id_ is None else heads[id_]) for id_, owner in zip(ids, owners, strict=True)]

    async def _put_records(self, plans: list[_Plan], intent: Intent | None) -> None:
        """Write contents, claims and heads, in this order: a head never stands without the others."""
        bodies = [
            Put(
                self._records.body_key(p.head.id, p.head.body),
                encode({"head": Encoded(p.stored), "content": p.draft.content}, self._records.scope.max_bytes),
            )
            for p in plans
        ]
        with _in_time(intent):
            await self._records.kv.put_many(bodies, None)
            await self._put_claims(plans)
        new = [Put(self._records.key("d", p.head.id), p.stored) for p in plans if p.before is None]
        if intent is not None:
            await intent.renew(surely=True)
        if new:
            with _in_time(intent):
                await self._records.kv.put_many(new, None)
        with partly_applied() if intent is not None and new else nullcontext():
            await self._put_heads([plan for plan in plans if plan.before is not None], intent)

    async def _put_heads(self, plans: list[_Plan], intent: Intent | None) -> None:
        for plan in plans:
            if intent is not None:
                await intent.renew()
            key = self._records.key("d", plan.head.id)
            with _in_time(intent):
                if await self._records.kv.swap(key, plan.stored, plan.entry_version, None) is None:
                    raise Conflict(f"document {plan.head.id!r} was changed by somebody else")

    async def _put_claims(self, plans: list[_Plan]) -> None:
        new = [p for p in plans if p.before is None or self._records.claim(p.before) != self._records.claim(p.head)]
        claims = [Put(self._records.claim(plan.head), encode(plan.head.id)) for plan in new]
        claimed = await self._records.kv.add_many(claims, None) if claims else []
        for plan, mine in zip(new, claimed, strict=True):
            if not mine and (plan.before is None or plan.head.path is not None):
                raise Conflict(f"somebody else is storing {plan.head.path or 'the same content'!r}")

    async def _put_rest(self, plans: list[_Plan]) -> None:
        """Write labels and index, in the transaction that has written the records."""
        puts = {key: encode(1) for plan in plans for key in self._records.labels(plan.head)}
        drop, stale, entries = set[str](), set[str](), set[str]()
        for plan in plans:
            entries.update(plan.head.chunk_ids())
            if plan.before is not None:
                stale.update(plan.before.chunk_ids())
                drop.update(set(self._records.labels(plan.before)) - set(self._records.labels(plan.head)))
                drop.update(await self._records.claims_of([plan.before], self._records.claim(plan.head)))
                puts[self._records.past_keys(plan.head.id, [plan.before.version])[0]] = encode(plan.before.body)
        if puts:
            await self._records.kv.put_many([Put(key, value) for key, value in puts.items()], None)
        if drop:
            await self._records.kv.delete_many(sorted(drop))
        if self._records.index is not None:
            items = [
                item for p in plans if p.head.indexed for item in index_items(p.head, p.draft.chunks, p.draft.vectors)
            ]
            await self._records.index._put(items, self._records.namespace)  # made of what was checked as a draft
            await self._intents.unindex(stale - entries)

    async def remove(self, id_: str, together: bool) -> bool:
        """Delete a document with everything that belongs to it; False if there is none."""
        entry = await self._records.kv.entry(self._records.key("d", id_))
        head = None if entry is None else head_of(entry.value)
        if entry is None or head is None:
            return False
        intent = None if together else await self._intents.begin([head])
        key = self._records.key("d", id_)
        if intent is not None:
            await intent.renew(surely=True)
        with _in_time(intent):
            if await self._records.kv.swap(key, encode({"gone": True}), entry.version, _GONE_MS) is None:
                raise Conflict(f"document {id_!r} was changed while it was deleted")
        with partly_applied() if intent is not None else nullcontext():
            await self._intents.settle([head])
            if intent is None:
                await self._records.kv.delete_many([key])
            else:
                await intent.end(key)
        return True


def _in_time(intent: Intent | None) -> deadline | nullcontext[None]:
    """Write inside only while nobody else may finish the intent: who was stopped for longer writes nothing more."""
    return nullcontext() if intent is None else intent.rest()


def is_same(before: Head, draft: Draft) -> bool:
    """Tell whether storing a draft would change nothing."""
    return before.fingerprint == draft.fingerprint and before.path == draft.path and before.indexed >= draft.indexed


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
