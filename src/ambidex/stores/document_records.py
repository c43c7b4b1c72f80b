"""The records behind documents, by key and as they are read; the other modules of documents share one :class:`Records`.

Keys are ``d:`` the head of a document, ``b:`` the content of a version, ``v:`` the head that an earlier version had,
``p:`` and ``f:`` the claim that makes a document the only one with its path or content, ``t:`` and ``c:`` labels to
list it by, ``o:`` and ``l:`` intents and their leases. The invariant: nobody else makes or takes apart such a key.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

from ambidex.core.codec import Stored, decode, encode
from ambidex.core.keys import escape, unescape
from ambidex.errors import Corrupted
from ambidex.stores.document_drafts import Draft
from ambidex.stores.document_parts import Head
from ambidex.stores.scope import Scope
from ambidex.stores.search import Index

__all__ = ["LABEL", "Records", "head_of", "read_head"]

LABEL = encode(1)
"""What stands under a label: only its key says something."""

_PAGE = 500


class Records:
    """See the module.

    Args:
        scope: where the records are kept.
        search: where the chunks are indexed; None: nowhere.
        namespace: a space of its own, for records and index alike.
    """

    def __init__(self, scope: Scope, search: Scope | None, namespace: str) -> None:
        self.scope, self.kv = scope, scope.leaf.kv
        self.namespace = namespace
        self.index = None if search is None else Index(search)
        self.prefix = scope.prefix("doc", namespace)
        self.in_one_place = search is None or search.leaf is scope.leaf

    def key(self, kind: str, name: str) -> str:
        """Return a key; d: heads, p: ids by path, f: ids by fingerprint."""
        return f"{self.prefix}{kind}:{escape(name)}"

    def body_key(self, id_: str, body: str) -> str:
        """Return the key of a version's content."""
        return f"{self.prefix}b:{id_}:{body}"

    def past_keys(self, id_: str, versions: Iterable[int]) -> list[str]:
        """Return the keys of the heads of earlier versions."""
        return [f"{self.prefix}v:{id_}:{version}" for version in versions]

    def claim(self, of: Draft | Head) -> str:
        """Return the key that makes a document the only one with its path, or else with its content."""
        return self.prefix + of.claim

    def labels(self, head: Head) -> list[str]:
        """Return the keys by which a document is listed."""
        keys = [f"{self.prefix}t:{escape(tag)}:{head.id}" for tag in head.tags]
        return keys if head.category is None else [*keys, f"{self.prefix}c:{escape(head.category)}:{head.id}"]

    async def head(self, id_: str) -> Head | None:
        """Return a document's current record, or None."""
        stored = await self.kv.get(self.key("d", id_))
        return None if stored is None else head_of(stored)

    async def heads(self, ids: Sequence[str]) -> list[Head | None]:
        """Return the current records, in order."""
        found = await self.kv.get_many([self.key("d", id_) for id_ in ids]) if ids else []
        return [None if stored is None else head_of(stored) for stored in found]

    async def body(self, head: Head) -> str | None:
        """Return the content of a version, or None where it was deleted meanwhile."""
        stored = await self.kv.get(self.body_key(head.id, head.body))
        return None if stored is None else str(decode(stored))

    async def past(self, head: Head, versions: Sequence[int]) -> list[Head]:
        """Return those of a document's earlier versions that exist, in order."""
        found = await self.kv.get_many(self.past_keys(head.id, versions)) if versions else []
        return [read_head(decode(stored)) for stored in found if stored is not None]

    async def owner(self, path: str) -> str | None:
        """Return the id of the document with this path, or None."""
        stored = await self.kv.get(self.key("p", path))
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
            start = self.key("t", tag) + ":"
        elif category is not None:
            start = self.key("c", category) + ":"
        elif path is not None:
            start = self.key("p", path)
        else:
            start = self.prefix + "d:"
        token = None if after is None else self.key("d", after)
        while True:
            keys, token = await self.kv.scan(start, token, page)
            if path is not None and tag is None and category is None:
                owners = await self.kv.get_many(keys) if keys else []
                yield [decode(owner) for owner in owners if owner is not None]
            else:
                yield [unescape(key.rsplit(":", 1)[1]) for key in keys]
            if token is None:
                return

    async def counts(self, kind: str) -> dict[str, int]:
        """Count the documents by tag ("t") or category ("c")."""
        start, after = f"{self.prefix}{kind}:", None
        counts: dict[str, int] = {}
        while True:
            keys, after = await self.kv.scan(start, after, _PAGE)
            for key in keys:
                name = unescape(key[len(start) :].split(":", 1)[0])
                counts[name] = counts.get(name, 0) + 1
            if after is None:
                return dict(sorted(counts.items()))

    async def claims_of(self, heads: Iterable[Head], keep: str | None) -> list[str]:
        """Return the claims of these heads, but one, that their document holds."""
        claims = {self.claim(head): head.id for head in heads}
        claims.pop(keep or "", None)
        owners = await self.kv.get_many(list(claims)) if claims else []
        held = zip(claims.items(), owners, strict=True)
        return [claim for (claim, id_), owner in held if owner is not None and decode(owner) == id_]


def head_of(stored: Stored) -> Head | None:
    """Return a head, or None for what a deletion leaves for a minute."""
    fields = decode(stored)
    return None if fields is None else read_head(fields)


def read_head(fields: Any) -> Head:
    """Return a head from the list of its fields.

    Raises:
        Corrupted: they are not those of a head.
    """
    if type(fields) is not list or len(fields) != len(Head._fields):
        raise Corrupted(
            "the record of a document does not have the fields that this version of ambidex writes; it is damaged, or "
            "from another version"
        )
    return Head(*fields)
