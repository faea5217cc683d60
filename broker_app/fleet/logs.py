"""Node logs: the last lines, and following new ones."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from broker_app.errors import FleetError
from broker_app.fleet.nodes import wanted_fleets
from broker_app.fleet.overrides import Overrides
from broker_app.fleet.state import FleetState
from broker_app.fleet.stop import check_queues, known_nodes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from broker_app.app import BrokerApp

_CHUNK_BYTES = 64 * 1024


@dataclass(slots=True)
class _Position:
    """The read position in a log file."""

    inode: int
    offset: int
    rest: bytes = b""


@dataclass(slots=True)
class LogReader:
    """Reads and follows the logs of some nodes.

    Attributes:
        folder: The log folder.
        stems: The nodes' stems.
    """

    folder: Path
    stems: tuple[str, ...]
    _positions: dict[Path, _Position] = field(default_factory=dict)

    @classmethod
    def of(cls, app: BrokerApp, queues: Iterable[str]) -> Self:
        """Return a reader for the nodes of some queues, or of all: wanted, running, or with a leftover pid file.

        Raises:
            UnknownQueue: The settings do not declare the queue, and no node of it runs.
        """
        state = FleetState.of(app)
        names = check_queues(app, state, queues)
        fleets = wanted_fleets(app.settings, (), Overrides.read(state.run).scaled)
        wanted = [node for fleet in fleets for node in fleet.nodes]
        nodes = dict.fromkeys([*wanted, *known_nodes(app, state)])
        return cls(state.log, tuple(node.stem for node in nodes if not names or node.queue in names))

    def tail(self, lines: int) -> list[str]:
        """Return the last lines of each log, in node order.

        Raises:
            FleetError: A log is unreadable, or no log exists.
        """
        files = self._files()
        if not files:
            raise FleetError(
                f"{self.folder}: expected logs of {', '.join(self.stems)}, found none; start the fleet"
            )
        shown = []
        for file in files:
            text, position = _last_lines(file, lines)
            self._positions[file] = position
            shown += self._named(file, text)
        return shown

    def news(self) -> list[str]:
        """Return the complete lines written since the last call, including those of new and rotated logs."""
        shown = []
        for file in self._files():
            try:
                shown += self._named(file, self._read_on(file))
            except FileNotFoundError:
                continue  # it is being rotated
        return shown

    def _files(self) -> list[Path]:
        """Return the existing logs of the main processes and of prefork children (``lopri-1.log``)."""
        found = sorted(self.folder.glob("*.log"), key=lambda file: (len(file.stem), file.stem))
        return [
            file for stem in self.stems for file in found if re.fullmatch(rf"{re.escape(stem)}(-\d+)?", file.stem)
        ]

    def _named(self, file: Path, lines: list[str]) -> list[str]:
        many = len(self._files()) > 1
        return [f"{file.stem}: {line}" if many else line for line in lines]

    def _read_on(self, file: Path) -> list[str]:
        status = file.stat()
        position = self._positions.get(file)
        if position is None or position.inode != status.st_ino or status.st_size < position.offset:
            position = self._positions[file] = _Position(status.st_ino, 0)
        with file.open("rb") as stream:
            stream.seek(position.offset)
            data = stream.read()
        position.offset += len(data)
        *whole, position.rest = (position.rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in whole]


def _last_lines(file: Path, lines: int) -> tuple[list[str], _Position]:
    try:
        with file.open("rb") as stream:
            inode, end = file.stat().st_ino, stream.seek(0, 2)
            start, data = end, b""
            while start > 0 and data.count(b"\n") <= lines:
                step = min(_CHUNK_BYTES, start)
                start -= step
                stream.seek(start)
                data = stream.read(step) + data
    except OSError as error:
        raise FleetError(f"{file}: expected a log that this user may read, got: {error.strerror}") from error
    *whole, rest = data.split(b"\n")
    if rest:
        whole, rest = [*whole, rest], b""
    shown = [line.decode(errors="replace") for line in whole[max(0, len(whole) - lines) :]]
    return shown, _Position(inode, end, rest)
