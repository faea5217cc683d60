"""Oldest-wait probe: fetch and requeue the next message of a queue to see how long it has waited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pika.spec import Basic

from broker_app.messages.channel import ANSWER_SECONDS
from broker_app.queues.headers import DELAY_HEADER, PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    import pika

    from broker_app.messages.channel import CallbackChannel


class OldestMessages:
    """Reads how long the first message of a queue has waited.

    A quorum queue requeues the message behind others that were requeued before; otherwise it is first again. A
    consumer may receive the second message in between.

    Args:
        link: An open channel without consumers.
    """

    def __init__(self, link: CallbackChannel) -> None:
        self._link = link
        self._answers: list[tuple[int, pika.BasicProperties] | None] = []
        link.channel.add_callback(link.waking(self._on_empty), [Basic.GetEmpty], one_shot=False)

    def waited_seconds(self, queue: str, now: float) -> float | None:
        """Return how long the next message has been due; None if the queue is empty or its headers do not say.

        Raises:
            NotOnBroker: No such queue.
            BrokerError: The broker refused.
        """
        self._answers.clear()
        with self._link.refusals():
            self._link.channel.basic_get(queue, self._link.waking(self._on_message))
        self._link.wait(lambda: bool(self._answers), ANSWER_SECONDS)
        answer = self._answers[0] if self._answers else None
        if answer is None:
            return None
        tag, properties = answer
        with self._link.refusals():
            self._link.channel.basic_nack(tag, requeue=True)
        return _waited(properties.headers or {}, now)

    def _on_empty(self, _frame: object) -> None:
        self._answers.append(None)

    def _on_message(self, _channel: object, method: Any, properties: pika.BasicProperties, _body: bytes) -> None:
        self._answers.append((method.delivery_tag, properties))


def _waited(headers: dict[str, Any], now: float) -> float | None:
    published_at, delay_seconds = headers.get(PUBLISHED_AT_HEADER), headers.get(DELAY_HEADER) or 0.0
    if not isinstance(published_at, int | float) or not isinstance(delay_seconds, int | float):
        return None
    return max(0.0, now - published_at - delay_seconds)
