"""Text that others wrote, made fit to be shown: bounded, and with nothing in it that cannot be seen.

The page writes it as text, never as markup. What is left is what text itself can do: reverse the direction of what
follows, hide, or fill the screen.
"""

from __future__ import annotations

import re
import unicodedata

NAME_CHARACTERS = 200
LINE_CHARACTERS = 500
TRACEBACK_CHARACTERS = 20_000

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode's categories of what has no shape of its own (unicode.org/reports/tr44, General_Category)."""

_NOT_PLAIN = re.compile(r"[^ -~]")


def shown(text: str, limit: int = NAME_CHARACTERS, *, is_one_line: bool = True) -> str:
    r"""Return a text for a person: at most ``limit`` characters of it, hidden ones as escapes.

    Args:
        text: Whatever came.
        limit: Characters that are kept from its beginning.
        is_one_line: Whether a line's end is an escape too.

    Example:
        >>> shown("pay\u202egpj.exe\n", 20)
        'pay\\u202egpj.exe\\n'
    """
    kept = "" if is_one_line else "\n\t"
    cut = _NOT_PLAIN.sub(lambda match: _visible(match[0], kept), text[:limit])
    return cut if len(text) <= limit else f"{cut}… ({len(text):,} characters)"


def shown_end(text: str, limit: int) -> str:
    """Return the end of a longer text: of a traceback it is what says most."""
    if len(text) <= limit:
        return shown(text, limit, is_one_line=False)
    return f"({len(text):,} characters) …{shown(text[-limit:], limit, is_one_line=False)}"


def _visible(character: str, kept: str) -> str:
    if character in kept or unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
