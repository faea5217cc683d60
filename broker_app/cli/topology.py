"""`broker-app topology`: what stands on the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker_app import topology as broker_topology
from broker_app.cli.command import Group, pass_app
from broker_app.prune import prune as remove_unused_lanes
from queues import lane_topology, work_topology
from queues.delay import parse_lane

if TYPE_CHECKING:
    from broker_app.app import BrokerApp


@click.group(
    cls=Group, epilog="\b\nExamples:\n  broker-app topology declare\n  broker-app topology prune --dry-run"
)
def topology() -> None:
    """Declare the queues on the broker, remove unused delay lanes."""


@topology.command()
@pass_app
def declare(app: BrokerApp) -> None:
    """Create the exchanges and queues of the settings; what exists alike is left as it is."""
    settings = app.settings
    wanted = work_topology(settings.specs(), settings.prefix)
    lanes = lane_topology(map(parse_lane, settings.common_lanes), settings.prefix)
    with broker_topology.connect(app) as connection:
        broker_topology.declare(connection, wanted)
        broker_topology.declare(connection, lanes)
    counts = f"{len(wanted.exchanges)} exchanges, {len(wanted.queues)} queues and {len(lanes.queues)} delay lanes"
    click.echo(f"{counts} are declared")


@topology.command()
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Only tell what would go.")
@pass_app
def prune(app: BrokerApp, *, is_dry_run: bool) -> None:
    """Remove empty delay lanes that no message can be on its way to; takes about half a minute."""
    outcome = remove_unused_lanes(app, is_dry_run=is_dry_run)
    for lane in outcome.removed:
        click.echo(f"{'would remove' if is_dry_run else 'removed'} {app.settings.prefix}{lane.name}")
    click.echo(
        f"{len(outcome.removed)} lanes {'to remove' if is_dry_run else 'removed'}, {len(outcome.kept)} kept"
    )
