"""What every task passes right before it runs, and what gives up those that must not run.

A message that comes for the first time passes at once. One that came back is a suspect: it may have killed its
worker. See `broker_app.worker.poison.guard` for when it runs, and docs/failures.md for the whole.
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
    """The gate of one worker.

    Args:
        app: The worker's app.
        node: The worker's name.
        queue_of: Returns the broker's name of the queue that a message was taken from, None if it is not known.
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
        self._courier = SidePublisher(app)
        self.burial = DeadLetterPublisher(app, node, self._courier)
        self.suspects = CrashLog(app.settings.prefix, node, self._courier)
        self._quarantine: PoisonGuard[Request] = PoisonGuard(
            starts=lambda request: self.suspects.starts(request.message.headers),
            limit=lambda request: request.spec.delivery_limit if request.spec else 1,
            run=self._run_suspect,
            bury=_bury_poisoned,
        )

    def admit(self, request: Request) -> None:
        """Let a request run, now or when no other suspect does; or give it up."""
        request.gate, request.spec = self, self.spec_of(request.message)
        if request.spec is None:  # a queue that is none of the settings'
            self._run(request)
            return
        request.delivery_info[QUEUE_KEY] = request.spec.name
        if not request.spec.has_priorities:  # kombu's default is 0; Celery would pass it on
            request.delivery_info["priority"] = None
        if request.delivery_info["redelivered"]:
            self._quarantine.admit(request)
        else:
            self._run(request)

    def name_queue(self, message: Message) -> None:
        """Write the queue that a message was taken from in place of the exchange and key of its last lane.

        Celery copies them to ``delivery_info``, results and events, and tasks publish with them again.
        """
        spec = self.spec_of(message)
        if spec is not None:
            message.delivery_info.update(exchange="", routing_key=spec.broker_name)

    def release(self, request: Request) -> None:
        """Note that a request has ended; the next suspect may start, unless the worker stops."""
        self.suspects.note_end(request.message.headers)
        if _is_stopping():
            self._quarantine.clear()
        self._quarantine.release(request)

    def withdraw(self, requests: Collection[Request]) -> None:
        """Forget requests that go back to their queue unstarted, while the worker goes on."""
        for request in requests:
            self.suspects.excuse(request.message.headers)
        self._quarantine.withdraw(requests)

    def clear(self) -> None:
        """Forget who waits: the broker has them again. The connection is lost, or the worker was told to end."""
        self._quarantine.clear()
        self.suspects.survive()
        if _is_stopping():  # else it is written when the worker is connected again
            self.suspects.acquit()

    def close(self) -> None:
        """Close the connection of its own."""
        self._courier.close()

    def spec_of(self, message: Message) -> QueueSpec | None:
        """Return the queue that a message was taken from, None if the settings do not have it."""
        name = self._queue_of(message)
        try:
            return None if name is None else self._table.queue(name)
        except RoutingError:
            return None

    def _run_suspect(self, request: Request) -> None:
        self.suspects.note_start(request.message.headers)
        self._run(request)


def _is_stopping() -> bool:
    return state.should_stop is not None or state.should_terminate is not None


def _bury_poisoned(request: Request, starts: int) -> None:
    spec: Any = request.spec
    reason = (
        f"its worker died in each of its {starts} starts" if starts > 1 else "its worker died in its only start"
    )
    error = Poisoned(request.name, request.id, spec.name, reason)
    request.give_up(DeadLetterCause(DeadReason.POISONED, error, starts=starts))
