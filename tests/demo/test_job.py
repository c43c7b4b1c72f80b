"""The demo's job: every text is stored and found, the conversation kept, each operation timed in each mode."""

import threading
from pathlib import Path

import pytest

from ambidex import UnifiedStorage
from ambidex.backends.memory import MemoryBackend
from ambidex.core.ports import Capability
from ambidex.demo.job import OPERATIONS, Timings, Watch, run
from ambidex.demo.texts import Text
from ambidex.errors import UnsupportedValue

TEXTS = [Text(f"{n}.txt", f"Text {n}", f"The word of this text is w{n}ord.\n\nNothing at all here.") for n in range(12)]
QUESTIONS = ["which has w3ord?", "which has w7ord?"]


class Seen(Watch):
    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.paths: list[str] = []
        self.operations: list[str] = []

    def stored(self, done: int, path: str) -> None:
        self.threads.add(threading.get_ident())
        self.paths.append(path)

    def measuring(self, operation: str) -> None:
        self.operations.append(operation)


@pytest.mark.parametrize("url", ["memory://", "sqlite:///demo.db"])
def test_texts_are_stored_from_a_thread_and_found_from_a_loop(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = Seen()
    storage = UnifiedStorage(url)
    report = run(storage, TEXTS, QUESTIONS, seen)
    assert seen.paths == [text.path for text in TEXTS]
    assert seen.threads.isdisjoint({threading.get_ident()})
    assert seen.operations == list(OPERATIONS)
    assert [(answer.source, answer.passage) for answer in report.answers] == [
        ("3.txt", "The word of this text is w3ord."),
        ("7.txt", "The word of this text is w7ord."),
    ]
    assert report.stored["documents"] == len(TEXTS)
    assert report.stored["characters"] == sum(len(text.content) for text in TEXTS)
    assert report.stored["messages of the conversation"] == 2 * (report.asked_meanwhile + len(QUESTIONS))
    assert {(row["operation"], row["mode"]) for row in report.alone.rows()} == {
        (operation, mode) for operation in OPERATIONS for mode in ("sync", "async")
    }
    assert report.actions["count(agent='thread')"] == str(len(TEXTS))
    assert report.actions["count(agent='event loop')"] == str(report.asked_meanwhile + len(QUESTIONS))
    assert list(report.files.values())[1:] == ["the same URL, stored once", repr(TEXTS[10].content[:40])]
    assert len(list(storage.sync.media.list())) == 1
    assert all(report.health["sync"].values())
    assert all(report.health["async"].values())
    storage.close()


def test_records_are_left_out_where_the_storage_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryBackend, "capabilities", MemoryBackend.capabilities - {Capability.RECORDS})
    report = run(UnifiedStorage("memory://"), TEXTS, QUESTIONS)
    assert report.actions == {}
    assert report.stored["documents"] == len(TEXTS)


def test_timing_leaves_nothing_behind() -> None:
    storage = UnifiedStorage("memory://")
    run(storage, TEXTS, QUESTIONS)
    assert list(storage.sync.kv.namespace("demo-timing").scan()) == []
    assert storage.sync.index.count(namespace="demo-timing") == 0
    assert storage.sync.documents.namespace("demo-timing").list() == []
    assert storage.sync.conversations.history("demo-timing") == []


def test_a_text_that_cannot_be_a_document_is_passed_over() -> None:
    texts = [
        Text("0190b3a4-5b6c-7d8e-9f00-112233445566", "T", "its name reads like an id"),
        Text("a.md", "A", "a swan"),
    ]
    report = run(UnifiedStorage("memory://"), texts, ["swan"])
    assert [answer.source for answer in report.answers] == ["a.md"]


def test_an_error_in_the_storing_thread_is_raised() -> None:
    with pytest.raises(UnsupportedValue, match="NUL"):
        run(UnifiedStorage("memory://"), [*TEXTS, Text("bad", "bad", "a\x00b")], QUESTIONS)


def test_percentiles_are_measured_values() -> None:
    timings = Timings()
    timings.seconds["op", "sync"] = [n / 1000 for n in range(1, 101)]
    timings.seconds["none", "sync"] = []
    assert timings.rows() == [{"operation": "op", "mode": "sync", "calls": 100, "p50_ms": 50.5, "p95_ms": 95.0}]


def test_a_block_that_raises_is_not_counted() -> None:
    timings = Timings()
    with pytest.raises(ZeroDivisionError), timings.of("op", "sync"):
        _ = 1 / 0
    assert timings.rows() == []
