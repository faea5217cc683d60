"""Admission control: the last check before a task is handed to the pool.

A message that is delivered for the first time is admitted at once. A redelivered one is a suspect: it may have
killed its worker. `broker_app.worker.poison.guard` decides when it runs (docs/concepts/failures.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.worker import state

from broker_app.celery_integration.task import QUEUE_KEY
from broker_app.errors import Poisoned, RoutingError
from broker_app.queues.dead_letters import DeadLetterCause, DeadReason
from broker_app.worker.dead_letter_publisher import DeadLetterPublisher
from broker_app.worker.poison.crash_log import CrashLog
from broker_app.worker.poison.guard import PoisonGuard
from broker_app.worker.side_publisher import SidePublisher

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from kombu.message import Message

    from broker_app.broker.access import Broker
    from broker_app.queues import QueueSpec
    from broker_app.worker.request import Request


class Admission:
    """Admission control of one worker.

    Args:
        app: The worker's app.
        node: The worker's name.
        queue_of: Returns the broker's name of the queue that delivered a message, None if it is unknown.
        run: Hands a request to the pool.
    """

    def __init__(
        self,
        app: Broker,
        node: str,
        *,
        queue_of: Callable[[Message], str | None],
        run: Callable[[Request], object],
    ) -> None:
        self._table = app.settings.routing_table()
        self._queue_of = queue_of
        self._run = run
        self._side_publisher = SidePublisher(app)
        self.dead_letters = DeadLetterPublisher(app, node, self._side_publisher)
        self.crash_log = CrashLog(app.settings.prefix, node, self._side_publisher)
        self._guard: PoisonGuard[Request] = PoisonGuard(
            starts=lambda request: self.crash_log.starts(request.message.headers),
            limit=lambda request: request.spec.delivery_limit if request.spec else 1,
            run=self._run_suspect,
            give_up=_dead_letter_poisoned,
        )

    def admit(self, request: Request) -> None:
        """Run a request now, or once no other suspect runs, or give it up."""
        request.admission, request.spec = self, self.spec_of(request.message)
        if request.spec is None:  # the settings do not have this queue
            self._run(request)
            return
        request.delivery_info[QUEUE_KEY] = request.spec.name
        if not request.spec.has_priorities:  # kombu's default is 0; Celery would pass it on
            request.delivery_info["priority"] = None
        if request.delivery_info["redelivered"]:
            self._guard.admit(request)
        else:
            self._run(request)

    def name_queue(self, message: Message) -> None:
        """Replace the exchange and routing key of a message's last lane with those of its queue.

        Celery copies them to ``delivery_info``, results and events, and retries are published with them.
        """
        spec = self.spec_of(message)
        if spec is not None:
            message.delivery_info.update(exchange="", routing_key=spec.broker_name)

    def release(self, request: Request) -> None:
        """Record that a request has ended; the next suspect starts unless the worker is shutting down."""
        self.crash_log.note_end(request.message.headers)
        if _is_stopping():
            self._guard.clear()
        self._guard.release(request)

    def withdraw(self, requests: Collection[Request]) -> None:
        """Remove requests that are returned to their queue unstarted while the worker keeps running."""
        for request in requests:
            self.crash_log.excuse(request.message.headers)
        self._guard.withdraw(requests)

    def clear(self) -> None:
        """Remove all waiting requests, after a lost connection or at shutdown; the broker redelivers them."""
        self._guard.clear()
        self.crash_log.survive()
        if _is_stopping():  # otherwise it is written after the reconnect
            self.crash_log.acquit()

    def close(self) -> None:
        """Close the side publisher's connection."""
        self._side_publisher.close()

    def spec_of(self, message: Message) -> QueueSpec | None:
        """Return the queue that delivered a message, None if the settings do not have it."""
        name = self._queue_of(message)
        try:
            return None if name is None else self._table.queue(name)
        except RoutingError:
            return None

    def _run_suspect(self, request: Request) -> None:
        self.crash_log.note_start(request.message.headers)
        self._run(request)


def _is_stopping() -> bool:
    return state.should_stop is not None or state.should_terminate is not None


def _dead_letter_poisoned(request: Request, starts: int) -> None:
    spec: Any = request.spec
    reason = (
        f"its worker died in each of its {starts} starts" if starts > 1 else "its worker died in its only start"
    )
    error = Poisoned(request.name, request.id, spec.name, reason)
    request.give_up(DeadLetterCause(DeadReason.POISONED, error, starts=starts))
