"""What the tests of documents share: a content of several chunks, and the look whether documents and index agree."""

from __future__ import annotations

from ambidex import UnifiedStorage

LONG = "The otter swims in the cold river near the mill. " * 60


def check(storage: UnifiedStorage) -> int:
    """Assert that documents and index agree; return how many documents there are."""
    documents, index = storage.sync.documents, storage.sync.index
    expected: set[str] = set()
    for info in documents.iterate():
        document = documents.get(info.id)
        assert document is not None
        base = document.path or document.id
        names = [f"{base}#chunk_{n}" for n in range(info.chunks)]
        items = index.fetch(names)
        assert [item.id for item in items] == names
        for item in items:
            assert item.metadata["doc_id"] == document.id
            assert item.metadata["version"] == document.version
            assert document.content[item.metadata["start"] : item.metadata["end"]] == item.text
        expected.update(names)
    assert index.count() == len(expected)
    return len(list(documents.iterate()))
