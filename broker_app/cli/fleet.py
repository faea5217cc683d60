"""`broker-app fleet`: start, stop and change the workers of this host."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from broker_app.cli.command import Group, Number, WholeNumber, app_name, pass_app, pass_app_or_remains
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
    from collections.abc import Callable, Iterable

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
    help="Time for each node to reply and to consume its queue.",
)
_timeout = click.option(
    "--timeout",
    "end_seconds",
    type=_Seconds,
    default=None,
    metavar="SECONDS",
    help=f"Time for nodes to exit.  [default: {DEFAULT_STOP_SECONDS:g}, or drain_seconds plus a margin]",
)
_kill = click.option(
    "--kill",
    "is_kill_allowed",
    is_flag=True,
    help="Kill nodes that still run then; their tasks return to the queue.",
)


@dataclass(frozen=True, slots=True)
class _ReplaceOptions:
    """The options of commands that replace nodes."""

    end_seconds: float | None
    wait_seconds: float
    is_kill_allowed: bool

    def timeouts(self, app: BrokerApp, queues: tuple[str, ...]) -> RollingTimeouts:
        """Return the time-outs, with the default of --timeout for these queues."""
        return RollingTimeouts(
            _end_seconds(app, queues, self.end_seconds), self.wait_seconds, self.is_kill_allowed
        )


def _replacing(verb: Callable[..., None]) -> Callable[..., None]:
    """Add the options of commands that replace nodes, passed as ``options``."""

    @_timeout
    @_kill
    @_wait
    @functools.wraps(verb)
    def with_options(
        *args: Any, end_seconds: float | None, wait_seconds: float, is_kill_allowed: bool, **others: Any
    ) -> None:
        verb(*args, options=_ReplaceOptions(end_seconds, wait_seconds, is_kill_allowed), **others)

    return with_options


def _end_seconds(app: BrokerApp, queues: tuple[str, ...], given: float | None) -> float:
    return patience_seconds(app, queues) if given is None else given


@click.group(
    cls=Group,
    epilog="\b\nExamples:\n  broker-app fleet start\n  broker-app fleet status --json\n"
    "  broker-app -A shop fleet restart lopri --timeout 600\n  broker-app fleet stopwait",
)
def fleet() -> None:
    """Run this host's workers, through `celery multi`.

    Without QUEUE, a command applies to all queues. The settings define each queue's number of nodes, pool and
    slots. Pid files and logs are in the state folder.
    """


for _verb in (status, logs, plan, supervise, systemd):
    fleet.add_command(_verb)


@fleet.command(epilog="\b\nExamples:\n  broker-app fleet start\n  broker-app fleet start lopri --wait 60")
@_queues
@_wait
@pass_app
def start(app: BrokerApp, queues: tuple[str, ...], wait_seconds: float) -> None:
    """Start the nodes that do not run, and wait until all reply.

    Exit code 1 if a node is not up in time; the end of its log is shown, and the other nodes stay up.
    """
    name = app_name(click.get_current_context())
    report(app, queues, lambda: NodeChanges(start_fleets(app, queues, app_name=name, wait_seconds=wait_seconds)))


@fleet.command(epilog="\b\nExamples:\n  broker-app fleet stop\n  broker-app fleet stop lopri")
@_queues
@pass_app_or_remains
def stop(app: BrokerApp, queues: tuple[str, ...]) -> None:
    """Tell the nodes to exit after their current tasks; return at once."""
    _print_stopped(stop_fleets(app, queues, wait_seconds=None))


@fleet.command(
    epilog="\b\nExamples:\n  broker-app fleet stopwait\n  broker-app fleet stopwait --timeout 20 --kill"
)
@_queues
@_timeout
@_kill
@pass_app_or_remains
def stopwait(app: BrokerApp, queues: tuple[str, ...], end_seconds: float | None, *, is_kill_allowed: bool) -> None:
    """Tell the nodes to exit after their current tasks, and wait for them.

    Exit code 1 if a node still runs after --timeout.
    """
    wait_seconds = _end_seconds(app, queues, end_seconds)
    _print_stopped(stop_fleets(app, queues, wait_seconds=wait_seconds, is_kill_allowed=is_kill_allowed))


@fleet.command(epilog="\b\nExamples:\n  broker-app fleet restart\n  broker-app fleet restart lopri --timeout 600")
@_queues
@_replacing
@pass_app
def restart(app: BrokerApp, queues: tuple[str, ...], options: _ReplaceOptions) -> None:
    """Restart the nodes, one of each queue at a time.

    A node is only stopped once its predecessor consumes again, so a queue with two or more nodes is always served.
    If a new node fails to start, the other nodes of its queue are left as they are, and the exit code is 1.
    """
    name = app_name(click.get_current_context())
    patience = options.timeouts(app, queues)
    report(app, queues, lambda: restart_fleets(app, queues, app_name=name, patience=patience))


@fleet.command("reload", epilog="\b\nExamples:\n  broker-app fleet reload\n  broker-app fleet reload lopri")
@_queues
@_replacing
@pass_app
def reload_(app: BrokerApp, queues: tuple[str, ...], options: _ReplaceOptions) -> None:
    """Apply changed settings: restart only the affected nodes.

    Missing nodes are started, surplus nodes stopped, and changed nodes restarted, one of each queue at a time.
    Scaled queues return to the number of nodes in the settings. A new version of broker-app or another virtual
    environment counts as a change.
    """
    name = app_name(click.get_current_context())
    patience = options.timeouts(app, queues)
    report(app, queues, lambda: reload_fleets(app, queues, app_name=name, patience=patience))


@fleet.command(epilog="\b\nExamples:\n  broker-app fleet scale lopri 3\n  broker-app fleet scale lopri --reset")
@click.argument("queue")
@click.argument("nodes", type=WholeNumber(0, _MAX_NODES), required=False)
@click.option("--reset", "is_reset", is_flag=True, help="Return to the number in the settings.")
@_replacing
@pass_app
def scale(app: BrokerApp, queue: str, nodes: int | None, options: _ReplaceOptions, *, is_reset: bool) -> None:
    """Run NODES nodes of a queue on this host, regardless of the settings.

    This survives a restart of the machine. It ends with --reset, `fleet reload`, or the next `fleet scale`.
    """
    if (nodes is None) != is_reset:
        raise click.UsageError("expected a number of nodes, or --reset")
    name = app_name(click.get_current_context())
    patience = options.timeouts(app, (queue,))
    report(app, (queue,), lambda: scale_fleet(app, queue, nodes, app_name=name, patience=patience))


def _print_stopped(outcomes: Iterable[StoppedNode]) -> None:
    outcomes = tuple(outcomes)
    for outcome in outcomes:
        print_stopped(outcome)
    if not outcomes:
        echo("no node runs")
