"""Drain: what a worker does between the begin of its shutdown and its exit."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from amqp.exceptions import AMQPError
from celery.worker import state

from broker_app.wire.connection import discard
from broker_app.worker.give_back import give_back, give_back_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_app.worker.consumption import Consumption
    from broker_app.worker.deliveries import Deliveries
    from broker_app.worker.poison.suspects import Suspects
    from broker_app.worker.request import Request
    from broker_app.worker.shutdown import Shutdown

_TURN_SECONDS = 0.2

logger = logging.getLogger(__name__)


class Drain:
    """Ends a worker's tasks.

    Args:
        consumer: The worker's consumer, with its connection, its loop and its stuck slots.
        shutdown: The worker's shutdown, with the deadline.
        consumption: The queues that it consumes.
        deliveries: The tasks that were handed to the pool.
        suspects: Those of them that wait for another suspect.
    """

    def __init__(
        self,
        consumer: Any,
        *,
        shutdown: Shutdown,
        consumption: Consumption,
        deliveries: Deliveries,
        suspects: Suspects,
    ) -> None:
        self._consumer = consumer
        self._shutdown = shutdown
        self._consumption = consumption
        self._deliveries = deliveries
        self._suspects = suspects

    def run(self) -> None:
        """Run the loop, with heartbeats and acknowledgements, until all tasks have ended or the deadline is over.

        Without a connection there is nothing to wait for: the broker has already requeued the running tasks.
        """
        self._shutdown.begin()
        self._suspects.clear()
        consumer = self._consumer
        try:
            if consumer.connection:
                self._consumption.end()
            for run in self._deliveries.forget_unstarted(consumer.pool, is_flushed=False):
                give_back(run.request.message)
            self._wait()
            if consumer.connection and not self._unfinished():
                give_back_all(self._consumption.channels)  # a timer or admission control may hold some
        except (AMQPError, *consumer.connection_errors) as error:
            logger.warning("the connection was lost while the worker was shutting down: %r", error)
            consumer.connection, lost = None, consumer.connection
            discard(lost)
        left = self._unfinished()
        if left or self._consumer.stuck_slots:
            self._shutdown.end(consumer.connection, self._consumption.channels, map(str, left))

    def _wait(self) -> None:
        turn = self._turner()
        while self._consumer.connection and self._unfinished() and not self._shutdown.is_over:
            turn()

    def _unfinished(self) -> set[Request]:
        """Return the requests that still run, or whose messages are not settled yet."""
        return {run.request for run in self._deliveries.all()} | active_requests()

    def _turner(self) -> Callable[[], None]:
        """Return a function that runs one iteration of the worker's loop."""
        hub = self._consumer.hub
        loop: Any = hub.create_loop() if hub else None

        def turn() -> None:
            nonlocal loop
            if hub:
                loop = loop if next(loop, hub) is not hub else hub.create_loop()
                return
            self._consumer.perform_pending_operations()
            with suppress(TimeoutError):
                self._consumer.connection.drain_events(timeout=_TURN_SECONDS)

        return turn


def active_requests() -> set[Request]:
    """Return the requests that Celery takes for running, which threads of the pool begin and end meanwhile."""
    while True:
        with suppress(RuntimeError):  # the set has changed during the iteration
            return set(state.active_requests)
