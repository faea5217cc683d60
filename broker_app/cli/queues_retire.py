"""`broker-app queues retire`: remove a queue from the broker that is no longer in the settings."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from broker_app.cli.command import pass_app
from broker_app.cli.output import echo
from broker_app.cli.progress import stages
from broker_app.text import counted
from broker_app.topology.retire import retire_queue

if TYPE_CHECKING:
    from broker_app.app import BrokerApp
    from broker_app.topology.retire import Retired


@click.command(
    epilog="\b\nExamples:\n  broker-app queues retire old --dry-run\n  broker-app queues retire old --into default"
)
@click.argument("queue", metavar="OLD")
@click.option("--into", metavar="NEW", help="The queue that receives its messages and dead letters.")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Show what would be done, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@pass_app
def retire(app: BrokerApp, queue: str, into: str | None, *, is_dry_run: bool, as_json: bool) -> None:
    """Remove OLD from the broker, with its dead letter queue, bindings and pause.

    OLD must no longer be in the settings, and no worker may consume it. If it holds messages or dead letters,
    --into is required. Nothing is lost if the command is killed: run it again. Requires the management API.
    """
    with stages(is_quiet=is_dry_run) as show_stage:
        done = retire_queue(app, queue, show_stage, into=into, is_dry_run=is_dry_run)
    if as_json:
        echo(json.dumps({"is_dry_run": is_dry_run, **dataclasses.asdict(done)}))
        return
    echo(_sentence(done, is_dry_run=is_dry_run))
    if done.scheduled:
        echo(_about_scheduled(done))


def _sentence(done: Retired, *, is_dry_run: bool) -> str:
    counts = f"{counted(done.messages, 'message')} and {counted(done.dead, 'dead letter')}"
    parts = [f"{counts} to {done.into}" if done.into else counts if is_dry_run else ""]
    parts += ["its pause lifted"] if done.was_paused else []
    rest = ", ".join(filter(None, parts))
    return f"{'would retire' if is_dry_run else 'retired'} {done.queue}" + (f": {rest}" if rest else "")


def _about_scheduled(done: Retired) -> str:
    count = f"{counted(done.scheduled, 'task')} of all queues {'is' if done.scheduled == 1 else 'are'} scheduled"
    if done.into:
        return (
            f"{count}: those for {done.queue} will go to {done.into}. "
            f"Run this again when none is left, to remove the binding that routes them"
        )
    return (
        f"{count}: those for {done.queue} will go to the unrouted queue when they are due. "
        f"Send them to another queue with `broker-app queues unrouted --replay --to QUEUE`"
    )
