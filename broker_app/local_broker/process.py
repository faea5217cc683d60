"""Processes told apart for certain: a pid is used again, a pid and its moment of starting are not.

A RabbitMQ node is a shell, the Erlang VM, helpers in sessions of their own, and an epmd that goes into the
background: neither a process group nor a session holds them all. What they share is an environment, so a mark in
it finds them.
All facts are Linux's (proc(5)).
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PROC = Path("/proc")
_PAUSE_SECONDS = 0.02
_FIELDS_BEFORE_STATE = 2  # pid and name; proc(5) counts fields from 1, state is the third
_STARTED_FIELD = 22


@dataclass(frozen=True)
class ProcessHandle:
    """One process, living or ended.

    Attributes:
        pid: Its number, which another process may get once this one has ended.
        started_ticks: When it started, in clock ticks since the machine's boot.
    """

    pid: int
    started_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessHandle | None:
        """Return the process that has this pid now; None if there is none, or one that has ended already."""
        try:
            text = (_PROC / str(pid) / "stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The name comes before, in brackets, and may itself hold spaces and brackets.
        state, *rest = text.rpartition(")")[2].split()
        if state in "ZX":
            return None
        return cls(pid, int(rest[_STARTED_FIELD - _FIELDS_BEFORE_STATE - 2]))

    @property
    def is_running(self) -> bool:
        """Whether this very process still runs."""
        return ProcessHandle.of(self.pid) == self

    @property
    def name(self) -> str:
        """The name of its program, at most 15 characters; empty if it has ended."""
        try:
            return (_PROC / str(self.pid) / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            return ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this very process, or to nobody: a process that got its pid since is never reached."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The descriptor holds on to one process; only now is it certain which one that is.
            if self.is_running:
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return
        finally:
            os.close(descriptor)


def marked(variable: str, mark: str) -> list[ProcessHandle]:
    """Return the running processes that were started with ``variable=mark`` in their environment.

    A process that merely forked from one of them counts too. Those of other users, unless we are root, do not.
    """
    wanted = f"{variable}={mark}".encode()
    return [process for pid in _pids() if wanted in _environment(pid) and (process := ProcessHandle.of(pid))]


def kill_all(find: Callable[[], list[ProcessHandle]], deadline_seconds: float) -> list[ProcessHandle]:
    """Send SIGKILL until ``find`` returns none, and return those that are left after the deadline."""
    give_up = time.monotonic() + deadline_seconds
    while (left := find()) and time.monotonic() < give_up:
        for process in left:
            process.send(signal.SIGKILL)
        time.sleep(_PAUSE_SECONDS)
    return left


def _pids() -> list[int]:
    return [int(folder.name) for folder in _PROC.iterdir() if folder.name.isdecimal()]


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []  # it has ended, or belongs to another user
