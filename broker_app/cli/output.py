"""Terminal output. Control characters are escaped, as publishers control task names, ids and arguments."""

from __future__ import annotations

from typing import IO, Any

import click

from broker_app.text import visible


def echo(text: str = "", *, file: IO[Any] | None = None, err: bool = False, nl: bool = True) -> None:
    """Print text with control characters escaped.

    Args:
        text: The text, without styles.
        file: Output file; None for stdout, or stderr with ``err``.
        err: Whether to print to stderr.
        nl: Whether to end with a newline.
    """
    click.echo(visible(text, "\n\t"), file=file, err=err, nl=nl)
