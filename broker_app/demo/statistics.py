"""Demo statistics: tasks sent, done and failed, and waiting times, per queue."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from statistics import quantiles
from typing import TYPE_CHECKING, Any, Self

from celery import signals

from broker_app.errors import BrokerAppError
from broker_app.queues.headers import DELAY_HEADER, PUBLISHED_AT_HEADER
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker_app.app import BrokerApp

READY_SECONDS = 15.0
"""Timeout for the event receiver to start, and for the workers to enable events."""

logger = logging.getLogger(__name__)


@dataclass
class QueueStatistics:
    """The statistics of one queue.

    Attributes:
        sent: Tasks that the broker confirmed.
        done: Tasks that succeeded.
        failed: Tasks that failed permanently; each is in the queue's dead letters.
        waited: Seconds from publishing to start without the requested delay, one value per task.
    """

    sent: int = 0
    done: int = 0
    failed: int = 0
    waited: list[float] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Tasks that are neither done nor failed."""
        return self.sent - self.done - self.failed

    def percentile(self, percent: int) -> float | None:
        """Return a percentile of the waiting times in seconds; None before the second task has started."""
        values = self.waited.copy()
        return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else None


class Statistics:
    """Counts the tasks that this process sends, and their outcomes from Celery's events.

    As a context manager it receives events in a separate thread. The block starts once the thread listens and
    every worker sends events, so that no task is missed.

    Args:
        app: The app whose tasks are counted.
        queues: Names of the queues, as producers write them.
        nodes: Names of the workers that must send events.

    Raises:
        BrokerAppError: No events can be received, or a worker did not reply.
    """

    def __init__(self, app: BrokerApp, queues: Iterable[str], nodes: Iterable[str]) -> None:
        self.queues = {queue: QueueStatistics() for queue in queues}
        self._app = app
        self._nodes = sorted(nodes)
        self._by_key = {spec.broker_name: spec.name for spec in app.settings.specs()}
        self._sent: dict[str, tuple[str, float]] = {}  # queue and earliest start time by task id
        self._lock = threading.Lock()
        self._receiver: Any = None
        self._is_listening = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="statistics", daemon=True)

    def __enter__(self) -> Self:
        signals.before_task_publish.connect(self._on_publish)
        signals.after_task_publish.connect(self._on_published)
        self._thread.start()
        try:
            self._enable_events()
        except BaseException:  # including KeyboardInterrupt
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        signals.before_task_publish.disconnect(self._on_publish)
        signals.after_task_publish.disconnect(self._on_published)
        if self._receiver is not None:
            self._receiver.should_stop = True  # checked once a second
        self._thread.join(timeout=5)

    @property
    def left(self) -> int:
        """Tasks that were sent and are neither done nor failed, over all queues."""
        return sum(queue.left for queue in self.queues.values())

    def _enable_events(self) -> None:
        is_listening = self._is_listening.wait(READY_SECONDS)
        answers = self._app.control.enable_events(
            destination=self._nodes, reply=True, timeout=READY_SECONDS, limit=len(self._nodes)
        )
        silent = set(self._nodes) - {node for answer in answers or () for node in answer}
        if not is_listening or silent:
            missing = ", ".join(sorted(silent)) or "the event exchange"
            raise BrokerAppError(
                f"demo: expected events of every task, got none from {missing} within {READY_SECONDS:.0f} s; "
                f"see the workers' logs, and run the demo again"
            )

    def _on_publish(self, headers: Mapping[str, Any], routing_key: str, **_: Any) -> None:
        """Record a task before it is published: it may start before the confirmation is read."""
        queue = self._by_key.get(routing_key)
        if queue in self.queues:
            self._sent[headers["id"]] = (queue, headers[PUBLISHED_AT_HEADER] + headers[DELAY_HEADER])

    def _on_published(self, headers: Mapping[str, Any], **_: Any) -> None:
        known = self._sent.get(headers["id"])
        if known:
            with self._lock:
                self.queues[known[0]].sent += 1

    def _listen(self) -> None:
        try:
            self._capture()
        except (*self._app.connection_for_read().connection_errors, OSError) as error:
            logger.warning("the demo no longer receives events from its workers: %s", error_text(error))

    def _capture(self) -> None:
        with self._app.connection_for_read() as connection:
            self._receiver = self._app.events.Receiver(
                connection,
                handlers={
                    "task-started": self._on_started,
                    "task-succeeded": self._on_succeeded,
                    "task-failed": self._on_failed,
                },
            )
            self._receiver.on_consume_ready = lambda *_args, **_options: self._is_listening.set()
            self._receiver.capture(limit=None, timeout=None, wakeup=False)

    def _on_started(self, event: Mapping[str, Any]) -> None:
        known = self._sent.get(event["uuid"])
        if known:
            self.queues[known[0]].waited.append(max(0.0, event["timestamp"] - known[1]))

    def _on_succeeded(self, event: Mapping[str, Any]) -> None:
        known = self._sent.get(event["uuid"])
        if known:
            self.queues[known[0]].done += 1

    def _on_failed(self, event: Mapping[str, Any]) -> None:
        known = self._sent.get(event["uuid"])
        if known:
            self.queues[known[0]].failed += 1
