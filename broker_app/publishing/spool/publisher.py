"""Spooling publisher, for producers that must not fail: keeps tasks in a file while the broker is unreachable."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from broker_app.errors import BrokerUnreachable, PublishError, PublishTimeout, SpoolError
from broker_app.publishing.publisher import Publisher
from broker_app.publishing.spool.flush import Flusher
from broker_app.publishing.spool.store import SpooledMessage, SpoolFile
from broker_app.queues.headers import DELAY_HEADER
from broker_app.wire import frames

if TYPE_CHECKING:
    from celery import Celery

    from broker_app.publishing.message import OutgoingMessage
    from broker_app.settings import Settings

logger = logging.getLogger(__name__)

RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses of the background thread between attempts; the last one repeats."""

LEAVE_SECONDS = 5.0
"""Time that an exiting process gives its background thread to finish sending."""


class SpoolingPublisher(Publisher):
    """Publishes tasks, and spools them while the broker cannot be reached.

    Order is kept: while the spool has waiting tasks, later tasks are spooled behind them.

    Args:
        app: The app.
        settings: Its settings.
    """

    can_send_ahead = False  # it might have to be spooled behind them

    def __init__(self, app: Celery, settings: Settings) -> None:
        publish = settings.publish
        super().__init__(app, settings.routing_table(), settings.prefix, publish.timeout_seconds)
        self.store = SpoolFile(settings.state_dir, publish.spool_max_messages, publish.spool_max_bytes)
        self._background = _Background(Flusher(app, self.store), publish.timeout_seconds)

    def hand_over(self, connection: Any, outgoing: OutgoingMessage, deadline: float, *, retry: bool) -> bool:
        """Deliver a message, or spool it; return whether the broker has it.

        Raises:
            PublishError: The broker refused it, or it could be neither delivered nor spooled.
        """
        try:
            is_behind = self.store.has_waiting()
        except SpoolError as error:
            logger.error("cannot read the spool; publishing directly: %s", error)  # noqa: TRY400 - one line
            is_behind = False
        if is_behind:
            waiting = outgoing.refused(BrokerUnreachable, "tasks before it wait for the broker in the spool")
            return self._keep(outgoing, waiting)
        try:
            return super().hand_over(connection, outgoing, deadline, retry=retry)
        except (BrokerUnreachable, PublishTimeout) as error:
            return self._keep(outgoing, error)

    def _keep(self, outgoing: OutgoingMessage, error: PublishError) -> bool:
        try:
            self.store.add(_spooled(outgoing, maybe_taken=error.maybe_taken))
        except SpoolError as fault:
            raise outgoing.refused(type(error), f"{error.reason}; and it was not spooled: {fault}") from error
        self._background.wake()
        return False


def _spooled(outgoing: OutgoingMessage, *, maybe_taken: bool) -> SpooledMessage:
    headers = outgoing.properties["application_headers"]
    return SpooledMessage(
        number=0,
        task=outgoing.task,
        task_id=outgoing.task_id,
        queue=None if outgoing.spec is None else outgoing.spec.name,
        exchange=outgoing.exchange,
        routing_key=outgoing.routing_key,
        # The requested delay, counted from the call; the message may already have been moved to shorter lanes.
        delay_seconds=headers.get(DELAY_HEADER) or outgoing.delay.seconds,
        spooled_at=time.time(),
        maybe_taken=maybe_taken,
        properties=frames.properties(outgoing.properties),
        body=outgoing.body,
    )


class _Background:
    """A background thread that sends spooled tasks and ends when the spool is empty."""

    def __init__(self, flusher: Flusher, timeout_seconds: float) -> None:
        self._flusher = flusher
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._process = 0
        self._is_sending = False

    def wake(self) -> None:
        """Start the thread if it is not running; a forked process starts its own."""
        with self._lock:
            if self._process != os.getpid():
                self._thread, self._process = None, os.getpid()
                atexit.register(self._leave)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="broker-app-spool", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        failures = 0
        while True:
            time.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
            try:
                flushed = self._flusher.flush(self._timeout_seconds, self._note)
            except SpoolError as error:
                logger.error("cannot flush the spool: %s", error)  # noqa: TRY400 - one line
                return
            finally:
                self._is_sending = False
            if flushed.sent:
                logger.info("published %d spooled tasks", flushed.sent)
            failures = 0 if flushed.sent else failures + 1
            with self._lock:
                if not flushed.left:
                    self._thread = None
                    return

    def _note(self, sent: int) -> None:
        self._is_sending = sent > 0

    def _leave(self) -> None:
        """Let an exiting process finish sending."""
        thread = self._thread
        if thread is not None and self._is_sending and self._process == os.getpid():
            thread.join(LEAVE_SECONDS)
