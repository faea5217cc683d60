"""`broker-app probe`: liveness and readiness probes of this host's workers, for containers and supervisors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker_app.cli import exit_codes
from broker_app.cli.command import Group, pass_app_or_remains
from broker_app.cli.output import echo
from broker_app.monitoring.probes import Probe, probe, probe_file

if TYPE_CHECKING:
    from broker_app.app import BrokerApp

_node = click.argument("node", required=False)
_pid_file = click.option(
    "--pidfile",
    "pid_file",
    type=click.Path(path_type=Path),
    help="Instead of NODE: the --pidfile of a worker with a pid file outside the state folder.",
)


@click.group(
    "probe",
    cls=Group,
    epilog="\b\nExamples:\n  broker-app probe live lopri\n  broker-app -A shop probe ready\n"
    "  broker-app probe ready --pidfile /run/shop/one.pid",
)
def probe_group() -> None:
    """Report in one line whether a worker of this host is live or ready; exit code 0 or 1.

    Reads the file that the worker writes once a second, and needs no broker. NODE is the worker's name, with or
    without the host; it is optional if there is only one worker.
    """


@probe_group.command(epilog="\b\nExamples:\n  broker-app probe live lopri\n  broker-app probe live")
@_node
@_pid_file
@pass_app_or_remains
def live(app: BrokerApp, node: str | None, pid_file: Path | None) -> None:
    """Exit with 0 if the worker's event loop runs and it has heard from the broker."""
    _answer(app, Probe.LIVE, node, pid_file)


@probe_group.command(epilog="\b\nExamples:\n  broker-app probe ready lopri\n  broker-app probe ready")
@_node
@_pid_file
@pass_app_or_remains
def ready(app: BrokerApp, node: str | None, pid_file: Path | None) -> None:
    """Exit with 0 if the worker is live and consumes its queues, or they are paused."""
    _answer(app, Probe.READY, node, pid_file)


def _answer(app: BrokerApp, what: Probe, node: str | None, pid_file: Path | None) -> None:
    if node is not None and pid_file is not None:
        raise click.UsageError("expected a NODE or --pidfile, got both")
    verdict = probe(app, what, node) if pid_file is None else probe_file(app, what, pid_file)
    echo(str(verdict))
    sys.exit(exit_codes.OK if verdict.is_ok else exit_codes.FAILED)
