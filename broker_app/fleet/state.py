"""Fleet state on disk: pid files, logs and the lock, in the state folder."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from broker_app.errors import FleetBusy, FleetError
from broker_app.fleet.processes import NodeProcess, find_workers
from broker_app.settings.private_files import (
    FILE_MODE,
    check_not_linked,
    make_private_folder,
    open_private,
    unusable,
)
from broker_app.worker.heartbeat_file import SUFFIX, file_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from broker_app.app import BrokerApp

_LOCK = "fleet.lock"
_SUPERVISOR = ", a supervisor"
_SUPERVISOR_SECONDS = 180.0
_SIGN_SECONDS = 2.0
_POLL_SECONDS = 0.2
_TAIL_BYTES = 64 * 1024

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FleetState:
    """The folders of one app's fleets: ``<state_dir>/run/<app>`` and ``<state_dir>/log/<app>``.

    The path contains the app's name, so that two apps of one user do not confuse their workers.

    Attributes:
        base: The state folder, absolute.
        app: The app's main name, made safe for file names.
    """

    base: Path
    app: str

    @classmethod
    def of(cls, app: BrokerApp) -> FleetState:
        """Return the state of an app's fleets, without creating folders.

        Raises:
            FleetError: The path contains a ``%``, which Celery would expand.
        """
        base = app.settings.state_dir
        if "%" in str(base):
            raise FleetError(
                f"state_dir: expected a path without '%', which celery replaces, got {base}; choose another"
            )
        return cls(base, file_name(app))

    @property
    def run(self) -> Path:
        """The folder of the pid files and the lock."""
        return self.base / "run" / self.app

    @property
    def log(self) -> Path:
        """The folder of the logs."""
        return self.base / "log" / self.app

    def pid_file(self, stem: str) -> Path:
        """Return a node's pid file; the worker creates and removes it."""
        return self.run / f"{stem}.pid"

    def log_file(self, stem: str) -> Path:
        """Return the log of a node's main process; prefork children write ``<stem>-<n>.log``."""
        return self.log / f"{stem}.log"

    def sign_file(self, stem: str) -> Path:
        """Return a node's heartbeat file."""
        return self.pid_file(stem).with_suffix(SUFFIX)

    def record_file(self, stem: str) -> Path:
        """Return a node's launch record file."""
        return self.run / f"{stem}.json"

    def exists(self) -> bool:
        """Return whether a fleet was ever started here.

        Raises:
            FleetError: The folder belongs to another user.
        """
        try:
            return stat.S_ISDIR(self.run.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise FleetError(unusable(self.run, error)) from error

    @contextmanager
    def lock(self, *, is_supervisor: bool = False) -> Iterator[None]:
        """Create the folders, readable by their owner only, and lock out other `broker-app fleet` commands.

        If a supervisor holds the lock to restart a node, wait for it.

        Args:
            is_supervisor: Whether the caller is a supervisor; operators' commands wait for it.

        Raises:
            FleetBusy: Another command is running.
            FleetError: A folder is not writable.
        """
        self._make_folders()
        with self._open(self.run / _LOCK) as file:
            started = time.monotonic()
            while (holder := _taken(file)) is not None:
                if is_supervisor or time.monotonic() >= started + _patience_seconds(holder):
                    raise FleetBusy(
                        f"{self.run}: another fleet command (pid {holder}) is at work; wait for it to end"
                    )
                time.sleep(_POLL_SECONDS)
            _sign(file, f"{os.getpid()}{_SUPERVISOR if is_supervisor else ''}")
            try:
                yield
            finally:
                _sign(file, "")  # or the next holder would look like this one until it has signed

    @contextmanager
    def supervision(self, stem: str) -> Iterator[None]:
        """Lock out other supervisors of a queue's nodes.

        Args:
            stem: Stem of the queue's first node.

        Raises:
            FleetError: Another supervisor is running.
        """
        self._make_folders()
        with self._open(self.run / f"{stem}.supervised") as file:
            if (holder := _taken(file)) is not None:
                raise FleetError(
                    f"{stem}: expected no other supervisor of this fleet, pid {holder} is one; end that first"
                )
            _sign(file, str(os.getpid()))
            yield

    def check_files(self, stem: str) -> None:
        """Check that none of the files that a node's worker opens itself is a symbolic link.

        Raises:
            FleetError: One of them is a symbolic link.
        """
        try:
            for file in (self.pid_file(stem), self.log_file(stem), *self.log.glob(f"{stem}-*.log")):
                check_not_linked(file)
        except OSError as error:
            raise FleetError(f"{stem}: expected a file, got: {error.strerror}") from error

    def close_files(self, stems: Iterable[str]) -> None:
        """Restrict the pid files, which Celery creates world-readable, to their owner."""
        for stem in stems:
            with suppress(FileNotFoundError):  # the worker has exited
                self.pid_file(stem).chmod(FILE_MODE)

    def workers(self) -> dict[str, tuple[NodeProcess, ...]]:
        """Return the running workers by stem, the one named by the pid file first."""
        return {stem: self._own_first(stem, found) for stem, found in find_workers(self.run).items()}

    def recorded(self) -> tuple[str, ...]:
        """Return the stems that have a pid file, whether the process exists or not.

        Raises:
            FleetError: The folder belongs to another user.
        """
        try:
            return tuple(sorted(file.name.removesuffix(".pid") for file in self.run.glob("*.pid")))
        except PermissionError as error:
            raise FleetError(unusable(self.run, error)) from error

    def pid(self, stem: str) -> int | None:
        """Return the pid in a node's pid file; None if the file is missing or still empty."""
        try:
            return int(self.pid_file(stem).read_text())
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            raise FleetError(unusable(self.run, error)) from error

    def seconds_since_start(self, stem: str) -> float:
        """Return the age of a node's pid file; 0 if it does not exist yet."""
        try:
            return max(0.0, time.time() - self.pid_file(stem).stat().st_mtime)
        except FileNotFoundError:
            return 0.0

    def forget(self, stem: str) -> None:
        """Remove the files left by a node that no longer runs."""
        self.pid_file(stem).unlink(missing_ok=True)
        self.sign_file(stem).unlink(missing_ok=True)
        self._stopping_file(stem).unlink(missing_ok=True)
        self.record_file(stem).unlink(missing_ok=True)

    def mark_stopping(self, stem: str, pid: int) -> None:
        """Mark a worker as stopping: it no longer replies, but may run on for a while."""
        try:
            with open(self._stopping_file(stem), "a", opener=open_private) as file:
                file.write(f"{pid}\n")
        except OSError as error:  # a full disk must not prevent stopping workers
            logger.warning("%s cannot be written: %s", self._stopping_file(stem), error.strerror)

    def is_stopping(self, stem: str, pid: int) -> bool:
        """Return whether this worker is marked as stopping."""
        try:
            return str(pid) in self._stopping_file(stem).read_text().splitlines()
        except FileNotFoundError:
            return False

    def log_bytes(self, stem: str) -> int:
        """Return the size of a node's log in bytes; 0 if it does not exist."""
        try:
            return self.log_file(stem).stat().st_size
        except FileNotFoundError:
            return 0

    def log_tail(self, stem: str, start_bytes: int, lines: int) -> tuple[str, ...]:
        """Return the last lines of a node's log after offset ``start_bytes``."""
        try:
            with self.log_file(stem).open("rb") as file:
                file.seek(max(start_bytes, self.log_bytes(stem) - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ()
        return tuple(line for line in text.splitlines() if line.strip())[-lines:]

    def _own_first(self, stem: str, processes: tuple[NodeProcess, ...]) -> tuple[NodeProcess, ...]:
        own = self.pid(stem)
        return tuple(sorted(processes, key=lambda process: process.pid != own))

    def _make_folders(self) -> None:
        for folder in (self.base, self.run.parent, self.run, self.log.parent, self.log):
            try:
                make_private_folder(folder)
            except OSError as error:
                raise FleetError(unusable(folder, error)) from error
        if not os.access(self.log, os.W_OK | os.X_OK):
            raise FleetError(unusable(self.log, PermissionError(0, "it is not writable")))

    def _open(self, file: Path) -> IO[str]:
        try:
            return open(file, "a+", opener=open_private)
        except OSError as error:
            raise FleetError(unusable(self.run, error)) from error

    def _stopping_file(self, stem: str) -> Path:
        return self.run / f"{stem}.stopping"


def _taken(file: IO[str]) -> str | None:
    """Lock a file and return None, or return the current holder's signature."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released by the system if this process dies
    except BlockingIOError:
        file.seek(0)
        return file.read().strip()
    return None


def _patience_seconds(holder: str) -> float:
    """Return how long to wait for the holder: a supervisor, or a process that has not signed yet."""
    if holder.endswith(_SUPERVISOR):
        return _SUPERVISOR_SECONDS
    return 0.0 if holder else _SIGN_SECONDS


def _sign(file: IO[str], words: str) -> None:
    """Write the holder into the lock file; ignore a full disk, so that workers can still be stopped."""
    try:
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), f"{words}\n".encode() if words else b"")  # unbuffered, so that close() cannot fail
    except OSError as error:
        logger.debug("%s cannot be written: %s", file.name, error.strerror)
