"""Crash log: counts the starts of tasks that may have killed their worker, shared by all workers.

A redelivered message was held by a worker that died or lost its connection. The message may have killed that
worker, or may only have been prefetched by it; the broker's delivery count does not distinguish the two. So before
a worker starts a redelivered message, it publishes an entry to the stream ``tasks.suspects``, with a publisher
confirm. All workers read this stream. A message that was not redelivered costs nothing.

A worker that survives the loss of its connection, or is shut down, retracts the entries of the tasks that were
running: they did not kill it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from broker_app.broker.control_streams import Stream
from broker_app.errors import BrokerError, PublishError
from broker_app.publishing.message import OutgoingMessage
from broker_app.queues import NO_DELAY, Names
from broker_app.queues.headers import COUNT_HEADERS, PERSISTENT, PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker_app.worker.side_publisher import SidePublisher

MAX_REMEMBERED = 60_000
"""Suspects that a worker keeps in memory; the oldest are dropped first."""

WARN_SECONDS = 60.0
"""Shortest interval between two warnings that the stream cannot be written."""

logger = logging.getLogger(__name__)


class CrashLog:
    """The starts of suspects.

    Args:
        prefix: The prefix of the names on the broker.
        node: The worker's name.
        side_publisher: Publishes to the stream.
    """

    def __init__(self, prefix: str, node: str, side_publisher: SidePublisher) -> None:
        self.is_shared = False  # whether this worker reads the stream
        self._name = Names(prefix).suspects
        self._node = node
        self._side_publisher = side_publisher
        self._lock = threading.Lock()
        self._starts: OrderedDict[str, set[str]] = OrderedDict()  # ids of the starts, by the message's key
        self._running: dict[str, dict[str, Any]] = {}  # entries of the tasks started here, by the message's key
        self._survived: list[dict[str, Any]] = []  # entries to retract
        self._warned_at = float("-inf")

    @property
    def stream(self) -> Stream:
        """The stream that a worker follows."""
        unread = "poisoned tasks are counted by the broker, which counts their neighbours too"
        return Stream(self._name, self._learn, self._begin, unread, self._on_read)

    def starts(self, headers: Mapping[str, Any]) -> int:
        """Return how often a redelivered message was started, at least 1.

        The first start is assumed, not recorded. If the stream cannot be read, the broker's delivery count is used
        instead; classic queues have none.
        """
        with self._lock:
            known = 1 + len(self._starts.get(key(headers), ()))
        return known if self.is_shared else max(known, *(_count(headers.get(name)) for name in COUNT_HEADERS))

    def note_start(self, headers: Mapping[str, Any]) -> None:
        """Record that a message is about to be started.

        If the broker does not confirm the entry, only this worker knows of the start, and logs a warning.
        """
        entry: dict[str, Any] = {
            "message": key(headers),
            "start": uuid4().hex,
            "node": self._node,
            "at": time.time(),
        }
        self._learn(entry)
        with self._lock:
            self._running[entry["message"]] = entry
        try:
            self._write(entry)
        except PublishError as error:
            self._warn(error)

    def note_end(self, headers: Mapping[str, Any]) -> None:
        """Record that a task has ended here, or died with its pool process; its entry is not retracted."""
        if self._running:  # a suspect's entry was there before it started
            with self._lock:
                self._running.pop(key(headers), None)

    def excuse(self, headers: Mapping[str, Any]) -> None:
        """Record that a task was not started after all, and retract its entry."""
        with self._lock:
            entry = self._running.pop(key(headers), None)
            self._survived += [entry] if entry else []
        if entry:
            self.acquit()

    def survive(self) -> None:
        """Record that this worker is alive while the broker redelivers its running tasks; see `acquit`."""
        with self._lock:
            self._survived += self._running.values()
            self._running.clear()

    def acquit(self) -> None:
        """Retract the entries of tasks that this worker survived. A failed write is retried at the next call."""
        with self._lock:
            survived, self._survived = self._survived, []
        for position, entry in enumerate(survived):
            over = entry | {"is_survived": True}
            try:
                self._write(over)
            except PublishError as error:
                self._warn(error)
                with self._lock:
                    self._survived += survived[position:]
                return
            self._learn(over)

    def _learn(self, entry: dict[str, Any]) -> None:
        """Apply an entry; one that is read again, as after a lost connection, counts once."""
        if not entry:
            return
        message, start = str(entry["message"]), str(entry["start"])
        with self._lock:
            starts = self._starts.setdefault(message, set())
            if entry.get("is_survived"):
                starts.discard(start)
            else:
                starts.add(start)
            self._starts.move_to_end(message)
            while len(self._starts) > MAX_REMEMBERED:
                self._starts.popitem(last=False)

    def _on_read(self, is_read: bool) -> None:  # noqa: FBT001 - a callback
        self.is_shared = is_read
        self.acquit()

    def _begin(self) -> None:
        try:
            self._write({})
        except PublishError as error:
            raise BrokerError(str(error)) from error

    def _write(self, entry: Mapping[str, Any]) -> None:
        identity = uuid4().hex
        self._side_publisher.send(
            OutgoingMessage(
                task="tasks.suspects",
                task_id=identity,
                spec=None,
                delay=NO_DELAY,
                exchange=self._name,
                routing_key="",
                body=json.dumps(entry).encode(),
                properties={
                    "correlation_id": identity,
                    "content_type": "application/json",
                    "content_encoding": "utf-8",
                    "delivery_mode": PERSISTENT,
                    "application_headers": {},
                },
            )
        )

    def _warn(self, error: Exception) -> None:
        if time.monotonic() - self._warned_at > WARN_SECONDS:
            self._warned_at = time.monotonic()
            logger.warning("other workers do not learn which tasks may have killed this one: %s", error)


def key(headers: Mapping[str, Any]) -> str:
    """Return the key of a message: its task id and its publishing time.

    The id alone is ambiguous: retries and replayed messages keep the id of their task.
    """
    return f"{headers.get('id', '')} {headers.get(PUBLISHED_AT_HEADER, '')}".strip()


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
