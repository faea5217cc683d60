"""Tables for people: what stands in their cells may come from anybody who can publish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table as RichTable
from rich.text import Text

from broker_app.visible import visible

if TYPE_CHECKING:
    from rich.console import RenderableType


class Table(RichTable):
    """A table of plain texts: control characters are escapes, and square brackets are no markup."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row."""
        super().add_row(*(Text(visible(cell)) if isinstance(cell, str) else cell for cell in cells), **options)
