"""Task log of a tuned worker, read by the tuning process while the worker runs."""

from __future__ import annotations

import bisect
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_app.errors import TuningError
from broker_app.settings.private_files import open_private
from broker_app.tuning.task_log_writer import FAILED, RAN, READY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SHORT_SECONDS = 1e-6


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """One run of a task; all times are in seconds since the epoch."""

    published: float
    started: float
    ended: float

    @property
    def seconds(self) -> float:
        """Run time."""
        return self.ended - self.started


class TaskLog:
    """A file that a worker appends to.

    Attributes:
        path: The file.
        runs: The runs, ordered by their end, approximately.
        is_ready: Whether the worker is consuming.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        os.close(open_private(self.path, os.O_WRONLY | os.O_CREAT))
        self.runs: list[LoggedRun] = []
        self.is_ready = False
        self._offset = 0

    def read(self) -> None:
        """Read the lines written since the last call.

        Raises:
            TuningError: A task failed.
        """
        with self.path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self._take(line)

    def ended_since(self, moment: float) -> list[LoggedRun]:
        """Return the runs that ended at or after a time."""
        first = bisect.bisect_left(self.runs, moment - 1.0, key=lambda run: run.ended)  # approximately ordered
        return [run for run in self.runs[first:] if run.ended >= moment]

    def _take(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == RAN:
            self.runs.append(LoggedRun(*map(float, rest.split())))
        elif word == READY:
            self.is_ready = True
        elif word == FAILED:
            raise TuningError(f"a task failed while it was measured, so nothing is recommended: {rest}")


def completed(runs: Sequence[LoggedRun], begin: float, end: float) -> float:
    """Return the number of tasks completed in a period, counting each by the fraction that lies within it.

    Four slots that run one-second tasks at different offsets give 4 per second in any period; counting ends would
    give 3, 4 or 5.

    Args:
        runs: All runs that overlap the period.
        begin: Start of the period, in seconds since the epoch.
        end: End of the period, in seconds since the epoch.
    """
    return sum(_part(run, begin, end) for run in runs)


def _part(run: LoggedRun, begin: float, end: float) -> float:
    if run.seconds < _SHORT_SECONDS:
        return float(begin <= run.ended < end)
    return max(0.0, min(run.ended, end) - max(run.started, begin)) / run.seconds
