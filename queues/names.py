"""Names on the broker, with the prefix of a shared one."""

from __future__ import annotations

from dataclasses import dataclass

from broker_app.queues.delay import UNITS, Lane


@dataclass(frozen=True, slots=True)
class Names:
    """The exchanges and shared queues, with the prefix of a shared broker before each."""

    prefix: str = ""

    @property
    def tasks(self) -> str:
        """Where immediate tasks are published. It has no alternate exchange, so `mandatory` tells the producer."""
        return f"{self.prefix}tasks"

    @property
    def due(self) -> str:
        """Where delayed tasks arrive when their time has come."""
        return f"{self.prefix}tasks.due"

    @property
    def dead(self) -> str:
        """Where a queue sends what it gives up."""
        return f"{self.prefix}tasks.dead"

    @property
    def unrouted(self) -> str:
        """Exchange and queue that park what was due for a queue that is gone."""
        return f"{self.prefix}tasks.unrouted"

    @property
    def cancelled(self) -> str:
        """Exchange and stream of the ids of tasks that shall not run."""
        return f"{self.prefix}tasks.cancelled"

    @property
    def suspects(self) -> str:
        """Exchange and stream of the starts of tasks that may have killed their worker."""
        return f"{self.prefix}tasks.suspects"

    @property
    def paused(self) -> str:
        """Exchange and stream of the queues that were paused and resumed."""
        return f"{self.prefix}tasks.paused"

    @property
    def prune_lock(self) -> str:
        """An exclusive queue, there while lanes are being removed."""
        return f"{self.prefix}tasks.prune"

    @property
    def delay(self) -> str:
        """Where delayed tasks are published."""
        return f"{self.prefix}delay"

    def hop(self, level: int) -> str:
        """Where a lane of the level above hands its messages on; behind the last level that is `due`."""
        return self.due if level == len(UNITS) else f"{self.prefix}delay.{UNITS[level].name}"

    def lane(self, lane: Lane) -> str:
        """Return the queue of a lane."""
        return self.prefix + lane.name
