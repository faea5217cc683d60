"""Text that others wrote, made fit to be shown: bounded, and with nothing in it that cannot be seen.

The page writes it as text, never as markup. What is left is what text itself can do: reverse the direction of what
follows, hide, or fill the screen.
"""

from __future__ import annotations

from broker_app.text import visible

NAME_CHARACTERS = 200
LINE_CHARACTERS = 500
TRACEBACK_CHARACTERS = 20_000


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
    cut = visible(text[:limit], "" if is_one_line else "\n\t")
    return cut if len(text) <= limit else f"{cut}… ({len(text):,} characters)"


def shown_end(text: str, limit: int) -> str:
    """Return the end of a longer text: of a traceback it is what says most."""
    if len(text) <= limit:
        return shown(text, limit, is_one_line=False)
    return f"({len(text):,} characters) …{shown(text[-limit:], limit, is_one_line=False)}"
