"""Consumer check: whether the broker still has a worker's consumers, once a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amqp.exceptions import ConsumerCancelled

from broker_app.wire.connection import discard

if TYPE_CHECKING:
    from broker_app.worker.consumption import Consumption
    from broker_app.worker.deliveries import Deliveries
    from broker_app.worker.heartbeat_file import HeartbeatFile
    from broker_app.worker.shutdown import Shutdown


class ConsumerCheck:
    """Checks a worker's consumers, and shows in the heartbeat file that its loop runs.

    Args:
        consumer: The worker's consumer, with its connection, stuck slots and loop watch.
        shutdown: The worker's shutdown.
        consumption: The queues that it consumes.
        deliveries: The tasks that were handed to the pool.
        heartbeat_file: The heartbeat file.
    """

    def __init__(
        self,
        consumer: Any,
        *,
        shutdown: Shutdown,
        consumption: Consumption,
        deliveries: Deliveries,
        heartbeat_file: HeartbeatFile,
    ) -> None:
        self._consumer = consumer
        self._shutdown = shutdown
        self._consumption = consumption
        self._deliveries = deliveries
        self._heartbeat_file = heartbeat_file

    def run(self) -> None:
        """Write the heartbeat file, and consume again from queues whose consumers the broker has cancelled.

        If consuming again fails, make the consumer restart.
        """
        if not self._consumption.is_begun:
            return
        raw = self._consumption.connection
        if raw is not None and not raw.connected and not self._consumer.hub:
            # An acknowledgement noticed the loss first; the loop's next read would reconnect without a consumer.
            discard(self._consumer.connection)
            return
        self._show()
        if self._shutdown.is_begun:
            return
        self._consumption.update_overflow([run.request for run in self._deliveries.all()])
        if not self._consumption.renew():
            self.restart()

    def restart(self) -> None:
        """Make the consumer restart, with a new connection."""
        if self._consumer.hub:
            raise ConsumerCancelled
        discard(self._consumer.connection)  # Celery's loop without a hub drops errors; its next read will fail

    def _show(self) -> None:
        """Write the heartbeat file; a worker that is shutting down, or has no slot left, shows no queue."""
        is_ready = not self._shutdown.is_begun and self._consumer.stuck_slots < self._consumer.pool.limit
        consumed, paused = (self._consumption.consumed, self._consumption.paused) if is_ready else ((), ())
        blocked_since = self._consumer.loop_watch.blocked_since
        self._heartbeat_file.beat(self._consumption.connection, consumed, paused, blocked_since)
