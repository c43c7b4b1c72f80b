"""Typed repositories in both modes, from one class: filters, pages, versions, and a unit of work on SQLite."""

import asyncio
import tempfile

from ambidex import Blocking, Repository, UnifiedStorage, errors, operation
from ambidex.samples import ActionExecution, ActionStatus


class Actions(Repository[ActionExecution]):
    """What the application asks about actions; written once."""

    @operation
    async def failed(self) -> list[ActionExecution]:
        return await self.list(status=ActionStatus.FAILED, order_by="action")

    @operation
    async def finish(self, key: str, result: object) -> ActionExecution:
        return await self.patch(key, status=ActionStatus.SUCCEEDED, result=result)


class BlockingActions(Blocking, Actions):
    """The same for synchronous code."""


def synchronous(storage: UnifiedStorage) -> str:
    actions = BlockingActions(storage)
    actions.create_many(
        [
            ActionExecution(action="send_mail", status=ActionStatus.FAILED, error="refused"),
            ActionExecution(action="book_room", parameters={"room": 5}),
            ActionExecution(action="add_note", status=ActionStatus.FAILED, error="too long"),
        ]
    )
    print([found.action for found in actions.failed()])  # -> ['add_note', 'send_mail']
    print(actions.count(action__startswith="b"))  # -> 1
    pending = actions.first(status=ActionStatus.PENDING)
    assert pending is not None
    return pending.id


async def asynchronous(storage: UnifiedStorage, key: str) -> None:
    actions = Actions(storage)
    mine = await actions.get(key)
    assert mine is not None
    done = await actions.finish(key, {"confirmed": True})
    print(done.status, done.result, done.version)  # -> succeeded {'confirmed': True} 2
    try:
        await actions.update(mine)  # read before somebody else finished it
    except errors.VersionConflict:
        print("somebody was faster")  # -> somebody was faster

    page = await actions.page(size=2, order_by="action")
    print([found.action for found in page.items])  # -> ['add_note', 'book_room']
    page = await actions.page(size=2, order_by="action", cursor=page.next)
    print([found.action for found in page.items])  # -> ['send_mail']

    try:
        async with storage.transaction():
            await actions.delete(key)
            await storage.kv.set("deleted", key)
            raise RuntimeError
    except RuntimeError:
        print(await actions.get(key) is not None, await storage.kv.get("deleted"))  # -> True None


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = UnifiedStorage(f"sqlite:///{folder}/actions.db")
        key = synchronous(storage)
        asyncio.run(asynchronous(storage, key))
        storage.close()


if __name__ == "__main__":
    main()
