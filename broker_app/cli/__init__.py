"""The command line: one module per group of commands, each also available as a ``celery`` sub-command."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

import click

from broker_app.cli.command import CliContext, Group, find_app

_VERBS = {
    "advise": "broker_app.cli.advise:advise_command",
    "cancel": "broker_app.cli.cancel:cancel",
    "check": "broker_app.cli.check:check",
    "demo": "broker_app.cli.demo:demo",
    "fleet": "broker_app.cli.fleet:fleet",
    "metrics": "broker_app.cli.metrics:metrics",
    "pause": "broker_app.cli.pause:pause",
    "probe": "broker_app.cli.probe:probe_group",
    "queues": "broker_app.cli.queues:queues",
    "resume": "broker_app.cli.pause:resume",
    "send": "broker_app.cli.send:send",
    "spool": "broker_app.cli.spool:spool",
    "topology": "broker_app.cli.topology:topology",
    "tune": "broker_app.cli.tune:tune_command",
}


class _LazyGroup(Group):
    """Imports a command only when it is used, so that ``--help`` and ``--version`` are fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the sorted command names."""
        del ctx
        return sorted(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by name, or None."""
        del ctx
        if cmd_name not in _VERBS:
            return None
        module, _, name = _VERBS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExamples:\n  broker-app check --broker\n  broker-app fleet start\n"
    "  broker-app send broker_app.tasks.add 2 2 --queue lopri --wait",
)
@click.option(
    "-A", "--app", "app_name", default="broker_app", show_default=True, help="The app, as for celery -A."
)
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks of errors.")
@click.version_option(package_name="broker-app", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, app_name: str, *, verbose: bool) -> None:
    """Run prioritised Celery work on RabbitMQ."""
    ctx.obj = CliContext(app=lambda: find_app(app_name), app_name=app_name, is_verbose=verbose)


def version() -> str:
    """Return the installed version of broker-app."""
    return metadata.version("broker-app")


__all__: list[Any] = ["main", "version"]
