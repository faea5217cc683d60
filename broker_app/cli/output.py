"""Output for people. Tasks' names, ids and arguments are a publisher's, and a terminal obeys what is in them."""

from __future__ import annotations

from typing import IO, Any

import click

from broker_app.text import visible


def echo(text: str = "", *, file: IO[Any] | None = None, err: bool = False, nl: bool = True) -> None:
    """Print lines, with control characters as escapes.

    Args:
        text: Without styles.
        file: Where to; None for stdout, or stderr with ``err``.
        err: Whether to stderr.
        nl: Whether the last line ends here.
    """
    click.echo(visible(text, "\n\t"), file=file, err=err, nl=nl)
