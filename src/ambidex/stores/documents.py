"""Texts with versions, found by their best pieces; ``storage.documents`` is one.

A document is a record (the head), a record of each version's content, and an entry of the index for each chunk. Where
one backend with transactions holds all of it, one transaction does. Elsewhere an intent is written first and deleted
last; what a killed process left half done is finished from its intent at a next use. The invariant: the head is the
truth, and everything else can be made again from it; so after recovery there is no document without its entries, and
no entry without its document.
"""

from __future__ import annotations

import builtins
import functools
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Self

from ambidex.core.chunking import DEFAULT_OVERLAP, DEFAULT_SIZE, split
from ambidex.core.dual import Blocking, Detecting, Store, operation, stream
from ambidex.core.ports import Hit
from ambidex.core.query import Condition, parse_filters
from ambidex.core.runtime import one_deadline
from ambidex.errors import (
    AmbidexError,
    CapabilityMissing,
    Conflict,
    InvalidQuery,
    NotFound,
    PartialFailure,
    UnsupportedValue,
    VersionConflict,
)
from ambidex.stores.document_batches import Batches
from ambidex.stores.document_drafts import Draft, draft
from ambidex.stores.document_intents import Intents
from ambidex.stores.document_parts import (
    Document,
    DocumentInfo,
    FoundDocument,
    Head,
)
from ambidex.stores.document_records import Records
from ambidex.stores.document_writes import Target
from ambidex.stores.scope import Scope
from ambidex.stores.search import Index
from ambidex.stores.search_tags import INDEXED_FROM, tag_mark

__all__ = ["BlockingDocuments", "DetectingDocuments", "Documents"]

_PAGE = 200
_MOST = 10_000
_ATTEMPTS = 40
_CHECKED, _FEW = 500, 20
_CHUNKS = 1_000
"""The most hits that the index is asked for at once."""


class Documents(Store):
    """Documents, asynchronous. ``await storage.aio.documents.store("text", {"title": "T"})``.

    Args:
        kv: where the records are kept.
        search: where the chunks are indexed; None: nowhere.
        namespace: a space of its own, for records and index alike.
        size: the most characters of a chunk.
        overlap: how many of them a chunk repeats from the one before.
    """

    def __init__(
        self,
        kv: Scope,
        search: Scope | None = None,
        namespace: str = "default",
        size: int = DEFAULT_SIZE,
        overlap: int = DEFAULT_OVERLAP,
    ) -> None:
        split("", size, overlap)
        self._bound = kv, search, namespace, size, overlap
        self._runtime, self._timeout = kv.runtime, kv.timeout
        self._namespace = namespace
        self._records = Records(kv, search, namespace)
        self._intents = Intents(self._records)
        self._batches = Batches(self._records, self._intents)

    def __repr__(self) -> str:
        tenant = self._bound[0].tenant
        return f"{type(self).__name__}(namespace={self._namespace!r}{f', tenant={tenant!r}' if tenant else ''})"

    def namespace(self, name: str) -> Self:
        """Return the same store for another space: its documents are found and listed apart."""
        kv, search, _, size, overlap = self._bound
        return self._derive(kv, search, name, size, overlap)

    def chunked(self, size: int = DEFAULT_SIZE, overlap: int = DEFAULT_OVERLAP) -> Self:
        """Return the same store cutting what it stores into other chunks; see :func:`ambidex.core.chunking.split`."""
        return self._derive(*self._bound[:3], size, overlap)

    # ---------------------------------------------------------------- writing

    @operation
    async def store(
        self, content: str, metadata: Mapping[str, Any] | None = None, index_for_search: bool = True
    ) -> str:
        """Store a document and its entries of the index, both or neither.

        One with a path that is known becomes that document's next version. One without a path whose content and
        metadata are known is not stored twice. Either way the id is that of the known document.

        Args:
            content: text.
            metadata: JSON-shaped; ``title``, ``path``, ``category`` (texts) and ``tags`` (a list of texts) have a
                meaning, text, numbers and booleans can be filtered by. It is not changed. Entries of the index say
                ``version``, ``chunk``, ``start`` and ``end`` of a chunk, too, where these names are not used in it.
            index_for_search: whether it can be found by :meth:`find` and ``search``.

        Returns:
            The document's id.

        Raises:
            UnsupportedValue: the content is no text, or some part could not be given back; nothing was stored.
            CapabilityMissing: it is to be indexed and there is no search.
        """
        return (await self._batches.write([Target(self._draft(content, metadata, index_for_search))]))[0]

    @operation
    async def store_many(self, documents: Iterable[Any], index_for_search: bool = True) -> builtins.list[str]:
        """Store several documents in as few batches as can be; see :meth:`store`.

        Args:
            documents: each a dictionary with ``content`` and perhaps ``metadata``, a pair of both, or the content.
            index_for_search: whether they can be found.

        Returns:
            The ids, in order.

        Raises:
            CapabilityMissing: they are to be indexed and there is no search.
            PartialFailure: ``errors`` says by place which documents failed and why, ``ids`` which were stored. If one
                of them cannot be stored at all, none is.
        """
        made = await self._drafts(documents, index_for_search)
        errors = {place: one for place, one in enumerate(made) if isinstance(one, AmbidexError)}
        if errors:
            raise PartialFailure("nothing was stored", errors, [None] * len(made))
        return await self._batches.write([Target(one) for one in made if not isinstance(one, AmbidexError)])

    @operation
    @one_deadline
    async def already_stored(self, documents: Iterable[Any], index_for_search: bool = True) -> builtins.list[bool]:
        """Tell of each document whether it is there with this content and metadata: storing it would change nothing.

        Args:
            documents: as for :meth:`store_many`.
            index_for_search: whether they are wanted in the index, too.

        Returns:
            An answer for each, in order; False also for what cannot be stored.
        """
        await self._intents.recover_sometimes()
        made = await self._drafts(documents, index_for_search)
        sound = [one for one in made if not isinstance(one, AmbidexError)]
        answers = iter(await self._batches.unchanged([Target(one) for one in sound]))
        return [not isinstance(one, AmbidexError) and next(answers) for one in made]

    async def _drafts(self, documents: Iterable[Any], index: bool) -> builtins.list[Draft | AmbidexError]:
        """Check documents as they were given; what cannot be stored is answered with the reason."""
        if isinstance(documents, (str, bytes, Mapping)) or not isinstance(documents, Iterable):
            raise UnsupportedValue(f"documents come as a list, not as {type(documents).__name__}")
        given = builtins.list(documents)
        if index and given:
            self._searchable()
        made: builtins.list[Draft | AmbidexError] = []
        for start in range(0, len(given), _CHECKED):
            # Large batches are checked elsewhere than on an event loop.
            check = functools.partial(self._checked, given[start : start + _CHECKED], index)
            made += check() if len(given) <= _FEW else await self._runtime.offload(check)
        return made

    def _checked(self, items: builtins.list[Any], index: bool) -> builtins.list[Draft | AmbidexError]:
        made: builtins.list[Draft | AmbidexError] = []
        for item in items:
            try:
                made.append(self._draft(*_content_of(item), index))
            except ValueError as error:
                if not isinstance(error, AmbidexError):
                    raise
                made.append(error)
        return made

    @operation
    @one_deadline
    async def update(
        self,
        id: str,  # noqa: A002  # the field's own name
        content: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        version: int | None = None,
        index_for_search: bool = True,
    ) -> DocumentInfo:
        """Store a document's next version; the earlier ones stay readable.

        Args:
            id: from :meth:`store`.
            content: None: as it is.
            metadata: in place of the old; None: as it is.
            version: the version that the caller has seen; None: whichever is there.
            index_for_search: whether the new version can be found.

        Raises:
            NotFound: there is no such document.
            VersionConflict: it has another version by now.
            AlreadyExists: another document has the new path.
        """
        for _ in range(_ATTEMPTS):
            have = await self.get(id)
            if have is None:
                raise NotFound(f"there is no document {id!r}")
            if version is not None and have.version != version:
                raise VersionConflict(f"document {id!r} has version {have.version} by now, not {version}")
            made = self._draft(
                have.content if content is None else content,
                have.metadata if metadata is None else metadata,
                index_for_search,
            )
            try:
                await self._batches.write([Target(made, id, have.version)])
            except VersionConflict:
                if version is not None:
                    raise
                continue
            info = await self.info(id)
            if info is None:
                raise NotFound(f"document {id!r} was deleted meanwhile")
            return info
        raise Conflict(f"document {id!r} changes too often to be updated; try again")

    @operation
    @one_deadline
    async def delete(self, id: str) -> bool:  # noqa: A002
        """Delete a document with all its versions, chunks and entries of the index; True if it existed."""
        return await self._batches.remove(id)

    @operation
    async def clear(self) -> int:
        """Delete every document of this namespace; return how many there were."""
        deleted = 0
        async for ids in self._records.ids():
            for id_ in ids:
                deleted += await self.delete(id_)
        return deleted

    # ---------------------------------------------------------------- reading

    @operation
    @one_deadline
    async def get(self, id: str, version: int | None = None) -> Document | None:  # noqa: A002
        """Return a document, or an earlier version of it, or None."""
        if version is not None and type(version) is not int:
            raise InvalidQuery(f"a version is a whole number, not {version!r}")
        while True:
            head = wanted = await self._records.head(id)
            if head is not None and version is not None and version != head.version:
                past = await self._records.past(head, [version]) if 1 <= version < head.version else []
                wanted = past[0] if past else None
            if head is None or wanted is None:
                return None
            content = await self._records.body(wanted)
            if content is not None:
                return wanted.document(content)
            if await self._records.head(id) == head:
                return None  # only its head is there: it is being deleted

    @operation
    @one_deadline
    async def get_by_path(self, path: str, version: int | None = None) -> Document | None:
        """Return the document with this path, or an earlier version of it, or None."""
        id_ = await self._records.owner(path)
        return None if id_ is None else await self.get(id_, version)

    @operation
    async def info(self, id: str) -> DocumentInfo | None:  # noqa: A002
        """Return what is known of a document without its content, or None."""
        head = await self._records.head(id)
        return None if head is None else head.info()

    @operation
    @one_deadline
    async def versions(self, id: str) -> builtins.list[DocumentInfo]:  # noqa: A002
        """Return every version of a document, the first one first; empty where there is no such document."""
        head = await self._records.head(id)
        if head is None:
            return []
        return [each.info() for each in (*await self._records.past(head, range(1, head.version)), head)]

    @operation
    @one_deadline
    async def list(
        self, limit: int = 100, *, tag: str | None = None, category: str | None = None, path: str | None = None
    ) -> builtins.list[DocumentInfo]:
        """Return up to ``limit`` documents in the backend's own order (by age where it has one).

        Args:
            limit: 1 to 10,000.
            tag: only those with this tag.
            category: only those of this category.
            path: only those whose path begins with this text.
        """
        if type(limit) is not int or not 1 <= limit <= _MOST:
            raise InvalidQuery(f"a limit is 1 to {_MOST:,}, not {limit!r}")
        found: builtins.list[DocumentInfo] = []
        async with aclosing(self._records.ids(tag, category, path)) as pages:
            async for ids in pages:
                heads = await self._records.heads(ids)
                found += [h.info() for h in heads if h is not None and _is_asked(h, tag, category, path)]
                if len(found) >= limit:
                    break
        return found[:limit]

    @stream
    async def iterate(
        self, *, tag: str | None = None, category: str | None = None, path: str | None = None
    ) -> AsyncGenerator[builtins.list[DocumentInfo], None]:
        """Iterate all documents; the arguments are those of :meth:`list`."""
        async for ids in self._records.ids(tag, category, path):
            heads = await self._records.heads(ids)
            yield [h.info() for h in heads if h is not None and _is_asked(h, tag, category, path)]

    @operation
    async def tags(self) -> dict[str, int]:
        """Return the tags in use and how many documents have each."""
        return await self._records.counts("t")

    @operation
    async def categories(self) -> dict[str, int]:
        """Return the categories in use and how many documents each has."""
        return await self._records.counts("c")

    @operation
    @one_deadline
    async def find(
        self,
        query: str,
        top_k: int = 5,
        *,
        filters: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        category: str | None = None,
        vector: Sequence[float] | None = None,
        min_score: float = 0.0,
    ) -> builtins.list[FoundDocument]:
        """Return the documents whose chunks match best, whole, best first.

        Args:
            query: words as a person types them.
            top_k: how many documents, 1 to 1,000.
            filters: conditions on metadata, e.g. ``{"year__ge": 2020}``.
            tags: only documents with all of these.
            category: only documents of this category.
            vector: the query's embedding, to be fused with the words.
            min_score: leave out weaker ones.
        """
        await self._intents.recover_sometimes()
        index = self._searchable()
        if type(top_k) is not int or not 1 <= top_k <= 1_000:
            raise InvalidQuery(f"top_k is 1 to 1,000, not {top_k!r}")
        if isinstance(tags, (str, bytes)) or not isinstance(tags, Iterable):
            raise InvalidQuery(f"tags are a list of texts, not {type(tags).__name__}")
        wanted = [*parse_filters(filters or {}), Condition("indexed_from", "eq", INDEXED_FROM)]
        if category is not None:
            wanted.append(Condition("category", "eq", category))
        wanted += [Condition("tags", "contains", tag_mark(tag)) for tag in tags]
        best = await self._best(index, query, top_k, wanted, vector, min_score)
        return await self._found(best, top_k)

    async def _best(
        self,
        index: Index,
        query: str,
        top_k: int,
        filters: builtins.list[Condition],
        vector: Sequence[float] | None,
        min_score: float,
    ) -> dict[str, builtins.list[Hit]]:
        """Return the best chunks by document, best first, until there are enough documents or no more chunks.

        Where the most chunks that can be asked for belong to too few documents, the index is asked again without these.
        As scores compare only within one query, those found then are put below the ones before.
        """
        best: dict[str, builtins.list[Hit]] = {}
        size, scale, asked = min(_CHUNKS, top_k * 4), 1.0, filters
        while True:
            least = min_score / scale if scale else 0.0
            hits = await index.search(
                query, top_k=size, namespace=self._namespace, filters=asked, vector=vector, min_score=least
            )
            found: dict[str, builtins.list[Hit]] = {}
            for hit in hits:
                found.setdefault(hit.metadata["doc_id"], []).append(hit._replace(score=hit.score * scale))
            if len(best) + len(found) >= top_k or len(hits) < size:
                return best | found
            if size < _CHUNKS:
                size = min(_CHUNKS, size * 4)
                continue
            best |= found
            scale *= hits[-1].score
            if scale < min_score:
                return best
            asked = [*filters, Condition("doc_id", "not_in", builtins.list(best))]

    async def _found(self, best: dict[str, builtins.list[Hit]], top_k: int) -> builtins.list[FoundDocument]:
        ids = list(best)[:top_k]
        documents = await self._runtime.gather([lambda id_=id_: self.get(id_) for id_ in ids])  # type: ignore[misc]
        return [
            FoundDocument(document, best[id_][0].score, best[id_])
            for id_, document in zip(ids, documents, strict=True)
            if document is not None
        ]

    # ---------------------------------------------------------------- repair

    @operation
    async def recover(self, *, force: bool = False) -> int:
        """Finish what killed processes left half done; runs by itself now and then.

        Args:
            force: finish also what was begun within the last minute; only right while nobody else is writing.

        Returns:
            How many intents were finished.
        """
        return await self._intents.recover(force)

    @stream
    async def reindex(self, *, page: int = _PAGE, after: str | None = None) -> AsyncGenerator[builtins.list[str], None]:
        """Write every document's entries of the index anew, page by page; yields the ids that are done.

        Args:
            page: how many documents are indexed at once.
            after: go on behind the last id that an interrupted run yielded.
        """
        async for ids in self._records.ids(page=page, after=after):
            await self._intents.sync(ids, set())
            yield ids

    def _draft(self, content: Any, metadata: Mapping[str, Any] | None, index: bool) -> Draft:
        if index:
            self._searchable()
        return draft(content, metadata, bool(index), *self._bound[3:])

    def _searchable(self) -> Index:
        if self._records.index is None:
            raise CapabilityMissing(
                "documents are to be indexed, and no backend has search; place it with search='sqlite:///index.db', "
                "or store with index_for_search=False"
            )
        return self._records.index


class BlockingDocuments(Blocking, Documents):
    """Documents, synchronous. ``storage.sync.documents.store("text", {"title": "T"})``."""


class DetectingDocuments(Detecting, Documents):
    """Documents whose methods answer with values, or with awaitables inside a running event loop."""

    def __init__(self, aio: Documents, sync: BlockingDocuments) -> None:
        super().__init__(*aio._bound)
        self._aio, self._sync = aio, sync

    def namespace(self, name: str) -> Self:
        """Return the same store for another space."""
        return type(self)(self._aio.namespace(name), self._sync.namespace(name))

    def chunked(self, size: int = DEFAULT_SIZE, overlap: int = DEFAULT_OVERLAP) -> Self:
        """Return the same store cutting what it stores into other chunks."""
        return type(self)(self._aio.chunked(size, overlap), self._sync.chunked(size, overlap))


def _content_of(item: Any) -> tuple[Any, Any]:
    if type(item) is dict or isinstance(item, Mapping):
        if "content" not in item:
            raise UnsupportedValue("a document needs a 'content'")
        if len(item) > ("metadata" in item) + 1:
            more = set(item) - {"content", "metadata"}
            raise UnsupportedValue(f"a document has {min(map(str, more))!r}, which belongs into its 'metadata'")
        return item["content"], item.get("metadata")
    return item if isinstance(item, tuple) and len(item) == 2 else (item, None)


def _is_asked(head: Head, tag: str | None, category: str | None, path: str | None) -> bool:
    return (
        (tag is None or tag in head.tags)
        and (category is None or head.category == category)
        and (path is None or (head.path is not None and head.path.startswith(path)))
    )
