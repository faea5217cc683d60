"""Shutdown: drains running tasks until a deadline, returns unfinished ones to their queues, and exits with 0.

Celery waits for running tasks without a time limit, and with threads it sends no heartbeats or acknowledgements
meanwhile; its cold shutdown raises an error with threads, and still waits for them. Here the worker's loop keeps
running during the drain (`broker_app.worker.drain`).
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

from billiard.common import REMAP_SIGTERM
from celery import signals
from celery.apps import worker as celery_worker
from celery.platforms import EX_FAILURE
from celery.utils.threads import bound_open_broker_sockets
from celery.worker import state

from broker_app.settings import DEFAULT_DRAIN_SECONDS
from broker_app.worker.give_back import give_back_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery import Celery

GRACE_SECONDS = 5.0
"""Time after the deadline until the worker exits, even if it waits for a silent broker or a solo pool's task."""

_BROKER_SECONDS = 2.0
_PROCESS_SECONDS = 1.0
"""Time for a pool process to exit after each signal."""

logger = logging.getLogger(__name__)


class Shutdown:
    """Handles a worker's shutdown: signals, the deadline, and the forced exit.

    Args:
        controller: Celery's worker.
        seconds: Time for running tasks to finish.
    """

    def __init__(self, controller: Any, seconds: float) -> None:
        self.is_installed = False
        self._controller = controller
        self._seconds = seconds
        self._deadline: float | None = None
        self._is_cold = False

    @property
    def is_begun(self) -> bool:
        """True once the shutdown has begun."""
        return self._deadline is not None

    @property
    def is_over(self) -> bool:
        """True once the deadline for running tasks has passed."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def install(self) -> None:
        """Replace Celery's signal handlers; does nothing in a worker without them, such as one inside a test."""
        if self.is_installed or threading.current_thread() is not threading.main_thread():
            return
        if getattr(signal.getsignal(signal.SIGTERM), "__module__", "") != celery_worker.__name__:
            return  # not started from the command line
        self.is_installed = True
        celery_worker._shutdown_handler(self._controller, sig="SIGTERM", how="Warm")  # noqa: SLF001 - cold if remapped
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

        signal.signal(signal.SIGTERM, on_cold if REMAP_SIGTERM == "SIGQUIT" else on_warm)
        signal.signal(signal.SIGINT, on_warm)
        signal.signal(signal.SIGQUIT, on_cold)

    def _begin_cold(self, number: int) -> None:
        """Shut down after Celery's ``worker_soft_shutdown_timeout``, or at once if called again."""
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
        """Begin the shutdown, or bring its deadline forward.

        Args:
            seconds: Time until the deadline; None for the configured time.
        """
        left = self._seconds if seconds is None else seconds
        deadline = time.monotonic() + left
        if self._deadline is None or deadline < self._deadline:
            self._deadline = deadline
            _call_natively(left + GRACE_SECONDS, self._exit)

    def recycle(self) -> None:
        """Exit with a non-zero code so that the supervisor restarts the node."""
        if self.is_installed and not self.is_begun:
            self.begin()
            state.should_stop = EX_FAILURE

    def end(self, connection: Any, channels: Iterable[Any], tasks: Iterable[str]) -> None:
        """Kill the pool's processes, return their messages to the queues, and exit; this does not return.

        Threads cannot be killed; they run until the process exits.

        Args:
            connection: The worker's connection; None if it is lost, and all messages with it.
            channels: The channels that delivered tasks.
            tasks: Unfinished tasks; empty if only a stuck thread is left.
        """
        if names := ", ".join(tasks):
            logger.warning("tasks did not finish before the deadline and return to their queue: %s", names)
        _end_processes(self._controller.pool)
        if connection is not None:
            bound_open_broker_sockets(connection, _BROKER_SECONDS)
            try:
                give_back_all(channels)
                connection.close()
            except (*connection.connection_errors, *connection.channel_errors) as error:
                logger.warning("the broker did not confirm that the worker's connection was closed: %r", error)
        self._exit()

    def _exit(self) -> None:
        """Exit without waiting for threads, which a normal interpreter exit would join."""
        _end_processes(self._controller.pool)
        with suppress(Exception):  # a user's signal handlers must not prevent the exit
            self._controller._send_worker_shutdown()  # noqa: SLF001 - as Celery's own shutdown does
        if self._controller.pidlock:
            self._controller.pidlock.release()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self._controller.exitcode or state.should_stop or 0)


def drain_seconds(app: Celery) -> float:
    """Return the longest drain time of the queues that the worker consumes."""
    table, fleets = app.settings.routing_table(), app.settings.queues
    names = {table.queue(queue).name for queue in app.amqp.queues.consume_from}
    return max((fleets[name].fleet.drain_seconds for name in names), default=DEFAULT_DRAIN_SECONDS)


def _end_processes(pool: Any) -> None:
    """Kill the processes of a prefork pool; other pools have none."""
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
    """Call a function later in a native thread, which neither a busy gevent loop nor a task can delay."""
    monkey = sys.modules.get("gevent.monkey")
    start, sleep = (
        monkey.get_original(module, name) if monkey else getattr(import_module(module), name)
        for module, name in (("_thread", "start_new_thread"), ("time", "sleep"))
    )

    def wait() -> None:
        sleep(seconds)
        function()

    start(wait, ())
