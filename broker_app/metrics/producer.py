"""Producer metrics: published and refused tasks, by queue and task name."""

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
        recorder: Recorder of this process.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def published(self, task: str, spec: QueueSpec | None, seconds: float | None = None) -> None:
        """Count a confirmed task.

        Args:
            task: Task name.
            spec: Destination queue; None for an exchange that the settings do not manage.
            seconds: Duration of the call; None for a task of a bulk call.
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
    """Context manager around the publishing of one message, which counts its outcome.

    Args:
        metrics: Producer metrics; None if disabled.
        task: Task name.
        spec: Destination queue; None for an exchange that the settings do not manage.

    Attributes:
        is_taken: Whether the broker confirmed the message; a spooled message is counted when it is sent.
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
        """Count the outcome; an interruption such as KeyboardInterrupt is not counted."""
        if self._metrics is None:
            return
        if self.is_taken:
            self._metrics.published(self._task, self._spec, time.perf_counter() - self._started)
        elif isinstance(error, Exception):
            self._metrics.refused(self._task, self._spec, error)
