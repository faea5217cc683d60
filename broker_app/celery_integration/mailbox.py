"""Mailbox: remote control, with a worker's queue that can be renamed, and a quick answer if no worker listens.

The queue is exclusive to its connection and named after the worker. When a cluster node dies, RabbitMQ can keep
the name of a queue on that node locked and refuse it (405) until the node is back, which would block the worker.
Senders publish to the mailbox's exchange, so the queue may have any name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amqp import spec
from kombu import pidbox

if TYPE_CHECKING:
    from kombu.entity import Queue
    from kombu.messaging import Producer

_HELLO = "hello"
"""The command with which a starting worker greets the others (celery/worker/consumer/mingle.py).

Other commands wait for their time-out as in Celery: programs may poll with it.
"""


class Mailbox(pidbox.Mailbox):
    """Celery's mailbox, with a queue that can be renamed; a worker that is alone does not wait for replies."""

    _moves = 0

    def move(self) -> None:
        """Use a queue with another name from now on."""
        self._moves += 1

    def get_queue(self, hostname: str) -> Queue:
        """Return a worker's queue: ``lopri@host.celery.pidbox``; after a move ``lopri+1@host.celery.pidbox``."""
        stem, at, host = hostname.partition("@")
        name = f"{stem}+{self._moves}{at}{host}" if self._moves else hostname
        return super().get_queue(name)  # type: ignore[no-any-return,no-untyped-call] # kombu has no types

    def _broadcast(self, *args: Any, **options: Any) -> Any:
        broadcast: Any = super()._broadcast
        try:
            return broadcast(*args, **options)
        except _NobodyListensError:
            return []

    def _publish(self, *args: Any, **options: Any) -> None:
        publish: Any = super()._publish
        if args[0] != _HELLO:
            publish(*args, **options)
            return
        taken: Any  # a producer from the app's pool
        with self.producer_or_acquire(options.pop("producer", None), options.get("channel")) as taken:
            producer = _MandatoryProducer(taken)
            publish(*args, producer=producer, **options)
            if not producer.is_heard(options.get("timeout") or 0):
                raise _NobodyListensError


class _NobodyListensError(Exception):
    """No queue is bound to the mailbox's exchange."""


class _MandatoryProducer:
    """Publishes a message that the broker returns if no queue takes it."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def publish(self, body: Any, **options: Any) -> None:
        """Publish, as kombu's producer does."""
        self._producer.publish(body, mandatory=True, **options)

    def is_heard(self, timeout_seconds: float) -> bool:
        """Return False if the broker returned the message; True if not, or if it does not answer in time.

        The answer to ``channel.flow`` comes after the return, as the broker handles a channel's methods in order.
        A broker that has blocked publishers answers neither.
        """
        channel: Any = self._producer.channel
        returned: list[Any] = []
        handlers = channel.events["basic_return"]
        handlers.add(note := lambda *args: returned.append(args))
        channel.send_method(spec.Channel.Flow, "b", (True,))
        try:
            channel.wait(spec.Channel.FlowOk, timeout=timeout_seconds)
        except TimeoutError:
            return True  # the handler stays: without one, py-amqp would raise when the message is returned later
        handlers.discard(note)
        return not returned
