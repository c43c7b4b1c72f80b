"""Many documents in units that are stored one after the other; ``stores.documents`` writes through one of these.

The invariant: a unit is one transaction where one backend with transactions holds records and index, else it stands
behind an intent; in none does a document come twice, and whatever can be made before it (chunks, vectors) is.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from ambidex.core.chunking import Chunk
from ambidex.core.ports import Capability
from ambidex.core.runtime import time_limit
from ambidex.errors import AmbidexError, Conflict, PartialFailure
from ambidex.stores.document_drafts import cut
from ambidex.stores.document_intents import Intents
from ambidex.stores.document_records import Records
from ambidex.stores.document_writes import Target, Unit, Writes, is_same
from ambidex.stores.search import embedded_text

__all__ = ["Batches"]

T = TypeVar("T")

_GROUP = 200
_GROUP_CHARACTERS = 4_000_000  # a transaction must end within its lease
_CUT_AT_ONCE = 20_000
_ATTEMPTS = 40
_TRANSACTIONS = 8


class Batches:
    """See the module."""

    def __init__(self, records: Records, intents: Intents) -> None:
        self._records, self._intents = records, intents
        self._writes = Writes(records, intents)
        scope = records.scope
        self._runtime, self._timeout = scope.runtime, scope.timeout
        together = records.in_one_place and Capability.TRANSACTIONS in scope.capabilities
        self._unit = scope.leaf.transaction if together else None

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
        self._records.scope.check_at_once("kv", "storing documents")
        ids: list[str] = []
        for group in self._groups(targets):
            try:
                with time_limit(self._timeout):
                    if not ids:
                        await self._intents.recover_sometimes()
                    unit = await self._ready(group)
                    ids += await self._atomically(functools.partial(self._writes.apply, unit))
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

    async def unchanged(self, targets: list[Target]) -> list[bool]:
        """Tell of each document whether storing it would change nothing."""
        answers: list[bool] = []
        for start in range(0, len(targets), _GROUP):
            group = targets[start : start + _GROUP]
            known = await self._writes.known(group)
            answers += [
                before is not None and is_same(before, target.draft)
                for target, (_, _, before) in zip(group, known, strict=True)
            ]
        return answers

    async def _ready(self, group: list[Target]) -> Unit:
        """Make the chunks, and the vectors of what is new before the transaction, which must not wait for a model."""
        chunks = await self._cut(group)
        unit = Unit(group, chunks, [None] * len(group))
        index = self._records.index
        if index is None or not index.embeds:
            return unit
        known = await self._writes.known(group)
        wanted = [
            place
            for place, (target, (_, _, before)) in enumerate(zip(group, known, strict=True))
            if target.draft.indexed and (before is None or not is_same(before, target.draft))
        ]
        texts = [embedded_text(group[place].draft.title, chunk.text) for place in wanted for chunk in chunks[place]]
        made = iter(await index._vectors(texts, self._records.namespace))
        for place in wanted:
            unit.vectors[place] = [next(made) for _ in chunks[place]]
        if all(id_ is None for id_, _, _ in known):  # what is there may change, and is looked at in the transaction
            unit.known = known
        return unit

    async def _cut(self, group: list[Target]) -> list[Sequence[Chunk]]:
        """Cut the contents, elsewhere than on an event loop where it takes a while."""

        def work() -> list[Sequence[Chunk]]:
            return [cut(d.content, d.size, d.overlap) if d.indexed else () for d, _, _ in group]

        short = sum([len(target.draft.content) for target in group]) <= _CUT_AT_ONCE
        return work() if short else await self._runtime.offload(work)

    def _groups(self, targets: list[Target]) -> Iterable[list[Target]]:
        """Cut a batch into units in which no document comes twice."""
        group: list[Target] = []
        seen: set[str] = set()
        size = 0
        for target in targets:
            claim, length = target.draft.claim, len(target.draft.content)
            if group and (claim in seen or len(group) >= _GROUP or size + length > _GROUP_CHARACTERS):
                yield group
                group, seen, size = [], set(), 0
            group.append(target)
            seen.add(claim)
            size += length
        if group:
            yield group

    async def remove(self, id_: str) -> bool:
        """Delete a document with everything that belongs to it; False if there is none."""
        self._records.scope.check_at_once("kv", "deleting documents")
        await self._intents.recover_sometimes()
        return await self._atomically(functools.partial(self._writes.remove, id_))
