"""A conversation without a language model: each turn is answered by the passages that fit it best.

The command ``ambidex chat`` and the demo call this. The invariant: every turn and its answer are appended to the
conversation in one atomic step, with the sources that the answer was taken from, so that a conversation reads the same
wherever it is continued.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ambidex import SyncStorage
from ambidex.errors import ConfigurationError

__all__ = ["NOTE", "NOTHING", "Passage", "as_messages", "passage", "passages_of", "read_script", "take_turn"]

NOTE = "There is no language model here: an answer is the stored passages that fit best, with their sources."
NOTHING = "Nothing that is stored fits."

_WORD = re.compile(r"\w{3,}")
_SMALL_WORDS = frozenset(("about", "and", "are", "does", "for", "how", "said", "that", "the", "what", "when", "why"))
_SHORTEST = 3  # spaces: less is a caption
_LONGEST = 300
_MOST_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a stored text that fits a question."""

    text: str
    source: str
    title: str
    score: float


def take_turn(
    storage: SyncStorage, chat_id: str, question: str, top_k: int = 3, min_score: float = 0.0
) -> list[Passage]:
    """Answer a question from what is stored, and keep both in the conversation.

    Args:
        storage: needs the capabilities kv, log and search.
        chat_id: the conversation.
        question: the turn.
        top_k: how many documents to quote at most.
        min_score: leave out weaker ones.

    Returns:
        The passages, best first; none where nothing fits.

    Raises:
        CapabilityMissing: the storage has no search.
    """
    found = passages_of(storage.search(question, top_k=4 * top_k, min_score=min_score), question, top_k)
    storage.conversations.append(chat_id, *as_messages(question, found))
    return found


def as_messages(question: str, found: Sequence[Passage]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a turn and its answer as messages of a conversation."""
    answer = "\n".join(each.text for each in found) or NOTHING
    sources = [{"source": each.source, "score": each.score} for each in found]
    return {"role": "user", "content": question}, {"role": "assistant", "content": answer, "sources": sources}


def passages_of(hits: Sequence[Any], question: str, top_k: int) -> list[Passage]:
    """Return the best paragraph of each document among the hits of a search; former answers are not quoted."""
    found: dict[str, Passage] = {}
    for hit in hits:
        if hit.metadata.get("type") == "conversation" or len(found) == top_k:
            continue
        source = str(hit.metadata.get("path") or hit.metadata.get("doc_id") or hit.id)
        if source not in found:
            found[source] = Passage(passage([hit.text], question)[0], source, hit.title, hit.score)
    return list(found.values())


def passage(texts: Sequence[str], question: str) -> tuple[str, int]:
    """Return the paragraph that answers a question best, as one line, and whose text it is.

    A long one is cut to about 300 characters. Each word of the question that a paragraph holds counts the more, the
    fewer of the paragraphs hold it; words count as equal by their first letters.
    """
    wanted = _words(question)
    found = [(part, number, wanted & _words(part)) for number, text in enumerate(texts) for part in _paragraphs(text)]
    spread = Counter(word for _, _, words in found for word in words)
    best, number, _ = max(found, key=lambda entry: (sum(1 / spread[word] for word in entry[2]), -len(entry[0])))
    return _shortened(best, wanted), number


def _shortened(text: str, wanted: set[str]) -> str:
    """Return a text, or the part of a long one that begins with the sentence that holds most of the words."""
    if len(text) <= _LONGEST:
        return text
    sentences = re.split(r"(?<=[.!?]) ", text)
    first = max(range(len(sentences)), key=lambda place: (len(wanted & _words(sentences[place])), -place))
    part = " ".join(sentences[first:])
    return ("… " if first else "") + (part if len(part) <= _LONGEST else part[:_LONGEST].rsplit(" ", 1)[0] + " …")


def read_script(path: str) -> list[str]:
    """Read the turns of a conversation: one a line, or a JSON list of texts or messages.

    Args:
        path: a file; "-" is standard input. In JSON, messages of other roles than "user" are left out, because the
            answers are to be found anew.

    Raises:
        ConfigurationError: it cannot be read, is no text, or its JSON holds something else.
    """
    name, text = ("standard input" if path == "-" else repr(path)), _text(path)
    if not text.lstrip().startswith("["):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"the script {name} begins like JSON and is none: {error}") from None
    return list(_turns(entries, name))


def _text(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read()
        if os.path.getsize(path) > _MOST_BYTES:
            raise ConfigurationError(f"the script {path!r} is larger than 2 MiB")
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise ConfigurationError(f"cannot read the script {path!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"the script {path!r} is no UTF-8 text") from None


def _turns(entries: Sequence[Any], name: str) -> Iterator[str]:
    for place, entry in enumerate(entries):
        content = entry.get("content") if isinstance(entry, Mapping) else entry
        if not isinstance(content, str):
            raise ConfigurationError(
                f"entry {place} of the script {name} is neither a text nor a message with role and content"
            )
        if content.strip() and (not isinstance(entry, Mapping) or entry.get("role", "user") == "user"):
            yield content.strip()


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs and list items of a text as lines, without its headings and blocks of code."""
    body = re.sub(r"^```.*?^```$|^#+ [^\n]*$", "", text, flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"\n\s*\n|\n(?=\s*(?:[-*|]|\d+\.) )", body)
    lines = [re.sub(r"[*`]", "", " ".join(part.split())).strip("-| ") for part in parts]
    return [line for line in lines if line.count(" ") >= _SHORTEST] or [" ".join(text.split())]


def _words(text: str) -> set[str]:
    return {word[:6] for word in _WORD.findall(text.lower()) if word not in _SMALL_WORDS}
