"""The workers' records, as read by the benchmark."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a task.

    Attributes:
        since: When it was published or due, seconds since the epoch.
        started: When its first line ran, seconds since the epoch.
    """

    since: float
    started: float

    @property
    def waited_seconds(self) -> float:
        """From when it could have started until it did."""
        return self.started - self.since


class Record:
    """A file that workers append to, in the folder of the run.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch(mode=0o600)
        self._offset = 0
        self._starts: dict[str, list[Start]] = defaultdict(list)

    def starts(self, label: str) -> list[Start]:
        """Return all starts that have been written so far, in the order of writing."""
        self._read()
        return self._starts[label]

    def wait(self, label: str, count: int, deadline_seconds: float) -> list[Start]:
        """Wait until a label has at least ``count`` starts, and return them.

        Raises:
            TimeoutError: There are fewer at the deadline.
        """
        wait_for(
            lambda: len(self.starts(label)) >= count,
            deadline_seconds,
            lambda: f"{count} starts of {label}, {len(self.starts(label))} came",
        )
        return self.starts(label)

    def _read(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode().splitlines():
            label, since, started = line.split()
            self._starts[label].append(Start(float(since), float(started)))
