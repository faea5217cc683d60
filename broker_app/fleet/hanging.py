"""Hung nodes: the process exists, but its event loop has not run for three heartbeats.

By then the broker has redelivered the node's messages, so killing it loses nothing more. The live probe
(`broker_app.monitoring.probes`) also fails for nodes that have lost their broker; those do not count as hung.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker_app.fleet.nodes import node_of
from broker_app.worker.heartbeat_file import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker_app.app import BrokerApp
    from broker_app.fleet.nodes import Node
    from broker_app.fleet.processes import NodeProcess
    from broker_app.fleet.state import FleetState

LOOKING_SECONDS = 5.0
"""A node must look hung for this long: right after the host itself was suspended, every heartbeat is old."""

_SOLO = re.compile(r"(?:--pool|-P)[\0\s=]*solo(?=[\0\s)]|$)")
"""A solo pool runs tasks in the event loop, so a blocked loop means a running task."""


@dataclass(frozen=True, slots=True)
class Hang:
    """A hung node.

    Attributes:
        node: The node.
        pid: Pid of its main process.
        seconds: Time since its event loop last ran.
    """

    node: Node
    pid: int
    seconds: float

    @property
    def words(self) -> str:
        """The symptom, to follow the node's name in a message."""
        return f"hangs: its loop has not turned for {self.seconds:.0f} s"

    def __str__(self) -> str:
        return f"{self.node.name} (pid {self.pid}) {self.words}"


def hung_nodes(app: BrokerApp, state: FleetState, running: Mapping[str, Iterable[NodeProcess]]) -> dict[str, Hang]:
    """Return the nodes that look hung right now, by stem.

    Args:
        app: The app whose heartbeat interval applies.
        state: Location of the nodes' heartbeat files.
        running: The nodes' processes by stem.
    """
    found = {}
    for stem, processes in running.items():
        heartbeat = Heartbeat.read(state.sign_file(stem))
        main = next(
            (process for process in processes if heartbeat is not None and process.pid == heartbeat.pid), None
        )
        if heartbeat is None or main is None or _SOLO.search(main.command):
            continue
        if heartbeat.is_hung(app.settings.heartbeat_seconds):
            found[stem] = Hang(node_of(app.settings, stem), heartbeat.pid, heartbeat.turned_seconds)
    return found


@dataclass(slots=True)
class HangWatch:
    """Confirms a hang once every check for `LOOKING_SECONDS` has found it, to rule out a suspended host."""

    _since: dict[int, float] = field(default_factory=dict)

    def confirmed(self, hung: Iterable[Hang], now: float) -> list[Hang]:
        """Return the hangs that every check has found for long enough.

        Args:
            hung: The hangs found by this check.
            now: Monotonic time.
        """
        hung = tuple(hung)
        self._since = {hang.pid: self._since.get(hang.pid, now) for hang in hung}
        return [hang for hang in hung if now - self._since[hang.pid] >= LOOKING_SECONDS]

    def put_off(self, hang: Hang, until: float) -> None:
        """Do not confirm this hang before ``until``."""
        self._since[hang.pid] = until - LOOKING_SECONDS
