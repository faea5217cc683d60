"""`broker-app pause` and `broker-app resume`: stop and resume the consumption of queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker_app.broker.pauses import pause_queue, paused_queues, resume_queue
from broker_app.cli.command import Command, pass_app
from broker_app.cli.output import echo
from broker_app.errors import UnknownQueue

if TYPE_CHECKING:
    from broker_app.app import BrokerApp

_queues = click.argument("queues", metavar="QUEUE…", nargs=-1, required=True)


@click.command(cls=Command, epilog="\b\nExamples:\n  broker-app pause lopri")
@_queues
@pass_app
def pause(app: BrokerApp, queues: tuple[str, ...]) -> None:
    """Stop consuming queues on all hosts, until they are resumed.

    A pause survives restarts of workers, machines and the broker. Running tasks finish, prefetched tasks return to
    the queue, and publishing continues. Connected workers react within about a second.
    """
    for name in _known(app, queues):
        pause_queue(app, name)
        echo(f"{name}: paused")


@click.command(cls=Command, epilog="\b\nExamples:\n  broker-app resume lopri")
@_queues
@pass_app
def resume(app: BrokerApp, queues: tuple[str, ...]) -> None:
    """Resume the consumption of paused queues."""
    for name in _resumable(app, queues):
        resume_queue(app, name)
        echo(f"{name}: resumed")


def _resumable(app: BrokerApp, queues: tuple[str, ...]) -> list[str]:
    """Return the queues' names, including paused queues that are no longer in the settings."""
    try:
        return _known(app, queues)
    except UnknownQueue:
        prefix, paused = app.settings.prefix, paused_queues(app)
        gone = {short for name in queues if (short := name.removeprefix(prefix)) in paused}
        rest = tuple(name for name in queues if name.removeprefix(prefix) not in gone)
        return [*_known(app, rest), *sorted(gone)]


def _known(app: BrokerApp, queues: tuple[str, ...]) -> list[str]:
    """Return the queues' names without duplicates; raise for an unknown one before anything is changed."""
    table = app.settings.routing_table()
    return list(dict.fromkeys(table.queue(queue).name for queue in queues))
