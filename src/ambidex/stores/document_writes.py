"""One unit of documents, stored or deleted; ``stores.document_batches`` runs it, in a transaction or behind an intent.

The invariant: what is not held together by a transaction is written in the order of contents, claims, heads, so that a
head never stands without the others; whoever finds that somebody else was faster raises ``Conflict``, having left
nothing behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, TypeAlias

from ambidex.core.chunking import Chunk
from ambidex.core.codec import Stored, decode, encode, pack, raw
from ambidex.core.ids import uuid7
from ambidex.core.ports import Put
from ambidex.core.runtime import deadline, partly_applied
from ambidex.errors import AlreadyExists, Conflict, NotFound, VersionConflict
from ambidex.stores.document_drafts import Draft
from ambidex.stores.document_intents import Intent, Intents
from ambidex.stores.document_parts import Head, index_items
from ambidex.stores.document_records import LABEL, Records, head_of

__all__ = ["Known", "Target", "Unit", "Writes", "is_same"]

_GONE_MS = 60_000
_GONE = encode(None)

Known: TypeAlias = "tuple[str | None, str | None, Head | None]"
"""The id of a target's document, whose its path or content is, and the document's record."""
Vectors: TypeAlias = "Sequence[Sequence[float] | None]"


class Target(NamedTuple):
    """A draft, and which document it is the next version of, where the caller said so."""

    draft: Draft
    id: str | None = None
    version: int | None = None


@dataclass(slots=True)
class Unit:
    """What is stored together.

    Attributes:
        targets: no document comes twice.
        chunks: of each; none where it is not to be indexed.
        vectors: of the chunks of each, where they were made before.
        known: what was there of each a moment ago, for the first attempt.
    """

    targets: list[Target]
    chunks: list[Sequence[Chunk]]
    vectors: list[Vectors | None]
    known: list[Known] | None = None


class _Plan(NamedTuple):
    """What is to be written of one document: its new head, also in stored form, and the old one with its version."""

    draft: Draft
    head: Head
    stored: Stored
    chunks: Sequence[Chunk]
    vectors: Vectors | None
    before: Head | None
    entry_version: int


class Writes:
    """See the module."""

    def __init__(self, records: Records, intents: Intents) -> None:
        self._records, self._intents = records, intents

    async def apply(self, unit: Unit, together: bool) -> list[str]:
        """Store the documents of a unit and return their ids.

        Args:
            unit: what to store.
            together: whether a transaction holds it together.

        Raises:
            Conflict: somebody else was faster; it may be repeated.
        """
        plans, ids = await self._plan(unit)
        if not plans:
            return ids
        if together:
            await self._put_claims(plans)
            await self._put_all(plans)
            return ids
        changed = [*(plan.head for plan in plans), *(plan.before for plan in plans if plan.before is not None)]
        intent = await self._intents.begin(changed)
        try:
            await self._put_in_order(plans, intent)
        except Conflict:  # no transaction undoes it, so bring what was written into order before the next attempt
            await self._intents.settle(changed)
            await intent.end()
            raise
        with partly_applied():
            await self._intents.settle(changed)
            await intent.end()
        return ids

    async def _plan(self, unit: Unit) -> tuple[list[_Plan], list[str]]:
        known, unit.known = unit.known, None
        if known is None:
            known = await self.known(unit.targets)
        plans: list[_Plan] = []
        ids: list[str] = []
        now = datetime.now(UTC)
        packed_now = raw(encode(now))
        most = self._records.scope.max_bytes
        parts = zip(unit.targets, unit.chunks, unit.vectors, known, strict=True)
        for target, chunks, vectors, (id_, owner, before) in parts:
            draft = target.draft
            if id_ is not None or target.id is not None:
                _check_target(target, before, owner)
                if before is None:
                    raise Conflict(f"document {id_!r} is being stored or deleted by somebody else")
            if before is None:
                version, packed_then = 0, packed_now
            elif is_same(before, draft):
                ids.append(before.id)
                continue
            else:
                entry = await self._records.kv.entry(self._records.key("d", before.id))
                if entry is None or head_of(entry.value) != before:
                    raise Conflict(f"document {before.id!r} was changed by somebody else")
                version, packed_then = entry.version, raw(encode(before.created_at))
            head = draft.head(id_ or str(uuid7()), before, now, len(chunks))
            stored = head.packed(raw(draft.packed), packed_then, packed_now, most)
            plans.append(_Plan(draft, head, stored, chunks, vectors, before, version))
            ids.append(head.id)
        return plans, ids

    async def known(self, targets: Sequence[Target]) -> list[Known]:
        """Return what is there of each target."""
        claims = await self._records.kv.get_many([self._records.claim(target.draft) for target in targets])
        owners = [None if claim is None else str(decode(claim)) for claim in claims]
        ids = [target.id or owner for target, owner in zip(targets, owners, strict=True)]
        there = [id_ for id_ in ids if id_ is not None]
        heads = dict(zip(there, await self._records.heads(there), strict=True))
        return [(id_, owner, None if id_ is None else heads[id_]) for id_, owner in zip(ids, owners, strict=True)]

    def _contents(self, plans: Sequence[_Plan]) -> list[Put]:
        most = self._records.scope.max_bytes
        return [Put(self._records.body_key(p.head.id, p.head.body), pack(p.draft.content, most)) for p in plans]

    def _new_heads(self, plans: Sequence[_Plan]) -> list[Put]:
        return [Put(self._records.key("d", p.head.id), p.stored) for p in plans if p.before is None]

    async def _put_in_order(self, plans: list[_Plan], intent: Intent) -> None:
        """Write contents, claims and heads, where no transaction holds them together; labels and index come after."""
        with intent.rest():
            await self._records.kv.put_many(self._contents(plans), None)
            await self._put_claims(plans)
        new = self._new_heads(plans)
        await intent.renew(surely=True)
        if new:
            with intent.rest():
                await self._records.kv.put_many(new, None)
        with partly_applied() if new else nullcontext():
            await self._replace_heads(plans, intent)

    async def _replace_heads(self, plans: list[_Plan], intent: Intent | None) -> None:
        for plan in plans:
            if plan.before is None:
                continue
            if intent is not None:
                await intent.renew()
            key = self._records.key("d", plan.head.id)
            with _in_time(intent):
                if await self._records.kv.swap(key, plan.stored, plan.entry_version, None) is None:
                    raise Conflict(f"document {plan.head.id!r} was changed by somebody else")

    async def _put_claims(self, plans: list[_Plan]) -> None:
        new = [p for p in plans if p.before is None or p.before.claim != p.draft.claim]
        claims = [Put(self._records.claim(plan.draft), pack(plan.head.id)) for plan in new]
        claimed = await self._records.kv.add_many(claims, None) if claims else []
        for plan, mine in zip(new, claimed, strict=True):
            if not mine and (plan.before is None or plan.head.path is not None):
                raise Conflict(f"somebody else is storing {plan.head.path or 'the same content'!r}")

    async def _put_all(self, plans: list[_Plan]) -> None:
        """Write everything but the claims, in a transaction, and so in whatever order takes the fewest calls."""
        records = self._records
        puts = [*self._contents(plans), *self._new_heads(plans)]
        puts += [Put(key, LABEL) for plan in plans for key in records.labels(plan.head)]
        drop, stale = set[str](), set[str]()
        for plan in plans:
            if plan.before is not None:
                stale.update(plan.before.chunk_ids())
                gone = set(records.labels(plan.before)) - set(records.labels(plan.head))
                # Who writes behind an intent may put one after this transaction's snapshot, where a deletion would not
                # see it: putting it here as well makes one of both lose the race.
                puts += [Put(key, LABEL) for key in gone]
                drop.update(gone)
                drop.update(await records.claims_of([plan.before], records.claim(plan.head)))
                past = records.past_keys(plan.head.id, [plan.before.version])
                puts.append(Put(past[0], encode(list(plan.before))))
        await records.kv.put_many(puts, None)
        await self._replace_heads(plans, None)
        if drop:
            await records.kv.delete_many(sorted(drop))
        if records.index is not None:
            items = [item for p in plans if p.head.indexed for item in index_items(p.head, p.chunks, p.vectors)]
            await records.index._put(items, records.namespace)  # made of what was checked as a draft
            if stale:
                stale.difference_update(*(plan.head.chunk_ids() for plan in plans))
                await self._intents.unindex(stale)

    async def remove(self, id_: str, together: bool) -> bool:
        """Delete a document with everything that belongs to it; False if there is none."""
        key = self._records.key("d", id_)
        entry = await self._records.kv.entry(key)
        head = None if entry is None else head_of(entry.value)
        if entry is None or head is None:
            return False
        intent = None if together else await self._intents.begin([head])
        if intent is not None:
            await intent.renew(surely=True)
        with _in_time(intent):
            if await self._records.kv.swap(key, _GONE, entry.version, _GONE_MS) is None:
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
