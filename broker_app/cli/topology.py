"""`broker-app topology`: what stands on the broker, what differs from the settings, and how that is changed."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING

import click

from broker_app.broker import delay_lanes
from broker_app.broker import permissions as least_rights
from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology
from broker_app.cli import exit_codes
from broker_app.cli.command import Group, Number, pass_app
from broker_app.cli.output import echo
from broker_app.cli.progress import stages
from broker_app.queues import work_topology
from broker_app.queues.delay import parse_lane
from broker_app.topology.diff import DifferenceKind
from broker_app.topology.migrate import PATIENCE_SECONDS, MigrationTimeouts
from broker_app.topology.migrate import migrate as move_queue
from broker_app.topology.plan import LANE_WAIT_SECONDS, apply_plan, compare_topology
from broker_app.topology.prune import prune as remove_unused_lanes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker_app.app import BrokerApp
    from broker_app.topology.diff import Difference
    from broker_app.topology.migrate import MigrationResult
    from broker_app.topology.plan import TopologyPlan

ALL_LANES_DAYS = 31
"""With the lanes of the shorter units some 180 queues: 3.5 s and 10 MB of a node (4.3.6, measured)."""


@click.group(
    cls=Group,
    epilog="\b\nExamples:\n  broker-app topology plan\n  broker-app topology apply\n"
    "  broker-app topology migrate lopri --dry-run\n  broker-app topology prune --dry-run\n"
    "  broker-app topology permissions",
)
def topology() -> None:
    """Compare the broker with the settings, create and move queues, remove unused delay lanes, name the rights."""


@topology.command()
@pass_app
def declare(app: BrokerApp) -> None:
    """Create the exchanges and queues of the settings; what exists alike is left as it is."""
    settings = app.settings
    wanted = work_topology(settings.specs(), settings.prefix)
    common = {parse_lane(word) for word in settings.common_lanes}
    with connect(app) as connection:
        declare_topology(connection, wanted)
        delay_lanes.declare(connection, sorted(common), settings.prefix, time.monotonic() + LANE_WAIT_SECONDS)
    counts = f"{len(wanted.exchanges)} exchanges, {len(wanted.queues)} queues and {len(common)} delay lanes"
    echo(f"{counts} are declared")


@topology.command()
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@pass_app
def plan(app: BrokerApp, *, as_json: bool) -> None:
    """Show what differs between the settings and the broker; nothing is changed.

    Exits with 0 if nothing differs, and with 6 if something does. Delay lanes that are not there yet are no
    difference: the first task that needs one declares it.
    """
    with connect(app) as connection:
        found = compare_topology(app, connection)
    if as_json:
        echo(json.dumps(_as_dict(found.changes, found)))
    else:
        _tell(found.differences)
        echo(_summary(found) if found.differences else "nothing differs")
        _tell_later(found)
    _tell_blind(found)
    if found.differences:
        sys.exit(exit_codes.DIFFERS)


@topology.command()
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.option(
    "--all-lanes",
    "has_all_lanes",
    is_flag=True,
    help=f"Also every delay lane up to {ALL_LANES_DAYS} days, for producers and workers who may not declare them.",
)
@pass_app
def apply(app: BrokerApp, *, as_json: bool, has_all_lanes: bool) -> None:
    """Create what is missing; nothing is deleted or altered.

    What stands with other arguments is told, with what to do, and the exit code is 6.
    """
    with connect(app) as connection:
        found = compare_topology(app, connection)
        apply_plan(app, connection, found)
        if has_all_lanes:
            deadline = time.monotonic() + LANE_WAIT_SECONDS
            delay_lanes.declare(connection, delay_lanes.every(ALL_LANES_DAYS), app.settings.prefix, deadline)
    created = [change for change in found.changes if change.kind in {DifferenceKind.MISSING, DifferenceKind.LATER}]
    left = [change for change in found.changes if change not in created]
    if as_json:
        done = [{"what": change.what, "name": change.name} for change in created]
        echo(json.dumps({"created": done, **_as_dict(left, found)}))
    else:
        for change in created:
            echo(f"created  {change.what} {change.name!r}")
        _tell(left)
        echo(f"{len(created)} created")
    _tell_blind(found)
    if found.names(DifferenceKind.DIFFERS, DifferenceKind.MOVING, DifferenceKind.UNKNOWN):
        sys.exit(exit_codes.DIFFERS)


@topology.command()
@click.argument("queue")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Only tell what would be moved.")
@click.option(
    "--patience",
    type=Number(min=0),
    default=PATIENCE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for what workers hold of the queue; after it the queue is put back as it was.",
)
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@pass_app
def migrate(app: BrokerApp, queue: str, *, is_dry_run: bool, patience: float, as_json: bool) -> None:
    """Move QUEUE, and its dead letters, to the arguments of the settings, with all messages.

    Producers may go on; the queue's tasks wait meanwhile, some 15 seconds and as long as the messages take.
    Ended at any point nothing is lost: run it again. It needs the management API.
    """
    with stages(is_quiet=is_dry_run) as told:
        done = move_queue(app, queue, told, is_dry_run=is_dry_run, waits=MigrationTimeouts(patience=patience))
    if as_json:
        moved = [dataclasses.asdict(one) for one in done]
        echo(json.dumps({"is_dry_run": is_dry_run, "queues": moved}))
        return
    for one in done:
        echo(_moved(one, is_dry_run=is_dry_run))
    if not done:
        echo(f"queue {queue!r} stands as the settings ask")


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
        echo(json.dumps({"is_dry_run": is_dry_run, "removed": removed, "kept": kept}))
        return
    for name in removed:
        echo(f"{'would remove' if is_dry_run else 'removed'} {name}")
    echo(f"{len(removed)} lanes {'to remove' if is_dry_run else 'removed'}, {len(outcome.kept)} kept")


@topology.command(
    epilog="\b\nExamples:\n  broker-app topology permissions\n"
    "  broker-app topology permissions producer --user-prefix shop- | sh"
)
@click.argument("role", required=False, type=click.Choice(["deploy", "producer", "worker", "monitor"]))
@click.option("--user-prefix", default="", metavar="TEXT", help="Put before the users' names: shop-producer.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@pass_app
def permissions(app: BrokerApp, role: str | None, user_prefix: str, *, as_json: bool) -> None:
    """Print the least rights of four users, as lines for a shell on the broker's host.

    The users are made before, by `rabbitmqctl add_user NAME`, which asks for the password. The names are those of
    the settings: print and run it again after a new queue. No broker is asked.
    """
    shown = [each for each in least_rights.roles(app) if role in {None, each.name}]
    vhost = least_rights.vhost_of(app)
    if as_json:
        users = [{"user": user_prefix + each.name, **dataclasses.asdict(each)} for each in shown]
        echo(json.dumps({"vhost": vhost, "users": users}))
        return
    for each in shown:
        echo(f"# {each.name}: {each.purpose}")
        for line in each.commands(user_prefix + each.name, vhost):
            echo(line)


def _tell(found: Iterable[Difference]) -> None:
    for change in found:
        echo(str(change))


def _summary(found: TopologyPlan) -> str:
    counts = {kind: count for kind, count in found.counts().items() if count and kind != DifferenceKind.LATER}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _tell_later(found: TopologyPlan) -> None:
    if lanes_to_come := found.counts()[DifferenceKind.LATER]:
        told = "are not there yet: the first task that needs one declares it, or `broker-app topology apply` does"
        echo(f"{lanes_to_come} delay lanes {told}")


def _tell_blind(found: TopologyPlan) -> None:
    if found.blind:
        echo(f"broker-app: bindings, and what stands besides, are not known: {found.blind}", err=True)


def _as_dict(shown: Iterable[Difference], found: TopologyPlan) -> dict[str, object]:
    return {
        "changes": [dataclasses.asdict(change) for change in shown],
        "is_complete": not found.blind,
        "why_incomplete": found.blind,
    }


def _moved(one: MigrationResult, *, is_dry_run: bool) -> str:
    why = one.difference or "an older migration had not ended"
    return f"{'would move' if is_dry_run else 'moved'} {one.queue} with {one.messages:,} messages: {why}"
