"""Processes that a test run started and did not end."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import Self

from broker_app.local_broker.process import ProcessHandle, kill_all, marked

_VARIABLE = "TEST_RUN_MARK"
_KILL_SECONDS = 5.0
_PAUSE_SECONDS = 0.05
_HELPERS = ("resource_tracker", "semaphore_tracker")
"""Parts of multiprocessing and billiard that live as long as the run itself."""


class RunMark:
    """A mark in the environment of everything that this run starts, however deep.

    Attributes:
        found: One line for each process that was left; filled by `end_leftovers`.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self.found: list[str] = []

    @classmethod
    def set(cls) -> Self:
        """Set a new mark in this process's environment."""
        mark = os.environ[_VARIABLE] = secrets.token_hex(16)
        return cls(mark)

    def end_leftovers(self, grace_seconds: float = 30.0) -> bool:
        """Give what was left a few seconds, end it, and return whether there was anything to end."""
        give_up = time.monotonic() + grace_seconds
        while self._left() and time.monotonic() < give_up:
            time.sleep(_PAUSE_SECONDS)
        self.found += [_describe(process) for process in self._left()]
        kill_all(self._left, _KILL_SECONDS)
        return bool(self.found)

    def _left(self) -> list[ProcessHandle]:
        return [
            process
            for process in marked(_VARIABLE, self._mark)
            if not any(helper in _command(process) for helper in _HELPERS)
        ]


def _command(process: ProcessHandle) -> str:
    return _read(process, "cmdline").replace("\0", " ").strip()


def _describe(process: ProcessHandle) -> str:
    """Return pid, command and the test during which it was started: pytest keeps that in the environment."""
    variables = dict(line.partition("=")[::2] for line in _read(process, "environ").split("\0"))
    return f"{process.pid} {_command(process)} (started in {variables.get('PYTEST_CURRENT_TEST', 'no test')})"


def _read(process: ProcessHandle, name: str) -> str:
    try:
        return Path(f"/proc/{process.pid}/{name}").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
