"""What an assistant needs to answer: related texts and the last messages; ``search_context`` of the faces.

The invariant: the result always has the same three parts; a storage that fails gives empty ones and a line in the
log, never an exception.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ambidex.core.messages import Message
from ambidex.errors import InvalidQuery
from ambidex.stores.conversations import Conversations
from ambidex.stores.search import Index

__all__ = ["search_context"]

_log = logging.getLogger("ambidex")
_LAST = 5
_LOOKED_AT = 50
_MOST = 1_000
_ROLES = frozenset({"user", "assistant"})


async def search_context(
    rooms: Callable[[], tuple[Index, Conversations]],
    query: str,
    chat_id: str | None = None,
    include_conversation: bool = True,
    top_k: int = 5,
) -> dict[str, Any]:
    """Find what belongs to a question.

    Args:
        rooms: returns where to look for texts and for messages; asked here, because having no search is a failure, too.
        query: words as a person types them.
        chat_id: the conversation that is going on, if there is one.
        include_conversation: whether its last five messages (of the user and the assistant) are wanted.
        top_k: how many texts.

    Returns:
        ``vector_results`` (dictionaries with id, score, title, text, metadata; best first), ``conversation_context``
        (messages, oldest first) and ``combined_relevance`` (the mean score, 0.0 without results).

    Raises:
        InvalidQuery: the query is no text, or ``top_k`` is out of range.
    """
    if not isinstance(query, str):
        raise InvalidQuery(f"a search query is text, not {type(query).__name__}")
    if type(top_k) is not int or not 1 <= top_k <= _MOST:
        raise InvalidQuery(f"top_k is 1 to {_MOST:,}, not {top_k!r}")
    try:
        index, conversations = rooms()
        results = [hit._asdict() for hit in await index.search(query, top_k=top_k)]
        messages = await _last(conversations, chat_id) if chat_id and include_conversation else []
    except Exception as error:
        _log.error("the context of a question could not be searched: %s", error)  # no trace wanted
        return {"vector_results": [], "conversation_context": [], "combined_relevance": 0.0}
    relevance = sum(result["score"] for result in results) / len(results) if results else 0.0
    return {"vector_results": results, "conversation_context": messages, "combined_relevance": relevance}


async def _last(conversations: Conversations, chat_id: str) -> list[Message]:
    window = await conversations.window(chat_id, last=_LOOKED_AT) or []
    return [message for message in window if message["role"] in _ROLES][-_LAST:]
