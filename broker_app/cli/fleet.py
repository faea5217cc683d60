"""`broker-app fleet`: the workers of this host."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from broker_app.cli import exit_codes
from broker_app.cli.command import Group, Number, app_name, pass_app
from broker_app.errors import NodesFailed
from broker_app.fleet import (
    DEFAULT_ANSWER_SECONDS,
    DEFAULT_STOP_SECONDS,
    DEFAULT_WAIT_SECONDS,
    Start,
    StartedNode,
    Stop,
    StoppedNode,
    fleet_status,
    patience_seconds,
    restart_fleets,
    start_fleets,
    stop_fleets,
    unwanted_nodes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker_app.app import BrokerApp
    from broker_app.fleet import NodeStatus

_Seconds = Number(min=0, max=86_400)

_queues = click.argument("queues", nargs=-1, metavar="[QUEUE]...")
_wait = click.option(
    "--wait",
    "wait_seconds",
    type=_Seconds,
    default=DEFAULT_WAIT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long each node may take to answer and to consume its queue.",
)
_timeout = click.option(
    "--timeout",
    "end_seconds",
    type=_Seconds,
    default=None,
    metavar="SECONDS",
    help=f"How long to wait for their end.  [default: {DEFAULT_STOP_SECONDS:g}, or drain_seconds and a little]",
)
_kill = click.option(
    "--kill", "is_kill_allowed", is_flag=True, help="Kill what still runs then; its tasks go back to the queue."
)


@click.group(
    cls=Group,
    epilog="\b\nExamples:\n  broker-app fleet start\n  broker-app fleet status --json\n"
    "  broker-app -A shop fleet restart lopri --timeout 600\n  broker-app fleet stopwait",
)
def fleet() -> None:
    """Run the workers of the queues on this host, through `celery multi`.

    Without a QUEUE a verb is for all of them. The settings say how many nodes a queue has, their pool and
    their slots; pid files and logs are in the state folder.
    """


@fleet.command(epilog="\b\nExamples:\n  broker-app fleet start\n  broker-app fleet start lopri --wait 60")
@_queues
@_wait
@pass_app
def start(app: BrokerApp, queues: tuple[str, ...], wait_seconds: float) -> None:
    """Start the nodes that do not run, and wait until all answer.

    Exit code 1 if a node is not up in time; its log's last lines are shown, and the others stay up.
    """
    name = app_name(click.get_current_context())
    _report_start(app, queues, lambda: start_fleets(app, queues, app_name=name, wait_seconds=wait_seconds))


@fleet.command(epilog="\b\nExamples:\n  broker-app fleet stop\n  broker-app fleet stop lopri")
@_queues
@pass_app
def stop(app: BrokerApp, queues: tuple[str, ...]) -> None:
    """Let the nodes end after their tasks; return at once."""
    _print_stopped(stop_fleets(app, queues, wait_seconds=None))


@fleet.command(
    epilog="\b\nExamples:\n  broker-app fleet stopwait\n  broker-app fleet stopwait --timeout 20 --kill"
)
@_queues
@_timeout
@_kill
@pass_app
def stopwait(app: BrokerApp, queues: tuple[str, ...], end_seconds: float | None, *, is_kill_allowed: bool) -> None:
    """Let the nodes end after their tasks, and wait for it.

    Exit code 1 if a node still runs after --timeout.
    """
    wait_seconds = patience_seconds(app, queues) if end_seconds is None else end_seconds
    _print_stopped(stop_fleets(app, queues, wait_seconds=wait_seconds, is_kill_allowed=is_kill_allowed))


@fleet.command(epilog="\b\nExamples:\n  broker-app fleet restart\n  broker-app fleet restart lopri --timeout 600")
@_queues
@_timeout
@_kill
@_wait
@pass_app
def restart(
    app: BrokerApp,
    queues: tuple[str, ...],
    end_seconds: float | None,
    wait_seconds: float,
    *,
    is_kill_allowed: bool,
) -> None:
    """Stop the nodes, then start what the settings want."""
    name = app_name(click.get_current_context())
    _report_start(
        app,
        queues,
        lambda: restart_fleets(
            app,
            queues,
            app_name=name,
            stop_seconds=patience_seconds(app, queues) if end_seconds is None else end_seconds,
            wait_seconds=wait_seconds,
            is_kill_allowed=is_kill_allowed,
        ),
    )


@fleet.command(epilog="\b\nExamples:\n  broker-app fleet status\n  broker-app fleet status lopri --json")
@_queues
@click.option(
    "--timeout",
    "answer_seconds",
    type=_Seconds,
    default=DEFAULT_ANSWER_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a node that is silent.",
)
@click.option("--json", "is_json", is_flag=True, help="One JSON object, for a script.")
@pass_app
def status(app: BrokerApp, queues: tuple[str, ...], answer_seconds: float, *, is_json: bool) -> None:
    """Show the nodes and what they do.

    Exit code 0 if all that are wanted run and consume their queue, 4 if the broker cannot be asked, else 1. What
    a node consumes, and when it last heard from the broker, it writes down itself once a second: a node that
    hangs is seen.
    """
    found = fleet_status(app, queues, answer_seconds=answer_seconds)
    rows = [_row(node) for node in found.nodes]
    if is_json:
        click.echo(json.dumps({"is_complete": found.is_complete, "nodes": rows}))
    else:
        _print_table(rows)
    if found.broker_problem:
        click.echo(f"broker-app: nobody could be asked: {found.broker_problem}", err=True)
        sys.exit(exit_codes.BROKER)
    sys.exit(exit_codes.OK if found.is_complete else exit_codes.FAILED)


def _report_start(app: BrokerApp, queues: Iterable[str], run: Callable[[], tuple[StartedNode, ...]]) -> None:
    """Print each node's outcome and what the settings leave out; the log of a node that is not up, to stderr."""
    try:
        outcomes = run()
    except NodesFailed as error:
        outcomes = error.outcomes
    except KeyboardInterrupt:
        click.echo("broker-app: interrupted; what was started runs on: see `broker-app fleet status`", err=True)
        sys.exit(exit_codes.INTERRUPTED)
    for outcome in outcomes:
        _print_started(outcome)
    _print_notes(app, queues)
    if any(outcome.outcome is Start.FAILED for outcome in outcomes):
        sys.exit(exit_codes.FAILED)


def _print_started(outcome: StartedNode) -> None:
    node = outcome.node
    if outcome.outcome is not Start.FAILED:
        click.echo(
            f"{node.name}: {outcome.outcome}, pid {outcome.pid}, consumes {node.queue} with {outcome.slots} slots"
        )
        return
    process = f" (pid {outcome.pid} is left running)" if outcome.pid else ""
    click.echo(f"broker-app: {node.name} is not up: {outcome.reason}{process}", err=True)
    for line in outcome.log_lines:
        click.echo(f"  {line}", err=True)
    click.echo(f"  (log: {outcome.log})", err=True)


def _print_notes(app: BrokerApp, queues: Iterable[str]) -> None:
    """Say which queues have no fleet, and which nodes run on though nobody wants them."""
    table = app.settings.routing_table()
    names = {table.queue(queue).name for queue in queues} or set(app.settings.queues)
    for name, queue in app.settings.queues.items():
        if name in names and not queue.fleet.nodes:
            click.echo(f"{name}: no node wanted (queues.{name}.fleet.nodes = 0)")
    for node in unwanted_nodes(app):
        verb = "restart" if node.queue in app.settings.queues else "stop"
        click.echo(
            f"broker-app: {node.name} runs, but the settings no longer want it; "
            f"end it with `broker-app fleet {verb} {node.queue}`",
            err=True,
        )


def _print_stopped(outcomes: Iterable[StoppedNode]) -> None:
    outcomes = tuple(outcomes)
    for outcome in outcomes:
        process = f", pid {outcome.pid}" if outcome.outcome is not Stop.WAS_DEAD else "; its pid file is removed"
        click.echo(f"{outcome.node.name}: {outcome.outcome}{process}")
    if not outcomes:
        click.echo("no node runs")


def _row(status: NodeStatus) -> dict[str, Any]:
    """Return a node as it stands in JSON; the table shows the same."""
    answer = status.answer
    return {
        "queue": status.node.queue,
        "node": status.node.name,
        "pid": status.pid,
        "state": str(status.state),
        "is_wanted": status.is_wanted,
        "is_answering": answer is not None,
        "is_consuming": status.is_consuming,
        "is_paused": status.is_paused,
        "heard_seconds": None if status.heard_seconds is None else round(status.heard_seconds, 1),
        "pool": status.pool,
        "slots": status.slots,
        "active": answer.active if answer else None,
        "log": str(status.log),
    }


_COLUMNS = {
    "queue": "queue",
    "node": "node",
    "pid": "pid",
    "state": "state",
    "is_wanted": "wanted",
    "is_answering": "answers",
    "is_consuming": "consumes",
    "is_paused": "paused",
    "heard_seconds": "heard",
    "pool": "pool",
    "slots": "slots",
    "active": "active",
}
"""The logs' folder stands below the table: paths would not fit into its lines."""


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Print a table with lines on a terminal, and columns of plain text otherwise; then where the logs are."""
    cells = [[_cell(_ago(row) if key == "heard_seconds" else row[key]) for key in _COLUMNS] for row in rows]
    if sys.stdout.isatty():
        table = Table(*_COLUMNS.values())
        for line in cells:
            table.add_row(*line)
        Console().print(table)
    else:
        _print_columns(cells)
    for folder in sorted({str(Path(row["log"]).parent) for row in rows}):
        click.echo(f"logs: {folder}")


def _print_columns(cells: list[list[str]]) -> None:
    lines = [list(_COLUMNS.values()), *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _ago(row: dict[str, Any]) -> str | None:
    seconds = row["heard_seconds"]
    return None if seconds is None else f"{seconds:.0f} s ago"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)
