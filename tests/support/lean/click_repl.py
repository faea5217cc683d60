"""In place of the real package, in the processes that tests start: `celery amqp` without its interactive shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click


def register_repl(group: click.Group) -> None:
    """Add no command: the real one would import prompt_toolkit at each start of a worker."""
    del group
