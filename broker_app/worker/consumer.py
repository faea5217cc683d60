"""Consumer: Celery's consumer with robust reconnects, deduplicated redeliveries and a bounded shutdown.

It also omits Celery's native delayed delivery, and removes a bottleneck with green threads.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from amqp.exceptions import AMQPError, ConsumerCancelled, ResourceLocked
from celery.exceptions import CPendingDeprecationWarning
from celery.utils.threads import bound_open_broker_sockets
from celery.worker import consumer as celery_consumer
from celery.worker import loops, state

import broker_app.worker.remote_control  # noqa: F401 - registers commands that replace Celery's
from broker_app.broker.pauses import Pauses
from broker_app.celery_integration.tracer import let_answer, let_processes_answer, let_slots_answer
from broker_app.errors import SettingsError
from broker_app.settings import shown_in_one_line
from broker_app.wire.connection import discard
from broker_app.wire.field_tables import accept_undecodable
from broker_app.wire.frame_reader import FrameReader
from broker_app.worker.acknowledger import Acknowledger
from broker_app.worker.body_decoder import decode_early, is_small
from broker_app.worker.consumers import Consumers
from broker_app.worker.consumption import Consumption
from broker_app.worker.deliveries import Deliveries
from broker_app.worker.heartbeat_file import HeartbeatFile, sign_file
from broker_app.worker.invalid_messages import or_given_up
from broker_app.worker.overflow import helping_of
from broker_app.worker.poison.admission import Admission
from broker_app.worker.pools.thread_pool import lighten
from broker_app.worker.pools.time_limits import limits_of
from broker_app.worker.protocol_v1 import translate
from broker_app.worker.reconnect_pauses import Refusals
from broker_app.worker.shutdown import Shutdown, drain_seconds, give_back, give_back_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu.message import Message

    from broker_app.worker.request import Request

_NATIVE_DELAY = "celery.worker.consumer.delayed_delivery:DelayedDelivery"
"""It would declare 28 exchanges and queues, and bind ``#.<key>``, which also matches the keys of other queues."""

_CONTROL = "celery.worker.consumer.control.Control"

_EVENT_DRAIN_SECONDS = 1.0
"""Interval for reading heartbeats on the event connection; the broker sends one every half heartbeat interval."""

_CHECK_SECONDS = 1.0
"""Interval for checking that the broker still has the worker's consumers."""

_ABOUT_CANCELLING = r"\s*In Celery 5\.1 we introduced an optional breaking change"
"""Celery's warning at each lost connection that running tasks will run again; here `Deliveries` prevents that."""

_TURN_SECONDS = 0.2
_CLOSE_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Consumer(Consumption, celery_consumer.Consumer):
    """The consumer blueprint of our workers."""

    loop: Any
    amqheartbeat: Any
    connection: Any
    conninfo: Any
    on_task_request: Any

    class Blueprint(celery_consumer.Consumer.Blueprint):
        """Celery's steps, without native delayed delivery."""

        default_steps = tuple(
            step for step in celery_consumer.Consumer.Blueprint.default_steps if step != _NATIVE_DELAY
        )

    def __init__(self, *args: Any, **options: Any) -> None:
        _refuse_eventlet(options["pool"])
        connect_seconds = options["app"].conf.broker_connection_timeout
        super().__init__(*args, **options)
        # Celery removes this time-out with gevent; publishers and workers would wait for a silent broker forever.
        self.app.conf.broker_connection_timeout = connect_seconds
        accept_undecodable()
        lighten(self.pool)
        let_slots_answer(self.pool)
        let_processes_answer(self.app)
        self.admission = Admission(self.app, self.hostname, queue_of=self._queue_of, run=self._hand_over)
        self._to_pool, self.on_task_request = or_given_up(self.on_task_request), or_given_up(self._admit)
        self._pauses = Pauses(self.app, lambda: self.call_soon(self._apply_pauses))
        self.app.amqp.followed[:] = [self.admission.crash_log.stream, self._pauses.stream]
        if self.loop is loops.synloop and self._is_green:
            self.loop = self._green_loop
        self._celerys_loop, self.loop = self.loop, self._prepared_loop
        self._acknowledger = Acknowledger(self.connection_errors, is_alone=bool(self.hub))
        self._deliveries = Deliveries(self.call_soon_ack, self._acknowledger)
        self._shutdown = Shutdown(self.controller, drain_seconds(self.app))
        self.app.limits = self._limits = limits_of(self, lambda: self.call_soon(self._shutdown.recycle))
        self._subscription = None
        self._overflow = helping_of(self.app, self.pool.limit)
        self._refusals = Refusals()
        self._heartbeat_file = HeartbeatFile(sign_file(self.app, self.hostname, self.controller.pidfile))
        self._check_timer: Any = None

    def start(self) -> None:
        """Consume until the worker stops."""
        self._shutdown.install()
        warnings.filterwarnings("ignore", _ABOUT_CANCELLING, CPendingDeprecationWarning)
        super().start()

    def update_strategies(self) -> None:
        """Build the tasks' strategies, as Celery does, and make their tracers always report an outcome."""
        super().update_strategies()
        let_answer(self.app.tasks.values())

    def connect(self) -> Any:
        """Connect, as Celery does, and read several frames at once where possible."""
        connection = super().connect()
        self._refusals.forget()
        if self.hub and FrameReader.can_read(connection.connection):
            raw = connection.connection
            self.hub.add_reader(raw.sock, FrameReader(raw, self.hub).read)
        return connection

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, as Celery does, retrying forever; the heartbeat file shows that the worker is not hung."""
        conn.ensure_connection = partial(self._connect_alive, conn.ensure_connection)
        try:
            return super().ensure_connected(conn)
        finally:
            del conn.ensure_connection

    def _connect_alive(
        self, ensure: Callable[..., Any], *args: Any, callback: Callable[[], None], **options: Any
    ) -> Any:
        def turn() -> None:
            self._heartbeat_file.beat(None, ())
            callback()

        return ensure(*args, callback=turn, **options)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Pause after a refused connection, such as a wrong login: Celery would retry at once."""

        def stop() -> None:
            self._heartbeat_file.beat(None, ())
            state.maybe_shutdown()

        self._refusals.wait(self.conninfo.as_uri(), exc, stop)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Discard the worker's other connections, which were lost with this one.

        Celery would close them and wait for the broker's answer, forever if the network is down.
        """
        super().on_connection_error_after_connected(exc)
        if isinstance(exc, ResourceLocked) and self._check_timer is not None:  # it ran before: it owns the queue
            self.app.control.mailbox.move()
        events = self.event_dispatcher and self.event_dispatcher.connection
        if events:
            discard(events)
        control = self.blueprint.steps.get(_CONTROL) if self._is_green else None
        channel = control and control.box.node.channel  # only green workers have a separate connection for it
        if channel and channel.connection is not None:
            channel.connection.collect()

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Message], None]:
        """Return the message handler; it starts no task that still runs here, and none during shutdown."""
        take = super().create_task_handler(*args, **options)

        def take_new(message: Message) -> None:
            translate(message)
            self.admission.name_queue(message)
            if self._deliveries.adopt(message):
                return
            if self._shutdown.is_begun or self._is_late(message):
                give_back(message)
            else:
                decode_early(message)
                take(message)

        def on_task_received(message: Message) -> None:
            self.take_or_give_up(take_new, message)
            self._acknowledger.hold(message)

        return on_task_received

    def on_close(self) -> None:
        """Remove unstarted tasks, which the broker redelivers; running ones stay tracked."""
        super().on_close()
        self._pauses.begin_anew()
        self._deliveries.forget_unstarted(self.pool, is_flushed=True)

    def on_ready(self) -> None:
        """Start checking periodically that the broker still has our consumers.

        Celery's loop begins with a read whose errors it ignores (celery/worker/loops.py, ``_quick_drain``). If
        that read receives the cancellation of a deleted queue's consumer, Celery never consumes from the queue
        again.
        """
        super().on_ready()
        if self._subscription is not None:
            self._subscription.keep()
        if self._check_timer is None:
            self._check_timer = self.timer.call_repeatedly(
                _CHECK_SECONDS, self.call_soon, (self._check_consumers,)
            )

    def stop(self) -> None:
        """Drain running tasks until the deadline, return unfinished ones to their queues, and stop."""
        if self._shutdown.is_installed:
            self._drain()
            if self.connection:
                bound_open_broker_sockets(self.connection, _CLOSE_SECONDS)
        if self._limits is not None:
            self._limits.close()
        super().stop()

    def _admit(self, request: Request) -> None:
        """Hand a task to admission control, or return it if the worker is shutting down or its queue is paused.

        A task's timer may call this long after the task was received.
        """
        if self._shutdown.is_begun or self._is_paused(request):
            give_back(request.message)
            state.task_ready(request)
            return
        if self.pool.body_can_be_buffer or self._is_green or is_small(request.message):
            request.hand_on_decoded()
        self._deliveries.add(request)
        self.admission.admit(request)

    @property
    def _is_green(self) -> bool:
        return getattr(self.pool, "is_green", False)

    def _hand_over(self, request: Request) -> None:
        if self._is_green:
            self.pool.spawn_n(self._hand_over_when_free, request)
        else:
            self._to_pool(request)

    def _hand_over_when_free(self, request: Request) -> None:
        """Wait for a free slot of a green pool in a separate greenlet, then start the task unless it was returned.

        Celery waits in the worker's loop, which then reads no heartbeats, so that the connection is lost.
        """
        slots = self.pool._pool  # noqa: SLF001 - gevent's own pool; Celery's cannot wait
        while slots.full():
            slots.wait_available()
        if self._deliveries.has(request):
            self._to_pool(request)

    def _prepared_loop(self, *args: Any) -> None:
        """Set up the consumers, then run Celery's loop."""
        self._subscription = Consumers(self.app.settings, self.task_consumer, self.prefetch_multiplier)
        self._subscription.allow_long_runs()
        self._start_consumption()
        self._celerys_loop(*args)

    def _check_consumers(self) -> None:
        """Write the heartbeat file, and consume again from queues whose consumers the broker has cancelled.

        If consuming again fails, make the consumer restart.
        """
        if self._subscription is None:
            return
        raw = self._subscription.connection
        if raw is not None and not raw.connected and not self.hub:
            # An acknowledgement noticed the loss first; the loop's next read would reconnect without a consumer.
            discard(self.connection)
            return
        is_ending = self._shutdown.is_begun
        is_lost = self._limits is not None and self._limits.stuck >= self.pool.limit  # not ready without a slot
        consumed, paused = self._subscription.consumed(), self._subscription.paused
        consumed, paused = ((), ()) if is_ending or is_lost else (consumed, paused)
        self._heartbeat_file.beat(self._subscription.connection, consumed, paused)
        if is_ending:
            return
        self._update_overflow()
        if self._subscription.renew():
            return
        if self.hub:
            raise ConsumerCancelled
        discard(self.connection)  # Celery's loop without a hub drops errors; its next read will fail

    def _drain(self) -> None:
        """Run the loop, with heartbeats and acknowledgements, until all tasks have ended or the deadline is over.

        Without a connection there is nothing to wait for: the broker has already requeued the running tasks.
        """
        self._shutdown.begin()
        self.admission.clear()
        try:
            if self.connection and self._subscription is not None:
                self._subscription.end()
                self._overflow.end()
            for run in self._deliveries.forget_unstarted(self.pool, is_flushed=False):
                give_back(run.request.message)
            turn = self._turner()
            while self.connection and self._unfinished() and not self._shutdown.is_over:
                turn()
            if self.connection and not self._unfinished():
                give_back_all(self._channels())  # a timer or admission control may hold some
        except (AMQPError, *self.connection_errors) as error:
            logger.warning("the connection was lost while the worker was shutting down: %r", error)
            self.connection, lost = None, self.connection
            discard(lost)
        left = self._unfinished()
        if left or (self._limits is not None and self._limits.stuck):
            self._shutdown.end(self.connection, self._channels(), map(str, left))

    def _unfinished(self) -> set[Request]:
        """Return the requests that still run, or whose messages are not settled yet."""
        return {run.request for run in self._deliveries.all()} | set(state.active_requests)

    def _turner(self) -> Callable[[], None]:
        """Return a function that runs one iteration of the worker's loop."""
        loop: Any = self.hub.create_loop() if self.hub else None

        def turn() -> None:
            nonlocal loop
            if self.hub:
                loop = loop if next(loop, self.hub) is not self.hub else self.hub.create_loop()
                return
            self.perform_pending_operations()
            with suppress(TimeoutError):
                self.connection.drain_events(timeout=_TURN_SECONDS)

        return turn

    def _green_loop(self, *args: Any) -> None:
        """Run Celery's loop without its 0.1 s wait on the event connection after every message.

        With heartbeats enabled, that wait limits a green worker to ten messages a second (celery/worker/loops.py,
        ``_quick_drain``). The loop only waits while ``amqheartbeat`` is set. Heartbeats are sent by timers, and a
        timer of ours reads from the event connection.
        """
        heartbeat, self.amqheartbeat = self.amqheartbeat, 0
        reader = self.timer.call_repeatedly(_EVENT_DRAIN_SECONDS, self._read_event_connection)
        try:
            loops.synloop(*args)
        finally:
            reader.cancel()
            self.amqheartbeat = heartbeat

    def _read_event_connection(self) -> None:
        """Read pending data without waiting; the heartbeat detects a broken connection."""
        connection = self.event_dispatcher and self.event_dispatcher.connection
        if not connection or not connection.connected:
            return
        try:
            connection.drain_events(timeout=0)
        except OSError as error:  # includes the time-out when there is no data
            logger.debug("event connection: %r", error)


def _refuse_eventlet(pool: object) -> None:
    """Refuse to start with eventlet, for which time limits and bounded shutdown are not implemented."""
    if type(pool).__module__.endswith(".eventlet"):
        with shown_in_one_line():
            raise SettingsError(["-P eventlet: expected prefork, threads, gevent or solo; use -P gevent instead"])
