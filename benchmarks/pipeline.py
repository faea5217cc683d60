"""Publishing with many unconfirmed messages at once; by py-amqp alone, for every contender."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import uuid4

import amqp
from kombu import serialization
from kombu.connection import Connection

from benchmarks.one_by_one import Pace
from benchmarks.probe import TASK
from broker_app.queues.headers import DELAY_HEADER, PERSISTENT, PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from benchmarks.topologies import Route

WINDOW = 500
"""Messages that wait for their confirmation at most."""
_ANSWER_SECONDS = 60.0


class Pipeline:
    """A channel with confirms.

    Args:
        connection: An open py-amqp connection.
    """

    def __init__(self, connection: amqp.Connection) -> None:
        self._connection = connection
        self._channel = connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_refusal)
        self._channel.events["basic_return"].add(self._on_refusal)
        self._last_tag = 0
        self._pending: dict[int, None] = {}  # tags without an answer, in their order

    def publish(self, message: amqp.Message, route: Route) -> None:
        """Publish one message, mandatory; waits only while the window is full."""
        self._channel.basic_publish(message, route.exchange, route.key, mandatory=True)
        self._last_tag += 1
        self._pending[self._last_tag] = None
        self._wait(WINDOW)

    def finish(self) -> None:
        """Wait until every message is confirmed."""
        self._wait(0)

    def _wait(self, allowed: int) -> None:
        while len(self._pending) > allowed:
            self._connection.drain_events(timeout=_ANSWER_SECONDS)

    def _on_ack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp calls it so
        """Forget the tag, and with ``multiple`` all before it; single answers come in any order."""
        self._pending.pop(tag, None)
        while multiple and (first := next(iter(self._pending), tag)) < tag:
            del self._pending[first]

    def _on_refusal(self, *facts: object) -> None:
        raise AssertionError(f"the broker refused or returned a message: {facts[:2]}")


def publish_many(url: str, count: int, make: Callable[[], amqp.Message], route: Callable[[], Route]) -> Pace:
    """Publish messages, wait for all confirmations, and return how quick it was, connecting excluded."""
    with Connection(url) as connection:
        connection.ensure_connection(max_retries=1)
        pipeline = Pipeline(connection.connection)
        started, worked = time.perf_counter(), time.process_time()
        for _ in range(count):
            pipeline.publish(make(), route())
        pipeline.finish()
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
        return Pace(count / seconds, worked / count * 1e6)


def payload(size_bytes: int) -> Callable[[], amqp.Message]:
    """Return a maker of persistent messages that no worker will read."""
    body = b"x" * size_bytes
    return lambda: amqp.Message(body, delivery_mode=PERSISTENT)


def probes(
    app: Celery,
    label: str,
    *,
    countdown: float | None = None,
    sleep_seconds: float = 0.0,
    keeps_result: bool = False,
) -> Callable[[], amqp.Message]:
    """Return a maker of task messages as the app's `apply_async` of the probe would publish them.

    Args:
        app: Makes the message.
        label: The probe's.
        countdown: In seconds, None for now; each message has its own eta.
        sleep_seconds: The probe's.
        keeps_result: Whether the workers store its result.
    """
    args = (label, None, sleep_seconds)

    def make() -> amqp.Message:
        task_id = str(uuid4())
        message = app.amqp.create_task_message(
            task_id, TASK, args, {}, countdown=countdown, ignore_result=not keeps_result
        )
        content_type, encoding, body = serialization.dumps(message.body, "json")
        return amqp.Message(
            body,
            **message.properties,
            content_type=content_type,
            content_encoding=encoding,
            delivery_mode=PERSISTENT,
            application_headers=message.headers
            | {PUBLISHED_AT_HEADER: time.time(), DELAY_HEADER: countdown or 0.0},
        )

    return make
