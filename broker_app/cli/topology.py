"""`broker-app topology`: compare the broker with the settings, and create, migrate and prune queues."""

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
from broker_app.text import counted
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
"""With the lanes of the shorter units about 180 queues: 3.5 s and 10 MB of a node (4.3.6, measured)."""


@click.group(
    cls=Group,
    epilog="\b\nExamples:\n  broker-app topology plan\n  broker-app topology apply\n"
    "  broker-app topology migrate lopri --dry-run\n  broker-app topology prune --dry-run\n"
    "  broker-app topology permissions",
)
def topology() -> None:
    """Compare the broker with the settings; create and migrate queues, prune delay lanes, print permissions."""


@topology.command()
@pass_app
def declare(app: BrokerApp) -> None:
    """Declare the exchanges and queues of the settings; existing ones are left as they are."""
    settings = app.settings
    wanted = work_topology(settings.specs(), settings.prefix)
    common = {parse_lane(word) for word in settings.common_lanes}
    with connect(app) as connection:
        declare_topology(connection, wanted)
        delay_lanes.declare(connection, sorted(common), settings.prefix, time.monotonic() + LANE_WAIT_SECONDS)
    counts = f"{len(wanted.exchanges)} exchanges, {len(wanted.queues)} queues and {len(common)} delay lanes"
    echo(f"{counts} are declared")


@topology.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@pass_app
def plan(app: BrokerApp, *, as_json: bool) -> None:
    """Show the differences between the settings and the broker, without changing anything.

    Exit code 0 if nothing differs, 6 if something does. Missing delay lanes do not count: the first task that
    needs one declares it.
    """
    with connect(app) as connection:
        found = compare_topology(app, connection)
    if as_json:
        echo(json.dumps(_as_dict(found.changes, found)))
    else:
        _print_differences(found.differences)
        echo(_summary(found) if found.differences else "nothing differs")
        _print_later(found)
    _print_unknown(found)
    if found.differences:
        sys.exit(exit_codes.DIFFERS)


@topology.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@click.option(
    "--all-lanes",
    "has_all_lanes",
    is_flag=True,
    help=f"Also every delay lane up to {ALL_LANES_DAYS} days, for users without permission to declare them.",
)
@pass_app
def apply(app: BrokerApp, *, as_json: bool, has_all_lanes: bool) -> None:
    """Create missing exchanges, queues and bindings; nothing is deleted or altered.

    Queues with other arguments are reported with a remedy, and the exit code is 6.
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
        _print_differences(left)
        echo(f"{len(created)} created")
    _print_unknown(found)
    if found.names(DifferenceKind.DIFFERS, DifferenceKind.MOVING, DifferenceKind.UNKNOWN):
        sys.exit(exit_codes.DIFFERS)


@topology.command()
@click.argument("queue")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Only show what would be moved.")
@click.option(
    "--patience",
    type=Number(min=0),
    default=PATIENCE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Time for unacknowledged messages; then the queue is restored as it was.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@pass_app
def migrate(app: BrokerApp, queue: str, *, is_dry_run: bool, patience: float, as_json: bool) -> None:
    """Recreate QUEUE and its dead letter queue with the arguments in the settings, keeping all messages.

    Producers may continue. The queue's tasks are delayed by about 15 seconds plus the time to move the messages.
    Nothing is lost if the command is killed: run it again. Requires the management API.
    """
    with stages(is_quiet=is_dry_run) as show_stage:
        done = move_queue(
            app, queue, show_stage, is_dry_run=is_dry_run, waits=MigrationTimeouts(patience=patience)
        )
    if as_json:
        moved = [dataclasses.asdict(one) for one in done]
        echo(json.dumps({"is_dry_run": is_dry_run, "queues": moved}))
        return
    for one in done:
        echo(_moved(one, is_dry_run=is_dry_run))
    if not done:
        echo(f"queue {queue!r} already matches the settings")


@topology.command()
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Only show what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@pass_app
def prune(app: BrokerApp, *, is_dry_run: bool, as_json: bool) -> None:
    """Remove empty delay lanes that no message can still reach; takes up to a minute.

    Lanes below half a minute and the settings' common_lanes are kept. Requires the management API.
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
@click.option(
    "--user-prefix", default="", metavar="TEXT", help="Prefix of the user names, e.g. shop- for shop-producer."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@pass_app
def permissions(app: BrokerApp, role: str | None, user_prefix: str, *, as_json: bool) -> None:
    """Print the minimal permissions of four users, as shell commands for the broker's host.

    Create the users first with `rabbitmqctl add_user NAME`, which asks for the password. Queue names come from the
    settings: run the commands again after adding a queue. No connection to the broker is needed.
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


def _print_differences(found: Iterable[Difference]) -> None:
    for change in found:
        echo(str(change))


def _summary(found: TopologyPlan) -> str:
    counts = {kind: count for kind, count in found.counts().items() if count and kind != DifferenceKind.LATER}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _print_later(found: TopologyPlan) -> None:
    if lanes_to_come := found.counts()[DifferenceKind.LATER]:
        note = "do not exist yet: the first task that needs one declares it, or `broker-app topology apply` does"
        echo(f"{lanes_to_come} delay lanes {note}")


def _print_unknown(found: TopologyPlan) -> None:
    if found.blind:
        echo(f"broker-app: bindings and other objects are unknown: {found.blind}", err=True)


def _as_dict(shown: Iterable[Difference], found: TopologyPlan) -> dict[str, object]:
    return {
        "changes": [dataclasses.asdict(change) for change in shown],
        "is_complete": not found.blind,
        "why_incomplete": found.blind,
    }


def _moved(one: MigrationResult, *, is_dry_run: bool) -> str:
    why = one.difference or "an older migration had not ended"
    return f"{'would move' if is_dry_run else 'moved'} {one.queue} with {counted(one.messages, 'message')}: {why}"
