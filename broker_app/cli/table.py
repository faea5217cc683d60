"""Tables for people: what stands in their cells may come from anybody who can publish."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from rich.table import Table as RichTable
from rich.text import Text

from broker_app.visible import visible

if TYPE_CHECKING:
    from rich.console import RenderableType


PIPE_WIDTH = 160
"""Columns where no terminal says how many it has."""


def width() -> int | None:
    """Return the width for a table that should be whole in a pipe; None is the terminal's, or ``COLUMNS``."""
    return None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH


class Table(RichTable):
    """A table of plain texts: control characters are escapes, and square brackets are no markup."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row."""
        super().add_row(*(Text(visible(cell)) if isinstance(cell, str) else cell for cell in cells), **options)
