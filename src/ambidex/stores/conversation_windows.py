"""The window of a conversation: its system prompt and its newest messages, by number or tokens; ``conversations`` asks.

The invariant: prompt and messages of a window were the conversation's at one moment; where a save comes between the
reads, they are read again.
"""

from __future__ import annotations

from ambidex.core.messages import Count, Message, counted_text, leading_system, newest_within
from ambidex.errors import InvalidQuery
from ambidex.stores.conversation_streams import Entry, Streams, unpack

__all__ = ["MOST", "checked_window", "read_window"]

MOST = 10_000
_LAST = 20
_LEAD = 5  # a mark and up to four system messages: one read finds the usual beginning


def checked_window(last: int | None, tokens: int | None) -> int:
    """Return how many messages a window holds at most: 20 where nothing is said, as many as fit where tokens are.

    Raises:
        InvalidQuery: it is no window.
    """
    if last is None:
        last = _LAST if tokens is None else MOST
    if type(last) is not int or not 1 <= last <= MOST:
        raise InvalidQuery(f"a window holds 1 to {MOST:,} messages, not {last!r}")
    if tokens is not None and (type(tokens) is not int or tokens < 1):
        raise InvalidQuery(f"tokens is a whole number above 0, not {tokens!r}")
    return last


async def read_window(streams: Streams, name: str, last: int, tokens: int | None, count: Count) -> list[Message] | None:
    """Return the system prompt and the newest messages, or None where there is no such conversation.

    Args:
        streams: where the conversation is.
        name: its escaped name.
        last: how many messages at most, beside the system prompt.
        tokens: how many tokens at most, the system prompt included.
        count: says how many tokens a text takes.
    """
    while True:
        newest, complete = await _newest(streams, name, last, tokens, count)
        if newest is None:
            return None
        if complete is not None:
            return await _fit(complete, newest, last, tokens, count)


async def _newest(
    streams: Streams, name: str, last: int, tokens: int | None, count: Count
) -> tuple[list[Entry] | None, list[Message] | None]:
    """Return the newest entries, and the system prompt; instead of it None if a save came between the two reads."""
    size = last if tokens is None else min(last, 32)
    while True:
        newest = [unpack(event) for event in await streams.log.tail(streams.now + name, size)]
        if not newest:
            return None, None
        marks = [place for place, entry in enumerate(newest) if entry.message is None]
        if marks:
            behind = newest[marks[-1] + 1 :]
            return behind, leading_system(entry.message for entry in behind if entry.message is not None)
        enough = len(newest) < size or size >= last
        if not enough and tokens is not None:
            fitting = await newest_within([e.message for e in newest if e.message], tokens, count)
            enough = fitting < len(newest)
        if enough:
            break
        size = min(last, size * 2)
    start, prompt = await _beginning(streams, name)
    return newest, prompt if start < newest[0].seq or start == 0 else None


async def _beginning(streams: Streams, name: str) -> tuple[int, list[Message]]:
    """Return the place of the mark (0: none) and the system messages behind it."""
    head = await streams.head(name)
    lead = [unpack(event) for event in await streams.log.range(streams.now + name, head.after, _LEAD)]
    if head.version and (not lead or lead[0].message is not None):
        # the mark is being written, its writer was killed, or others appended just before it
        whole = await streams.segment(streams.now + name, head.before)
        return whole[0].seq - 1 if whole else 0, leading_system(e.message for e in whole if e.message is not None)
    marks = [place for place, entry in enumerate(lead) if entry.message is None]
    behind = lead[marks[-1] + 1 :] if marks else lead
    start = lead[marks[-1]].seq if marks else 0
    return start, leading_system(entry.message for entry in behind if entry.message is not None)


async def _fit(
    prompt: list[Message], newest: list[Entry], last: int, tokens: int | None, count: Count
) -> list[Message]:
    messages = [entry.message for entry in newest if entry.message is not None]
    if messages[: len(prompt)] == prompt:
        messages = messages[len(prompt) :]
    messages = messages[-last:]
    if tokens is not None:
        left = tokens - sum([await count(counted_text(message)) for message in prompt])
        messages = messages[len(messages) - await newest_within(messages, left, count) :]
    return [*prompt, *messages]
