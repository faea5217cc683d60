"""Producers and workers during a migration: no call fails, and no message held by a consumer is lost."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from apps import TWO_QUEUES, depth, take
from ending import joined
from migrating import (
    CLASSIC,
    HOLDING,
    ORDERED,
    RANKED,
    SAFE,
    SHORT,
    counted,
    declaring,
    differing,
    ids,
    ignore,
    publish,
)
from waiting import wait_until

from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology, wanted_topology
from broker_app.errors import BrokerError
from broker_app.topology.migrate import MigrationTimeouts, migrate

if TYPE_CHECKING:
    from apps import AppMaker
    from brokers import Management
    from migrating import MakeMigrated


@pytest.fixture
def make(make_app: AppMaker, management: Management) -> MakeMigrated:
    """Return what makes apps that know the management API; each declares what is missing."""
    return declaring(make_app, management)


@pytest.mark.version
def test_producers_go_on(make: MakeMigrated) -> None:
    """No call fails while a queue is moved, at once or delayed; each task is there, or twice and marked."""
    old = make(CLASSIC)
    publish(old, 200)
    app, stop, published = make(TWO_QUEUES), threading.Event(), publish(old, 1)
    errors: list[Exception] = []

    def produce(**options: Any) -> None:
        while not stop.is_set():
            try:
                published.extend(publish(old, 1, **options))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is shown
                errors.append(error)

    options: tuple[dict[str, Any], ...] = ({}, {}, {"countdown": 1})
    producers = [threading.Thread(target=produce, kwargs=kwargs, daemon=True) for kwargs in options]
    for producer in producers:
        producer.start()
    try:
        done = migrate(app, "lopri", ignore, waits=SHORT)
    finally:
        stop.set()
        for producer in producers:
            joined(producer)

    assert errors == []
    assert done[-1].messages > 200
    wait_until(lambda: not depth(app, "delay.1s"), 30, "the delayed ones to be due")
    assert differing(app) == []
    messages = take(app, "lopri")
    counts = counted(messages)
    assert set(counts) >= set(published)


@pytest.mark.version
@pytest.mark.parametrize("settings", [ORDERED, TWO_QUEUES], ids=["classic", "quorum"])
def test_what_somebody_holds_is_waited_for(make: MakeMigrated, settings: str) -> None:
    """A queue is not deleted under a message that is with a worker, but put back as it was; nothing is lost."""
    old = make(settings)
    published = publish(old, 10)
    app = make(RANKED)
    with old.connection_for_write() as connection:
        channel = connection.default_channel
        held = channel.basic_get("lopri")
        with pytest.raises(BrokerError, match=r"after 0 s workers hold 1 of its messages still.*put back"):
            migrate(app, "lopri", ignore, waits=MigrationTimeouts(count=6, patience=0))
        assert depth(app, HOLDING) is None
        assert differing(old) == []
        published += publish(old, 1)
        channel.basic_ack(held.delivery_tag)
    migrate(app, "lopri", ignore, waits=SAFE)
    assert ids(take(app, "lopri")) == published[1:]


def test_somebody_binds_the_queue_again_and_again(make: MakeMigrated) -> None:
    """Workers with older settings that start meanwhile do: what comes to both places is there twice and marked."""
    old = make(ORDERED)
    publish(old, 3)
    app = make(RANKED)

    def disturb(stage: str, _moved: int, _total: int | None) -> None:
        if stage.startswith("waiting until the broker counts nothing in lopri"):
            with connect(old) as connection:
                declare_topology(connection, wanted_topology(old.settings))
            publish(old, 1)

    migrate(app, "lopri", disturb, waits=MigrationTimeouts(count=1, patience=20))
    assert differing(app) == []
    messages = take(app, "lopri")
    counts = counted(messages)
    assert len(counts) > 3
    assert max(counts.values()) == 2
