"""Paused queues: a stream on the broker that every worker reads before it takes its first task.

A pause belongs to the queue, not to a worker. It applies on every host and to workers that start later, and
survives restarts of workers, machines and the broker until the queue is resumed. Running tasks finish, and
publishing continues. The last entry for a queue wins, so two operators at once cannot leave it in doubt.
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
    """Stop the consumption of a queue on all hosts until `resume_queue`; pausing a paused queue is not an error.

    Returns once the broker has confirmed the pause. Connected workers follow within about a second.

    Args:
        app: The app.
        name: The queue, as producers write it.

    Raises:
        UnknownQueue: The settings do not declare it.
        BrokerError: The broker did not confirm the pause.
    """
    _write(app, name, is_paused=True)


def resume_queue(app: Broker, name: str) -> None:
    """Let the workers consume a queue again; resuming a queue that is not paused is not an error.

    A paused queue that the settings no longer declare can be resumed too. Arguments and errors: as `pause_queue`.
    """
    short = name.removeprefix(app.settings.prefix)
    if short not in app.settings.queues and short in paused_queues(app):
        _append(app, short, is_paused=False)
    else:
        _write(app, name, is_paused=False)


def paused_queues(app: Broker) -> frozenset[str]:
    """Return the paused queues by the names that producers use, including queues no longer in the settings.

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
            f"queue {pauses.stream.queue!r}: expected read permission to list the paused queues, got none"
        )
    return pauses.queues


class Pauses:
    """The set of paused queues, as recorded in the stream.

    Args:
        app: The app.
        on_change: Called when the set changes after the stream has been read to its end.

    Attributes:
        is_read: True once the stream has been read to its end.
    """

    def __init__(self, app: Broker, on_change: Callable[[], object] = bool) -> None:
        self.is_read = False
        self._app = app
        self._on_change = on_change
        self._paused: frozenset[str] = frozenset()
        self._unapplied: set[str] = set()

    @property
    def queues(self) -> frozenset[str]:
        """The paused queues, by the names that producers use."""
        return self._paused

    @property
    def broker_queues(self) -> frozenset[str]:
        """The paused queues, by their names on the broker."""
        return frozenset(self._app.settings.prefix + name for name in self._paused)

    @property
    def stream(self) -> Stream:
        """The stream for a worker to follow, from its beginning, once per connection."""
        name = Names(self._app.settings.prefix).paused
        unread = "paused queues will be consumed"
        return Stream(name, self._learn, self._begin, unread, self._on_read)

    def begin_anew(self) -> None:
        """Prepare to read the stream from its beginning again, after the connection was lost."""
        self.is_read = False

    def _learn(self, entry: dict[str, Any]) -> None:
        """Record an entry; until the stream has been read to its end, the previous set stays in effect."""
        if not entry:
            return
        name, is_paused = str(entry["queue"]), bool(entry["is_paused"])
        (self._unapplied.add if is_paused else self._unapplied.discard)(name)
        if self.is_read:
            self._settle()

    def _on_read(self, is_read: bool) -> None:  # noqa: FBT001 - a callback
        self.is_read = is_read
        if is_read:
            self._settle()

    def _settle(self) -> None:
        before, self._paused = self._paused, frozenset(self._unapplied)
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
    except (KeyError, OSError):  # in a container the user may have no name
        return "unknown"
