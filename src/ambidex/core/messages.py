"""What a chat message is, and how many of them fit: checks, text, token estimates; ``stores.conversations`` uses it.

The invariant: a message that passes :func:`check_messages` comes back from every backend as it was, key for key.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from inspect import isawaitable
from operator import index
from typing import Any

from ambidex.core.codec import encode, is_model, to_plain
from ambidex.core.runtime import Runtime, off_the_clock
from ambidex.errors import ConfigurationError, UnsupportedValue

__all__ = [
    "Count",
    "Message",
    "Tokeniser",
    "check_messages",
    "counted_text",
    "counting",
    "estimate_tokens",
    "leading_system",
    "newest_within",
    "text_of",
]

Message = dict[str, Any]
"""``role`` and ``content``, and whatever else the application keeps with them."""

Tokeniser = Callable[[str], int | Awaitable[int]]
"""Says how many tokens a text takes; a function or a coroutine function."""

Count = Callable[[str], Awaitable[int]]
"""A tokeniser as :func:`counting` makes it of either."""

_PROMPTS = frozenset({"system", "developer"})
_CALLS = ("tool_calls", "function_call")


def check_messages(messages: Iterable[Any]) -> list[Message]:
    """Return the messages as plain dictionaries.

    A model becomes the data of its fields, without those that are None except ``content``: services that take messages
    refuse what is null where it may be left out.

    Raises:
        UnsupportedValue: a message has no text ``role``, no ``content`` of text, parts, or None (which may be absent
            beside tool calls), or something that cannot be stored; the error names it by its place.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise UnsupportedValue(f"messages are a list of dictionaries, not {type(messages).__name__}")
    return [_checked(place, message) for place, message in enumerate(messages)]


def _checked(place: int, message: Any) -> Message:
    plain = _plain(place, message)
    role = plain.get("role")
    if not isinstance(role, str) or not role:
        raise UnsupportedValue(f"message {place} has the role {role!r}; it needs a text such as 'user' or 'assistant'")
    if "content" not in plain and not any(plain.get(name) for name in _CALLS):
        raise UnsupportedValue(f"message {place} has no 'content'; give it text, a list of parts, or None")
    content = plain.get("content")
    if not isinstance(content, (str, list, dict, type(None))):
        raise UnsupportedValue(
            f"the content of message {place} is {type(content).__name__}; it can be text, a list of parts, or None"
        )
    try:
        encode(plain)
    except UnsupportedValue as error:
        raise type(error)(f"message {place}: {error}") from None
    return plain


def _plain(place: int, message: Any) -> Message:
    if isinstance(message, Mapping):
        return dict(message)
    if not is_model(type(message)):
        raise UnsupportedValue(f"message {place} is {type(message).__name__}; it needs to be a dictionary or a model")
    try:
        fields = to_plain(message)
    except UnsupportedValue as error:
        raise type(error)(f"message {place}: {error}") from None
    if not isinstance(fields, dict):
        raise UnsupportedValue(f"message {place} is {type(message).__name__}, whose data is no dictionary")
    return {name: value for name, value in fields.items() if value is not None or name == "content"}


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message: its content, or the texts of its content's parts."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str))


def counted_text(message: Mapping[str, Any]) -> str:
    """Return what takes tokens in a message: its text, and the tools that it calls with their arguments."""
    calls = [message[name] for name in _CALLS if message.get(name)]
    return "\n".join([text_of(message), *(json.dumps(call, ensure_ascii=False, default=str) for call in calls)])


def estimate_tokens(text: str) -> int:
    """Return a quarter of the characters, rounded up: the usual estimate for English."""
    return -(-len(text) // 4)


def leading_system(messages: Iterable[Message]) -> list[Message]:
    """Return the system messages (of newer models: the developer's) with which a conversation begins."""
    found: list[Message] = []
    for message in messages:
        if message["role"] not in _PROMPTS:
            break
        found.append(message)
    return found


def counting(count_tokens: Tokeniser, runtime: Runtime) -> Count:
    """Return a tokeniser that is awaited and whose counts are checked: it raises ConfigurationError for what is none.

    Args:
        count_tokens: what the application counts with.
        runtime: of the caller's mode.
    """

    async def count(text: str) -> int:
        with off_the_clock():
            counted = count_tokens(text)
            counted = await runtime.awaited(counted) if isawaitable(counted) else counted
        try:
            tokens = index(counted)
        except TypeError:
            tokens = -1
        if tokens < 0:
            raise ConfigurationError(
                f"count_tokens returned {type(counted).__name__} for a text; it needs to return a whole number of "
                "tokens, such as len(tokeniser.encode(text))"
            )
        return tokens

    return count


async def newest_within(messages: Sequence[Message], budget: int, count: Count) -> int:
    """Return how many of the newest messages take at most ``budget`` tokens together."""
    fitting = 0
    for message in reversed(messages):
        budget -= await count(counted_text(message))
        if budget < 0:
            break
        fitting += 1
    return fitting
