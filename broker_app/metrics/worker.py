"""What a worker counts, in its main process, where every task is received and its end is told: for all pools."""

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
MAX_WAIT_SECONDS = 10 * 365 * 86_400.0
"""A message that says that it waited longer, or that it comes from the future, was given a wrong moment."""
"""The task label of what no worker can name."""


class NodeMetrics:
    """Counts what a node is given, what waited, ran and ended.

    Args:
        recorder: Of this node.
        table: The queues.

    Attributes:
        recorder: The same.
        last_received: The moment, seconds since the epoch; None if it was given nothing yet.
    """

    def __init__(self, recorder: Recorder, table: RoutingTable) -> None:
        self.recorder = recorder
        self.last_received: float | None = None
        self._queues = {spec.broker_name: spec.name for spec in table}

    def begin(self, queues: Iterable[str]) -> None:
        """Show what these queues may have to tell, with zeros."""
        for queue in queues:
            for metric in (WAITED_SECONDS, WAITED_BROKER_SECONDS, WAITED_PREFETCH_SECONDS, LATE_SECONDS):
                self.recorder.begin(metric, (queue,))
            for reason in DeadReason:
                self.recorder.begin(DEAD_LETTERS, (queue, reason.value))

    def queue_of(self, delivery_info: Mapping[str, Any]) -> str:
        """Return the queue that a message came by: its routing key ends with the queue's name on the broker."""
        key = str(delivery_info.get("routing_key", ""))
        name = self._queues.get(key)
        if name is None:
            try:
                name = self._queues.get(parse_routing_key(key)[1])
            except InvalidDelay:
                return OTHER
        return name or OTHER

    def received(self, queue: str, task: str, *, is_redelivered: bool) -> None:
        """Count a task that the node was given, now."""
        labels = (queue, self.recorder.task(task))
        self.recorder.add(RECEIVED, labels)
        if is_redelivered:
            self.recorder.add(REDELIVERED, labels)

    def started(self, queue: str, headers: Mapping[str, Any], received: float, started: float) -> None:
        """Count the wait of a task that begins; one that another client published tells no moment.

        Args:
            queue: Its queue.
            headers: Of its message.
            received: When the node was given it, seconds since the epoch.
            started: When it begins.
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
        """Count the end of a message.

        Args:
            queue: Its queue.
            task: The task's name.
            outcome: How it ended.
            run_seconds: How long it ran; None if it did not.
        """
        label = self.recorder.task(task)
        self.recorder.add(FINISHED, (queue, label, outcome.value))
        if run_seconds is not None:
            self.recorder.observe(RUN_SECONDS, (queue, label), run_seconds)

    def unreadable(self, queue: str) -> None:
        """Count a message of which no request could be made, and which is given up."""
        self.last_received = time.time()
        self.recorder.add(RECEIVED, (queue, UNKNOWN))
        self.recorder.add(FINISHED, (queue, UNKNOWN, TaskOutcome.DEAD.value))

    def buried(self, queue: str, reason: str) -> None:
        """Count a dead letter."""
        self.recorder.add(DEAD_LETTERS, (queue, reason))
