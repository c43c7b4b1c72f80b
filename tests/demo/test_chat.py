"""Answers without a model: the paragraph that fits, its source, and what is kept of both."""

from ambidex import UnifiedStorage
from ambidex.demo.chat import NOTHING, passage, passages_of, take_turn


def test_a_passage_is_the_paragraph_that_has_the_rarest_words_of_the_question() -> None:
    geese = "# Swan lakes\n\nGeese graze in winter.\n\n```python\nwhooper = swan\n```"
    swans = "Birds winter here.\n\n- The *whooper* swan\n  winters here. " + "More. " * 100 + "\n- The mute swan stays."
    found, number = passage([geese, swans], "Where does the whooper swan winter?")
    assert number == 1
    assert found.startswith("The whooper swan winters here.")
    assert len(found) <= 302
    assert found.endswith(" …")


def test_a_text_of_nothing_but_a_heading_is_its_own_passage() -> None:
    assert passage(["# Swans"], "swans?") == ("# Swans", 0)


def test_a_long_paragraph_is_cut_to_the_sentence_that_fits() -> None:
    long = "Birds are many. " * 30 + "The whooper swan winters on lakes. And more."
    assert passage([long], "whooper swan winter")[0] == "… The whooper swan winters on lakes. And more."


def test_each_document_is_quoted_once_and_a_former_answer_never() -> None:
    storage = UnifiedStorage("memory://?embedder=none").sync
    storage.store_document("Swans winter on lakes.\n\n" + "Swans winter on lowland fields. " * 80, {"path": "swans.md"})
    storage.save_conversation(
        "old", [{"role": "user", "content": "swans?"}, {"role": "assistant", "content": "Swans winter in Ur."}]
    )
    hits = storage.search("where do swans winter?", top_k=20)
    assert len(hits) > 2  # several pieces of the document, and the answer
    assert [found.source for found in passages_of(hits, "where do swans winter?", 5)] == ["swans.md"]


def test_a_turn_without_an_answer_is_kept_as_such() -> None:
    storage = UnifiedStorage("memory://?embedder=none").sync
    assert take_turn(storage, "chat", "zebras?") == []
    assert storage.conversations.history("chat") == [
        {"role": "user", "content": "zebras?"},
        {"role": "assistant", "content": NOTHING, "sources": []},
    ]
