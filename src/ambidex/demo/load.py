"""Stores texts, and makes vectors anew, with a progress bar; ``ambidex ingest`` and ``ambidex reindex`` call this.

The invariant: either may be ended at any time and begun again; what was done stays, and is not done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ambidex import SyncStorage
from ambidex.demo.texts import Text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["make_vectors", "store_texts"]

_MOST_TEXTS = 64
_MOST_CHARACTERS = 100_000
"""Of a batch, so that the bar moves every few seconds even with a slow embedder."""


def store_texts(storage: SyncStorage, texts: Sequence[Text], console: Console) -> None:
    """Store texts as documents, some in a batch; one that is stored already with this content is left as it is.

    Args:
        storage: needs the capabilities kv and search.
        texts: their paths make a changed one the next version of what is stored.
        console: where progress is shown, if it is a terminal.

    Raises:
        PartialFailure: says which texts of a batch were refused; of earlier batches, all are stored.
    """
    with _bar("storing", len(texts), console) as advance:
        for batch in _batches(texts):
            storage.batch_store_documents(
                [{"content": text.content, "metadata": {"path": text.path, "title": text.title}} for text in batch]
            )
            advance(len(batch))


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


def _batches(texts: Sequence[Text]) -> Iterator[list[Text]]:
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
