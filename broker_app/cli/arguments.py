"""Parsing of command line words into task arguments."""

from __future__ import annotations

import json
from typing import Any

from broker_app.cli.calls import parse_json
from broker_app.errors import CallError, shortened

_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


def parse_argument(text: str) -> Any:
    """Return the value of a command line word: parsed if it is valid JSON, else the word as a string.

    ``2`` is a number, ``[1,2]`` a list, ``true`` a boolean; ``hello`` and ``http://127.0.0.1/`` are strings.
    Words that look like JSON or a number but are invalid are rejected instead of sent as strings.

    Raises:
        CallError: Invalid JSON that starts like a list, an object or a string; Python's ``True``, ``False`` and
            ``None``; numbers that are not valid JSON (``.5``, ``01``, ``nan``).
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
    """Return name and value of ``name=value``; the value is parsed by `parse_argument`.

    Raises:
        CallError: The ``=`` or the name is missing, or the value is invalid.
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
    """Return a hint how to pass the word as a string: a JSON string in single quotes."""
    quoted = json.dumps(text if shortened(text) == text else "…", ensure_ascii=False).replace("'", "'\\''")
    return f"for a string write '{quoted}'"
