"""Pending starts: the nodes that a supervisor has launched and that are not up yet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, KeysView

    from broker_app.fleet.nodes import Node
    from broker_app.fleet.startup_check import StartedNode, StartupWatch


class PendingStarts:
    """Follows launched nodes without waiting for them, so that one that never comes up delays no other.

    Args:
        wait_seconds: How long a node may take to reply and consume.
    """

    def __init__(self, wait_seconds: float) -> None:
        self._wait_seconds = wait_seconds
        self._watches: dict[Node, tuple[StartupWatch, float]] = {}

    @property
    def nodes(self) -> KeysView[Node]:
        """The nodes whose outcome is not known yet."""
        return self._watches.keys()

    def add(self, watch: StartupWatch, nodes: Iterable[Node]) -> None:
        """Follow the nodes of a launch."""
        deadline = time.monotonic() + self._wait_seconds
        self._watches.update(dict.fromkeys(nodes, (watch, deadline)))

    def forget(self, node: Node) -> None:
        """Follow a node no longer."""
        self._watches.pop(node, None)

    def settled(self, wanted: Container[Node]) -> Iterator[StartedNode]:
        """Yield the outcomes that have become known; nodes that an operator has stopped are forgotten."""
        for node in [node for node in self._watches if node not in wanted]:
            self.forget(node)
        for watch, deadline in dict.fromkeys(self._watches.values()):
            for outcome in watch.poll(self._wait_seconds, is_last=time.monotonic() >= deadline):
                if self._watches.get(outcome.node) == (watch, deadline):
                    self.forget(outcome.node)
                    yield outcome
