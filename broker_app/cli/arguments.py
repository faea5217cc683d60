"""A command line's words as the values that a task is called with."""

from __future__ import annotations

import json
from typing import Any

from broker_app.cli.calls import parse_json
from broker_app.errors import CallError, shortened

_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


def parse_argument(text: str) -> Any:
    """Return the value of one word of a command line: JSON if it is JSON, else the word itself.

    ``2`` is a number, ``[1,2]`` a list, ``true`` a boolean; ``hello`` and ``http://127.0.0.1/`` are texts.
    What was clearly meant as JSON, or as a number, and is neither is refused rather than sent as a text.

    Raises:
        CallError: It starts as a list, an object or a quoted text and does not end as one; Python's ``True``,
            ``False`` and ``None``; what reads as a number but is not a JSON number (``.5``, ``01``, ``nan``).
    """
    try:
        return parse_json(text)
    except ValueError as error:
        if text[:1] in {"[", "{", '"'}:
            raise CallError(f"expected JSON, got {shortened(text)!r} ({error}); {_as_text(text)}") from None
    if text in _PYTHON_WORDS:
        raise CallError(f"expected JSON's {_PYTHON_WORDS[text]}, got Python's {text}; {_as_text(text)}")
    if _is_number(text):
        raise CallError(f"expected a JSON number such as 0.5 or 10, got {shortened(text)!r}; {_as_text(text)}")
    return text


def parse_keyword(text: str) -> tuple[str, Any]:
    """Return name and value of ``name=value``; the value is read as `parse_argument` reads it.

    Raises:
        CallError: No ``=``, no name before it, or the value's fault.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise CallError(f"expected name=value, got {shortened(text)!r}")
    return name, parse_argument(value)


def parse_keywords(text: str) -> dict[str, Any]:
    """Return the keyword arguments of a JSON object.

    Raises:
        CallError: Not JSON, or not an object.
    """
    try:
        value = parse_json(text)
    except ValueError as error:
        raise CallError(f"expected a JSON object, got {shortened(text)!r} ({error})") from None
    if not isinstance(value, dict):
        raise CallError(f"expected a JSON object, got {shortened(text)!r}")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _as_text(text: str) -> str:
    """Return how a shell hands that word on as a text: a JSON text in single quotes."""
    quoted = json.dumps(text if shortened(text) == text else "…", ensure_ascii=False).replace("'", "'\\''")
    return f"for a text write '{quoted}'"
