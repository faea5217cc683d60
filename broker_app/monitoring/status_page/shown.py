"""Display of untrusted text: truncated, with invisible characters escaped.

The page inserts it as text, never as markup. Text alone can still reverse the writing direction, hide characters,
or fill the screen; this module prevents that.
"""

from __future__ import annotations

from broker_app.text import visible

NAME_CHARACTERS = 200
LINE_CHARACTERS = 500
TRACEBACK_CHARACTERS = 20_000


def shown(text: str, limit: int = NAME_CHARACTERS, *, is_one_line: bool = True) -> str:
    r"""Return the start of a text, with invisible characters as escapes.

    Args:
        text: Untrusted text.
        limit: Maximum number of characters to keep.
        is_one_line: Whether line breaks and tabs are escaped too.

    Example:
        >>> shown("pay\u202egpj.exe\n", 20)
        'pay\\u202egpj.exe\\n'
    """
    cut = visible(text[:limit], "" if is_one_line else "\n\t")
    return cut if len(text) <= limit else f"{cut}… ({len(text):,} characters)"


def shown_end(text: str, limit: int) -> str:
    """Return the end of a text: the most useful part of a traceback."""
    if len(text) <= limit:
        return shown(text, limit, is_one_line=False)
    return f"({len(text):,} characters) …{shown(text[-limit:], limit, is_one_line=False)}"
