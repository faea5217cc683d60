"""Celery's consumer: it comes back by itself, starts nothing beside itself, and ends in time.

It is without Celery's native delayed delivery, and quick with green threads.
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

import broker_app.worker.remote_control  # noqa: F401 - its commands take the place of Celery's
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
"""It would declare 28 exchanges and queues and bind ``#.<key>``, which catches other queues' keys."""

_CONTROL = "celery.worker.consumer.control.Control"

_EVENT_DRAIN_SECONDS = 1.0
"""How often the heartbeats on the event connection are read; the broker sends one in half a heartbeat."""

_LOOK_SECONDS = 1.0
"""How often the worker looks whether the broker still has its consumers."""

_ABOUT_CANCELLING = r"\s*In Celery 5\.1 we introduced an optional breaking change"
"""Celery says at each lost connection that what runs will run again; here it is held (`Deliveries`)."""

_TURN_SECONDS = 0.2
_FAREWELL_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Consumer(Consumption, celery_consumer.Consumer):
    """The consumer blueprint of our workers."""

    loop: Any
    amqheartbeat: Any
    connection: Any
    conninfo: Any
    on_task_request: Any

    class Blueprint(celery_consumer.Consumer.Blueprint):
        """Celery's steps but one."""

        default_steps = tuple(
            step for step in celery_consumer.Consumer.Blueprint.default_steps if step != _NATIVE_DELAY
        )

    def __init__(self, *args: Any, **options: Any) -> None:
        _refuse_eventlet(options["pool"])
        connect_seconds = options["app"].conf.broker_connection_timeout
        super().__init__(*args, **options)
        # Celery takes the bound away for gevent, whose publishers and workers would wait for a silent broker.
        self.app.conf.broker_connection_timeout = connect_seconds
        accept_undecodable()
        lighten(self.pool)
        let_slots_answer(self.pool)
        let_processes_answer(self.app)
        self.gate = Admission(self.app, self.hostname, queue_of=self._queue_of, run=self._hand_over)
        self._to_pool, self.on_task_request = or_given_up(self.on_task_request), or_given_up(self._admit)
        self._pauses = Pauses(self.app, lambda: self.call_soon(self._apply_pauses))
        self.app.amqp.followed[:] = [self.gate.suspects.stream, self._pauses.stream]
        if self.loop is loops.synloop and self._is_green:
            self.loop = self._green_loop
        self._celerys_loop, self.loop = self.loop, self._prepared_loop
        self._settlements = Acknowledger(self.connection_errors, is_alone=bool(self.hub))
        self._runs = Deliveries(self.call_soon_ack, self._settlements)
        self._stopping = Shutdown(self.controller, drain_seconds(self.app))
        self.app.limits = self._limits = limits_of(self, lambda: self.call_soon(self._stopping.recycle))
        self._subscription = None
        self._helping = helping_of(self.app, self.pool.limit)
        self._refusals = Refusals()
        self._pulse = HeartbeatFile(sign_file(self.app, self.hostname, self.controller.pidfile))
        self._look: Any = None

    def start(self) -> None:
        """Consume until the worker ends."""
        self._stopping.install()
        warnings.filterwarnings("ignore", _ABOUT_CANCELLING, CPendingDeprecationWarning)
        super().start()

    def update_strategies(self) -> None:
        """Learn the tasks, as Celery's; each of them answers."""
        super().update_strategies()
        let_answer(self.app.tasks.values())

    def connect(self) -> Any:
        """Connect, as Celery; what arrives is read all at once."""
        connection = super().connect()
        self._refusals.forget()
        if self.hub and FrameReader.can_read(connection.connection):
            raw = connection.connection
            self.hub.add_reader(raw.sock, FrameReader(raw, self.hub).read)
        return connection

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, as Celery, which tries for ever; the sign of life tells this from a worker that hangs."""
        conn.ensure_connection = partial(self._connect_alive, conn.ensure_connection)
        try:
            return super().ensure_connected(conn)
        finally:
            del conn.ensure_connection

    def _connect_alive(
        self, ensure: Callable[..., Any], *args: Any, callback: Callable[[], None], **options: Any
    ) -> Any:
        def turn() -> None:
            self._pulse.beat(None, ())
            callback()

        return ensure(*args, callback=turn, **options)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Pause after a refusal, such as of a login: Celery would ask again at once."""

        def stop() -> None:
            self._pulse.beat(None, ())
            state.maybe_shutdown()

        self._refusals.wait(self.conninfo.as_uri(), exc, stop)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Leave the other connections too, which were lost with this one.

        Celery would bid them farewell and wait for the answer: on a network that is cut off, for ever.
        """
        super().on_connection_error_after_connected(exc)
        if isinstance(exc, ResourceLocked) and self._look is not None:  # it has worked: the name was its own
            self.app.control.mailbox.move()
        events = self.event_dispatcher and self.event_dispatcher.connection
        if events:
            discard(events)
        control = self.blueprint.steps.get(_CONTROL) if self._is_green else None
        channel = control and control.box.node.channel  # only green workers have a connection for it alone
        if channel and channel.connection is not None:
            channel.connection.collect()

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Message], None]:
        """Return what takes a message: it is not started if its task still runs here, or the worker ends."""
        take = super().create_task_handler(*args, **options)

        def take_new(message: Message) -> None:
            translate(message)
            self.gate.name_queue(message)
            if self._runs.adopt(message):
                return
            if self._stopping.is_begun or self._is_late(message):
                give_back(message)
            else:
                decode_early(message)
                take(message)

        def on_task_received(message: Message) -> None:
            self.take_or_give_up(take_new, message)
            self._settlements.hold(message)

        return on_task_received

    def on_close(self) -> None:
        """Forget what the lost connection has taken with it; what runs is remembered."""
        super().on_close()
        self._pauses.begin_anew()
        self._runs.forget_unstarted(self.pool, is_flushed=True)

    def on_ready(self) -> None:
        """Look from now on whether the broker still has our consumers.

        Celery's loop begins with a read whose errors it drops (celery/worker/loops.py, ``_quick_drain``): if that
        is the word that a queue was deleted, the worker would never consume from it again.
        """
        super().on_ready()
        if self._subscription is not None:
            self._subscription.keep()
        if self._look is None:
            self._look = self.timer.call_repeatedly(_LOOK_SECONDS, self.call_soon, (self._look_round,))

    def stop(self) -> None:
        """Let what runs finish until the deadline; what has not finished then is given back, and all ends."""
        if self._stopping.is_installed:
            self._drain()
            if self.connection:
                bound_open_broker_sockets(self.connection, _FAREWELL_SECONDS)
        if self._limits is not None:
            self._limits.close()
        super().stop()

    def _admit(self, request: Request) -> None:
        """Hand a task on to the pool. Its timer may do so after the worker was told to end: then it goes back.

        So it does if its queue was paused meanwhile.
        """
        if self._stopping.is_begun or self._is_paused(request):
            give_back(request.message)
            state.task_ready(request)
            return
        if self.pool.body_can_be_buffer or self._is_green or is_small(request.message):
            request.hand_on_decoded()
        self._runs.add(request)
        self.gate.admit(request)

    @property
    def _is_green(self) -> bool:
        return getattr(self.pool, "is_green", False)

    def _hand_over(self, request: Request) -> None:
        if self._is_green:
            self.pool.spawn_n(self._hand_over_when_free, request)
        else:
            self._to_pool(request)

    def _hand_over_when_free(self, request: Request) -> None:
        """Wait for a slot of a green pool, in a greenlet of its own, and start a task if it is still ours.

        Celery waits for it in the worker's loop, which reads no heartbeat meanwhile: the connection is lost.
        """
        slots = self.pool._pool  # noqa: SLF001 - gevent's own pool; Celery's knows no wait
        while slots.full():
            slots.wait_available()
        if self._runs.has(request):
            self._to_pool(request)

    def _prepared_loop(self, *args: Any) -> None:
        """Run Celery's loop, with a task consumer that is ours."""
        self._subscription = Consumers(self.app.settings, self.task_consumer, self.prefetch_multiplier)
        self._subscription.allow_long_runs()
        self._begin_to_select()
        self._celerys_loop(*args)

    def _look_round(self) -> None:
        """Tell who looks that the loop turns, and consume again what the broker has cancelled.

        If that cannot be, make the loop start over.
        """
        if self._subscription is None:
            return
        raw = self._subscription.connection
        if raw is not None and not raw.connected and not self.hub:
            # An acknowledgement met the break first, and the loop's next read connects anew, without a consumer.
            discard(self.connection)
            return
        is_ending = self._stopping.is_begun
        is_lost = self._limits is not None and self._limits.stuck >= self.pool.limit  # not ready without a slot
        consumed, paused = self._subscription.consumed(), self._subscription.paused
        consumed, paused = ((), ()) if is_ending or is_lost else (consumed, paused)
        self._pulse.beat(self._subscription.connection, consumed, paused)
        if is_ending:
            return
        self._look_for_help()
        if self._subscription.renew():
            return
        if self.hub:
            raise ConsumerCancelled
        discard(self.connection)  # Celery's loop without a hub drops errors; it finds this one when it reads

    def _drain(self) -> None:
        """Turn the loop until nothing runs, or the deadline: meanwhile heartbeats and acknowledgements go on.

        Without a connection there is nothing to wait for: what runs is the broker's again.
        """
        self._stopping.begin()
        self.gate.clear()
        try:
            if self.connection and self._subscription is not None:
                self._subscription.end()
                self._helping.end()
            for run in self._runs.forget_unstarted(self.pool, is_flushed=False):
                give_back(run.request.message)
            turn = self._turner()
            while self.connection and self._unfinished() and not self._stopping.is_over:
                turn()
            if self.connection and not self._unfinished():
                give_back_all(self._channels())  # a timer, or the gate, may hold some
        except (AMQPError, *self.connection_errors) as error:
            logger.warning("the connection was lost while the worker ended: %r", error)
            self.connection, lost = None, self.connection
            discard(lost)
        left = self._unfinished()
        if left or (self._limits is not None and self._limits.stuck):
            self._stopping.end(self.connection, self._channels(), map(str, left))

    def _unfinished(self) -> set[Request]:
        """Return what runs, or has not told the broker that it ended."""
        return {run.request for run in self._runs.all()} | set(state.active_requests)

    def _turner(self) -> Callable[[], None]:
        """Return what runs the worker's loop for one turn."""
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
        """Run Celery's loop without its wait of 0.1 s on the event connection after every message.

        With heartbeats on, that wait holds a green worker to ten messages a second (celery/worker/loops.py,
        ``_quick_drain``). The loop waits so only while ``amqheartbeat`` is set; the heartbeats themselves run on
        timers, and what the broker sends on the event connection is read by one of ours.
        """
        heartbeat, self.amqheartbeat = self.amqheartbeat, 0
        reader = self.timer.call_repeatedly(_EVENT_DRAIN_SECONDS, self._read_event_connection)
        try:
            loops.synloop(*args)
        finally:
            reader.cancel()
            self.amqheartbeat = heartbeat

    def _read_event_connection(self) -> None:
        """Read what has come, without waiting; a broken connection is found by its heartbeat."""
        connection = self.event_dispatcher and self.event_dispatcher.connection
        if not connection or not connection.connected:
            return
        try:
            connection.drain_events(timeout=0)
        except OSError as error:  # a time-out, too, is one: nothing had come
            logger.debug("event connection: %r", error)


def _refuse_eventlet(pool: object) -> None:
    """Refuse to start on a pool whose time limits and bounds nobody has made work."""
    if type(pool).__module__.endswith(".eventlet"):
        with shown_in_one_line():
            raise SettingsError(["-P eventlet: expected prefork, threads, gevent or solo; use -P gevent instead"])
