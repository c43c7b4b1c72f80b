"""Stores texts, and makes vectors anew, with a progress bar; ``ambidex ingest`` and ``ambidex reindex`` call this.

The invariant: either may be ended at any time and begun again; what was done stays, and is not done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ambidex import SyncStorage
from ambidex.demo.texts import LeftOut, Text
from ambidex.errors import InvalidKey, PartialFailure, UnsupportedValue

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Loaded", "make_vectors", "store_texts"]

_MOST_TEXTS = 64
_MOST_CHARACTERS = 100_000
"""Of a batch, so that the bar moves every few seconds even with a slow embedder."""


class Loaded(NamedTuple):
    """What became of texts: how many were stored, how many were there already, and what was left out."""

    stored: int
    unchanged: int
    left_out: list[LeftOut]


def store_texts(storage: SyncStorage, texts: Iterable[Text | LeftOut], console: Console, total: int) -> Loaded:
    """Store texts as documents, some in a batch; one that is stored already with this content is left as it is.

    No more than a batch of them is in memory at once.

    Args:
        storage: needs the capabilities kv and search.
        texts: their paths make a changed one the next version of what is stored.
        console: where progress is shown, if it is a terminal.
        total: how many texts and files without one there are.

    Returns:
        How many were stored and how many were there already; left out is also what cannot be a document.

    Raises:
        PartialFailure: the storage failed within a batch; of earlier batches, all are stored.
    """
    stored = unchanged = 0
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
            done = _store(storage, batch)
            stored, unchanged = stored + done.stored, unchanged + done.unchanged
            left_out += done.left_out
            advance(len(batch))
    return Loaded(stored, unchanged, left_out)


def _store(storage: SyncStorage, texts: list[Text]) -> Loaded:
    """Store those of a batch that are new or changed, without those that cannot be documents."""
    given = [{"content": text.content, "metadata": {"path": text.path, "title": text.title}} for text in texts]
    there = storage.documents.already_stored(given)
    batch = [text for text, is_there in zip(texts, there, strict=True) if not is_there]
    documents = [one for one, is_there in zip(given, there, strict=True) if not is_there]
    unchanged = len(texts) - len(batch)
    try:
        storage.batch_store_documents(documents)
    except PartialFailure as failure:
        errors = failure.errors
        if failure.applied != "no" or not all(isinstance(e, (InvalidKey, UnsupportedValue)) for e in errors.values()):
            raise
        storage.batch_store_documents([one for place, one in enumerate(documents) if place not in errors])
        left_out = [LeftOut(batch[place].path, str(error)) for place, error in errors.items()]
        return Loaded(len(batch) - len(left_out), unchanged, left_out)
    return Loaded(len(batch), unchanged, [])


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
