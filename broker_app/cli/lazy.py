"""Lazy commands: the name and the short help of a command, whose module is imported when the command is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click


class LazyCommand(click.Command):
    """A command or group that is imported when it is used; `celery` loads these with every command.

    Args:
        target: The command, as ``module:name``.
        name: The command's name.
        summary: The first paragraph of the command's help.
    """

    def __init__(self, target: str, name: str, summary: str) -> None:
        super().__init__(name, help=summary, callback=_unused)
        self._target = target

    def load(self) -> click.Command:
        """Import and return the command."""
        module, _, name = self._target.partition(":")
        command: click.Command = getattr(import_module(module), name)
        self._pass_on(command)
        return command

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Parse the command line; click then uses the command of the returned context."""
        return self.load().make_context(*args, **options)

    def get_help(self, ctx: click.Context) -> str:
        """Return the command's help."""
        return self.load().get_help(ctx)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's parameters."""
        return self.load().get_params(ctx)

    def _pass_on(self, command: click.Command) -> None:
        """Pass on what Celery has added: an app's preload options, and the callback that consumes them."""
        command.params.extend(self.params)
        self.params.clear()
        if self.callback is not _unused:
            from celery.bin.base import consume_preload_options  # noqa: PLC0415 - only if an app has such options

            command.callback = consume_preload_options(command.callback)


def _unused() -> None:
    """Placeholder callback; any other one means that Celery has wrapped the command."""
