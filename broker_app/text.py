"""Text from messages, made safe for a terminal, a log or a page: what has no shape of its own becomes an escape.

A terminal obeys escape sequences, a line break forges a line of a log, and a right-to-left override shows a name
that is not there.
"""

from __future__ import annotations

import re
import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode's categories of what has no shape of its own (unicode.org/reports/tr44, General_Category)."""

_NOT_PLAIN = re.compile(r"[^ -~]")
_LINE_START = re.compile(r"\n(?=[^ \n])")


def visible(text: str, kept: str = "") -> str:
    r"""Return a text with escapes in the place of control, format, surrogate and unassigned characters.

    Args:
        text: Whatever came.
        kept: Characters that stay.

    Example:
        >>> visible("\x1b[2J pay\u202egpj.exe\n")
        '\\x1b[2J pay\\u202egpj.exe\\n'
    """
    return _NOT_PLAIN.sub(lambda match: _visible(match[0], kept), text)


def visible_lines(text: str) -> str:
    r"""Return a text of several lines in which no line but the first can pass for a line of its own.

    Lines after the first begin with a space, as those of a traceback do.

    Example:
        >>> visible_lines("failed\r\n[2026-01-01] forged")
        'failed\\r\n  [2026-01-01] forged'
    """
    return _LINE_START.sub("\n  ", visible(text, "\n\t"))


def _visible(character: str, kept: str) -> str:
    if character in kept or unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
