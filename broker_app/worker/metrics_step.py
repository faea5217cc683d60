"""Metrics step: samples a worker's slots, prefetched tasks and connection, and writes its metrics file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery import bootsteps, signals
from celery.concurrency import solo
from celery.worker import state

from broker_app.metrics.catalogue import (
    LAST_CONSUMED_AGE,
    LOOP_LAG,
    PREFETCH_LIMIT,
    PREFETCHED,
    RESERVED,
    RESULTS_WAITING,
    SLOTS,
    SLOTS_BUSY,
    SLOTS_STUCK,
    WORKER_START,
    WORKER_UP,
)
from broker_app.metrics.recorder import OTHER

if TYPE_CHECKING:
    from broker_app.metrics.custom import CustomMetrics
    from broker_app.metrics.worker import NodeMetrics

SAMPLE_SECONDS = 1.0

FLUSH_SECONDS = 0.1
"""Interval of writing the counts to the file. A system call for each would cost a tenth of a no-op task's time."""


class MetricsStep(bootsteps.StartStopStep):
    """Consumer step that runs while the consumer is connected.

    The metrics file stores timestamps: in ``worker_up`` that of the last sample, or 0 without a connection, and in
    the age metric that of the last task. The metrics server converts them at each scrape.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._counts: NodeMetrics | None = consumer.app.metrics.become(consumer.hostname)
        self._custom: CustomMetrics | None = consumer.app.metrics.custom
        if self._custom is not None:
            _prepare(self._custom)
        self._started = time.time()
        self._timers: tuple[Any, ...] = ()
        queues = queues_of(consumer)
        self._labels = (",".join(queues),)
        if self._counts is not None:
            self._counts.begin(queues)

    def start(self, consumer: Any) -> None:
        """Start sampling."""
        if self._custom is not None:
            self._custom.start()
        if self._counts is None:
            return
        self._sample(consumer)
        self._timers = (consumer.timer.call_repeatedly(SAMPLE_SECONDS, self._sample, (consumer,)),)
        if not _runs_in_loop(consumer.pool):
            recorder = self._counts.recorder
            recorder.defer()
            signals.worker_shutdown.connect(self._flush, weak=False, dispatch_uid=MetricsStep)
            self._timers += (consumer.timer.call_repeatedly(FLUSH_SECONDS, recorder.flush),)

    def stop(self, consumer: Any) -> None:
        """Stop sampling, and record that there is no connection."""
        del consumer
        for timer in self._timers:
            timer.cancel()
        self._timers = ()
        if self._counts is not None:
            self._counts.recorder.set(WORKER_UP, self._labels, 0.0)
            self._flush()

    def _flush(self, **_: Any) -> None:
        if self._counts is not None:
            self._counts.recorder.flush(ends_deferring=True)

    def _sample(self, consumer: Any) -> None:
        if self._counts is None:
            return
        busy = len(state.active_requests)
        values = {
            WORKER_UP: time.time(),
            WORKER_START: self._started,
            LAST_CONSUMED_AGE: self._counts.last_received or self._started,
            SLOTS: _slots(consumer.pool),
            SLOTS_BUSY: busy,
            SLOTS_STUCK: consumer.stuck_slots,
            RESULTS_WAITING: len(consumer.app.result_writer),
            RESERVED: max(0, len(state.reserved_requests) - busy),
            PREFETCHED: len(state.requests),
            PREFETCH_LIMIT: consumer.prefetch_limit,
        }
        lag = consumer.loop_watch.lag_seconds
        if lag is not None:
            values[LOOP_LAG] = lag
        for metric, value in values.items():
            self._counts.recorder.set(metric, self._labels, value)


def _prepare(custom: CustomMetrics) -> None:
    """Let the worker and each process of a prefork pool copy custom metrics; call this before the pool starts."""
    custom.prepare()

    def start(**_: Any) -> None:
        custom.start()

    def stop(**_: Any) -> None:
        custom.stop()

    for signal, receiver in (
        (signals.worker_process_init, start),
        (signals.worker_process_shutdown, stop),
        (signals.worker_shutdown, stop),
    ):
        signal.connect(receiver, weak=False, dispatch_uid=(_prepare, id(custom)))


def queues_of(consumer: Any) -> tuple[str, ...]:
    """Return the queues that the worker consumes, by their names in the settings."""
    table = consumer.app.settings.routing_table()
    names = {spec.broker_name: spec.name for spec in table}
    known = (names.get(queue.name, OTHER) for queue in consumer.app.amqp.queues.consume_from.values())
    return tuple(dict.fromkeys(known))


def _runs_in_loop(pool: Any) -> bool:
    """Return whether a pool runs its tasks in the worker's loop, whose timers wait meanwhile."""
    return isinstance(pool, solo.TaskPool)


def _slots(pool: Any) -> int:
    """Return the number of tasks that a pool runs at once, as reported by `celery inspect stats`."""
    return int(pool.info.get("max-concurrency") or pool.num_processes)
