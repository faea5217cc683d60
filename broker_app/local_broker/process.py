"""Process handles: identify a process by its pid and start time, since a pid alone is reused.

A RabbitMQ node consists of a shell, the Erlang VM, helpers in their own sessions, and an epmd that daemonizes. No
process group or session includes them all, so they are found by a variable in their common environment.
This module is for Linux (proc(5)).
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PROC = Path("/proc")
_PAUSE_SECONDS = 0.02
_LOOKS, _LOOK_SECONDS = 20, 0.002
_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD of linux/sched.h."""
_STATE, _FLAGS, _STARTED = 0, 6, 19
"""Fields of stat from the state on; in proc(5) they are 3, 9 and 22."""


@dataclass(frozen=True)
class ProcessHandle:
    """One process, running or ended.

    Attributes:
        pid: The process id, which may be reused after the process has ended.
        started_ticks: Start time in clock ticks since boot.
    """

    pid: int
    started_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessHandle | None:
        """Return the running process with this pid; None if there is no such process, or only a zombie."""
        try:
            fields = _stat(pid)
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[_STATE] in "ZX" else cls(pid, int(fields[_STARTED]))

    @property
    def is_running(self) -> bool:
        """True while this process runs."""
        return ProcessHandle.of(self.pid) == self

    @property
    def name(self) -> str:
        """The program's name, at most 15 characters; empty if the process has ended."""
        try:
            return (_PROC / str(self.pid) / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            return ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process if it still runs; never to another process that reuses its pid."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The descriptor refers to a fixed process: check now that it is this one.
            if self.is_running:
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return
        finally:
            os.close(descriptor)


def marked(variable: str, mark: str) -> list[ProcessHandle]:
    """Return the running processes that were started with ``variable=mark`` in their environment.

    This includes their forks. Processes of other users are included only for root.
    """
    wanted = f"{variable}={mark}".encode()
    return [process for pid in _pids() if wanted in _environment(pid) and (process := ProcessHandle.of(pid))]


def kill_all(find: Callable[[], list[ProcessHandle]], deadline_seconds: float) -> list[ProcessHandle]:
    """Send SIGKILL to the processes that ``find`` returns until none is left; return the survivors."""
    give_up = time.monotonic() + deadline_seconds
    while (left := find()) and time.monotonic() < give_up:
        for process in left:
            process.send(signal.SIGKILL)
        time.sleep(_PAUSE_SECONDS)
    return left


def _pids() -> list[int]:
    return [int(folder.name) for folder in _PROC.iterdir() if folder.name.isdecimal()]


def _environment(pid: int) -> list[bytes]:
    """Return the environment of a process, empty if it has ended or is another user's.

    The file is empty for a moment while the process executes a program (execve(2)); so it is read again then.
    """
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for _ in range(_LOOKS):
            if data := (_PROC / str(pid) / "environ").read_bytes():
                return data.split(b"\0")
            if not _has_environment(pid):
                break
            time.sleep(_LOOK_SECONDS)
    return []


def _has_environment(pid: int) -> bool:
    """Return whether a process is neither a zombie nor a kernel thread."""
    fields = _stat(pid)
    return fields[_STATE] not in "ZX" and not int(fields[_FLAGS]) & _KERNEL_THREAD


def _stat(pid: int) -> list[str]:
    """Return the fields of stat from the state on.

    The name before it is in parentheses, and may itself contain spaces and parentheses.
    """
    return (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
