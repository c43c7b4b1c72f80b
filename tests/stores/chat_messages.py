"""Messages as the tests of conversations write and read them."""

from __future__ import annotations

from typing import Any

SYSTEM = {"role": "system", "content": "be kind"}


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def texts(messages: list[dict[str, Any]] | None) -> list[str]:
    return [message["content"] for message in messages or []]
