"""How often a task was started that may have killed its worker, as all workers know it.

A message that comes back to its queue was in the hands of a worker that died or lost its connection. It may have
killed it, or have stood beside; the broker counts both alike, also for messages that were never started. So before
a worker starts a message that came back it writes that down, confirmed, in the stream ``tasks.suspects``, which
all workers read. A message that did not come back costs nothing.

A worker that outlives the loss of its connection, or is told to end, takes back what it wrote of tasks that still
ran: they did not kill it.
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
from broker_app.queues import Delay, Names
from broker_app.queues.headers import PERSISTENT, PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker_app.worker.side_publisher import SidePublisher

MAX_REMEMBERED = 60_000
"""Suspected tasks that a worker holds in memory; the oldest go first."""

WARN_SECONDS = 60.0
"""How often it is said that the stream cannot be written."""

COUNT_HEADERS = ("x-delivery-count", "x-acquired-count")
"""How often a quorum queue's message was taken and came back, by RabbitMQ; the second from 4.3 on."""

logger = logging.getLogger(__name__)


class CrashLog:
    """The starts of suspected tasks.

    Args:
        prefix: Of the names on the broker.
        node: The worker's name.
        courier: What writes to the stream.
    """

    def __init__(self, prefix: str, node: str, courier: SidePublisher) -> None:
        self.is_shared = False  # whether the stream is read
        self._name = Names(prefix).suspects
        self._node = node
        self._courier = courier
        self._lock = threading.Lock()
        self._starts: OrderedDict[str, set[str]] = OrderedDict()  # ids of the starts, by the message's key
        self._running: dict[str, dict[str, Any]] = {}  # the entries of what was started here, by the message's key
        self._survived: list[dict[str, Any]] = []  # the entries that are to be taken back
        self._warned_at = float("-inf")

    @property
    def stream(self) -> Stream:
        """What a worker follows."""
        unread = "poisoned tasks are counted by the broker, which counts their neighbours too"
        return Stream(self._name, self._learn, self._begin, unread, self._on_read)

    def starts(self, headers: Mapping[str, Any]) -> int:
        """Return how often a message that came back was started, at least 1.

        The first start is not written down: it is taken for granted. Where the stream cannot be read, the broker's
        count of deliveries stands in, which classic queues do not have.
        """
        with self._lock:
            known = 1 + len(self._starts.get(key(headers), ()))
        return known if self.is_shared else max(known, *(_count(headers.get(name)) for name in COUNT_HEADERS))

    def note_start(self, headers: Mapping[str, Any]) -> None:
        """Write down that a message is about to be started, before it is.

        If the broker does not take it, this worker alone knows, and says so in its log.
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
        """Note that a task has ended here, or died with its process: its start stands as it was written."""
        with self._lock:
            self._running.pop(key(headers), None)

    def excuse(self, headers: Mapping[str, Any]) -> None:
        """Note that a task was not started after all, and take back what was written."""
        with self._lock:
            entry = self._running.pop(key(headers), None)
            self._survived += [entry] if entry else []
        if entry:
            self.acquit()

    def survive(self) -> None:
        """Note that this worker lives, and the broker gives what runs here to others; see `acquit`."""
        with self._lock:
            self._survived += self._running.values()
            self._running.clear()

    def acquit(self) -> None:
        """Take back the starts of what this worker survived. What cannot be written now is tried the next time."""
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
        """Take in an entry; the same one again, as after a lost connection, counts once."""
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
        self._courier.send(
            OutgoingMessage(
                task="tasks.suspects",
                task_id=identity,
                spec=None,
                delay=Delay((), 0.0),
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
    """Return what tells a message from others: its id, and when it was published.

    A retry has the id of the task and is another message, and so has one that was replayed.
    """
    return f"{headers.get('id', '')} {headers.get(PUBLISHED_AT_HEADER, '')}".strip()


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
