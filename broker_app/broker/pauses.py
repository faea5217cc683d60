"""Paused queues, remembered by the broker: a stream that every worker reads before it takes its first task.

A pause belongs to the queue, not to a worker: it holds on every host, for workers that start later too, over
restarts of workers, machines and the broker, until the queue is resumed. What runs is finished, and publishing
goes on. The last entry of a queue counts, in the order of the stream: two operators at once leave it clear.
"""

from __future__ import annotations

import getpass
import socket
import time
from typing import TYPE_CHECKING, Any

import amqp

from broker_app.broker.access import connect
from broker_app.broker.control_streams import Stream, append, follow
from broker_app.broker.declare import queue_exists
from broker_app.errors import BrokerError
from broker_app.queues import Names
from broker_app.wire.connection import bounded
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_app.broker.access import Broker


def pause_queue(app: Broker, name: str) -> None:
    """Stop the consumption of a queue, on all hosts, until `resume_queue`; fine if it is paused.

    It returns when the broker has confirmed it. Workers that are connected follow within about a second.

    Args:
        app: The app.
        name: The queue, as producers write it.

    Raises:
        UnknownQueue: The settings do not declare it.
        BrokerError: The broker did not take it.
    """
    _write(app, name, is_paused=True)


def resume_queue(app: Broker, name: str) -> None:
    """Let the workers consume a queue again; fine if it is not paused.

    One that is paused, and that the settings no longer declare, can be resumed too. Arguments and errors:
    `pause_queue`.
    """
    short = name.removeprefix(app.settings.prefix)
    if short not in app.settings.queues and short in paused_queues(app):
        _append(app, short, is_paused=False)
    else:
        _write(app, name, is_paused=False)


def paused_queues(app: Broker) -> frozenset[str]:
    """Return the queues that are paused, as producers write them; also those that are gone from the settings.

    Raises:
        BrokerError: The broker cannot be reached, or the user may not read the stream.
    """
    pauses = Pauses(app)
    deadline = time.monotonic() + app.settings.publish.timeout_seconds
    with connect(app) as connection, bounded(connection, deadline):
        try:
            if not queue_exists(connection, pauses.stream.queue):
                return frozenset()
            follow(connection, [pauses.stream])
        except (amqp.AMQPError, OSError) as error:
            raise BrokerError(f"queue {pauses.stream.queue!r}: {error_text(error)}; ask again") from error
    if not pauses.is_read:
        raise BrokerError(
            f"queue {pauses.stream.queue!r}: expected the right to read what is paused, got none; ask for it"
        )
    return pauses.queues


class Pauses:
    """Which queues are paused, as the stream says.

    Args:
        app: The app.
        on_change: Called when that has changed after the stream was read to its end.

    Attributes:
        is_read: Whether the stream could be read to its end.
    """

    def __init__(self, app: Broker, on_change: Callable[[], object] = bool) -> None:
        self.is_read = False
        self._app = app
        self._on_change = on_change
        self._paused: frozenset[str] = frozenset()
        self._in_reading: set[str] = set()

    @property
    def queues(self) -> frozenset[str]:
        """The paused queues, as producers write them."""
        return self._paused

    @property
    def broker_queues(self) -> frozenset[str]:
        """Their names on the broker."""
        return frozenset(self._app.settings.prefix + name for name in self._paused)

    @property
    def stream(self) -> Stream:
        """What a worker follows; asked for once a connection, and read from its beginning."""
        name = Names(self._app.settings.prefix).paused
        unread = "paused queues will be consumed"
        return Stream(name, self._learn, self._begin, unread, self._on_read)

    def begin_anew(self) -> None:
        """Take what is read from now on for the whole stream again: the connection is lost."""
        self.is_read = False

    def _learn(self, entry: dict[str, Any]) -> None:
        """Take in an entry; until all are read, what counts is what was known before."""
        if not entry:
            return
        name, is_paused = str(entry["queue"]), bool(entry["is_paused"])
        (self._in_reading.add if is_paused else self._in_reading.discard)(name)
        if self.is_read:
            self._settle()

    def _on_read(self, is_read: bool) -> None:  # noqa: FBT001 - a callback
        self.is_read = is_read
        if is_read:
            self._settle()

    def _settle(self) -> None:
        before, self._paused = self._paused, frozenset(self._in_reading)
        if before != self._paused:
            self._on_change()

    def _begin(self) -> None:
        append(self._app, Names(self._app.settings.prefix).paused, [{}], verb="start")


def _write(app: Broker, name: str, *, is_paused: bool) -> None:
    _append(app, app.settings.routing_table().queue(name).name, is_paused=is_paused)


def _append(app: Broker, queue: str, *, is_paused: bool) -> None:
    entry = {"queue": queue, "is_paused": is_paused, "at": time.time(), "by": f"{_user()}@{socket.gethostname()}"}
    append(app, Names(app.settings.prefix).paused, [entry], verb="pause" if is_paused else "resume")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
