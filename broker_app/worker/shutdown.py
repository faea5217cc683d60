"""The end of a worker: what runs may finish until a deadline, what has not is given back, and it ends with 0.

Celery waits for running tasks without a bound, and on threads without heartbeats and acknowledgements meanwhile;
its cold shutdown raises on threads and waits for them all the same. Here the worker's loop turns on while it
waits, and what is left at the deadline goes back to its queue as a nack, which from RabbitMQ 4.3 on does not count
as a failed delivery (rabbitmq.com/docs/quorum-queues#poison-message-handling).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from amqp import spec
from celery import signals
from celery.apps.worker import _shutdown_handler
from celery.platforms import EX_FAILURE
from celery.utils.threads import bound_open_broker_sockets
from celery.worker import state

from broker_app.settings import DEFAULT_DRAIN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery import Celery
    from kombu.message import Message

GRACE_SECONDS = 5.0
"""After the deadline the worker ends whatever it is stuck in: a silent broker, a task of a solo pool."""

_BROKER_SECONDS = 2.0
_PROCESS_SECONDS = 1.0
"""How long a task's process has to end by itself, after SIGTERM."""

_COLD = "worker_Cold"
"""Celery's handler of SIGTERM where the variable REMAP_SIGTERM is SIGQUIT."""

_CELERYS = ("worker_Warm", _COLD)

_NACK = "Lbb"
"""delivery-tag, multiple, requeue (rabbitmq.com/docs/nack); py-amqp knows the method but does not send it."""

logger = logging.getLogger(__name__)


class Shutdown:
    """When a worker shall end, by whom it is told, and how it ends what has not finished.

    Args:
        controller: Celery's worker.
        seconds: How long running tasks may take to finish.
    """

    def __init__(self, controller: Any, seconds: float) -> None:
        self.is_installed = False
        self._controller = controller
        self._seconds = seconds
        self._deadline: float | None = None
        self._is_cold = False

    @property
    def is_begun(self) -> bool:
        """Whether the worker was told to end."""
        return self._deadline is not None

    @property
    def is_over(self) -> bool:
        """Whether the time for running tasks is over."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def install(self) -> None:
        """Take the place of Celery's signal handlers; where there are none (a worker inside a test) do nothing."""
        if self.is_installed or threading.current_thread() is not threading.main_thread():
            return
        name = getattr(signal.getsignal(signal.SIGTERM), "__name__", "")
        if name not in _CELERYS:  # not a worker of the command line
            return
        self.is_installed = True
        _shutdown_handler(self._controller, sig="SIGTERM", how="Warm")  # with REMAP_SIGTERM it was the cold one
        warm: Any = signal.getsignal(signal.SIGTERM)

        def on_warm(number: int, frame: Any) -> None:
            if number == signal.SIGINT and self.is_begun:
                on_cold(number, frame)
                return
            self.begin()
            warm(number, frame)

        def on_cold(number: int, frame: Any) -> None:
            del frame
            self._begin_cold(number)

        signal.signal(signal.SIGTERM, on_cold if name == _COLD else on_warm)
        signal.signal(signal.SIGINT, on_warm)
        signal.signal(signal.SIGQUIT, on_cold)

    def _begin_cold(self, number: int) -> None:
        """End at once, the first time after Celery's ``worker_soft_shutdown_timeout``."""
        seconds = 0.0 if self._is_cold else self._controller.app.conf.worker_soft_shutdown_timeout
        self._is_cold = True
        self.begin(seconds)
        try:
            signals.worker_shutting_down.send(
                sender=self._controller.hostname, sig=signal.Signals(number).name, how="Cold", exitcode=EX_FAILURE
            )
        finally:
            state.should_stop = EX_FAILURE

    def begin(self, seconds: float | None = None) -> None:
        """Start the clock, or set it forward.

        Args:
            seconds: From now to the deadline; None for what the settings say.
        """
        left = self._seconds if seconds is None else seconds
        deadline = time.monotonic() + left
        if self._deadline is None or deadline < self._deadline:
            self._deadline = deadline
            _call_natively(left + GRACE_SECONDS, self._exit)

    def recycle(self) -> None:
        """End by itself, with the exit code of a failure, so that who started it starts it anew."""
        if self.is_installed and not self.is_begun:
            self.begin()
            state.should_stop = EX_FAILURE

    def end(self, connection: Any, channels: Iterable[Any], tasks: Iterable[str]) -> None:
        """End what has not finished, give back its messages, and end this process: it does not return.

        A pool's processes are killed first. A thread cannot be: it runs on for the moment that the rest takes.

        Args:
            connection: The worker's; None if it is lost, and with it all that it held.
            channels: Where its messages came by.
            tasks: What has not finished; none if a thread is left that cannot be ended.
        """
        if names := ", ".join(tasks):
            logger.warning("not finished in time, back to their queue: %s", names)
        _end_processes(self._controller.pool)
        if connection is not None:
            bound_open_broker_sockets(connection, _BROKER_SECONDS)
            try:
                give_back_all(channels)
                connection.close()
            except (*connection.connection_errors, *connection.channel_errors) as error:
                logger.warning("the broker did not answer a worker's farewell: %r", error)
        self._exit()

    def _exit(self) -> None:
        """End without waiting for threads: the interpreter's own end would join them."""
        _end_processes(self._controller.pool)
        with suppress(Exception):  # a user's signal handlers must not keep it
            self._controller._send_worker_shutdown()  # noqa: SLF001 - what Celery's own end calls
        if self._controller.pidlock:
            self._controller.pidlock.release()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self._controller.exitcode or state.should_stop or 0)


def drain_seconds(app: Celery) -> float:
    """Return how long a worker of these queues may take to end: the longest of them says."""
    table, fleets = app.settings.routing_table(), app.settings.queues
    names = {table.queue(queue).name for queue in app.amqp.queues.consume_from}
    return max((fleets[name].fleet.drain_seconds for name in names), default=DEFAULT_DRAIN_SECONDS)


def give_back(message: Message) -> None:
    """Put a message back into its queue."""
    if message.channel.connection is not None and not message.acknowledged:
        message.channel.send_method(spec.Basic.Nack, _NACK, (message.delivery_tag, False, True))
        message._state = "REQUEUED"  # noqa: SLF001 - as its own `requeue`, which rejects, and that counts


def give_back_all(channels: Iterable[Any]) -> None:
    """Put all that some channels hold back into its queues."""
    for channel in channels:
        if channel.connection is not None:
            channel.send_method(spec.Basic.Nack, _NACK, (0, True, True))


def _end_processes(pool: Any) -> None:
    """End the processes of a prefork pool; those of another have none."""
    processes = list(getattr(getattr(pool, "_pool", None), "_pool", None) or ())
    for number, patience_seconds in ((signal.SIGTERM, _PROCESS_SECONDS), (signal.SIGKILL, _PROCESS_SECONDS)):
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
        give_up = time.monotonic() + patience_seconds
        while any(process.exitcode is None for process in processes) and time.monotonic() < give_up:
            time.sleep(0.02)
        processes = [process for process in processes if process.exitcode is None]


def _call_natively(seconds: float, function: Callable[[], None]) -> None:
    """Call a function later, in a thread of the system, which gevent's busy loop or a task does not hold up."""
    monkey = sys.modules.get("gevent.monkey")
    start, sleep = (
        monkey.get_original(module, name) if monkey else getattr(import_module(module), name)
        for module, name in (("_thread", "start_new_thread"), ("time", "sleep"))
    )

    def wait() -> None:
        sleep(seconds)
        function()

    start(wait, ())
