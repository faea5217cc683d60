"""`broker-app fleet`: the workers of this host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker_app.cli.command import Group, Number, app_name, pass_app, pass_app_or_remains
from broker_app.cli.fleet_report import print_stopped, report
from broker_app.cli.fleet_service import plan, supervise, systemd
from broker_app.cli.fleet_status import logs, status
from broker_app.cli.output import echo
from broker_app.fleet import (
    DEFAULT_STOP_SECONDS,
    DEFAULT_WAIT_SECONDS,
    NodeChanges,
    RollingTimeouts,
    StoppedNode,
    patience_seconds,
    reload_fleets,
    restart_fleets,
    scale_fleet,
    start_fleets,
    stop_fleets,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker_app.app import BrokerApp

_MAX_NODES = 1_000
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


for _verb in (status, logs, plan, supervise, systemd):
    fleet.add_command(_verb)


@fleet.command(epilog="\b\nExamples:\n  broker-app fleet start\n  broker-app fleet start lopri --wait 60")
@_queues
@_wait
@pass_app
def start(app: BrokerApp, queues: tuple[str, ...], wait_seconds: float) -> None:
    """Start the nodes that do not run, and wait until all answer.

    Exit code 1 if a node is not up in time; its log's last lines are shown, and the others stay up.
    """
    name = app_name(click.get_current_context())
    report(app, queues, lambda: NodeChanges(start_fleets(app, queues, app_name=name, wait_seconds=wait_seconds)))


@fleet.command(epilog="\b\nExamples:\n  broker-app fleet stop\n  broker-app fleet stop lopri")
@_queues
@pass_app_or_remains
def stop(app: BrokerApp, queues: tuple[str, ...]) -> None:
    """Let the nodes end after their tasks; return at once."""
    _print_stopped(stop_fleets(app, queues, wait_seconds=None))


@fleet.command(
    epilog="\b\nExamples:\n  broker-app fleet stopwait\n  broker-app fleet stopwait --timeout 20 --kill"
)
@_queues
@_timeout
@_kill
@pass_app_or_remains
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
    """Replace the nodes, one of a queue at a time.

    The next one ends when the last one consumes again, so a queue of two nodes or more is always served. If a new
    node does not come up, its queue's other nodes stay as they are, and the exit code is 1.
    """
    name = app_name(click.get_current_context())
    patience = _patience(app, queues, end_seconds, wait_seconds, is_kill_allowed=is_kill_allowed)
    report(app, queues, lambda: restart_fleets(app, queues, app_name=name, patience=patience))


@fleet.command("reload", epilog="\b\nExamples:\n  broker-app fleet reload\n  broker-app fleet reload lopri")
@_queues
@_timeout
@_kill
@_wait
@pass_app
def reload_(
    app: BrokerApp,
    queues: tuple[str, ...],
    end_seconds: float | None,
    wait_seconds: float,
    *,
    is_kill_allowed: bool,
) -> None:
    """Take up changed settings: restart only the nodes that they change.

    Missing nodes are started, surplus ones stopped, changed ones restarted one of a queue at a time; a queue that
    was scaled goes back to what the settings say. A new version of broker-app, or another virtual
    environment, is a change too.
    """
    name = app_name(click.get_current_context())
    patience = _patience(app, queues, end_seconds, wait_seconds, is_kill_allowed=is_kill_allowed)
    report(app, queues, lambda: reload_fleets(app, queues, app_name=name, patience=patience))


@fleet.command(epilog="\b\nExamples:\n  broker-app fleet scale lopri 3\n  broker-app fleet scale lopri --reset")
@click.argument("queue")
@click.argument("nodes", type=click.IntRange(0, _MAX_NODES), required=False)
@click.option("--reset", "is_reset", is_flag=True, help="Go back to the number in the settings.")
@_timeout
@_kill
@_wait
@pass_app
def scale(  # noqa: PLR0913 - click hands over each option
    app: BrokerApp,
    queue: str,
    nodes: int | None,
    end_seconds: float | None,
    wait_seconds: float,
    *,
    is_reset: bool,
    is_kill_allowed: bool,
) -> None:
    """Run so many NODES of a queue on this host, whatever the settings say.

    It lasts, also over a restart of the machine, until the queue is scaled again, --reset, or `fleet reload`.
    """
    if (nodes is None) != is_reset:
        raise click.UsageError("expected a number of nodes, or --reset")
    name = app_name(click.get_current_context())
    patience = _patience(app, (queue,), end_seconds, wait_seconds, is_kill_allowed=is_kill_allowed)
    report(app, (queue,), lambda: scale_fleet(app, queue, nodes, app_name=name, patience=patience))


def _patience(
    app: BrokerApp,
    queues: tuple[str, ...],
    end_seconds: float | None,
    wait_seconds: float,
    *,
    is_kill_allowed: bool,
) -> RollingTimeouts:
    stop_seconds = patience_seconds(app, queues) if end_seconds is None else end_seconds
    return RollingTimeouts(stop_seconds, wait_seconds, is_kill_allowed)


def _print_stopped(outcomes: Iterable[StoppedNode]) -> None:
    outcomes = tuple(outcomes)
    for outcome in outcomes:
        print_stopped(outcome)
    if not outcomes:
        echo("no node runs")
