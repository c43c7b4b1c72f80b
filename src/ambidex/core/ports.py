"""What a backend must offer.

One small Protocol a capability. Stores call ports, backends implement them, nobody else does.

The invariant: a port is written once as ``async def`` and exists in two colours. The blocking colour never suspends
(it may be driven by ``send(None)``); the asynchronous colour never blocks the loop for longer than a bounded inline
read. Keys arrive escaped (:mod:`ambidex.core.keys`) and values in stored form (:mod:`ambidex.core.codec`); a port
neither builds nor reads either. Driver exceptions are translated before they leave a port.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ambidex.core.blob_port import BlobInfo, BlobPort
from ambidex.core.query import Condition
from ambidex.core.spec import RecordSpec
from ambidex.errors import CapabilityMissing

__all__ = [
    "Backend",
    "BlobInfo",
    "BlobPort",
    "Capability",
    "Entry",
    "Event",
    "Hit",
    "IndexItem",
    "KeyValuePort",
    "Leaf",
    "LogPort",
    "OncePort",
    "Order",
    "PartialLeaf",
    "Put",
    "RecordQuery",
    "RecordsPort",
    "Row",
    "SearchPort",
    "SearchQuery",
    "Space",
    "SpaceState",
    "Stored",
    "When",
]

Stored = bytes | int
"""What a port keeps: an integer, or bytes whose first byte is the format version."""


class Capability(enum.StrEnum):
    """What a backend may be able to do.

    Ask before use (:func:`ambidex.storage` raises CapabilityMissing with the reason).
    """

    KV = "kv"
    RECORDS = "records"
    LOG = "log"
    SEARCH = "search"
    BLOBS = "blobs"
    LOCKS = "locks"
    TRANSACTIONS = "transactions"


class When(enum.StrEnum):
    """On which state of the key a write takes effect."""

    ALWAYS = "always"
    ABSENT = "absent"
    PRESENT = "present"


class Entry(NamedTuple):
    """A stored value with what is known of it."""

    value: Stored
    version: int
    """Changes with every write of this key and is never used twice for it; above 0."""
    ttl_ms: int | None
    """Milliseconds until it expires, or None."""


class Put(NamedTuple):
    """One value to be written by ``put_many``."""

    key: str
    value: Stored


class KeyValuePort(Protocol):
    """Values by key. Expired entries are absent in every method, by the server's clock."""

    async def get(self, key: str) -> Stored | None:
        """Return the value, or None."""
        ...

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        """Return the values in the order of the keys (which may repeat)."""
        ...

    async def entry(self, key: str) -> Entry | None:
        """Return the value with its version and remaining time, or None."""
        ...

    async def put(self, key: str, value: Stored, ttl_ms: int | None, when: When) -> bool:
        """Write one value; False where ``when`` did not hold."""
        ...

    async def put_many(self, items: Sequence[Put], ttl_ms: int | None) -> None:
        """Write all (the last of equal keys wins), in one atomic step where the backend can."""
        ...

    async def add_many(self, items: Sequence[Put], ttl_ms: int | None) -> list[bool]:
        """Write those whose key is absent (no key comes twice); tell for each whether it was written."""
        ...

    async def swap(self, key: str, value: Stored, version: int, ttl_ms: int | None) -> int | None:
        """Write if the key's version is ``version`` (0: if absent); return the new version or None."""
        ...

    async def delete_many(self, keys: Sequence[str]) -> int:
        """Delete the keys and return how many existed."""
        ...

    async def touch(self, key: str, ttl_ms: int | None) -> bool:
        """Give a key a new time to live (None: for ever); False where it is absent."""
        ...

    async def incr(self, key: str, by: int, ttl_ms: int | None) -> int:
        """Add to an integer (an absent one is 0) atomically and return it; ``ttl_ms`` counts only for a new one.

        Raises:
            UnsupportedValue: the value is no integer, or the sum would leave 64 bits; it is unchanged.
        """
        ...

    async def scan(self, prefix: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
        """Return up to about ``limit`` keys that start with ``prefix`` and the token of the next page (None: no more).

        A key that exists during the whole scan is returned exactly once; the order is the backend's own. Any key that
        was returned is such a token, too: of the page that begins behind it.
        """
        ...


class Event(NamedTuple):
    """One entry of a log."""

    seq: int
    """Its place: above 0, growing, never used twice in one stream."""
    data: bytes


class LogPort(Protocol):
    """Append-only streams."""

    async def append(self, stream: str, entries: Sequence[bytes], ttl_ms: int | None) -> list[int]:
        """Add entries at the end in one atomic step and return their places.

        ``ttl_ms`` is for the whole stream; None leaves its time to live unchanged.
        """
        ...

    async def tail(self, stream: str, count: int) -> list[Event]:
        """Return the last ``count`` entries, oldest first; the cost does not depend on the stream's length."""
        ...

    async def range(self, stream: str, after: int, limit: int) -> list[Event]:
        """Return up to ``limit`` entries behind place ``after``, oldest first."""
        ...

    async def trim(self, stream: str, keep: int) -> int:
        """Keep the last ``keep`` entries; return how many were dropped."""
        ...

    async def trim_before(self, stream: str, place: int) -> int:
        """Drop the entries in places below ``place``, however many have been added since; return how many."""
        ...

    async def length(self, stream: str) -> int:
        """Return the number of entries kept."""
        ...

    async def expire(self, stream: str, ttl_ms: int | None) -> bool:
        """Give the whole stream a new time to live (0: it is gone); False where it does not exist.

        One that comes back after its time goes on behind its last place.
        """
        ...

    async def drop(self, stream: str) -> bool:
        """Delete the stream; True where it existed."""
        ...

    async def streams(self, prefix: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
        """Return stream names by prefix, paged as ``KeyValuePort.scan``."""
        ...


class IndexItem(NamedTuple):
    """One text to be found again."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any]
    vector: Sequence[float] | None = None


class SearchQuery(NamedTuple):
    """What to look for. Either part may be missing; with both, the scores are fused."""

    text: str
    vector: Sequence[float] | None = None
    top_k: int = 10
    filters: Sequence[Condition] = ()
    vector_weight: float = 0.3
    """The weight of the normalised vector score against the normalised text score's ``1 - vector_weight``."""
    depth: int = 200
    """How many candidates each part contributes before fusion."""
    fusion: str = "scores"
    """How the parts are fused; see :data:`ambidex.core.fusion.FUSIONS`."""


class Hit(NamedTuple):
    """One result; a higher score is better, and scores compare only within one query."""

    id: str
    score: float
    title: str
    text: str
    metadata: dict[str, Any]


class SpaceState(NamedTuple):
    """What is known of a namespace of the index."""

    stamp: int
    """Changes to a number never used before with every write to the namespace, by whichever process."""
    embedder: str = ""
    """The label of the embedder whose vectors it holds, or ""."""
    private: bool = False
    """Whether it was read inside a transaction, so that it is nobody else's."""


class SearchPort(Protocol):
    """Full text and vectors, by namespace."""

    async def state(self, namespace: str) -> SpaceState:
        """Return the namespace's stamp and embedder; meant to be asked before every query."""
        ...

    async def claim(self, namespace: str, embedder: str, replace: bool = False) -> str:
        """Remember whose vectors the namespace holds, unless that is known; return what is remembered.

        Args:
            namespace: may be empty so far.
            embedder: the label to remember.
            replace: remember it even in place of another.
        """
        ...

    async def index(self, namespace: str, items: Sequence[IndexItem]) -> None:
        """Add or replace items by id in one atomic step."""
        ...

    async def query(self, namespace: str, query: SearchQuery) -> list[Hit]:
        """Return the best ``top_k`` among the items that meet the filters, best first."""
        ...

    async def fetch(self, namespace: str, ids: Sequence[str]) -> list[IndexItem]:
        """Return those of the items that exist."""
        ...

    async def page(
        self, namespace: str, after: str | None, limit: int, filters: Sequence[Condition]
    ) -> list[IndexItem]:
        """Return up to ``limit`` items that meet the filters, in the order of their ids, behind the id ``after``."""
        ...

    async def annotate(self, namespace: str, ids: Sequence[str], metadata: dict[str, Any], patch: bool) -> int:
        """Replace the metadata of items, or with ``patch`` merge into it (None removes a name), in one atomic step.

        Returns:
            How many of the items exist.
        """
        ...

    async def remove(self, namespace: str, ids: Sequence[str]) -> int:
        """Delete by id; return how many existed."""
        ...

    async def reset(self, namespace: str) -> int:
        """Delete the whole namespace and forget its embedder; return how many items it held."""
        ...

    async def count(self, namespace: str) -> int:
        """Return the number of items."""
        ...


class Space(NamedTuple):
    """Where records of one kind are kept: what they are, and whose."""

    spec: RecordSpec
    tenant: str


class Order(NamedTuple):
    """One step of an ordering; None comes before every value, so last when descending."""

    field: str
    descending: bool = False


class RecordQuery(NamedTuple):
    """Which records, in which order, and behind which one."""

    where: Sequence[Condition] = ()
    order: Sequence[Order] = ()
    limit: int | None = None
    after: Sequence[Any] | None = None
    """Values of the ordered fields; only records strictly behind them in this order are returned."""
    scan: bool = False
    """Allow a backend that answers from indexes to look through every record."""


Row = dict[str, Any]
"""A record's fields: scalars as Python objects of the field's kind, nested data JSON-shaped."""


class RecordsPort(Protocol):
    """Records of declared kinds. A backend makes a kind's table and indexes when it first meets it."""

    async def get(self, space: Space, ids: Sequence[Any]) -> list[Row | None]:
        """Return the records in the order of the ids (which may repeat)."""
        ...

    async def numbers(self, space: Space, count: int) -> Sequence[int]:
        """Return so many ids for new records of a kind with ``spec.numbered``, the smallest first.

        Each is greater than every id that the space has at this moment, and is never given out again, not after a
        deletion either; only those of a transaction that is undone may be. There may be gaps.

        Raises:
            UnsupportedValue: there are not so many above the greatest id (``spec.check_room``).
        """
        ...

    async def insert(self, space: Space, rows: Sequence[Row]) -> None:
        """Add all or none.

        Raises:
            AlreadyExists: an id or a unique value is taken; the message names the field.
        """
        ...

    async def upsert(self, space: Space, rows: Sequence[Row]) -> list[Row]:
        """Add or replace by id, all or none.

        Return them as stored (``created_at`` and the version's growth are kept).
        """
        ...

    async def update(
        self, space: Space, id_: Any, changes: Row, version: int | None, where: Sequence[Condition] = ()
    ) -> Row | None:
        """Set fields of one record; its version field, if the kind has one, grows by one.

        Returns:
            The whole record as it is now, or None where there is none that meets ``where``.

        Raises:
            VersionConflict: ``version`` is given and is not the record's.
            AlreadyExists: a unique value is taken.
        """
        ...

    async def update_where(self, space: Space, where: Sequence[Condition], changes: Row, scan: bool) -> int:
        """Set fields of every record that meets every condition, in one atomic step; return how many did."""
        ...

    async def delete(self, space: Space, ids: Sequence[Any]) -> int:
        """Delete by id; return how many existed."""
        ...

    async def delete_where(self, space: Space, where: Sequence[Condition], scan: bool) -> int:
        """Delete what meets every condition; return how many did."""
        ...

    async def find(self, space: Space, query: RecordQuery) -> list[Row]:
        """Return the records that a query asks for.

        Conditions and orders were checked against the spec; lists and text are compared by code point, None is a value
        like any other in ``eq``, ``ne``, ``in`` and ``not_in``, and meets no other comparison.

        Raises:
            InvalidQuery: no index answers it, and ``scan`` is not allowed; the message names the annotation to add.
        """
        ...

    async def count(self, space: Space, where: Sequence[Condition], scan: bool) -> int:
        """Return how many records meet every condition."""
        ...

    async def explain(self, space: Space, query: RecordQuery) -> str:
        """Say in one line which index answers the query."""
        ...


class OncePort(Protocol):
    """What a leaf without transactions may have as ``once``, so that units of work of other backends can reach it.

    A leaf with transactions and key-value needs none: the mark is a key that is written in the same transaction.
    """

    @property
    def ports(self) -> frozenset[str]:
        """The ports, by the names of the leaf's attributes, that it applies writes of."""
        ...

    async def apply(self, name: str, port: str, method: str, args: Sequence[Any]) -> None:
        """Make a write unless the one of this name was made; the mark is stored with the effect, and kept for a month.

        Args:
            name: no other write has it.
            port: whose method it is.
            method: ``put``, ``put_many`` or ``delete_many`` of ``kv``, ``append`` of ``log``, ``upsert``, ``update``,
                ``update_where``, ``delete`` or ``delete_where`` of ``records``.
            args: the method's, ``put`` without ``when``, its items as lists of key and value.
        """
        ...

    async def settle(self, name: str, port: str, method: str, args: Sequence[Any]) -> None:
        """Keep the mark for ten minutes from now at most: nobody will make this write again."""
        ...


@runtime_checkable
class Leaf(Protocol):
    """One colour of one backend: its ports, and the life of its connections.

    Ports open what they need at first use; ``open`` only does it early, so that errors show early.
    """

    async def open(self) -> None:
        """Connect and bring the schema up to date."""
        ...

    async def close(self) -> None:
        """Release everything this colour holds, in every thread and loop of this process; usable again afterwards."""
        ...

    async def ping(self) -> None:
        """Make one real round trip; raise what is wrong."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Run what this task or thread does through these ports as one atomic unit.

        Raises:
            CapabilityMissing: the backend has no transactions.
        """
        ...

    @property
    def kv(self) -> KeyValuePort:
        """Values by key."""
        ...

    @property
    def log(self) -> LogPort:
        """Append-only streams."""
        ...

    @property
    def search(self) -> SearchPort:
        """Full text and vectors."""
        ...

    @property
    def records(self) -> RecordsPort:
        """Records of declared kinds."""
        ...

    @property
    def blobs(self) -> BlobPort:
        """Large values."""
        ...


class PartialLeaf:
    """The base of a leaf that has only some of the ports; the others answer with CapabilityMissing."""

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Refuse: there are none."""
        raise self._missing(Capability.TRANSACTIONS)

    @property
    def kv(self) -> KeyValuePort:
        """Refuse."""
        raise self._missing(Capability.KV)

    @property
    def log(self) -> LogPort:
        """Refuse."""
        raise self._missing(Capability.LOG)

    @property
    def search(self) -> SearchPort:
        """Refuse."""
        raise self._missing(Capability.SEARCH)

    def _missing(self, capability: Capability) -> CapabilityMissing:
        return CapabilityMissing(f"{type(self).__name__} has no {capability}; ask the backend's capabilities first")


class Backend(Protocol):
    """What :mod:`ambidex.assembly` makes of a URL: both colours over the same data.

    A class registers under its URL schemes in ``ambidex.assembly``; a third party's is passed to ``register_backend``.
    One whose attribute ``remote`` is true gets retry and a circuit breaker around its ports.
    """

    @property
    def name(self) -> str:
        """A short word for messages and health reports, e.g. "sqlite"."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The ports that it has."""
        ...

    @property
    def blocking(self) -> Leaf:
        """The colour that never suspends."""
        ...

    @property
    def aio(self) -> Leaf:
        """The colour for event loops."""
        ...
