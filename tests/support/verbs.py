"""The commands as the tests walk through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_app.cli.lazy import LazyCommand

if TYPE_CHECKING:
    import click


def loaded(verb: click.Command | None) -> click.Command | None:
    """Return the command that a lazy command stands for; any other one as it is."""
    return verb.load() if isinstance(verb, LazyCommand) else verb
