"""Output of the `broker-app fleet` commands: the outcome of each node."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from broker_app.cli import exit_codes
from broker_app.cli.output import echo
from broker_app.errors import NodesFailed
from broker_app.fleet import NodeChanges, StartOutcome, StopOutcome, unwanted_nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker_app.app import BrokerApp
    from broker_app.fleet import StartedNode, StoppedNode


def report(app: BrokerApp, queues: Iterable[str], run: Callable[[], NodeChanges]) -> None:
    """Run a change, and print the outcome of each node and related notes; exit with 1 if a node is not up.

    The log lines of a failed node go to stderr.
    """
    try:
        changes = run()
    except NodesFailed as error:
        changes = NodeChanges(error.outcomes)
    except KeyboardInterrupt:
        echo("broker-app: interrupted; started nodes keep running: see `broker-app fleet status`", err=True)
        sys.exit(exit_codes.INTERRUPTED)
    for queue in changes.unscaled:
        echo(f"{queue}: no longer scaled; the settings say {app.settings.queues[queue].fleet.nodes}")
    for outcome in changes.started:
        print_started(outcome)
    for stopped in changes.stopped:
        print_stopped(stopped)
    for queue in changes.resting:
        echo(f"{queue}: stopped by an operator, skipped; `broker-app fleet start {queue}` starts it")
    _print_notes(app, queues)
    if any(outcome.outcome is StartOutcome.FAILED for outcome in changes.started):
        sys.exit(exit_codes.FAILED)


def print_started(outcome: StartedNode) -> None:
    """Print the start outcome of a node."""
    node = outcome.node
    if outcome.outcome is not StartOutcome.FAILED:
        echo(
            f"{node.name}: {outcome.outcome}, pid {outcome.pid}, consumes {node.queue} with {outcome.slots} slots"
        )
        return
    process = f" (pid {outcome.pid} is left running)" if outcome.pid else ""
    echo(f"broker-app: {node.name} is not up: {outcome.reason}{process}", err=True)
    for line in outcome.log_lines:
        echo(f"  {line}", err=True)
    echo(f"  (log: {outcome.log})", err=True)


def print_stopped(outcome: StoppedNode) -> None:
    """Print the stop outcome of a node."""
    process = (
        f", pid {outcome.pid}" if outcome.outcome is not StopOutcome.WAS_DEAD else "; its pid file is removed"
    )
    echo(f"{outcome.node.name}: {outcome.outcome}{process}")


def _print_notes(app: BrokerApp, queues: Iterable[str]) -> None:
    """Print the queues without nodes, and the running nodes that the settings do not ask for."""
    names = {queue.removeprefix(app.settings.prefix) for queue in queues}
    for name, queue in app.settings.queues.items():
        if (not names or name in names) and not queue.fleet.nodes:
            echo(f"{name}: no node wanted (queues.{name}.fleet.nodes = 0)")
    for node in unwanted_nodes(app):
        verb = "reload" if node.queue in app.settings.queues else "stop"
        echo(
            f"broker-app: {node.name} runs, but is no longer in the settings; "
            f"stop it with `broker-app fleet {verb} {node.queue}`",
            err=True,
        )
