"""What every store is bound to: the port, the runtime, the tenant and the limits; ``ambidex.storage`` makes these.

The invariant: the tenant is the first part of every key that a store builds, and it comes from the bound handle only,
never from an argument of a call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ambidex.core.codec import DEFAULT_MAX_BYTES
from ambidex.core.embedding import Embedder
from ambidex.core.keys import MAX_PREFIX_BYTES, escape
from ambidex.core.ports import Capability, Leaf
from ambidex.core.runtime import Runtime
from ambidex.errors import InvalidKey, TenantMismatch
from ambidex.stores.cache import QueryCache
from ambidex.stores.undecided import undecided

if TYPE_CHECKING:  # a process without repositories imports no models
    from ambidex.core.models import Model

__all__ = ["Scope"]


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a store keeps its data and what it runs on.

    Attributes:
        leaf: the backend's ports in the store's mode.
        runtime: the services of that mode.
        tenant: the bound tenant, or "" where data is not divided by tenant.
        max_bytes: the largest stored value.
        capabilities: what the backend behind ``leaf`` can do.
        cache: where answers of searches are kept, if they are.
        secret: what cursors are signed with; None means a secret that is kept in the storage itself.
        json_serializer: the application's own way to write nested data as JSON.
        embedder: what makes vectors of texts for the index; None: nothing does.
        timeout: seconds that an operation may take in all.
        kinds: the model by table, of all that one storage object has met.
    """

    leaf: Leaf
    runtime: Runtime
    tenant: str = ""
    max_bytes: int = DEFAULT_MAX_BYTES
    capabilities: frozenset[Capability] = frozenset()
    cache: QueryCache | None = None
    secret: bytes | None = field(default=None, repr=False)
    json_serializer: Callable[[Any], str | bytes] | None = None
    embedder: Embedder | None = None
    timeout: float = math.inf
    kinds: dict[str, Model[Any]] = field(default_factory=dict, repr=False, compare=False)

    def for_tenant(self, tenant: str) -> Scope:
        """Return the same scope bound to a tenant.

        Raises:
            TenantMismatch: the name is empty, or the scope is bound to another tenant already.
            InvalidKey: the name cannot be part of a key.
        """
        if not tenant:
            raise TenantMismatch("a tenant's name must not be empty")
        if self.tenant and self.tenant != tenant:
            raise TenantMismatch(
                f"this handle is bound to the tenant {self.tenant!r}; bind {tenant!r} from the storage itself"
            )
        escape(tenant)
        return replace(self, tenant=tenant)

    def defers(self) -> bool:
        """Tell whether what is written now waits for the commit of a transaction on another backend."""
        # By its method, not its class: most processes have no unit over several backends, and import none of it.
        defers = getattr(self.leaf, "defers", None)
        return defers is not None and bool(defers())

    def check_at_once(self, port: str, what: str, hint: str = "") -> None:
        """Refuse what must see its own writes where these wait for the commit of a transaction on another backend.

        Args:
            port: where it writes.
            what: the call, for the message.
            hint: a sentence on what to do instead.

        Raises:
            CapabilityMissing: they do.
        """
        if self.defers():
            raise undecided(port, what, hint)

    def prefix(self, room: str, *parts: str) -> str:
        """Return the text with which this scope's keys of one room begin.

        Raises:
            InvalidKey: tenant and parts together leave no room for the longest key.
        """
        prefix = ":".join((room, escape(self.tenant), *map(escape, parts))) + ":"
        if len(prefix) > MAX_PREFIX_BYTES:
            raise InvalidKey(
                f"the tenant and namespace {prefix[:60]!r}… take {len(prefix)} bytes when escaped, "
                f"the limit is {MAX_PREFIX_BYTES}; use shorter names, or a hash of them"
            )
        return prefix
