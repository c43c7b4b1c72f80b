"""A URL becomes backends, and backends become the ports that stores ask for; the faces of one object share a core.

Nothing else in the package knows which backend is behind a port. The invariant: a backend is made once, at first use,
and making it opens nothing; both modes share it, with its breaker and its retry budget.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

from ambidex import stores
from ambidex.core.lazy import lazy
from ambidex.core.ports import Backend, Capability, Leaf
from ambidex.core.runtime import Runtime
from ambidex.errors import CapabilityMissing, ConfigurationError
from ambidex.runtime.process import ForkLock
from ambidex.settings import OVERRIDES, BackendUrl, Settings, extra_for, register_scheme

__all__ = ["Core", "register_backend"]

_CLASSES = {
    "memory": ("ambidex.backends.memory", "MemoryBackend"),
    "sqlite": ("ambidex.backends.sqlite", "SqliteBackend"),
    "redis": ("ambidex.backends.redis", "RedisBackend"),
    "postgres": ("ambidex.backends.postgres", "PostgresBackend"),
    "files": ("ambidex.backends.files", "FilesBackend"),
    "objects": ("ambidex.backends.objects", "ObjectsBackend"),
}
_third_party: dict[str, Callable[[BackendUrl, Settings], Backend]] = {}


def register_backend(scheme: str, make: Callable[[BackendUrl, Settings], Backend]) -> None:
    """Let URLs of a scheme open a third party's backend.

    Args:
        scheme: what stands before ``://``.
        make: called with the parsed URL and the settings; returns the backend, opens nothing.
    """
    register_scheme(scheme, scheme)
    _third_party[scheme] = make


class Core:
    """What all faces of one storage object share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.kinds: dict[str, Any] = {}
        self._backends: dict[BackendUrl, Backend] = {}
        self._leaves: dict[tuple[int, bool], Leaf] = {}
        self._deferring: dict[tuple[int, bool], Leaf] = {}
        self._outboxes: dict[bool, stores.Outbox] = {}
        self._policies: dict[int, tuple[Any, Any]] = {}
        self._runtimes: dict[bool, Runtime] = {}
        self._announced = False
        self._guard = ForkLock()

    @lazy
    def cache(self) -> stores.QueryCache:
        """Where answers of searches are kept."""
        return stores.QueryCache()

    @lazy
    def _shared(self) -> stores.Shared:
        return stores.Shared()

    @lazy
    def embedder(self) -> stores.Embedder | None:
        """What makes vectors of texts, or None."""
        from ambidex.embedders import embedder_for

        return embedder_for(self.settings.embedder)

    def backend(self, capability: Capability) -> Backend:
        """Return the backend that has been chosen for a capability."""
        place = self.settings.overrides.get(str(capability), self.settings.url)
        backend = self._at(place)
        if capability not in backend.capabilities:
            raise CapabilityMissing(
                f"the backend {backend.name!r} at {place.display!r} has no {capability}; "
                f"it has {', '.join(sorted(backend.capabilities))}. {_remedy(place.display, str(capability))}"
            )
        return backend

    def local_blobs(self) -> Backend:
        """Return the folder of blobs for a main backend that can keep none."""
        return self._at(self.settings.local_blobs)

    def _at(self, place: BackendUrl) -> Backend:
        backend = self._backends.get(place)
        if backend is None:
            with self._guard:
                backend = self._backends.get(place)
                if backend is None:
                    backend = self._backends[place] = _make_backend(place, self.settings)
                self._announce()
        return backend

    def leaf(self, capability: Capability, blocking: bool) -> Leaf:
        """Return a colour of the backend for a capability; a remote one with retry and breaker around its ports."""
        backend = self.backend(capability)
        leaf = self._plain(backend, blocking)
        if not self._is_elsewhere(backend):
            return leaf
        from ambidex.stores.deferred import deferring

        found = self._deferring.get((id(backend), blocking))
        # setdefault, because stores compare leaves to see whether one backend holds two things
        return found or self._deferring.setdefault(
            (id(backend), blocking), deferring(leaf, self.outbox(blocking), self._place(backend))
        )

    def _plain(self, backend: Backend, blocking: bool) -> Leaf:
        leaf = backend.blocking if blocking else backend.aio
        return self._protected(backend, leaf, blocking) if getattr(backend, "remote", False) else leaf

    def _is_elsewhere(self, backend: Backend) -> bool:
        """Tell whether a backend is another one than that of transactions, if there are transactions at all."""
        if not self.settings.overrides:
            return False
        try:
            return self.backend(Capability.TRANSACTIONS) is not backend
        except (CapabilityMissing, ConfigurationError):
            return False

    def outbox(self, blocking: bool) -> stores.Outbox:
        """Return what runs units of work in a mode.

        Raises:
            CapabilityMissing: the main backend has no transactions.
        """
        outbox = self._outboxes.get(blocking)
        if outbox is None:
            home = self.backend(Capability.TRANSACTIONS)
            made = stores.Outbox(
                self._plain(home, blocking),
                home.capabilities,
                functools.partial(self._target, blocking),
                self.runtime(blocking),
                self._shared,
            )
            outbox = self._outboxes.setdefault(blocking, made)
        return outbox

    def _place(self, backend: Backend) -> str:
        """Return the first of the capabilities that are placed on a backend: its name in the outbox."""
        places = self.settings.overrides
        return next(name for name in OVERRIDES if name in places and self._backends.get(places[name]) is backend)

    def _target(self, blocking: bool, place: str) -> stores.Target:
        backend = self.backend(Capability(place)) if place in OVERRIDES else None
        if backend is None or not self._is_elsewhere(backend):
            raise ConfigurationError(
                f"a unit has left writes for the backend on which its process had placed {place!r}, and this one has "
                f"that on the backend of transactions; open both alike: UnifiedStorage(…, {place}=…)"
            )
        return stores.Target(self._plain(backend, blocking), backend.capabilities, backend.name)

    def _protected(self, backend: Backend, leaf: Leaf, blocking: bool) -> Leaf:
        """Both colours share the breaker and the retry budget, because both speak to the same server."""
        from ambidex.policies.breaker import Breaker
        from ambidex.policies.protect import Guard, protect
        from ambidex.policies.retry import Budget, Retry, RetrySettings
        from ambidex.runtime.guard import warn_if_in_loop

        with self._guard:
            protected = self._leaves.get((id(backend), blocking))
            if protected is None:
                limits = RetrySettings()
                shown = next(repr(place.display) for place, made in self._backends.items() if made is backend)
                policies = Breaker(place=shown), Budget(limits)
                breaker, budget = self._policies.setdefault(id(backend), policies)
                guard = Guard(
                    Retry(self.runtime(blocking), limits, budget),
                    breaker,
                    self.settings.timeout,
                    warn_if_in_loop if blocking else None,
                )
                protected = self._leaves[id(backend), blocking] = protect(leaf, guard)
            return protected

    def runtime(self, blocking: bool) -> Runtime:
        """Return the services of a mode."""
        runtime = self._runtimes.get(blocking)
        if runtime is None:
            name, cls = ("blocking", "BlockingRuntime") if blocking else ("aio", "AsyncRuntime")
            made = getattr(importlib.import_module(f"ambidex.runtime.{name}"), cls)()
            runtime = self._runtimes.setdefault(blocking, made)
        return runtime

    def configured(self) -> dict[Capability, Backend]:
        """Return the capabilities that a backend stands behind."""
        found: dict[Capability, Backend] = {}
        for capability in Capability:
            try:
                found[capability] = self.backend(capability)
            except CapabilityMissing:
                continue
        return found

    def every_backend(self) -> list[Backend]:
        """Return each configured backend once."""
        return list({id(backend): backend for backend in self.configured().values()}.values())

    def opened(self) -> list[Backend]:
        """Return the backends that were made so far."""
        return list(self._backends.values())

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            if "logging" in sys.modules:  # else nobody listens
                sys.modules["logging"].getLogger("ambidex").info("UnifiedStorage initialized")


def _remedy(main: str, capability: str) -> str:
    if capability in OVERRIDES:
        return (
            f"Place {capability} elsewhere with a keyword, "
            f"e.g. UnifiedStorage({main!r}, {capability}='sqlite:///data.db')"
        )
    return (
        f"Only the main backend gives {capability}: make it one that has them, and place the rest on this one, "
        f"e.g. UnifiedStorage('sqlite:///data.db', kv={main!r})"
    )


def _make_backend(place: BackendUrl, settings: Settings) -> Backend:
    make = _third_party.get(place.backend)
    if make is not None:
        return make(place, settings)
    module, name = _CLASSES[place.backend]
    try:
        cls = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        extra = extra_for(place.backend)
        remedy = f"pip install 'ambidex[{extra}]'" if extra else "this version of ambidex does not have it"
        raise ConfigurationError(
            f"the backend for {place.scheme}:// needs the module {error.name!r}: {remedy}"
        ) from None
    backend: Backend = cls(place, settings)
    return backend
