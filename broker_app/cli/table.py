"""Tables for people: what stands in their cells may come from anybody who can publish."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from broker_app.text import visible

if TYPE_CHECKING:
    from rich.console import RenderableType


PIPE_SIZE = (160, 100)
"""Columns and lines where there is no terminal; with the columns alone rich would take 80 if ``TERM`` is dumb."""


def console() -> Console:
    """Return a console that is wide in a pipe; a terminal, and ``COLUMNS``, say how wide they are."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return Console()
    return Console(width=PIPE_SIZE[0], height=PIPE_SIZE[1])


class Table(RichTable):
    """A table of plain texts: control characters are escapes, and square brackets are no markup."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row."""
        super().add_row(*(Text(visible(cell)) if isinstance(cell, str) else cell for cell in cells), **options)
