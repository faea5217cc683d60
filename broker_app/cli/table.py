"""Tables for terminals, with escaped cells, as their content may come from any publisher."""

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
"""Width and height without a terminal; given only a width, rich uses 80 columns if ``TERM`` is dumb."""


def console() -> Console:
    """Return a console; without a terminal or ``COLUMNS`` it has the size `PIPE_SIZE`."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return Console()
    return Console(width=PIPE_SIZE[0], height=PIPE_SIZE[1])


class Table(RichTable):
    """A table of plain text: control characters are escaped, and square brackets are not markup."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row, escaping its strings."""
        super().add_row(*(Text(visible(cell)) if isinstance(cell, str) else cell for cell in cells), **options)
