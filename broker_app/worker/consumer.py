"""Consumer: Celery's consumer with robust reconnects, deduplicated redeliveries and a bounded shutdown.

It also omits Celery's native delayed delivery, and removes a bottleneck with green threads.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from amqp.exceptions import ResourceLocked
from celery.exceptions import CPendingDeprecationWarning
from celery.utils.threads import bound_open_broker_sockets
from celery.worker import consumer as celery_consumer
from celery.worker import loops, state

import broker_app.worker.remote_control  # noqa: F401 - registers commands that replace Celery's
from broker_app.celery_integration.seams import refuse_broken_seams
from broker_app.celery_integration.tracer import let_answer, let_processes_answer, let_slots_answer
from broker_app.coroutines.loop_watch import LoopWatch
from broker_app.wire.connection import discard
from broker_app.wire.field_tables import accept_undecodable
from broker_app.wire.frame_reader import FrameReader
from broker_app.worker.acknowledger import Acknowledger
from broker_app.worker.admission import Admission
from broker_app.worker.cancelled_tasks import remember_cancellations
from broker_app.worker.consumer_check import ConsumerCheck
from broker_app.worker.consumption import Consumption
from broker_app.worker.dead_letter_publisher import DeadLetterPublisher
from broker_app.worker.deliveries import Deliveries
from broker_app.worker.drain import Drain
from broker_app.worker.give_back import give_back_unstarted
from broker_app.worker.green_loop import green_loop
from broker_app.worker.heartbeat_file import HeartbeatFile, sign_file
from broker_app.worker.invalid_messages import InvalidMessages, or_given_up
from broker_app.worker.poison.crash_log import CrashLog
from broker_app.worker.poison.suspects import Suspects
from broker_app.worker.pools.entry import PoolEntry
from broker_app.worker.pools.thread_pool import lighten
from broker_app.worker.pools.time_limits import limits_of
from broker_app.worker.prefetch import LOOK_SECONDS, PrefetchControl, is_adaptable
from broker_app.worker.reconnect_pauses import Refusals
from broker_app.worker.shutdown import Shutdown, drain_seconds
from broker_app.worker.side_publisher import SidePublisher
from broker_app.worker.unsupported import refuse_unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu.message import Message

    from broker_app.worker.request import Request

_NATIVE_DELAY = "celery.worker.consumer.delayed_delivery:DelayedDelivery"
"""It would declare 28 exchanges and queues, and bind ``#.<key>``, which also matches the keys of other queues."""

_CONTROL = "celery.worker.consumer.control.Control"

_CHECK_SECONDS = 1.0
"""Interval for checking that the broker still has the worker's consumers."""

_ABOUT_CANCELLING = r"\s*In Celery 5\.1 we introduced an optional breaking change"
"""Celery's warning at each lost connection that running tasks will run again; here `Deliveries` prevents that."""

_CLOSE_SECONDS = 5.0


class Consumer(celery_consumer.Consumer):
    """The consumer of our workers: connects Celery's hooks with the parts that do the work.

    The way of a message: Celery's loop calls the handler of `create_task_handler`, and that `Admission.receive`.
    Celery parses it into a `Request` and calls `_admit`, and that `Admission.admit`, which ends in the pool. When
    the task ends, `Deliveries` settles the message.

    Attributes:
        loop_watch: Watches the event loop of coroutines, where it runs in this process.
    """

    class Blueprint(celery_consumer.Consumer.Blueprint):
        """Celery's steps, without native delayed delivery."""

        default_steps = tuple(
            step for step in celery_consumer.Consumer.Blueprint.default_steps if step != _NATIVE_DELAY
        )

    def __init__(self, on_task_request: Callable[[Request], object], *args: Any, **options: Any) -> None:
        refuse_unsupported(options["pool"])
        refuse_broken_seams()
        connect_seconds = options["app"].conf.broker_connection_timeout
        super().__init__(self._admit, *args, **options)
        # Celery removes this time-out with gevent; publishers and workers would wait for a silent broker forever.
        self.app.conf.broker_connection_timeout = connect_seconds
        accept_undecodable()
        lighten(self.pool)
        let_slots_answer(self.pool)
        let_processes_answer(self.app)
        self._heartbeat_file = HeartbeatFile(sign_file(self.app, self.hostname, self.controller.pidfile))
        self.loop_watch = LoopWatch()
        self._refusals = Refusals()
        self._build(on_task_request)
        self._check_timer: Any = None

    def _build(self, start: Callable[[Request], object]) -> None:
        """Create the parts, each from those above it.

        Args:
            start: Starts a request in the pool.
        """
        self._shutdown = Shutdown(self.controller, drain_seconds(self.app))
        self._limits = limits_of(self, lambda: self.call_soon(self._shutdown.recycle))
        self._side_publisher = SidePublisher(self.app)
        dead_letters = DeadLetterPublisher(self.app, self.hostname, self._side_publisher)
        self._acknowledger = Acknowledger(self.connection_errors, is_alone=bool(self.hub))
        writer = self.app.result_writer
        writer.is_batching = self.pool.body_can_be_buffer or self._is_green  # the tasks run in this process
        self._deliveries = Deliveries(
            self.call_soon_ack,
            self._acknowledger,
            when_stored=writer.when_stored,
            on_settled=lambda request: self._suspects.release(request),  # noqa: PLW0108 - made below
        )
        entry = PoolEntry(self.pool, start, self._deliveries.has, self._limits)
        crash_log = CrashLog(self.app.settings.prefix, self.hostname, self._side_publisher)
        self._suspects = Suspects(crash_log, entry.run)
        self._consumption = Consumption(
            self.app,
            slots=self.pool.limit,
            prefetch=self.prefetch_multiplier,
            on_pause=lambda: self.call_soon(self._apply_pauses),
            give_back_unstarted=self._give_back_unstarted,
        )
        self.app.amqp.follow(remember_cancellations(self.app), crash_log.stream, self._consumption.pause_stream)
        self._invalid = InvalidMessages(self, dead_letters, self._consumption)
        self._admission = Admission(
            consumption=self._consumption,
            shutdown=self._shutdown,
            deliveries=self._deliveries,
            suspects=self._suspects,
            entry=entry,
            dead_letters=dead_letters,
        )
        self._drain = Drain(
            self,
            shutdown=self._shutdown,
            consumption=self._consumption,
            deliveries=self._deliveries,
            suspects=self._suspects,
        )
        self._check = ConsumerCheck(
            self,
            shutdown=self._shutdown,
            consumption=self._consumption,
            deliveries=self._deliveries,
            heartbeat_file=self._heartbeat_file,
        )
        self._prefetch = (
            self._prefetch_control(crash_log) if is_adaptable(self.app, self.pool, self.controller) else None
        )
        self._admit_or_give_up = or_given_up(self._admission.admit)

    def _prefetch_control(self, crash_log: CrashLog) -> PrefetchControl:
        return PrefetchControl(
            slots=self.pool.limit,
            consumption=self._consumption,
            deliveries=self._deliveries,
            may_return=lambda: crash_log.is_shared and not any(self.task_buckets.values()),
            give_back_unstarted=self._give_back_unstarted,
        )

    def _give_back_unstarted(self, is_unwanted: Callable[[Request], bool]) -> None:
        give_back_unstarted(self.pool, self._deliveries, self._suspects, is_unwanted)

    @property
    def prefetch_limit(self) -> int:
        """Number of messages that the worker may hold, of each of its queues."""
        if self._prefetch is not None:
            return self._prefetch.limit
        return 0 if self.qos is None else int(self.qos.value)

    @property
    def stuck_slots(self) -> int:
        """Number of slots whose tasks exceeded their time limits and cannot be interrupted."""
        return 0 if self._limits is None else self._limits.stuck

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Message], None]:
        """Return the handler of delivered messages; Celery's parses them."""
        take = super().create_task_handler(*args, **options)
        receive = partial(self._admission.receive, take)
        take_or_give_up, hold = self._invalid.take_or_give_up, self._acknowledger.hold

        def on_task_received(message: Message) -> None:
            take_or_give_up(receive, message)
            hold(message)

        return on_task_received

    def _admit(self, request: Request) -> None:
        """Take a request that Celery has parsed, and has held until it is due."""
        self._admit_or_give_up(request)

    def on_decode_error(self, message: Message, exc: BaseException) -> None:
        """Give up an undecodable message."""
        self._invalid.give_up_undecodable(message, exc)

    def on_invalid_task(self, body: Any, message: Message, exc: BaseException) -> None:
        """Give up a malformed task."""
        del body
        self._invalid.give_up_malformed(message, exc)

    def on_unknown_message(self, body: Any, message: Message) -> None:
        """Give up a message that does not contain a task."""
        del body
        self._invalid.give_up_foreign(message)

    def on_unknown_task(self, body: Any, message: Message, exc: Exception) -> None:
        """Give up a task that is not registered in this worker."""
        del body
        self._invalid.give_up_unknown(message, exc)

    def update_strategies(self) -> None:
        """Build the tasks' strategies, as Celery does, and make their tracers always report an outcome."""
        super().update_strategies()
        let_answer(self.app.tasks.values())

    def start(self) -> None:
        """Consume until the worker stops."""
        self._shutdown.install()
        if self.pool.body_can_be_buffer:  # otherwise its coroutines run in other processes, one at a time
            self.loop_watch.start()
        warnings.filterwarnings("ignore", _ABOUT_CANCELLING, CPendingDeprecationWarning)
        super().start()

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
        with conn.calling_while_waiting(self._show_waiting):
            return super().ensure_connected(conn)

    def _show_waiting(self) -> None:
        self._heartbeat_file.beat(None, ())

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Pause after a refused connection, such as a wrong login: Celery would retry at once."""

        def stop() -> None:
            self._show_waiting()
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

    def loop(self, *args: Any) -> None:
        """Set up the consumers, then run Celery's loop."""
        handler = self.create_task_handler()
        self._consumption.begin(self.connection, self.task_consumer, handler, self.on_decode_error)
        if self.qos.value == self.initial_prefetch_count:
            self.qos.prev = self.qos.value  # set before; Celery would wait for it again while messages arrive
        if self.hub:
            loops.asynloop(*args)
        elif self._is_green:
            green_loop(*args)
        else:
            loops.synloop(*args)

    def on_ready(self) -> None:
        """Start checking periodically that the broker still has our consumers.

        Celery's loop begins with a read whose errors it ignores (celery/worker/loops.py, ``_quick_drain``). If
        that read receives the cancellation of a deleted queue's consumer, Celery never consumes from the queue
        again.
        """
        super().on_ready()
        self._consumption.keep()
        if self._check_timer is None:
            self._check_timer = self.timer.call_repeatedly(_CHECK_SECONDS, self.call_soon, (self._check.run,))
            if self._prefetch is not None:
                self.timer.call_repeatedly(LOOK_SECONDS, self.call_soon, (self._adapt_prefetch,))

    def add_task_queue(self, queue: str, *_args: Any, **_options: Any) -> None:
        """Consume from another queue of the settings (``add_consumer``), on this and on later connections.

        `broker_app.worker.remote_control` has already refused unknown queues: Celery would invent one, and the
        worker would exit at its next lost connection, because the settings do not say how to declare it.
        """
        self._consumption.add(queue)

    def on_close(self) -> None:
        """Remove unstarted tasks, which the broker redelivers; running ones stay tracked."""
        super().on_close()
        if self.stuck_slots >= self.pool.limit:
            self._shutdown.recycle()  # the loop may have dropped this call too
        self._suspects.clear()  # first: settling would start the next one
        self._deliveries.settle()
        self._consumption.on_lost_connection()
        self._deliveries.forget_unstarted(self.pool, is_flushed=True)

    def stop(self) -> None:
        """Drain running tasks until the deadline, return unfinished ones to their queues, and stop."""
        if self._shutdown.is_installed:
            self._drain.run()
            if self.connection:
                bound_open_broker_sockets(self.connection, _CLOSE_SECONDS)
        if self._limits is not None:
            self._limits.close()
        self.loop_watch.close()
        super().stop()
        self.app.result_writer.is_batching = False

    def shutdown(self) -> None:
        """Close the connection for dead letters after the last task has ended."""
        super().shutdown()
        self._side_publisher.close()

    @property
    def _is_green(self) -> bool:
        return getattr(self.pool, "is_green", False)

    def _adapt_prefetch(self) -> None:
        if self._prefetch is not None and not self._shutdown.is_begun and not self._prefetch.run():
            self._check.restart()

    def _apply_pauses(self) -> None:
        if not self._shutdown.is_begun and self._consumption.apply_pauses():
            self._check.run()
