"""Text for people: counts with nouns, durations, and untrusted text in which invisible characters are escaped.

Unescaped, a terminal would execute escape sequences, a line break could forge a log line, and a right-to-left
override could disguise a name.
"""

from __future__ import annotations

import re
import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories of invisible characters (unicode.org/reports/tr44, General_Category)."""

_NOT_PLAIN = re.compile(r"[^ -~]")
_LINE_START = re.compile(r"\n(?=[^ \n])")


def visible(text: str, kept: str = "") -> str:
    r"""Escape control, format, surrogate, private-use and unassigned characters, and line separators.

    Args:
        text: Any text.
        kept: Characters to leave unescaped.

    Example:
        >>> visible("\x1b[2J pay\u202egpj.exe\n")
        '\\x1b[2J pay\\u202egpj.exe\\n'
    """
    return _NOT_PLAIN.sub(lambda match: _visible(match[0], kept), text)


def visible_lines(text: str) -> str:
    r"""Escape a text of several lines so that none of its later lines can pass for a separate log line.

    Lines after the first start with a space, as in a traceback.

    Example:
        >>> visible_lines("failed\r\n[2026-01-01] forged")
        'failed\\r\n  [2026-01-01] forged'
    """
    return _LINE_START.sub("\n  ", visible(text, "\n\t"))


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless it is 1.

    Example:
        >>> counted(1, "message"), counted(2_000, "message")
        ('1 message', '2,000 messages')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shown_age(seconds: float) -> str:
    """Format a duration in its largest unit, such as ``12 m``."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def _visible(character: str, kept: str) -> str:
    if character in kept or unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
