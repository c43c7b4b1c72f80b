"""Puts retry and breaker around the ports of a remote backend's leaf; ``ambidex.storage`` wraps each such leaf once.

A proxy class is made for each port's protocol from the names in it, so a new port needs no code here. The invariant: a
method that is not listed as a read is a write, and a write is repeated only where its error says that nothing was
applied, or under an operation id that the backend stores with the effect.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import Any, cast

from ambidex.core.ports import KeyValuePort, Leaf, LogPort, RecordsPort, SearchPort
from ambidex.core.runtime import current_deadline, current_operation
from ambidex.errors import AmbidexError
from ambidex.policies.breaker import Breaker
from ambidex.policies.retry import Retry

__all__ = ["PORTS", "READS", "Guard", "ProtectedLeaf", "protect", "protect_port"]

PORTS: Mapping[str, type] = {
    "kv": KeyValuePort,
    "log": LogPort,
    "search": SearchPort,
    "records": RecordsPort,
}
"""The attributes of a leaf and their protocols. An attribute that is not listed here is passed through unprotected."""

READS: Mapping[str, frozenset[str]] = {
    "kv": frozenset({"get", "get_many", "entry", "scan"}),
    "log": frozenset({"tail", "range", "length", "streams"}),
    "search": frozenset({"state", "query", "fetch", "page", "count"}),
    "records": frozenset({"get", "find", "count", "explain", "numbers"}),
}
"""The methods that change nothing, or nothing that matters when it is done twice."""

_in_unit: ContextVar[bool] = ContextVar("ambidex_in_unit", default=False)


class Guard:
    """What the proxies of one leaf share.

    Args:
        retry: repeats what may be repeated.
        breaker: one for each server, shared by both colours.
        timeout: seconds that a call may take in all, unless the ambient deadline is earlier.
        entered: called with "kv.get" and the like at each call, or None.
    """

    def __init__(
        self, retry: Retry, breaker: Breaker, timeout: float, entered: Callable[[str], None] | None = None
    ) -> None:
        self.retry, self.breaker, self.timeout, self.entered = retry, breaker, timeout, entered

    async def attempt(self, call: Callable[[], Any]) -> Any:
        """Make one attempt through the breaker."""
        breaker, began = self.breaker, time.monotonic()
        breaker.enter()
        try:
            result = await call()
        except AmbidexError as error:
            breaker.failed(error, began)
            raise
        except BaseException:
            breaker.abandoned()
            raise
        breaker.succeeded()
        return result

    async def recover(self, error: AmbidexError, call: Callable[[], Any], began: float, *, repeatable: bool) -> Any:
        """Repeat a call that failed, or raise its error. Inside a transaction the unit is repeated by its owner."""
        if _in_unit.get():
            raise error
        return await self.retry.again(
            error,
            functools.partial(self.attempt, call),
            repeatable=repeatable,
            until=current_deadline(began + self.timeout - time.monotonic()),
        )


def _method(name: str, port: str, deduplicates: bool) -> Callable[..., Any]:
    what, read = f"{port}.{name}", name in READS.get(port, ())

    async def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        # The body of Guard.attempt stands here once more: a coroutine less for each call.
        guard: Guard = self._guard
        if guard.entered is not None:
            guard.entered(what)
        guard.retry.budget.earn()
        breaker, began = guard.breaker, time.monotonic()
        inner = getattr(self._inner, name)
        if not breaker.closed:
            breaker.enter()
        try:
            result = await inner(*args, **kwargs)
        except AmbidexError as error:
            breaker.failed(error, began)
            repeatable = read or (deduplicates and current_operation() is not None)
            return await guard.recover(error, functools.partial(inner, *args, **kwargs), began, repeatable=repeatable)
        except BaseException:
            breaker.abandoned()
            raise
        breaker.succeeded()
        return result

    method.__name__, method.__qualname__ = name, f"Protected.{what}"
    return method


@functools.cache
def _proxy_class(port: str, deduplicated: frozenset[str]) -> type:
    protocol = PORTS[port]
    members: dict[str, Any] = {"__slots__": ("_guard", "_inner")}
    for name, value in vars(protocol).items():
        if not name.startswith("_") and inspect.iscoroutinefunction(value):
            members[name] = _method(name, port, name in deduplicated)

    def __init__(self: Any, inner: Any, guard: Guard) -> None:  # noqa: N807  # a member of the class made here
        self._inner, self._guard = inner, guard

    def __getattr__(self: Any, name: str) -> Any:  # noqa: N807  # what the protocol does not name passes through
        return getattr(self._inner, name)

    members |= {"__init__": __init__, "__getattr__": __getattr__}
    return type(f"Protected{protocol.__name__}", (), members)


def protect_port(port: str, inner: Any, guard: Guard) -> Any:
    """Return ``inner``, the port named ``port`` ("kv", ...), with ``guard`` around each of its methods.

    An attribute ``deduplicated`` of ``inner`` names the writes that keep their operation id with the effect.
    """
    made = _proxy_class(port, frozenset(getattr(inner, "deduplicated", ())))
    return made(inner, guard)


class ProtectedLeaf:
    """A leaf whose ports are protected; its other attributes are those of the leaf itself."""

    def __init__(self, leaf: Leaf, guard: Guard) -> None:
        self._leaf, self._guard = leaf, guard

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._leaf, name)
        if name in PORTS:
            value = protect_port(name, value, self._guard)
            self.__dict__[name] = value  # the next access finds it without coming here
        return value

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """See :meth:`ambidex.core.ports.Leaf.transaction`; calls inside are not repeated one by one."""
        return self._unit(self._leaf.transaction())

    @asynccontextmanager
    async def _unit(self, inner: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
        async with inner:
            token = _in_unit.set(True)
            try:
                yield
            finally:
                _in_unit.reset(token)


def protect(leaf: Leaf, guard: Guard) -> Leaf:
    """Return ``leaf`` with ``guard`` around every method of its ports."""
    return cast("Leaf", ProtectedLeaf(leaf, guard))
