"""What a chat message is, and how many of them fit: checks, text, token estimates; ``stores.conversations`` uses it.

The invariant: a message that passes :func:`check_messages` comes back from every backend as it was, key for key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ambidex.core.codec import encode
from ambidex.errors import UnsupportedValue

__all__ = ["Message", "Tokeniser", "check_messages", "estimate_tokens", "leading_system", "newest_within", "text_of"]

Message = dict[str, Any]
"""``role`` and ``content``, and whatever else the application keeps with them."""

Tokeniser = Callable[[str], int]
"""Says how many tokens a text takes."""


def check_messages(messages: Iterable[Mapping[str, Any]]) -> list[Message]:
    """Return the messages as plain dictionaries.

    Raises:
        UnsupportedValue: one is no mapping with a text ``role`` and a ``content`` of text, parts, or None, or holds
            something that cannot be stored; the error names the message by its place.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise UnsupportedValue(f"messages are a list of dictionaries, not {type(messages).__name__}")
    return [_checked(place, message) for place, message in enumerate(messages)]


def _checked(place: int, message: Mapping[str, Any]) -> Message:
    if not isinstance(message, Mapping):
        raise UnsupportedValue(f"message {place} is {type(message).__name__}; it needs to be a dictionary")
    plain = dict(message)
    role = plain.get("role")
    if not isinstance(role, str) or not role:
        raise UnsupportedValue(f"message {place} has the role {role!r}; it needs a text such as 'user' or 'assistant'")
    if "content" not in plain:
        raise UnsupportedValue(f"message {place} has no 'content'; give it text, a list of parts, or None")
    if not isinstance(plain["content"], (str, list, dict, type(None))):
        raise UnsupportedValue(
            f"the content of message {place} is {type(plain['content']).__name__}; "
            "it can be text, a list of parts, or None"
        )
    try:
        encode(plain)
    except UnsupportedValue as error:
        raise type(error)(f"message {place}: {error}") from None
    return plain


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message: its content, or the texts of its content's parts."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str))


def estimate_tokens(text: str) -> int:
    """Return a quarter of the characters, rounded up: the usual estimate for English."""
    return -(-len(text) // 4)


def leading_system(messages: Iterable[Message]) -> list[Message]:
    """Return the system messages with which a conversation begins."""
    found: list[Message] = []
    for message in messages:
        if message["role"] != "system":
            break
        found.append(message)
    return found


def newest_within(messages: Sequence[Message], budget: int, count_tokens: Tokeniser) -> int:
    """Return how many of the newest messages take at most ``budget`` tokens together."""
    fitting = 0
    for message in reversed(messages):
        budget -= count_tokens(text_of(message))
        if budget < 0:
            break
        fitting += 1
    return fitting
