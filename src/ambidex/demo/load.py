"""Stores texts, and makes vectors anew, with a progress bar; ``ambidex ingest`` and ``ambidex reindex`` call this.

The invariant: either may be ended at any time and begun again; what was done stays, and is not done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ambidex import SyncStorage
from ambidex.demo.texts import LeftOut, Text
from ambidex.errors import InvalidKey, PartialFailure, UnsupportedValue

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["make_vectors", "store_texts"]

_MOST_TEXTS = 64
_MOST_CHARACTERS = 100_000
"""Of a batch, so that the bar moves every few seconds even with a slow embedder."""


def store_texts(
    storage: SyncStorage, texts: Iterable[Text | LeftOut], console: Console, total: int
) -> tuple[int, list[LeftOut]]:
    """Store texts as documents, some in a batch; one that is stored already with this content is left as it is.

    No more than a batch of them is in memory at once.

    Args:
        storage: needs the capabilities kv and search.
        texts: their paths make a changed one the next version of what is stored.
        console: where progress is shown, if it is a terminal.
        total: how many texts and files without one there are.

    Returns:
        How many are stored, and what was left out, also because it cannot be a document.

    Raises:
        PartialFailure: the storage failed within a batch; of earlier batches, all are stored.
    """
    stored = 0
    left_out: list[LeftOut] = []
    with _bar("storing", total, console) as advance:

        def sound() -> Iterator[Text]:
            for one in texts:
                if isinstance(one, Text):
                    yield one
                else:
                    left_out.append(one)
                    advance(1)

        for batch in _batches(sound()):
            refused = _store(storage, batch)
            left_out += refused
            stored += len(batch) - len(refused)
            advance(len(batch))
    return stored, left_out


def _store(storage: SyncStorage, batch: list[Text]) -> list[LeftOut]:
    """Store a batch without those texts that cannot be documents; return these."""
    documents = [{"content": text.content, "metadata": {"path": text.path, "title": text.title}} for text in batch]
    try:
        storage.batch_store_documents(documents)
    except PartialFailure as failure:
        errors = failure.errors
        if failure.applied != "no" or not all(isinstance(e, (InvalidKey, UnsupportedValue)) for e in errors.values()):
            raise
        storage.batch_store_documents([one for place, one in enumerate(documents) if place not in errors])
        return [LeftOut(batch[place].path, str(error)) for place, error in errors.items()]
    return []


def make_vectors(storage: SyncStorage, namespace: str, after: str | None, console: Console) -> tuple[int, str | None]:
    """Make the vector of every item of an index anew with the storage's embedder.

    Args:
        storage: needs the capability search.
        namespace: of the index.
        after: the last item that an earlier run has done; None: begin at the first.
        console: where progress is shown, if it is a terminal, and how to go on after an interruption.

    Returns:
        How many items were done, and the last one.
    """
    done, last = 0, after
    try:
        with _bar("embedding", storage.index.count(namespace=namespace), console) as advance:
            for item in storage.index.reindex(namespace=namespace, after=after):
                done, last = done + 1, item
                advance(1)
    except BaseException:
        if last is not None:
            console.print(f"to go on: --after {last}", markup=False, soft_wrap=True)
        raise
    return done, last


def _batches(texts: Iterable[Text]) -> Iterator[list[Text]]:
    batch: list[Text] = []
    size = 0
    for text in texts:
        if batch and (len(batch) == _MOST_TEXTS or size + len(text.content) > _MOST_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text.content)
    if batch:
        yield batch


@contextmanager
def _bar(what: str, total: int, console: Console) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
