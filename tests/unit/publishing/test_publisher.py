"""Publisher: a queue that refuses because it is new is asked again; one that is full is not."""

from __future__ import annotations

import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from broker_app import BrokerApp
from broker_app.broker import delay_lanes
from broker_app.errors import QueueFull
from broker_app.publishing import publisher as module
from broker_app.publishing.message import OutgoingMessage
from broker_app.publishing.publisher import Publisher
from broker_app.queues import NO_DELAY

if TYPE_CHECKING:
    from pathlib import Path


class RefusingPublisher(Publisher):
    """Is refused so many times, as by a queue without a leader."""

    refusals = 2

    def _connect(self, *_: Any) -> None: ...

    def _deliver_once(self, _connection: Any, outgoing: OutgoingMessage, _deadline: float) -> None:
        if self.refusals:
            self.refusals -= 1
            raise outgoing.refused(QueueFull, "it has no leader")


@pytest.mark.parametrize("is_new", [True, False])
def test_only_a_new_queue_is_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_new: bool) -> None:
    """On RabbitMQ 3.10 a queue that was just declared may have no leader; a full one is told at once."""
    monkeypatch.setattr(module, "bounded", lambda *_: nullcontext())
    (tmp_path / "settings.toml").write_text("[queues.default]\n", encoding="utf-8")
    app = BrokerApp("tests", config=tmp_path / "settings.toml", set_as_current=False)
    table = app.settings.routing_table()
    publisher = RefusingPublisher(app, table, "", 5.0)
    outgoing = OutgoingMessage(
        spec=table.queue("default"),
        delay=NO_DELAY,
        task="shop.add",
        task_id="id",
        exchange="tasks",
        routing_key="default",
        body=b"",
        properties={},
    )
    if is_new:
        monkeypatch.setattr(delay_lanes, "declare", lambda *_: None)
        channel: Any = SimpleNamespace(connection=None, close=lambda: None)
        publisher._declare_path(channel, outgoing, math.inf)
    connection: Any = SimpleNamespace(connection=None, recoverable_connection_errors=(OSError,))
    with nullcontext() if is_new else pytest.raises(QueueFull):
        publisher.deliver(connection, outgoing, math.inf)
    assert publisher.refusals == (0 if is_new else 1)
