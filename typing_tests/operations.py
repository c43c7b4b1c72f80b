"""What a type checker sees of marked methods on each view; read by mypy --strict and pyright strict, never run."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Generic, TypeVar, assert_type

from ambidex import Blocking, context, operation, stream
from ambidex.core.dual import Detecting, Store
from ambidex.core.forms import BlockingPageStream, PageStream

T = TypeVar("T")


class Users(Store):
    @operation
    async def count(self, city: str, *, active: bool = True) -> int:
        return len(city)

    @stream
    async def names(self, prefix: str = "") -> AsyncGenerator[list[str], None]:
        yield [prefix]

    @context
    async def lease(self, name: str) -> AsyncGenerator[float, None]:
        yield 1.0

    @operation
    async def both(self) -> int:
        assert_type(await self.count("x"), int)
        async for name in self.names():
            assert_type(name, str)
        async with self.lease("x") as until:
            assert_type(until, float)
        return await self.count("x")


class BlockingUsers(Blocking, Users): ...


class EitherUsers(Detecting, Users): ...


class Admins(Users):
    @operation
    async def grant(self, who: str) -> list[str]:
        return [who, str(await self.count(who))]


class BlockingAdmins(Blocking, Admins): ...


async def asynchronous(users: Users, admins: Admins) -> None:
    assert_type(await assert_type(users.count("x"), Coroutine[Any, Any, int]), int)
    assert_type(await users.count("x", active=False), int)
    assert_type(users.names(), PageStream[str])
    assert_type([name async for name in users.names("a")], list[str])
    async for page in users.names().pages():
        assert_type(page, Sequence[str])
    async with users.names() as names:
        assert_type(names, PageStream[str])
    assert_type(users.lease("x"), AbstractAsyncContextManager[float])
    async with users.lease("x") as until:
        assert_type(until, float)
    assert_type(await admins.grant("x"), list[str])
    assert_type(await admins.count("x"), int)


def blocking(users: BlockingUsers, admins: BlockingAdmins) -> None:
    assert_type(users.count("x"), int)
    assert_type(users.names(), BlockingPageStream[str])
    assert_type(list(users.names()), list[str])
    for page in users.names().pages():
        assert_type(page, Sequence[str])
    with users.names() as names:
        assert_type(names, BlockingPageStream[str])
    assert_type(users.lease("x"), AbstractContextManager[float])
    with users.lease("x") as until:
        assert_type(until, float)
    assert_type(admins.grant("x"), list[str])
    assert_type(admins.count("x"), int)


def detecting(users: EitherUsers) -> None:
    assert_type(users.count("x"), Any)
    assert_type(users.names(), Any)
    assert_type(users.lease("x"), Any)


def arguments(users: BlockingUsers) -> None:
    users.count()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    users.count(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    users.count("x", True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class Box(Store, Generic[T]):
    def __init__(self, item: T) -> None:
        self.item = item

    @operation
    async def get(self) -> T:
        return self.item

    @stream
    async def all(self) -> AsyncGenerator[list[T], None]:
        yield [self.item]


class BlockingBox(Blocking, Box[T]): ...


class Words(Box[str]):
    @operation
    async def upper(self) -> str:
        return (await self.get()).upper()


class BlockingWords(Blocking, Words): ...


async def generic(box: Box[int], words: Words) -> None:
    assert_type(await box.get(), int)
    assert_type([item async for item in box.all()], list[int])
    assert_type(await words.get(), str)
    assert_type(await words.upper(), str)


def generic_blocking(box: BlockingBox[int], words: BlockingWords) -> None:
    assert_type(box.get(), int)
    assert_type(BlockingBox(1.5).get(), float)
    assert_type(list(box.all()), list[int])
    assert_type(words.get(), str)
    assert_type(words.upper(), str)


def callables(users: Users, blocking_users: BlockingUsers) -> None:
    count: Callable[[str], Coroutine[Any, Any, int]] = users.count
    blocking_count: Callable[[str], int] = blocking_users.count
    del count, blocking_count
