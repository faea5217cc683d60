"""Escaping of untrusted text for terminals, logs and web pages: invisible characters become escapes.

Otherwise a terminal would execute escape sequences, a line break could forge a log line, and a right-to-left
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


def _visible(character: str, kept: str) -> str:
    if character in kept or unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
