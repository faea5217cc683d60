"""Every command survives a message whose headers cannot be decoded, and sends it on byte for byte."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import amqp
import pytest
from apps import app_maker, depth, put

from broker_app import messages
from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology, wanted_topology
from broker_app.messages import CommandOptions
from broker_app.topology.relocate import Destination, move
from broker_app.wire import frames
from broker_app.wire.field_tables import Encoded, accept_undecodable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker_app import BrokerApp

MILLISECONDS = b"T" + struct.pack(">Q", 1_790_000_000_000)

pytestmark = pytest.mark.version


@pytest.fixture
def app(tmp_path: Path, fresh_vhost_url: str) -> Iterator[BrokerApp]:
    """Return an app whose queue `lopri` has such a message between two others."""
    with app_maker(tmp_path, fresh_vhost_url) as make:
        app = make()
        with connect(app) as connection:
            declare_topology(connection, wanted_topology(app.settings))
            channel = connection.channel()
            put(channel, amqp.Message(b"first", delivery_mode=2), "", "lopri")  # from now on nothing is refused
            channel.basic_get("lopri", no_ack=True)
            for number in range(3):
                headers = {"task": "t", "id": str(number)} | (
                    {"at": Encoded(MILLISECONDS, "")} if number == 1 else {}
                )
                facts = {"application_headers": headers, "content_type": "application/json", "delivery_mode": 2}
                sent = frames.encode(channel.channel_id, connection.frame_max, ("", "lopri"), facts, b"[[],{},{}]")
                connection.transport.write(sent)
            channel.queue_declare("lopri", passive=True)
        yield app


def header_in(app: BrokerApp, queue: str) -> bytes:
    """Take the three messages, and return the header of the second."""
    accept_undecodable()
    with app.connection_for_write() as connection:
        found = [connection.default_channel.basic_get(queue, no_ack=True) for _ in range(3)]
    headers = {(table := message.properties["application_headers"])["id"]: table for message in found}
    value: Encoded = headers["1"]["at"]
    return value.data


def test_peek_list_discard(app: BrokerApp) -> None:
    """It is shown as undecodable, with the header; it can be chosen by that, and the queues can be listed."""
    letters = messages.peek(app, "lopri", 10).letters
    assert [(letter.id, letter.reason) for letter in letters] == [("0", ""), ("1", "undecodable"), ("2", "")]
    assert "header 'at'" in letters[1].exception
    overview = messages.read_overview(app, may_look=True)
    assert overview.rows["lopri"].ready == 3
    chosen = CommandOptions(messages.MessageFilter(reasons=("undecodable",)))
    assert messages.discard(app, "lopri", chosen).done == 1
    assert depth(app, "lopri") == 2


def test_move_and_replay(app: BrokerApp) -> None:
    """In the dead letters and back, nothing of it is lost."""
    assert messages.move(app, "lopri", "lopri.dead", CommandOptions()).done == 3
    assert messages.replay(app, "lopri.dead", CommandOptions()).done == 3
    assert header_in(app, "lopri") == MILLISECONDS


def test_migrate_moves_it(app: BrokerApp) -> None:
    """So does what `topology migrate` moves messages with."""
    with connect(app) as connection:
        way = Destination("", "default", lambda _: False)
        assert move(connection, "lopri", way, None, lambda _: None) == 3
    assert header_in(app, "default") == MILLISECONDS
