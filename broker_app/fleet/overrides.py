"""Overrides: operators' changes on this host that take precedence over the settings: scaled and stopped queues.

They are kept in a file in the state folder, so they survive restarts of the machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from broker_app.errors import FleetError
from broker_app.settings.private_files import write_private

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

FILE = "wishes.json"


@dataclass(frozen=True, slots=True)
class Overrides:
    """The content of the overrides file.

    Attributes:
        scaled: Number of nodes by queue, for the queues that were scaled.
        stopped: Queues that an operator stopped; supervisors do not start them.
    """

    scaled: Mapping[str, int] = field(default_factory=dict)
    stopped: frozenset[str] = frozenset()

    @classmethod
    def read(cls, run: Path) -> Self:
        """Read the overrides from the run folder; empty if the file does not exist.

        Raises:
            FleetError: The file is unreadable.
        """
        file = run / FILE
        try:
            found = json.loads(file.read_bytes())
            scaled = {str(queue): int(nodes) for queue, nodes in found["scaled"].items()}
            return cls(scaled, frozenset(map(str, found["stopped"])))
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = getattr(error, "strerror", None) or repr(error)
            raise FleetError(f"{file}: expected what operators asked for, got: {reason}; delete it") from error

    def write(self, run: Path) -> None:
        """Write the file atomically. The caller must hold the lock.

        Raises:
            FleetError: The disk is full or the folder is not writable.
        """
        file = run / FILE
        content = {"scaled": dict(self.scaled), "stopped": sorted(self.stopped)}
        try:
            write_private(file, json.dumps(content))
        except OSError as error:
            raise FleetError(f"{file}: expected a file that can be written, got: {error.strerror}") from error

    def scale(self, queue: str, nodes: int | None) -> Self:
        """Return a copy with another number of nodes for a queue; None restores that of the settings."""
        rest = {name: count for name, count in self.scaled.items() if name != queue}
        return replace(self, scaled=rest if nodes is None else rest | {queue: nodes})

    def stop(self, queues: Iterable[str]) -> Self:
        """Return a copy with some queues stopped."""
        return replace(self, stopped=self.stopped | frozenset(queues))

    def start(self, queues: Iterable[str]) -> Self:
        """Return a copy with some queues no longer stopped."""
        return replace(self, stopped=self.stopped - frozenset(queues))
