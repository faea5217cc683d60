"""The Celery app: `BrokerApp`, and the default `app` that ``celery -A broker_app`` finds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property, partial
from numbers import Real
from typing import TYPE_CHECKING, Any

from celery import _state
from celery.utils import uuid

from broker_app.celery_integration.awaitables import add_awaitables
from broker_app.celery_integration.beat import shorten_refusals
from broker_app.celery_integration.configured import ConfiguredApp
from broker_app.celery_integration.django import closing
from broker_app.celery_integration.pool_names import add_asyncio_pool
from broker_app.celery_integration.registry import TaskRegistry, check_function, check_lifespan
from broker_app.errors import UnsupportedTask
from broker_app.metrics.registry import ProcessMetrics
from broker_app.publishing.awaited import awaited
from broker_app.publishing.bulk import publish_many
from broker_app.publishing.bulk.awaited import AsyncBulkPublication
from broker_app.publishing.call_start import call_start
from broker_app.publishing.call_times import check_expires, requested_delay
from broker_app.publishing.group import group_of, publishing_group
from broker_app.publishing.options import check_option, check_options
from broker_app.publishing.publisher import TIMEOUT_OPTIONS
from broker_app.publishing.sent import note_sent
from broker_app.publishing.single import SingleCalls
from broker_app.publishing.single_send import send_single
from broker_app.results.fault_tolerance import forgiving
from broker_app.results.writer import ResultWriter
from broker_app.settings.extras import loading_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    from celery.canvas import Signature
    from celery.result import AsyncResult

    from broker_app.coroutines.lifespan import Lifespans
    from broker_app.publishing.bulk import BulkPublication


@dataclass(frozen=True, slots=True)
class _Until:
    """Placeholder for a producer that has not been taken from the pool yet.

    Attributes:
        deadline: Deadline of the wait for the producer, in terms of `time.monotonic`.
    """

    deadline: float


class BrokerApp(ConfiguredApp):
    """A Celery app with publisher confirms, routing to declared queues, and delays held by the broker.

    Creating an app reads and opens nothing. The settings are loaded on the first access to ``conf`` or `settings`.

    Args:
        main: The name of the main module, as in Celery.
        config: The settings file; None means ``BROKER_APP_CONFIG``, else ``config/broker.toml`` if it exists.
        **kwargs: Celery's arguments. These, ``app.conf`` and `config_from_object` take precedence over values
            derived from the settings.

    Example:
        >>> shop = BrokerApp("shop", include=["shop.tasks"], set_as_current=False)
        >>> shop.main
        'shop'
    """

    amqp_cls = "broker_app.celery_integration.amqp:BrokerAMQP"
    control_cls = "broker_app.celery_integration.control:Control"
    log_cls = "broker_app.cli.logs:Logging"
    registry_cls = TaskRegistry

    _tasks: Any

    def __init__(self, main: str | None = None, *, config: Path | str | None = None, **kwargs: Any) -> None:
        self.result_writer = ResultWriter()
        self._single_calls = SingleCalls(self)
        self._refusal: UnsupportedTask | None = None
        self.lifespans: Lifespans | None = None
        super().__init__(main, config=config, **kwargs)
        if not isinstance(self._tasks, TaskRegistry):  # a registry from another app
            self._tasks = TaskRegistry(self._tasks)
        if self.set_as_current and _state.default_app is not None and _state.default_app is globals().get("app"):
            self.set_default()  # Celery's Django fix-up made the first app, `app` below, the default everywhere
        self.steps["consumer"].update(
            ("broker_app.worker.metrics_step:MetricsStep", "broker_app.worker.expiry_step:ExpiryStep")
        )
        shorten_refusals()
        add_awaitables()
        add_asyncio_pool()

    def task(self, *args: Any, **options: Any) -> Any:
        """Define a task, like Celery's decorator.

        Raises:
            UnsupportedTask: The function has a ``yield``, so that its body would never run.
        """
        make = super().task
        if args:
            self._check_function(*args, **options)
            return make(*args, **options)

        def make_checked(function: Any) -> Any:
            self._check_function(function, **options)
            return make(**options)(function)

        return make_checked

    def lifespan(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Open an async context manager in each event loop that runs tasks, before the first one; a decorator.

        A worker has one loop in each of its processes, and closes it after its drain. Its value is
        ``self.state`` in a coroutine. If it cannot be opened, the task fails, and the next one tries.

        Args:
            function: An async generator function with one ``yield``, or returns an async context manager.

        Raises:
            UnsupportedTask: The function is of another kind, or the app has a lifespan already.
        """
        from broker_app.coroutines.lifespan import Lifespans  # noqa: PLC0415 - asyncio only where it is used

        check_lifespan(function, None if self.lifespans is None else self.lifespans.function)
        self.lifespans = Lifespans(function)
        return function

    def _check_function(self, function: Any, *_: Any, name: str | None = None, **options: Any) -> None:
        """Check the function when it is defined; the task itself is created later."""
        name = name or self.gen_task_name(getattr(function, "__name__", ""), getattr(function, "__module__", ""))
        check_function(name, function, lambda: options.get("base") or self.Task)

    def finalize(self, *args: Any, **options: Any) -> None:
        """Create all tasks, as in Celery. If one is refused, every later use of the app's tasks raises again."""
        if self._refusal is not None:
            raise self._refusal
        try:
            super().finalize(*args, **options)
        except UnsupportedTask as refusal:
            self._refusal = refusal
            raise

    @cached_property
    def metrics(self) -> ProcessMetrics:
        """The Prometheus metrics of this process."""
        return ProcessMetrics(self)

    @cached_property
    def _results_loaded_at(self) -> float:
        """Time at which the first call has loaded the result store; an import is no time of the broker's."""
        _ = self.backend
        return time.monotonic()

    def send_task(
        self,
        name: str,
        args: Any = None,
        kwargs: Any = None,
        countdown: float | None = None,
        eta: datetime | str | None = None,
        **options: Any,
    ) -> AsyncResult:
        """Publish a task, like Celery's `send_task`; the broker holds a task with a countdown or eta.

        Args:
            name: The task's name.
            args: Positional arguments.
            kwargs: Keyword arguments.
            countdown: Seconds from now, at least 0; may be fractional. A retry's negative countdown counts as 0.
            eta: When to run the task. A naive datetime is in UTC, as in Celery. A time in the past means now.
            **options: Celery's other options.

        Raises:
            RoutingError: The queue is unknown, or the priority or the delay is invalid; nothing was sent.
            CallError: An option is misspelt or has a value that no worker would accept; nothing was sent.
            NotEncodable: An argument cannot be encoded; nothing was sent. Also kombu's EncodeError.
            PublishError: The broker did not confirm the task. Also kombu's OperationalError.
        """
        began = max(call_start(), self._results_loaded_at)
        with self.metrics.routing(name):
            check_option(name, "task_id", options.get("task_id"))
            check_expires(options.get("expires"))
            if options.get("retries") and isinstance(countdown, Real) and countdown < 0:
                countdown = 0.0  # an error would dead-letter a task that only miscalculated
            delay, due = requested_delay(self, countdown, eta, began)
            plain = self._single_calls.find(name, args, kwargs, delay, options)
            if plain is not None:
                publisher = self.amqp.publisher
                outgoing = self._single_calls.build(plain, publisher, delay, due, began)
                if outgoing is not None:
                    result = send_single(self, outgoing, began + publisher.timeout_seconds(options), options)
                    note_sent(result.id)
                    return result
                options["broker_app_note"] = plain.note
            check_options(name, options, self._tasks)
            if due is not None:
                options["headers"] = dict(options.get("headers") or {}, eta=due.isoformat())
            if not any(options.get(option) for option in ("producer", "publisher", "connection")):
                options["producer"] = _Until(began + self.amqp.publisher.timeout_seconds(options))
            ours = {"broker_app_delay": delay, "broker_app_began": began, "broker_app_group": group_of(options)}
            result = super().send_task(name, args, kwargs, **ours, **options)
        note_sent(result.id)
        return result

    async def asend_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult:
        """Publish a task from a coroutine, like `send_task`, with the same options and errors.

        Raises:
            CancelledError: The await was cancelled. It has the attributes ``task_id`` and ``maybe_taken``: False
                if the task was not published.
        """
        options["task_id"] = uuid() if options.get("task_id") is None else options["task_id"]
        call = partial(self.send_task, name, args, kwargs, **options)
        return await awaited(self, call, name, options["task_id"])

    def can_share_call(self, options: Mapping[str, Any]) -> bool:
        """Return whether a call with these options may wait for the broker's answer together with other calls.

        A call with a time limit of its own may not: those behind it would wait as long.
        """
        is_ours: bool = type(self).send_task is BrokerApp.send_task and self.amqp.publisher.can_send_ahead
        return is_ours and not any(options.get(option) for option in TIMEOUT_OPTIONS)

    @cached_property
    def GroupResult(self) -> Any:  # noqa: N802 - Celery's name
        """The class of groups' results."""
        return self.subclass_with_self("broker_app.results.group:GroupResult")

    def producer_or_acquire(self, producer: Any = None) -> AbstractContextManager[Any]:
        """Return a context manager with the producer, or with one from the pool; `send_task` limits the wait.

        Celery publishes groups, and headers of chords, in a block with one from the pool; see `publishing_group`.
        """
        if isinstance(producer, _Until):
            taken: AbstractContextManager[Any] = self.amqp.pooled_producer(producer.deadline)
            return taken
        block: AbstractContextManager[Any] = super().producer_or_acquire(producer)
        return block if producer is not None or self.conf.task_always_eager else publishing_group(self, block)

    def _get_backend(self) -> Any:
        _ = self.conf.timezone  # loads the configuration, which may be refused; result_backend alone does not
        with loading_store(str(self.conf.result_backend)):
            return closing(forgiving(super()._get_backend(), self.result_writer))

    def publish_many(
        self,
        signatures: Iterable[Signature | Mapping[str, Any] | None],
        *,
        timeout_seconds: float | None = None,
        keep_going: bool = True,
    ) -> BulkPublication:
        """Publish many tasks of this app; see `broker_app.publish_many`."""
        return publish_many(signatures, app=self, timeout_seconds=timeout_seconds, keep_going=keep_going)

    def apublish_many(
        self,
        signatures: Iterable[Signature | Mapping[str, Any] | None],
        *,
        timeout_seconds: float | None = None,
        keep_going: bool = True,
    ) -> AsyncBulkPublication:
        """Publish many tasks of this app from a coroutine: iterate with ``async for``, or await its ``run()``.

        A thread reads ``signatures`` and publishes. See `broker_app.publish_many` for the arguments and errors.
        """
        publication = self.publish_many(signatures, timeout_seconds=timeout_seconds, keep_going=keep_going)
        return AsyncBulkPublication(publication, self)


app = BrokerApp("broker_app", include=["broker_app.tasks"])
