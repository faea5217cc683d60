"""`broker-app topology`: what stands on the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker_app import topology as broker_topology
from broker_app.cli.command import Group, pass_app
from queues import work_topology

if TYPE_CHECKING:
    from broker_app.app import BrokerApp


@click.group(cls=Group, epilog="\b\nExamples:\n  broker-app topology declare")
def topology() -> None:
    """Declare the queues on the broker."""


@topology.command()
@pass_app
def declare(app: BrokerApp) -> None:
    """Create the exchanges and queues of the settings; what exists alike is left as it is."""
    settings = app.settings
    wanted = work_topology(settings.specs(), settings.prefix)
    with broker_topology.connect(app) as connection:
        broker_topology.declare(connection, wanted)
    click.echo(f"{len(wanted.exchanges)} exchanges and {len(wanted.queues)} queues are declared")
