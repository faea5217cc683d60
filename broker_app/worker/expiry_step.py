"""Expiry step: removes expired results from an SQL store while a worker runs."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from broker_app.metrics.catalogue import RESULTS_EXPIRED
from broker_app.worker.metrics_step import queues_of


class ExpiryStep(bootsteps.StartStopStep):
    """Consumer step that runs while the consumer is connected. Other stores expire results themselves."""

    requires = ("broker_app.worker.metrics_step:MetricsStep",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._app = consumer.app
        self._labels = (",".join(queues_of(consumer)),)
        self._expiry: Any = None

    def start(self, consumer: Any) -> None:
        """Start removing expired results."""
        backend = consumer.app.backend
        if not (hasattr(backend, "session_manager") and backend.can_batch and backend.expires):
            return
        from broker_app.results.expiry import Expiry  # noqa: PLC0415 - SQLAlchemy, which other stores do not need

        self._expiry = Expiry(backend, self._count)
        self._expiry.start()

    def stop(self, consumer: Any) -> None:
        """Stop removing them."""
        del consumer
        if self._expiry is not None:
            self._expiry.stop()

    def _count(self, removed: int) -> None:
        counts = self._app.metrics.node
        if counts is not None:
            counts.recorder.add(RESULTS_EXPIRED, self._labels, removed)
