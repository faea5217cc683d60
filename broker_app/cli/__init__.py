"""The command line: one module per group of commands, each also available as a ``celery`` sub-command."""

from __future__ import annotations

from typing import Any

import click

from broker_app.cli.command import CliContext, Group, find_app
from broker_app.cli.verbs import VERBS


@click.group(
    cls=Group,
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


for _verb in VERBS:
    main.add_command(_verb)


def version() -> str:
    """Return the installed version of broker-app."""
    from importlib import metadata  # noqa: PLC0415 - parses mail, which takes a while to import

    return metadata.version("broker-app")


__all__: list[Any] = ["main", "version"]
