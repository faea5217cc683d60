"""`broker-app cancel`: tasks that shall not run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker_app.cli.command import Command, pass_app

if TYPE_CHECKING:
    from broker_app.app import BrokerApp


@click.command(cls=Command, epilog="\b\nExamples:\n  broker-app cancel 0b4f5ffe-9a14-4e0e-8d4c-1f0b5a8f1c55")
@click.argument("task_ids", metavar="TASK_ID…", nargs=-1, required=True)
@pass_app
def cancel(app: BrokerApp, task_ids: tuple[str, ...]) -> None:
    """Keep tasks from running, also scheduled ones, also after every worker has restarted.

    The broker remembers a cancellation for 30 days. A task that runs already is not interrupted.
    """
    app.control.revoke(list(task_ids))
    for task_id in task_ids:
        click.echo(f"{task_id} {app.AsyncResult(task_id).state}")
