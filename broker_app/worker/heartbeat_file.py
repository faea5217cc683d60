"""A sign of life that does not lie: when a worker's loop last turned, and when it last heard from the broker.

A worker that hangs answers nobody, and one that answers need not consume. So each node writes, once a second and
from within its loop, what it knows for certain into a small file beside its pid file. Who reads it asks nobody.
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
"""A loop that has not turned for so long hangs, or runs a task of a solo pool."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a node wrote last.

    Attributes:
        pid: Of its main process.
        turned_seconds: How long ago its loop turned.
        heard_seconds: How long ago the broker sent anything on the connection that tasks come by, heartbeats
            included; None if it has not.
        queues: What it consumes, as on the broker: those whose consumers the broker has not cancelled.
        paused: What it does not consume because an operator has paused it.
    """

    pid: int
    turned_seconds: float
    heard_seconds: float | None
    queues: tuple[str, ...]
    paused: tuple[str, ...] = ()

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Return what stands in a file; None if there is none, it is being written, or the host was restarted."""
        try:
            found: dict[str, Any] = json.loads(file.read_bytes())
            now, heard_at = time.monotonic(), found["heard_at"]
            heard_seconds = None if heard_at is None else max(0.0, now - heard_at)
            turned_seconds = now - found["turned_at"]
            if turned_seconds < 0:
                return None  # the clock began anew: it is of before the last boot
            queues, paused = tuple(found["queues"]), tuple(found.get("paused", ()))
            return cls(found["pid"], turned_seconds, heard_seconds, queues, paused)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_fresh(self, heartbeat_seconds: float) -> bool:
        """Return whether the loop turns, and the broker was heard within three heartbeats."""
        is_heard = self.heard_seconds is not None and self.heard_seconds < 3 * heartbeat_seconds
        return self.turned_seconds < STUCK_SECONDS and is_heard

    def is_hung(self, heartbeat_seconds: float) -> bool:
        """Return whether the loop has stood still for three heartbeats: the broker has given its messages away."""
        return self.turned_seconds >= max(STUCK_SECONDS, 3 * heartbeat_seconds)


def sign_file(app: Broker, node: str, pid_file: str | None) -> Path:
    """Return where a worker writes its signs: beside its pid file, else in the state folder, as its fleet would.

    Args:
        app: The worker's app.
        node: Its name, with the host.
        pid_file: What ``--pidfile`` said; None if nothing.
    """
    if pid_file:
        return Path(pid_file).with_suffix(SUFFIX)
    return run_folder(app) / f"{node.partition('@')[0]}{SUFFIX}"


def run_folder(app: Broker) -> Path:
    """Return the folder of the pid files and signs of an app's fleets; it need not be there."""
    return app.settings.state_dir / "run" / file_name(app)


def file_name(app: Broker) -> str:
    """Return the app's main name as that of a file."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", app.main or "app")


class HeartbeatFile:
    """Writes the signs of this process.

    The moments are of the system's monotonic clock, which all processes of a host share and nobody sets.

    Args:
        file: Where; its folder is made for the owner only.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stream: int | None = None
        self._is_failing = False
        self._longest = 0
        self._frames: tuple[int, int] | None = None
        self._heard_at: float | None = None

    def beat(self, connection: Any, queues: Sequence[str], paused: Sequence[str] = ()) -> None:
        """Write that the loop turned now.

        Args:
            connection: py-amqp's, for its count of what was received (``bytes_recv`` counts frames); None if it
                is lost.
            queues: What is consumed.
            paused: What is not, on purpose.
        """
        now = time.monotonic()
        frames = None if connection is None else (id(connection), connection.bytes_recv)
        if frames is not None and frames != self._frames:
            self._heard_at, self._frames = now, frames
        sign = {"pid": os.getpid(), "turned_at": now, "heard_at": self._heard_at}
        self._write(sign | {"queues": list(queues), "paused": list(paused)})

    def _write(self, sign: dict[str, Any]) -> None:
        """Write over the last sign, in one call and never shorter: a reader sees one or the other.

        A failed write is retried with the next sign: a supervisor would take silence for a hang.
        """
        data = json.dumps(sign).encode()
        self._longest = max(self._longest, len(data))
        try:
            os.pwrite(self._opened(), data.ljust(self._longest), 0)
        except OSError as error:  # a full disk must not stop a worker
            if not self._is_failing:
                logger.warning("%s: the sign of life cannot be written: %s", self._file, error.strerror)
            self._is_failing = True
        else:
            self._is_failing = False

    def _opened(self) -> int:
        """Return the file's descriptor; a file that was removed is created again."""
        if self._stream is not None and os.fstat(self._stream).st_nlink == 0:
            os.close(self._stream)
            self._stream = None
        if self._stream is None:
            make_private_folder(self._file.parent, is_ours=False)  # it may be /tmp
            self._stream = open_private(self._file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        return self._stream
