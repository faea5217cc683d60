"""AMQP's topic matching, for the tests that show which queue a key reaches."""

from __future__ import annotations

from functools import cache


def matches(pattern: str, key: str) -> bool:
    """Return whether a topic exchange routes a key by a pattern: ``*`` is one word, ``#`` none or more.

    AMQP 0-9-1, section 3.1.3.3. Words are what stands between dots, and may be empty.
    """
    return _matches(tuple(pattern.split(".")), tuple(key.split(".")))


@cache
def _matches(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    if not pattern:
        return not words
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return _matches(rest, words) or (bool(words) and _matches(pattern, words[1:]))
    return bool(words) and first in {"*", words[0]} and _matches(rest, words[1:])
