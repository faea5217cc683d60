"""`broker-app queues`: queue contents, scheduled tasks and unrouted tasks."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Column

from broker_app import messages
from broker_app.broker import delay_lanes
from broker_app.broker.scheduled import read_backlog
from broker_app.cli.command import Group, pass_app
from broker_app.cli.output import echo
from broker_app.cli.progress import bar
from broker_app.cli.queues_list import list_
from broker_app.cli.queues_messages import discard, move, peek, purge, replay
from broker_app.cli.queues_retire import retire
from broker_app.cli.table import Table

if TYPE_CHECKING:
    from broker_app.app import BrokerApp
    from broker_app.broker.scheduled import Backlog

_PEEK = 20


@click.group(
    cls=Group,
    epilog="\b\nExamples:\n  broker-app queues list\n  broker-app queues scheduled --json\n"
    "  broker-app queues unrouted --replay\n  broker-app queues peek default.dead\n"
    "  broker-app queues replay default.dead --task 'shop.*' --reason failed --dry-run\n"
    "  broker-app queues discard default.dead --older-than 30d",
)
def queues() -> None:
    """Inspect the queues, and replay, move or remove their messages."""


for _verb in (list_, peek, replay, move, discard, purge, retire):
    queues.add_command(_verb)


@queues.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@pass_app
def scheduled(app: BrokerApp, *, as_json: bool) -> None:
    """Show how many tasks are due within a minute, ten minutes, an hour, a day, and later.

    The counts are exact, but a task may be due sooner than shown: its delay lane only reveals the largest unit of
    the remaining delay. Tasks that are due but held up because their queue is full are counted by the broker every
    few seconds.
    """
    backlog = read_backlog(app)
    virtual_host = app.connection_for_write().virtual_host or "/"
    if as_json:
        echo(json.dumps(_as_dict(backlog, virtual_host)))
        return
    table = Table("due at the latest within", "tasks", title=f"virtual host {virtual_host}", title_justify="left")
    for name, count in backlog.buckets().items():
        table.add_row(name, f"{count:,}")
    table.add_row("total", f"{backlog.total:,}", style="bold")
    Console().print(table)
    if backlog.held_up:
        echo(f"due but held up because their queue does not accept them: {backlog.held_up:,}")
    if not backlog.is_complete:
        text = f"lanes over {delay_lanes.PROBED_DAYS} days and held-up tasks are unknown"
        echo(f"{text}: the management API does not answer", err=True)


@queues.command()
@click.option("--replay", "is_replay", is_flag=True, help="Send each task to its original queue.")
@click.option("--to", metavar="QUEUE", help="With --replay: send to this queue instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@pass_app
def unrouted(app: BrokerApp, to: str | None, *, is_replay: bool, as_json: bool) -> None:
    """Show, or replay, the tasks whose queue no longer existed when they were due."""
    if is_replay:
        _replay(app, to, as_json=as_json)
        return
    if to:
        raise click.UsageError("--to requires --replay")
    unrouted_tasks = messages.peek_unrouted(app, _PEEK)
    if as_json:
        echo(json.dumps([{"id": one.task_id, "task": one.task, "queue": one.queue} for one in unrouted_tasks]))
        return
    title = f"the first {len(unrouted_tasks)} unrouted tasks"
    table = Table("task", Column("id", no_wrap=True), "original queue", title=title, title_justify="left")
    for one in unrouted_tasks:
        table.add_row(one.task, one.task_id, one.queue)
    Console().print(table)


def _replay(app: BrokerApp, to: str | None, *, as_json: bool) -> None:
    with bar("replayed") as shown:
        outcome = messages.replay_unrouted(app, to, shown.show)
    if as_json:
        echo(json.dumps({"moved": outcome.moved, "left": outcome.left, "reason": outcome.reason}))
    else:
        echo(
            f"{outcome.moved:,} replayed, {outcome.left:,} left" + (f": {outcome.reason}" if outcome.left else "")
        )
    if outcome.left:
        sys.exit(1)


def _as_dict(backlog: Backlog, virtual_host: str) -> dict[str, object]:
    return {
        "virtual_host": virtual_host,
        "total": backlog.total,
        "due_at_the_latest_within": backlog.buckets(),
        "held_up": backlog.held_up,
        "lanes": {lane.name: depth for lane, depth in sorted(backlog.depths.items())},
        "is_complete": backlog.is_complete,
    }
