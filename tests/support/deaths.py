"""Dead letters as workers and brokers make them, for tests that look at them or send them again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from apps import depth, put_all
from waiting import wait_until

from broker_app import messages
from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology
from broker_app.messages import CommandOptions, MessageFilter
from broker_app.queues import work_topology
from broker_app.queues.dead_letters import (
    AT_HEADER,
    EXCEPTION_HEADER,
    NODE_HEADER,
    QUEUE_HEADER,
    REASON_HEADER,
    TRACEBACK_HEADER,
)
from broker_app.queues.headers import DELAY_HEADER, PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kombu.message import Message

    from broker_app import BrokerApp
    from broker_app.messages import TransferOutcome

DEAD = "default.dead"
"""The dead letters of `default`."""

BODY = b'[[1, 2], {"k": 3}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
HOUR_SECONDS = 3_600


def declare(app: BrokerApp) -> None:
    """Declare the queues of an app's settings."""
    with connect(app) as connection:
        declare_topology(connection, work_topology(app.settings.specs(), app.settings.prefix))


def task_headers(task: str = "shop.add", identity: str | None = None, **more: Any) -> dict[str, Any]:
    """Return the headers of a task that was published an hour ago and tried three times."""
    identity = identity or str(uuid4())
    return {
        "lang": "py",
        "id": identity,
        "task": task,
        "argsrepr": "(1, 2)",
        "kwargsrepr": "{'k': 3}",
        "root_id": "root",
        "parent_id": "parent",
        "group": "group",
        "retries": 3,
        "eta": None,
        "tenant": "a",
        PUBLISHED_AT_HEADER: time.time() - HOUR_SECONDS,
        DELAY_HEADER: 7.0,
        **more,
    }


def death_headers(reason: str = "failed", seconds_ago: float = 0.0, queue: str = "default") -> dict[str, Any]:
    """Return what a worker notes in a message that it gives up."""
    return {
        REASON_HEADER: reason,
        AT_HEADER: time.time() - seconds_ago,
        QUEUE_HEADER: queue,
        NODE_HEADER: "default@host",
        EXCEPTION_HEADER: "ValueError: no such order",
        TRACEBACK_HEADER: "Traceback …",
    }


def publish(app: BrokerApp, queue: str, messages: Iterable[dict[str, Any]], **properties: Any) -> list[str]:
    """Put messages with these headers straight into a queue of the broker; return their ids."""
    before, ids = depth(app, queue) or 0, list[str]()
    sent = []
    for headers in messages:
        ids.append(str(headers.get("id", "")))
        said = {"correlation_id": ids[-1], "content_type": "application/json", "content_encoding": "utf-8"}
        sent.append((BODY, {"application_headers": headers, **said, "delivery_mode": 2, **properties}))
    with app.connection_for_write() as connection:
        put_all(connection, sent, queue)
    wait_until(lambda: (depth(app, queue) or 0) >= before + len(ids), 60, "the messages to be there")
    return ids


def bury(
    app: BrokerApp, count: int = 1, *, queue: str = "default", reason: str = "failed", **more: Any
) -> list[str]:
    """Put dead letters into a queue's dead letters as a worker does, and return their ids."""
    messages = [task_headers(**more) | death_headers(reason, queue=queue) for _ in range(count)]
    return publish(app, f"{app.settings.prefix}{queue}.dead", messages)


def replay(app: BrokerApp, queue: str = DEAD, *, to: str | None = None, **filters: Any) -> TransferOutcome:
    """Replay what passes the filters."""
    return messages.replay(app, queue, CommandOptions(MessageFilter(**filters)), to=to)


def ids_in(messages: list[Message]) -> list[str]:
    """Return the tasks' ids."""
    return [message.headers["id"] for message in messages]


def carried(message: Message) -> dict[str, Any]:
    """Return the headers less what a quorum queue of 3.10 notes when it delivers."""
    return {name: value for name, value in message.headers.items() if name != "x-delivery-count"}


def ids_of(app: BrokerApp, queue: str) -> list[str]:
    """Return the ids in a queue, by a look."""
    return [letter.id for letter in messages.peek(app, queue, 1_000).letters]
