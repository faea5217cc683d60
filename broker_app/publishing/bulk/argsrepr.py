"""Text form of task arguments for the message headers: Celery's `saferepr`, with a fast path for plain values."""

from __future__ import annotations

from typing import Any

from celery.utils.saferepr import saferepr

_SCALARS = frozenset({int, float, bool, type(None)})


def shown(value: Any, most: int, levels: int) -> str:
    """Return what Celery's ``saferepr(value, most, maxlevels=levels)`` returns.

    Args:
        value: The positional or keyword arguments.
        most: Maximum length in characters.
        levels: Maximum nesting depth.
    """
    text = _plain(value)
    if text is not None and len(text) < most:
        return text
    found: str = saferepr(value, most, maxlevels=levels)
    return found


def _plain(value: Any) -> str | None:
    """Return the text of a container of numbers and strings, None for anything else."""
    kind = type(value)
    if kind is dict:
        return _dictionary(value)
    if kind is not tuple and kind is not list:
        return None
    words = [_word(one) for one in value]
    if None in words:
        return None
    inner = ", ".join(words)  # type: ignore[arg-type]  # None was excluded above
    if kind is list:
        return f"[{inner}]"
    return f"({inner},)" if len(words) == 1 else f"({inner})"


def _dictionary(value: dict[Any, Any]) -> str | None:
    if not value:
        return "{}"
    pairs = [(_word(key), _word(one)) for key, one in value.items()]
    if any(key is None or one is None for key, one in pairs):
        return None
    return "{" + ", ".join([f"{key}: {one}" for key, one in pairs]) + "}"


def _word(value: Any) -> str | None:
    if type(value) is str:
        return "'" + value.replace("'", "\\'") + "'"
    return str(value) if type(value) in _SCALARS else None
