"""`broker-app topology`: what stands on the broker."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from broker_app import lanes
from broker_app import topology as broker_topology
from broker_app.cli.command import Group, pass_app
from broker_app.prune import prune as remove_unused_lanes
from queues import work_topology
from queues.delay import parse_lane

if TYPE_CHECKING:
    from broker_app.app import BrokerApp

_PRUNE_SECONDS = 60.0
"""How long a prune that is under way is waited for."""


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
    common = {parse_lane(word) for word in settings.common_lanes}
    with broker_topology.connect(app) as connection:
        broker_topology.declare(connection, wanted)
        lanes.declare(connection, sorted(common), settings.prefix, time.monotonic() + _PRUNE_SECONDS)
    counts = f"{len(wanted.exchanges)} exchanges, {len(wanted.queues)} queues and {len(common)} delay lanes"
    click.echo(f"{counts} are declared")


@topology.command()
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Only tell what would go.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@pass_app
def prune(app: BrokerApp, *, is_dry_run: bool, as_json: bool) -> None:
    """Remove empty delay lanes that no message can be on its way to; takes most of a minute.

    Lanes below half a minute and the settings' common_lanes stay. It needs the management API.
    """
    outcome = remove_unused_lanes(app, is_dry_run=is_dry_run)
    removed = [f"{app.settings.prefix}{lane.name}" for lane in outcome.removed]
    if as_json:
        kept = [f"{app.settings.prefix}{lane.name}" for lane in outcome.kept]
        click.echo(json.dumps({"is_dry_run": is_dry_run, "removed": removed, "kept": kept}))
        return
    for name in removed:
        click.echo(f"{'would remove' if is_dry_run else 'removed'} {name}")
    click.echo(f"{len(removed)} lanes {'to remove' if is_dry_run else 'removed'}, {len(outcome.kept)} kept")
