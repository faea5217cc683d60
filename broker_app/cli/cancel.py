"""`broker-app cancel`: cancel tasks before they run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from broker_app.cli.command import Command, pass_app
from broker_app.cli.output import echo
from broker_app.errors import CallError

if TYPE_CHECKING:
    from broker_app.app import BrokerApp


@click.command(cls=Command, epilog="\b\nExamples:\n  broker-app cancel 0b4f5ffe-9a14-4e0e-8d4c-1f0b5a8f1c55")
@click.argument("task_ids", metavar="TASK_ID…", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@pass_app
def cancel(app: BrokerApp, task_ids: tuple[str, ...], *, as_json: bool) -> None:
    """Cancel tasks, including scheduled ones, even if all workers restart.

    The broker keeps a cancellation for 30 days. Running tasks are not interrupted. Prints the state of each
    result, or "cancelled" if no result store has one.
    """
    if not all(map(str.strip, task_ids)):
        raise CallError("TASK_ID: expected the id of a task, got an empty text")
    app.control.revoke(list(task_ids))
    states = zip(task_ids, _states(app, task_ids), strict=True)
    if as_json:
        echo(json.dumps([{"id": task_id, "state": state} for task_id, state in states]))
        return
    for task_id, state in states:
        echo(f"{task_id} {state or 'cancelled'}")


def _states(app: BrokerApp, task_ids: tuple[str, ...]) -> list[str | None]:
    """Return the states of the results; all None if the result store fails."""
    try:
        return [str(app.AsyncResult(task_id).state) for task_id in task_ids]
    except Exception:  # noqa: BLE001 - each store raises its own errors; `Control.revoke` has warned
        return [None] * len(task_ids)
