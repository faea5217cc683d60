"""Heartbeat file: records when a node's event loop last ran and when it last received data from the broker.

A ping is not a reliable health check: a worker that answers it may have stopped consuming, and a worker that hangs
never answers. So once a second each node writes its state from within its loop to a small file next to its pid
file. Probes and supervisors read this file and need no connection.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from broker_app.settings.private_files import make_private_folder, open_private

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker_app.broker.access import Broker

SUFFIX = ".alive"

STUCK_SECONDS = 15.0
"""Time after which a loop that has not run is considered hung; it may also be running a task of a solo pool."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The last state that a node wrote.

    Attributes:
        pid: Process id of the node's main process.
        turned_seconds: Time since its loop last ran.
        heard_seconds: Time since the broker last sent anything on the consuming connection, heartbeats included;
            None if it has sent nothing.
        queues: Queues with an active consumer, by their names on the broker.
        paused: Queues that are not consumed because an operator has paused them.
        blocked_seconds: Time since the event loop of its coroutines last ran what was due; 0 if it is not blocked.
    """

    pid: int
    turned_seconds: float
    heard_seconds: float | None
    queues: tuple[str, ...]
    paused: tuple[str, ...] = ()
    blocked_seconds: float = 0.0

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Read a file; None if it does not exist, is incomplete, or was written before the host's last restart."""
        try:
            found: dict[str, Any] = json.loads(file.read_bytes())
            now, heard_at = time.monotonic(), found["heard_at"]
            heard_seconds = None if heard_at is None else max(0.0, now - heard_at)
            turned_seconds = now - found["turned_at"]
            if turned_seconds < 0:
                return None  # the host was restarted: the monotonic clock counts from boot
            queues, paused = tuple(found["queues"]), tuple(found.get("paused", ()))
            blocked_since = found.get("blocked_since")
            blocked_seconds = 0.0 if blocked_since is None else max(0.0, now - blocked_since)
            return cls(found["pid"], turned_seconds, heard_seconds, queues, paused, blocked_seconds)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_fresh(self, heartbeat_seconds: float) -> bool:
        """Return whether the loop runs, and the broker sent something within three heartbeats."""
        is_heard = self.heard_seconds is not None and self.heard_seconds < 3 * heartbeat_seconds
        return self.turned_seconds < STUCK_SECONDS and is_heard

    def is_hung(self, heartbeat_seconds: float) -> bool:
        """Return whether the loop has not run for three heartbeats; the broker then redelivers the messages."""
        return self.turned_seconds >= max(STUCK_SECONDS, 3 * heartbeat_seconds)


def sign_file(app: Broker, node: str, pid_file: str | None) -> Path:
    """Return the path of a worker's heartbeat file: next to its pid file, or else where its fleet would put it.

    Args:
        app: The worker's app.
        node: The worker's name, including the host.
        pid_file: The value of ``--pidfile``; None if it was not given.
    """
    if pid_file:
        return Path(pid_file).with_suffix(SUFFIX)
    return run_folder(app) / f"{node.partition('@')[0]}{SUFFIX}"


def run_folder(app: Broker) -> Path:
    """Return the folder of pid files and heartbeat files of an app's fleets; it may not exist yet."""
    return app.settings.state_dir / "run" / file_name(app)


def file_name(app: Broker) -> str:
    """Return the app's main name, made safe for use as a file name."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", app.main or "app")


class HeartbeatFile:
    """Writes the heartbeat file of this process.

    Times are from the system's monotonic clock, which all processes of a host share and which is never set.

    Args:
        file: Path of the file; its folder is created with access for the owner only.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stream: int | None = None
        self._is_failing = False
        self._longest = 0
        self._frames: tuple[int, int] | None = None
        self._heard_at: float | None = None

    def beat(
        self,
        connection: Any,
        queues: Sequence[str],
        paused: Sequence[str] = (),
        blocked_since: float | None = None,
    ) -> None:
        """Record that the loop is running now.

        Args:
            connection: py-amqp's connection, for its count of received frames (``bytes_recv`` counts frames); None
                if it is lost.
            queues: Queues that are consumed.
            paused: Queues that are paused.
            blocked_since: When the event loop of coroutines was blocked; None if it is not.
        """
        now = time.monotonic()
        frames = None if connection is None else (id(connection), connection.bytes_recv)
        if frames is not None and frames != self._frames:
            self._heard_at, self._frames = now, frames
        state: dict[str, Any] = {"pid": os.getpid(), "turned_at": now, "heard_at": self._heard_at}
        state |= {"queues": list(queues), "paused": list(paused), "blocked_since": blocked_since}
        self._write(state)

    def _write(self, state: dict[str, Any]) -> None:
        """Overwrite the file in one call that never shortens it, so that readers see the old or the new state.

        A failed write is retried at the next beat: a supervisor would take a stale file for a hang.
        """
        data = json.dumps(state).encode()
        self._longest = max(self._longest, len(data))
        try:
            os.pwrite(self._opened(), data.ljust(self._longest), 0)
        except OSError as error:  # a full disk must not stop a worker
            if not self._is_failing:
                logger.warning("%s: cannot write the heartbeat file: %s", self._file, error.strerror)
            self._is_failing = True
        else:
            self._is_failing = False

    def _opened(self) -> int:
        """Return the file's descriptor; a removed file is created again."""
        if self._stream is not None and os.fstat(self._stream).st_nlink == 0:
            os.close(self._stream)
            self._stream = None
        if self._stream is None:
            make_private_folder(self._file.parent, is_ours=False)  # it may be /tmp
            self._stream = open_private(self._file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        return self._stream
