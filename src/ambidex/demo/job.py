"""The job of the demo: store from a thread, ask from an event loop, then time each operation in each mode.

``ambidex.demo.run`` is here; how it looks on a terminal is in ``show.py``. The invariant: all of it happens on the one
storage object it is given, and a duration is what the caller waited, measured around the whole call.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic, TypeVar

from ambidex import AsyncStorage, SyncStorage, UnifiedStorage
from ambidex.demo.actions import ASK, STORE, Actions, BlockingActions, has_records
from ambidex.demo.chat import Passage, as_messages, passage
from ambidex.demo.texts import Text
from ambidex.errors import InvalidKey

__all__ = ["OPERATIONS", "Answer", "Report", "Timings", "Watch", "run"]

OPERATIONS = (
    "set a key",
    "get a key",
    "store a document",
    "search",
    "append a message",
    "read a conversation",
)
"""What is timed in the second part, in this order."""

F = TypeVar("F", bound=SyncStorage | AsyncStorage)
A = TypeVar("A", bound=Actions)

CHAT, TIMING = "demo", "demo-timing"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 1.0
_WRITES, _READS, _SEARCHES, _COPIES = 40, 200, 50, 20


class Timings:
    """Durations in seconds, by operation and mode."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], list[float]] = {}

    @contextmanager
    def of(self, operation: str, mode: str) -> Iterator[None]:
        """Measure the ``with`` block; a block that raises is not counted."""
        kept = self.seconds.setdefault((operation, mode), [])
        started = time.perf_counter()
        yield
        kept.append(time.perf_counter() - started)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row an operation and mode: calls, and the median and 95th percentile in milliseconds."""
        return [
            {
                "operation": operation,
                "mode": mode,
                "calls": len(seconds),
                "p50_ms": statistics.median(seconds) * 1000,
                "p95_ms": _percentile(seconds, 0.95) * 1000,
            }
            for (operation, mode), seconds in self.seconds.items()
            if seconds
        ]


def _percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: a value that was measured, not one between two."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * share) - 1]


@dataclass
class Answer:
    """A question and the best passage that was found for it."""

    question: str
    passage: str = ""
    source: str = ""
    score: float = 0.0


@dataclass
class Report:
    """What the demo did.

    Attributes:
        answers: from after the last document was stored.
        asked_meanwhile: how many questions were asked while documents were being stored.
        stored: what is in the storage now, by kind.
        actions: queries of the typed repository in which the demo records what it does, with their answers; empty
            where the storage has no records.
        files: what was done with a file, and what came of it; empty where the storage has no blobs.
        together: timings of the first part, thread and event loop at once.
        alone: timings of the second part, one caller at a time.
        health: the capabilities, probed from each mode.
        seconds: how long the first part took.
    """

    answers: list[Answer] = field(default_factory=list)
    asked_meanwhile: int = 0
    stored: dict[str, int] = field(default_factory=dict)
    actions: dict[str, str] = field(default_factory=dict)
    together: Timings = field(default_factory=Timings)
    alone: Timings = field(default_factory=Timings)
    files: dict[str, str] = field(default_factory=dict)
    health: dict[str, dict[str, bool]] = field(default_factory=dict)
    seconds: float = 0.0


class Watch:
    """Is told how far the demo is; this one shows nothing."""

    def stored(self, done: int, path: str) -> None:
        """``done`` documents are stored, ``path`` the last of them. Called in the storing thread."""

    def asked(self, count: int) -> None:
        """``count`` questions were asked so far. Called in the event loop."""

    def measuring(self, operation: str) -> None:
        """The second part begins to time an operation."""


def run(storage: UnifiedStorage, texts: Sequence[Text], questions: Sequence[str], watch: Watch | None = None) -> Report:
    """Run the demo on a storage object.

    Args:
        storage: needs the capabilities kv, log and search; with records, what is done is recorded, too.
        texts: what to store.
        questions: what to ask; asked in turn while the texts are being stored, and once more afterwards.
        watch: is told the progress.
    """
    watch = watch or Watch()
    report = Report()
    storage.sync.initialize()  # neither connecting nor loading an embedder is what is to be measured
    storage.sync.documents.namespace(TIMING).store("A first text.", {"path": "first"})
    storage.sync.documents.namespace(TIMING).clear()
    began, started = datetime.now(UTC), time.perf_counter()
    enough = threading.Event()
    recorded = has_records(storage.sync)
    thread_part = _Part(storage.sync, BlockingActions(storage) if recorded else None, report.together, watch)
    loop_part = _Part(storage.aio, Actions(storage) if recorded else None, report.together, watch)
    with ThreadPoolExecutor(1, "demo-store") as pool:
        storing = pool.submit(_store_all, thread_part, texts, enough)
        try:
            asyncio.run(_ask_all(loop_part, questions, storing, report))
        finally:
            enough.set()  # after Ctrl-C, the pool waits for one more document and not for all
    report.seconds = time.perf_counter() - started
    _measure(storage, texts, questions, report.alone, watch)
    if "blobs" in storage.sync.health_check():
        report.files = _keep_file(storage, max(texts, key=lambda text: len(text.content)))
    if recorded:
        report.actions = asyncio.run(_summary(Actions(storage), began))
    report.health = {"sync": storage.sync.health_check(), "async": asyncio.run(_health(storage.aio))}
    lengths = [document.length for document in storage.sync.documents.iterate()]
    report.stored = {
        "documents": len(lengths),
        "characters": sum(lengths),
        "passages in the index": storage.sync.index.count(),
        "messages of the conversation": len(storage.sync.conversations.history(CHAT)),
    }
    return report


# The first part: a thread that stores and an event loop that asks, at once.


@dataclass
class _Part(Generic[F, A]):
    """What one half of the first part works with."""

    storage: F
    actions: A | None
    timings: Timings
    watch: Watch


def _store_all(part: _Part[SyncStorage, BlockingActions], texts: Sequence[Text], enough: threading.Event) -> None:
    for done, text in enumerate(texts, 1):
        if enough.is_set():
            return
        started = time.perf_counter()
        try:
            with part.timings.of("store a document", "sync"):
                part.storage.store_document(text.content, {"path": text.path, "title": text.title})
        except InvalidKey:  # its name is no path of a document: the others are worth showing
            continue
        if part.actions is not None:
            seconds = time.perf_counter() - started
            with part.timings.of("record an action", "sync"):
                part.actions.note(STORE, "thread", text.path, seconds)
        part.watch.stored(done, text.path)


async def _ask_all(
    part: _Part[AsyncStorage, Actions], questions: Sequence[str], storing: Future[None], report: Report
) -> None:
    pause = _FIRST_PAUSE
    while not storing.done():
        await _ask(part, questions[report.asked_meanwhile % len(questions)])
        report.asked_meanwhile += 1
        part.watch.asked(report.asked_meanwhile)
        await asyncio.sleep(pause)
        pause = min(pause * 1.02, _LONGEST_PAUSE)
    storing.result()
    report.answers = [await _ask(part, question) for question in questions]


async def _ask(part: _Part[AsyncStorage, Actions], question: str) -> Answer:
    """Search, and keep the question and the answer in the conversation."""
    started = time.perf_counter()
    with part.timings.of("search", "async"):
        hits = await part.storage.search(question, top_k=3)
    answer, found = Answer(question), []
    if hits:
        text, best = passage([hit.text for hit in hits], question)
        answer = Answer(question, text, hits[best].metadata.get("path", hits[best].id), hits[best].score)
        found = [Passage(text, answer.source, hits[best].title, answer.score)]
    with part.timings.of("append two messages", "async"):
        await part.storage.conversations.append(CHAT, *as_messages(question, found))
    if part.actions is not None:
        seconds = time.perf_counter() - started
        with part.timings.of("record an action", "async"):
            await part.actions.note(ASK, "event loop", question, seconds, None if hits else "nothing was found")
    return answer


def _keep_file(storage: UnifiedStorage, text: Text) -> dict[str, str]:
    """Store a text as a file from here, read a part of it from an event loop, and store it again."""
    data = text.content.encode()
    name = text.path.rsplit("/", 1)[-1]
    url = storage.sync.store_media(data, name, "text/plain", {"path": text.path})
    again = storage.sync.store_media(data, name, "text/plain", {"path": text.path})
    part = asyncio.run(_read_part(storage.aio, url))
    return {
        f"store_media({len(data):,} bytes, {name!r})": f"{url[:20]}…/{name}",
        "the same once more": "the same URL, stored once" if again == url else again,
        "media.read(url, start=0, length=40)": repr(part.decode(errors="replace")),
    }


async def _read_part(storage: AsyncStorage, url: str) -> bytes:
    return await storage.media.read(url, start=0, length=40)


async def _summary(actions: Actions, since: datetime) -> dict[str, str]:
    return await actions.summary(since)


# The second part: the same operations from each mode, one caller at a time.


def _measure(
    storage: UnifiedStorage, texts: Sequence[Text], questions: Sequence[str], timings: Timings, watch: Watch
) -> None:
    sample = list(texts[:_COPIES])
    blocking, awaitable = (_calls(face, sample, questions) for face in (storage.sync, storage.aio))
    for operation in OPERATIONS:
        watch.measuring(operation)
        for call in blocking[operation]:
            with timings.of(operation, "sync"):
                call()
        asyncio.run(_time_all(operation, awaitable[operation], timings))
    storage.sync.kv.namespace(TIMING).clear()
    storage.sync.documents.namespace(TIMING).clear()
    storage.sync.conversations.delete(TIMING)


Calls = list[Callable[[], Any]]


async def _time_all(operation: str, calls: Sequence[Callable[[], Awaitable[Any]]], timings: Timings) -> None:
    for call in calls:
        with timings.of(operation, "async"):
            await call()


def _calls(face: SyncStorage | AsyncStorage, texts: Sequence[Text], questions: Sequence[str]) -> dict[str, Calls]:
    """Return the calls to be timed; from the synchronous face they return values, from the other coroutines."""
    kv = face.kv.namespace(TIMING)
    value = {"name": "Ada", "born": 1815, "fields": ["mathematics", "computing"]}
    message = {"role": "user", "content": "How long does this take?"}
    asked = [questions[n % len(questions)] for n in range(_SEARCHES)]
    documents = face.documents.namespace(TIMING)
    paths = [f"{type(face).__name__}/{text.path}" for text in texts]  # new documents in each mode
    return {
        "set a key": [partial(kv.set, f"key-{n}", value) for n in range(_WRITES)],
        "get a key": [partial(kv.get, f"key-{n % _WRITES}") for n in range(_READS)],
        "store a document": [
            partial(documents.store, text.content, {"path": path, "title": text.title})
            for text, path in zip(texts, paths, strict=True)
        ],
        "search": [partial(face.search, question, top_k=3) for question in asked],
        "append a message": [partial(face.conversations.append, TIMING, message)] * _WRITES,
        "read a conversation": [partial(face.get_conversation, CHAT, strict=True)] * _READS,
    }


async def _health(storage: AsyncStorage) -> dict[str, bool]:
    return await storage.health_check()
