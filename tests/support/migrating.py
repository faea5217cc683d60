"""Queues that are migrated to other arguments: settings, apps and the messages in the queues."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from broker_app.broker.access import connect
from broker_app.queues.headers import MAYBE_TWICE_HEADER
from broker_app.queues.holding import HoldingQueue
from broker_app.topology.migrate import MigrationTimeouts
from broker_app.topology.plan import apply_plan, compare_topology

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps import AppMaker
    from brokers import Management
    from kombu.message import Message
    from ledger import Ledger

    from broker_app import BrokerApp

    MakeMigrated = Callable[..., BrokerApp]

SHORT = MigrationTimeouts(count=0.2, patience=20)
"""For tests without unacknowledged messages: the broker's counts may be stale, but are not read too early."""
SAFE = MigrationTimeouts(count=6, patience=20)
"""For tests with unacknowledged messages: an idle broker counts every 5 s."""

HASTY = """

from functools import partial
from broker_app.cli import queues_retire, topology
from broker_app.topology.migrate import MigrationTimeouts
from broker_app.topology.prune import PruneTimeouts

move, short = topology.move_queue, MigrationTimeouts(count=0.2)
counted = PruneTimeouts(count=6, declare=1, settle=1, trust=1)
topology.move_queue = lambda *args, waits, **options: move(*args, waits=short, **options)
topology.remove_unused_lanes = partial(topology.remove_unused_lanes, waits=counted)
queues_retire.retire_queue = partial(queues_retire.retire_queue, waits=short)
"""
"""At the end of a project, for commands on messages that no worker holds, with no producers beside them."""

CLASSIC = '[queues.default]\n[queues.lopri]\ntype = "classic"\n'
PRIORITIES = CLASSIC + "priorities = true\n"
ORDERED = CLASSIC + 'dead_letters = "discard"\n'
RANKED = ORDERED + "priorities = true\n"
"""With these two nothing is counted late, as in quorum queues: a migration takes no second."""

HOLDING = HoldingQueue("lopri").name


def declaring(make_app: AppMaker, management: Management) -> MakeMigrated:
    """Return what makes apps that know the management API; each declares what is missing."""
    url = f"management_url = {json.dumps(management.url)}\n"

    def made(settings: str, **options: Any) -> BrokerApp:
        app = make_app(url + settings, **options)
        with connect(app) as connection:
            apply_plan(app, connection, compare_topology(app, connection))
        return app

    return made


def ignore(_stage: str, _moved: int, _total: int | None) -> None:
    """Take no notice of the progress."""


def hurry(shop: Ledger) -> None:
    """Let a project's commands wait for no counts of the broker that are up to date."""
    with (shop.folder / "shop.py").open("a") as file:
        file.write(HASTY)


def differing(app: BrokerApp) -> list[str]:
    """Return what differs from an app's settings."""
    with connect(app) as connection:
        return [str(change) for change in compare_topology(app, connection).changes]


def publish(app: BrokerApp, count: int, **options: Any) -> list[str]:
    """Publish tasks and return their ids."""
    return [app.send_task("shop.add", queue="lopri", **options).id for _ in range(count)]


def ids(messages: list[Message]) -> list[str]:
    """Return the ids of the tasks in messages."""
    return [message.headers["id"] for message in messages]


def counted(messages: list[Message]) -> Counter[str]:
    """Return how often each id is there: twice at most, and then one of the two says so."""
    counts = Counter(ids(messages))
    marked = {message.headers["id"] for message in messages if message.headers.get(MAYBE_TWICE_HEADER)}
    assert {identity for identity, count in counts.items() if count > 1} <= marked
    assert max(counts.values(), default=0) <= 2
    return counts
