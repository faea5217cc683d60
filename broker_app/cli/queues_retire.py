"""`broker-app queues retire`: take a queue off the broker that the settings no longer declare."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from broker_app.cli.command import pass_app
from broker_app.cli.output import echo
from broker_app.cli.progress import stages
from broker_app.topology.retire import retire_queue

if TYPE_CHECKING:
    from broker_app.app import BrokerApp
    from broker_app.topology.retire import Retired


@click.command(
    epilog="\b\nExamples:\n  broker-app queues retire old --dry-run\n  broker-app queues retire old --into default"
)
@click.argument("queue", metavar="OLD")
@click.option("--into", metavar="NEW", help="The queue that gets its messages and its dead letters.")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Show what would be done, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@pass_app
def retire(app: BrokerApp, queue: str, into: str | None, *, is_dry_run: bool, as_json: bool) -> None:
    """Remove OLD from the broker, with its dead letters' queue, its bindings and its pause.

    The settings must no longer declare it, and no worker may consume it. With messages in it, or dead letters,
    nothing is done without --into. Ended at any point nothing is lost: run it again. It needs the management API.
    """
    with stages(is_quiet=is_dry_run) as told:
        done = retire_queue(app, queue, told, into=into, is_dry_run=is_dry_run)
    if as_json:
        echo(json.dumps({"is_dry_run": is_dry_run, **dataclasses.asdict(done)}))
        return
    echo(_sentence(done, is_dry_run=is_dry_run))
    if done.scheduled:
        echo(_about_scheduled(done))


def _sentence(done: Retired, *, is_dry_run: bool) -> str:
    counts = f"{done.messages:,} messages and {done.dead:,} dead letters"
    parts = [f"{counts} to {done.into}" if done.into else counts if is_dry_run else ""]
    parts += ["its pause lifted"] if done.was_paused else []
    rest = ", ".join(filter(None, parts))
    return f"{'would retire' if is_dry_run else 'retired'} {done.queue}" + (f": {rest}" if rest else "")


def _about_scheduled(done: Retired) -> str:
    count = f"{done.scheduled:,} tasks of all queues are scheduled"
    if done.into:
        return (
            f"{count}: those for {done.queue} will go to {done.into}. "
            f"Run it again when none is left, to remove the binding that leads them there"
        )
    return (
        f"{count}: those for {done.queue} will be parked when they are due. "
        f"Send them on with `broker-app queues unrouted --replay --to QUEUE`"
    )
