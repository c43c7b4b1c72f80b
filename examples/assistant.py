"""All of it together: what an assistant stores, for two customers, from a thread and an event loop. Run it by its path.

Notes are ingested by a thread while the event loop is free; a question is answered with what is found, both go into the
conversation, and what was done is recorded as a typed record in the same transaction as a counter.
"""

import asyncio
import tempfile

from ambidex import AsyncStorage, Blocking, Repository, SyncStorage, UnifiedStorage, deadline, errors, operation
from ambidex.samples import ActionExecution, ActionStatus

NOTES = {
    "swans.md": "# Swans\n\nWhooper swans winter on lowland lakes.",
    "geese.md": "# Geese\n\nBarnacle geese graze on salt marshes.",
    "cranes.md": "# Cranes\n\nCranes rest in shallow water at night.",
}


class Actions(Repository[ActionExecution]):
    """What the assistant did; written once for both modes."""

    @operation
    async def done(self, action: str, about: str) -> None:
        """Record an action that has succeeded."""
        await self.create(ActionExecution(action=action, parameters={"about": about}, status=ActionStatus.SUCCEEDED))


class BlockingActions(Blocking, Actions):
    """The same for synchronous code."""


def ingest(storage: SyncStorage) -> int:
    """Store the notes, all of them or none; runs in a thread."""
    actions = BlockingActions(storage)
    ids = storage.batch_store_documents(
        [{"content": text, "metadata": {"path": path, "tags": ["birds"]}} for path, text in NOTES.items()]
    )
    for path in NOTES:
        actions.done("ingest", path)
    return len(ids)


async def answer(storage: AsyncStorage, chat_id: str, question: str) -> str:
    """Find what belongs to a question, and keep question and answer."""
    with deadline(10):  # for all of it
        context = await storage.search_context(question, chat_id=chat_id, top_k=1)
        text = context["vector_results"][0]["text"].splitlines()[-1] if context["vector_results"] else "I do not know."
        await storage.conversations.append(
            chat_id, {"role": "user", "content": question}, {"role": "assistant", "content": text}
        )

        async def count() -> int:
            await Actions(storage).done("answer", question)
            return await storage.kv.incr("answers")

        await storage.atomically(count)  # the record and the counter, or neither
    return text


async def main(storage: UnifiedStorage) -> None:
    """Serve two customers on one storage object."""
    acme, globex = storage.tenant("acme"), storage.tenant("globex")
    print(await asyncio.to_thread(ingest, acme.sync))  # -> 3
    print(await answer(acme.aio, "chat-1", "Where do swans winter?"))  # -> Whooper swans winter on lowland lakes.
    await asyncio.gather(
        *(answer(acme.aio, "chat-1", f"Where do {bird} graze?") for bird in ("geese", "swans", "cranes"))
    )

    print(len(await acme.aio.conversations.history("chat-1")), await acme.aio.get("answers"))  # -> 8 4
    print(await Actions(acme.aio).count(action="ingest"), await Actions(acme.aio).count(action="answer"))  # -> 3 4
    print(await answer(globex.aio, "chat-1", "Where do swans winter?"))  # -> I do not know.
    print(sorted(await acme.aio.documents.tags()), await globex.aio.documents.tags())  # -> ['birds'] {}

    try:
        await acme.aio.set("reading", float("nan"))
    except errors.UnsupportedValue as error:
        print(error.applied, error.retryable)  # -> no False
    print(all((await storage.aio.health_check()).values()))  # -> True
    await storage.close_async()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(UnifiedStorage(f"sqlite:///{folder}/assistant.db")))
