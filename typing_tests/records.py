"""What a type checker sees of repositories; read by mypy --strict and pyright strict, never run."""

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, assert_type

from ambidex import (
    AsyncStorage,
    Blocking,
    BlockingRepository,
    Indexed,
    Page,
    Repository,
    RepositoryProvider,
    SyncRepositoryProvider,
    SyncStorage,
    get_provider,
    get_sync_provider,
    operation,
)
from ambidex.core.forms import BlockingPageStream, PageStream


@dataclass
class User:
    id: str
    age: Annotated[int, Indexed()]


class Users(Repository[User]):
    @operation
    async def adults(self, at_least: int = 18) -> list[User]:
        return await self.list(age__ge=at_least)


class BlockingUsers(Blocking, Users):
    pass


async def asynchronous(storage: AsyncStorage) -> None:
    users = Users(storage)
    assert_type(storage.repository(User), Repository[User])
    assert_type(await assert_type(users.get("x"), Coroutine[Any, Any, User | None]), User | None)
    assert_type(await users.create(User("x", 5)), User)
    assert_type(await users.list(age__ge=5, order_by="-age"), list[User])
    assert_type(await users.page(size=5), Page[User])
    assert_type((await users.page()).items, list[User])
    assert_type(await users.first(), User | None)
    assert_type(await users.get_many(["x"]), dict[Any, User])
    assert_type(await users.delete("x"), bool)
    assert_type(await users.count(), int)
    assert_type(users.iterate(), PageStream[User])
    assert_type(await users.adults(21), list[User])
    assert_type(users.with_deleted(), Users)
    async with get_provider("memory") as provider:
        given: RepositoryProvider = provider
        assert_type(given.get_repository(User), Repository[User])


def synchronous(storage: SyncStorage) -> None:
    users = BlockingUsers(storage)
    assert_type(storage.repository(User), BlockingRepository[User])
    assert_type(users.get("x"), User | None)
    assert_type(users.create(User("x", 5)), User)
    assert_type(users.list(age__ge=5, order_by=["-age", "id"]), list[User])
    assert_type(users.page(size=5), Page[User])
    assert_type(users.iterate(), BlockingPageStream[User])
    assert_type([user.age for user in users.iterate()], list[int])
    assert_type(users.adults(at_least=21), list[User])
    assert_type(users.with_deleted(), BlockingUsers)
    with get_sync_provider("memory") as provider:
        given: SyncRepositoryProvider = provider
        assert_type(given.get_repository(User), BlockingRepository[User])
