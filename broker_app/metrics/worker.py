"""Worker metrics, recorded in the main process, which sees the start and end of every task in all pools."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from broker_app.metrics.catalogue import (
    DEAD_LETTERS,
    FINISHED,
    LATE_SECONDS,
    RECEIVED,
    REDELIVERED,
    RUN_SECONDS,
    WAITED_BROKER_SECONDS,
    WAITED_PREFETCH_SECONDS,
    WAITED_SECONDS,
    TaskOutcome,
)
from broker_app.metrics.recorder import OTHER
from broker_app.queues.dead_letters import DeadReason
from broker_app.queues.delay import MAX_DELAY_SECONDS, parse_routing_key
from broker_app.queues.errors import InvalidDelay
from broker_app.queues.headers import DELAY_HEADER, PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker_app.metrics.recorder import Recorder
    from broker_app.queues import RoutingTable

UNKNOWN = "unknown"
"""Task label of undecodable messages and of unknown tasks."""

MAX_WAIT_SECONDS = 10 * 365 * 86_400.0
"""Waits beyond this, in either direction, are ignored: the timestamp of the message is wrong."""


class NodeMetrics:
    """Counts received, started and finished tasks of a node.

    Args:
        recorder: Recorder of this node.
        table: Routing table with the queues.

    Attributes:
        recorder: Recorder of this node.
        last_received: When the last message arrived, in seconds since the epoch; None if none has.
    """

    def __init__(self, recorder: Recorder, table: RoutingTable) -> None:
        self.recorder = recorder
        self.last_received: float | None = None
        self._queues = {spec.broker_name: spec.name for spec in table}

    def begin(self, queues: Iterable[str]) -> None:
        """Create the series of these queues with zeros."""
        for queue in queues:
            for metric in (WAITED_SECONDS, WAITED_BROKER_SECONDS, WAITED_PREFETCH_SECONDS, LATE_SECONDS):
                self.recorder.begin(metric, (queue,))
            for reason in DeadReason:
                self.recorder.begin(DEAD_LETTERS, (queue, reason.value))

    def queue_of(self, delivery_info: Mapping[str, Any]) -> str:
        """Return the queue of a message; its routing key ends with the queue's name on the broker."""
        key = str(delivery_info.get("routing_key", ""))
        name = self._queues.get(key)
        if name is None:
            try:
                name = self._queues.get(parse_routing_key(key)[1])
            except InvalidDelay:
                return OTHER
        return name or OTHER

    def received(self, queue: str, task: str, *, is_redelivered: bool) -> None:
        """Count a received task."""
        labels = (queue, self.recorder.task(task))
        self.recorder.add(RECEIVED, labels)
        if is_redelivered:
            self.recorder.add(REDELIVERED, labels)

    def started(self, queue: str, headers: Mapping[str, Any], received: float, started: float) -> None:
        """Record the wait of a starting task; messages of other clients carry no timestamp and are skipped.

        Args:
            queue: Queue of the task.
            headers: Headers of the message.
            received: When the node received the task, in seconds since the epoch.
            started: When the task starts, in seconds since the epoch.
        """
        published, delay = headers.get(PUBLISHED_AT_HEADER), headers.get(DELAY_HEADER, 0.0)
        if type(published) is not float or type(delay) not in (int, float) or not 0 <= delay <= MAX_DELAY_SECONDS:
            return
        due = published + delay
        if abs(started - due) > MAX_WAIT_SECONDS:
            return
        in_broker = max(0.0, received - due)
        times = [
            (WAITED_SECONDS, started - due),
            (WAITED_BROKER_SECONDS, in_broker),
            (WAITED_PREFETCH_SECONDS, started - due - in_broker),
        ]
        if delay:
            times.append((LATE_SECONDS, started - due))
        self.recorder.observe_all(times, (queue,))

    def finished(self, queue: str, task: str, outcome: TaskOutcome, run_seconds: float | None) -> None:
        """Count a finished task.

        Args:
            queue: Queue of the task.
            task: Task name.
            outcome: Outcome of the task.
            run_seconds: Run time; None if the task did not run.
        """
        label = self.recorder.task(task)
        self.recorder.add(FINISHED, (queue, label, outcome.value))
        if run_seconds is not None:
            self.recorder.observe(RUN_SECONDS, (queue, label), run_seconds)

    def unreadable(self, queue: str) -> None:
        """Count a dead-lettered message that could not be turned into a request."""
        self.last_received = time.time()
        self.recorder.add(RECEIVED, (queue, UNKNOWN))
        self.recorder.add(FINISHED, (queue, UNKNOWN, TaskOutcome.DEAD.value))

    def buried(self, queue: str, reason: str) -> None:
        """Count a dead letter."""
        self.recorder.add(DEAD_LETTERS, (queue, reason))
