"""What producers count: each call that publishes, by queue and task, and how it ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from broker_app.errors import (
    BrokerUnreachable,
    NoRoute,
    PublishRefused,
    PublishTimeout,
    QueueFull,
)
from broker_app.metrics.catalogue import CONFIRM_SECONDS, PUBLISHED, REFUSED, RefusalReason
from broker_app.metrics.recorder import OTHER

if TYPE_CHECKING:
    from broker_app.metrics.recorder import Recorder
    from broker_app.queues import QueueSpec

_REFUSALS: tuple[tuple[type[Exception], RefusalReason], ...] = (
    (NoRoute, RefusalReason.NO_ROUTE),
    (QueueFull, RefusalReason.QUEUE_FULL),
    (PublishTimeout, RefusalReason.TIMEOUT),
    (BrokerUnreachable, RefusalReason.UNREACHABLE),
    (PublishRefused, RefusalReason.REFUSED),
)


class ProducerMetrics:
    """Counts published and refused tasks.

    Args:
        recorder: Of this process.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def published(self, task: str, spec: QueueSpec | None, seconds: float | None = None) -> None:
        """Count a confirmed task.

        Args:
            task: Its name.
            spec: The queue that it is for; None for an exchange that is not ours.
            seconds: How long the call took; None if it was one of many at once.
        """
        queue = spec.name if spec else OTHER
        self._recorder.add(PUBLISHED, (queue, self._recorder.task(task)))
        if seconds is not None:
            self._recorder.observe(CONFIRM_SECONDS, (queue,), seconds)

    def refused(self, task: str, spec: QueueSpec | None, error: BaseException) -> None:
        """Count a task that was not published."""
        reason = next((reason for cls, reason in _REFUSALS if isinstance(error, cls)), RefusalReason.ROUTING)
        self._recorder.add(REFUSED, (spec.name if spec else OTHER, self._recorder.task(task), str(reason)))


class PublishScope:
    """The publishing of one message, as a block around it.

    Args:
        metrics: None counts nothing.
        task: The task's name.
        spec: Its queue; None for an exchange that is not ours.

    Attributes:
        is_taken: Whether the broker has it; one that was only kept for later counts when it is sent.
    """

    __slots__ = ("_metrics", "_spec", "_started", "_task", "is_taken")

    def __init__(self, metrics: ProducerMetrics | None, task: str, spec: QueueSpec | None) -> None:
        self._metrics = metrics
        self._task = task
        self._spec = spec
        self._started = time.perf_counter()
        self.is_taken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, cls: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        """Count how it ended; an interruption from outside is no end."""
        if self._metrics is None:
            return
        if self.is_taken:
            self._metrics.published(self._task, self._spec, time.perf_counter() - self._started)
        elif isinstance(error, Exception):
            self._metrics.refused(self._task, self._spec, error)
