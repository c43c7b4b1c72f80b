"""Models made again of their plain data; the codec, the specs of records and the models call this.

pydantic is never imported here: a class that is a pydantic model can only exist where it is. The invariant: what is
said about data that does not fit names the place and never the value, which may be secret.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["is_pydantic", "validate_nested", "validator", "why"]


def is_pydantic(cls: Any) -> bool:
    """Tell whether a class is a pydantic model (SQLModel's are)."""
    return hasattr(cls, "__pydantic_core_schema__") and hasattr(cls, "model_validate")


def _validator(cls: Any) -> Callable[[Any], Any]:
    """Return what makes a pydantic model of its fields; not strict, because enumerations are stored as their values."""
    import inspect

    if "by_name" in inspect.signature(cls.model_validate).parameters:
        return functools.partial(cls.model_validate, strict=False, by_name=True)
    return functools.partial(cls.model_validate, strict=False)  # SQLModel, which has no aliases


validator: Callable[[Any], Callable[[Any], Any]] = functools.cache(_validator)
"""Returns, for a class, what makes its objects."""


def validate_nested(kind: type[Any], value: Any) -> Any:
    """Make a pydantic model that stands inside a dataclass, Struct or attrs class."""
    if isinstance(value, kind):
        return value
    if not is_pydantic(kind):
        raise TypeError(f"{kind!r} cannot be read back from JSON")
    try:
        return validator(kind)(value)
    except ValueError as error:
        raise ValueError(why(error)) from None


def why(error: Exception) -> str:
    """Say what does not fit, without the value."""
    core = sys.modules.get("pydantic_core")
    if core is not None and isinstance(error, core.ValidationError):
        found = error.errors(include_url=False, include_input=False, include_context=False)
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in found)
    return str(error)
