"""Nodes that hang: their process is there, and their loop has not turned for three heartbeats.

By then the broker has given their messages to others, so killing such a node costs nothing more. The live probe
(`broker_app.monitoring.probes`) fails for them, and for nodes that do not hear their broker; those do not hang.
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
"""For how long each look must find a node hanging: right after a pause of the whole host all signs are old."""

_SOLO = re.compile(r"(?:--pool|-P)[\0\s=]*solo(?=[\0\s)]|$)")
"""A solo node runs its tasks in its loop: one that does not turn is at work."""


@dataclass(frozen=True, slots=True)
class Hang:
    """A node that hangs.

    Attributes:
        node: Which.
        pid: Of its main process.
        seconds: How long its loop has not turned.
    """

    node: Node
    pid: int
    seconds: float

    @property
    def words(self) -> str:
        """The symptom, for a sentence about the node."""
        return f"hangs: its loop has not turned for {self.seconds:.0f} s"

    def __str__(self) -> str:
        return f"{self.node.name} (pid {self.pid}) {self.words}"


def hung_nodes(app: BrokerApp, state: FleetState, running: Mapping[str, Iterable[NodeProcess]]) -> dict[str, Hang]:
    """Return the nodes that hang at this moment, by stem.

    Args:
        app: Its heartbeat counts.
        state: Where the nodes write their signs of life.
        running: Their processes by stem.
    """
    found = {}
    for stem, processes in running.items():
        sign = Heartbeat.read(state.sign_file(stem))
        main = next((process for process in processes if sign is not None and process.pid == sign.pid), None)
        if sign is None or main is None or _SOLO.search(main.command):
            continue
        if sign.is_hung(app.settings.heartbeat_seconds):
            found[stem] = Hang(node_of(app.settings, stem), sign.pid, sign.turned_seconds)
    return found


@dataclass(slots=True)
class HangWatch:
    """Tells a hang from a pause of the whole host: a node hangs at each look for `LOOKING_SECONDS`."""

    _since: dict[int, float] = field(default_factory=dict)

    def confirmed(self, hung: Iterable[Hang], now: float) -> list[Hang]:
        """Return those that have hung at each look for long enough.

        Args:
            hung: Those of this look.
            now: On a clock that only rises.
        """
        hung = tuple(hung)
        self._since = {hang.pid: self._since.get(hang.pid, now) for hang in hung}
        return [hang for hang in hung if now - self._since[hang.pid] >= LOOKING_SECONDS]

    def put_off(self, hang: Hang, until: float) -> None:
        """Confirm a node not before a moment."""
        self._since[hang.pid] = until - LOOKING_SECONDS
