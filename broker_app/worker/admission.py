"""Admission: the way of a message from its delivery to the pool, in two lists of steps.

`Admission.receive` takes a message through the first list, to Celery. Celery parses it into a `Request`, and may
hold that for a rate limit or the rest of a delay. `Admission.admit` takes the request through the second list, to
the pool. A step that holds, returns or gives up a message returns False, and its way ends there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from celery.worker import state

from broker_app.celery_integration.task import QUEUE_KEY
from broker_app.worker.body_decoder import decode_early, is_small
from broker_app.worker.give_back import give_back
from broker_app.worker.protocol_v1 import translate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kombu.message import Message

    from broker_app.worker.consumption import Consumption
    from broker_app.worker.dead_letter_publisher import DeadLetterPublisher
    from broker_app.worker.deliveries import Deliveries
    from broker_app.worker.poison.suspects import Suspects
    from broker_app.worker.pools.entry import PoolEntry
    from broker_app.worker.request import Request
    from broker_app.worker.shutdown import Shutdown

Shown = TypeVar("Shown")


class Admission:
    """Admission control of one worker.

    Args:
        consumption: The queues that the worker consumes.
        shutdown: The worker's shutdown.
        deliveries: The tasks that were handed to the pool.
        suspects: The tasks that may have killed a worker.
        entry: Hands requests to the pool.
        dead_letters: Dead-letters messages.
    """

    def __init__(
        self,
        *,
        consumption: Consumption,
        shutdown: Shutdown,
        deliveries: Deliveries,
        suspects: Suspects,
        entry: PoolEntry,
        dead_letters: DeadLetterPublisher,
    ) -> None:
        self.dead_letters = dead_letters
        self._consumption = consumption
        self._shutdown = shutdown
        self._deliveries = deliveries
        self._suspects = suspects
        self._entry = entry
        self._message_steps: tuple[Callable[[Message], bool | None], ...] = (
            translate,  # a message of protocol 1 becomes one of protocol 2
            consumption.name_queue,  # in place of the last lane
            self._is_new,  # a redelivery of a task that still runs here is held, not started twice
            self._is_wanted,  # returned if the worker is shutting down or the queue was paused meanwhile
            decode_early,
        )
        self._request_steps: tuple[Callable[[Request], bool | None], ...] = (
            self._label,  # with its queue
            self._is_still_wanted,  # as above: a timer may call this long after the task was received
            self._decode_for_pool,
            deliveries.add,  # from here on, its end settles its message and all redeliveries
            suspects.admit,  # a suspect starts alone, later, or never
        )

    def receive(self, take: Callable[[Message], object], message: Message) -> None:
        """Take a message through the first list of steps.

        Args:
            take: Celery's handler, which parses it.
            message: The message, as it was delivered.
        """
        if _passes(message, self._message_steps):
            take(message)

    def admit(self, request: Request) -> None:
        """Take a request through the second list of steps, and hand it to the pool."""
        if _passes(request, self._request_steps):
            self._entry.run(request)

    def accept(self, request: Request) -> None:
        """Record that a request starts, in the thread or greenlet that runs it."""
        self._entry.accept(request)

    def excuse(self, request: Request) -> None:
        """Record that a request's task did not kill its worker."""
        self._suspects.excuse(request)

    def _is_new(self, message: Message) -> bool:
        return not self._deliveries.adopt(message)

    def _is_wanted(self, message: Message) -> bool:
        if not self._shutdown.is_begun and not self._consumption.is_late(message):
            return True
        give_back(message)
        return False

    def _label(self, request: Request) -> None:
        spec = self._consumption.spec_of(request.message)
        request.admission, request.spec = self, spec
        if spec is None:  # the settings do not have this queue
            return
        request.delivery_info[QUEUE_KEY] = spec.name
        if not spec.has_priorities:  # kombu's default is 0; Celery would pass it on
            request.delivery_info["priority"] = None

    def _is_still_wanted(self, request: Request) -> bool:
        if not self._shutdown.is_begun and not self._consumption.is_paused(request):
            return True
        give_back(request.message)
        state.task_ready(request)
        return False

    def _decode_for_pool(self, request: Request) -> None:
        if self._entry.shares_memory or is_small(request.message):
            request.hand_on_decoded()


def _passes(shown: Shown, steps: Iterable[Callable[[Shown], Any]]) -> bool:
    """Return whether something passes all steps; the first that returns False ends its way."""
    for step in steps:  # noqa: SIM110 - `all` over a generator takes twice as long, for each message
        if step(shown) is False:
            return False
    return True
