"""Names of exchanges and shared queues on the broker."""

from __future__ import annotations

from dataclasses import dataclass

from broker_app.queues.delay import UNITS, Lane


@dataclass(frozen=True, slots=True)
class Names:
    """Names of exchanges and shared queues, each with the prefix that a shared broker needs."""

    prefix: str = ""

    @property
    def tasks(self) -> str:
        """Exchange for immediate tasks. It has no alternate exchange, so `mandatory` returns unroutable ones."""
        return f"{self.prefix}tasks"

    @property
    def due(self) -> str:
        """Exchange that receives delayed tasks when they are due."""
        return f"{self.prefix}tasks.due"

    @property
    def dead(self) -> str:
        """Dead-letter exchange of the work queues."""
        return f"{self.prefix}tasks.dead"

    @property
    def unrouted(self) -> str:
        """Exchange and queue for delayed tasks whose queue no longer exists when they are due."""
        return f"{self.prefix}tasks.unrouted"

    @property
    def cancelled(self) -> str:
        """Exchange and stream of the ids of cancelled tasks."""
        return f"{self.prefix}tasks.cancelled"

    @property
    def suspects(self) -> str:
        """Exchange and stream of crash records: starts of tasks that may have killed their worker."""
        return f"{self.prefix}tasks.suspects"

    @property
    def paused(self) -> str:
        """Exchange and stream of queue pauses and resumptions."""
        return f"{self.prefix}tasks.paused"

    @property
    def prune_lock(self) -> str:
        """Exclusive queue that serves as a lock while lanes are removed."""
        return f"{self.prefix}tasks.prune"

    @property
    def delay(self) -> str:
        """Entry exchange for delayed tasks."""
        return f"{self.prefix}delay"

    def hop(self, level: int) -> str:
        """Return the exchange that lanes of the level above dead-letter into; after the last level, `due`."""
        return self.due if level == len(UNITS) else f"{self.prefix}delay.{UNITS[level].name}"

    def lane(self, lane: Lane) -> str:
        """Return the name of a lane's queue."""
        return self.prefix + lane.name
