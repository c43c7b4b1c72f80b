"""What the Redis fault tests share: how many rounds, servers on the flavours, and calls in both modes."""

import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from tests.services.handle import Flavour
from tests.services.redis import unavailable

T = TypeVar("T")

LONG = os.environ.get("AMBIDEX_TORTURE") == "long"


def rounds(quick: int, long: int) -> int:
    """The size of a test: AMBIDEX_TORTURE=long asks for the long form."""
    return long if LONG else quick


def server_flavour() -> Flavour:
    """The flavour that fault tests run on; skips where there is none."""
    for flavour in ("wheel", "system"):
        if unavailable(flavour) is None:
            return flavour
    pytest.skip(str(unavailable("wheel")))


def timed(call: Callable[[], T]) -> tuple[float, T | Exception]:
    """Seconds that a call took, and what came of it."""
    began = time.monotonic()
    try:
        result: T | Exception = call()
    except Exception as error:
        result = error
    return time.monotonic() - began, result


async def timed_async(call: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """As `timed`, awaiting."""
    began = time.monotonic()
    try:
        result: Any = await call()
    except Exception as error:
        result = error
    return time.monotonic() - began, result


def descriptors() -> int:
    """Open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))
