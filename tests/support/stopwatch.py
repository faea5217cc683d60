"""A stopwatch that pauses while the machine does not schedule this process."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")
_NANOSECONDS = 1e9


class Stopwatch:
    """Measures how long the code itself waits and works, on a busy machine too.

    The time in which threads of this process were ready and got no processor is left out, summed over all of them:
    a thread may also have waited for another one's lock. On an idle machine this is next to nothing.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start again at 0."""
        self._began, self._starved = time.monotonic(), _starved_seconds()

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.monotonic() - self._began - max(0.0, _starved_seconds() - self._starved)


def _starved_seconds() -> float:
    """Return how long the threads that there are have waited for a processor (sched-stats.rst)."""
    total = 0
    for file in _TASKS.glob("*/schedstat"):
        with suppress(OSError):  # the thread has ended
            total += int(file.read_text().split()[1])
    return total / _NANOSECONDS
