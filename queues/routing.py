"""From a task or a queue's name to the queue's spec; what is not declared is refused."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from broker_app.queues.errors import UnknownQueue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from broker_app.queues.spec import QueueSpec


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Which queue a task goes to.

    Attributes:
        queues: Spec by the name that producers write.
        default: The queue of a task that says nothing.
        patterns: Queue by task name pattern (``reports.*``); an exact name wins over a pattern, the
            first matching pattern over later ones.
    """

    queues: Mapping[str, QueueSpec]
    default: str
    patterns: Mapping[str, str]

    def __iter__(self) -> Iterator[QueueSpec]:
        return iter(self.queues.values())

    def queue(self, name: str) -> QueueSpec:
        """Return the spec of a queue, by its name with or without the prefix.

        Raises:
            UnknownQueue: The settings do not declare it; the message names the nearest one that they do.
        """
        spec = self.queues.get(name)
        if spec is None:
            spec = next((known for known in self if known.broker_name == name), None)
        if spec is None:
            raise UnknownQueue(name, self.queues)
        return spec

    def for_task(self, task: str) -> QueueSpec | None:
        """Return the queue that the patterns give to a task's name, or None if none matches."""
        if task in self.patterns:
            return self.queue(self.patterns[task])
        matching = (queue for pattern, queue in self.patterns.items() if fnmatchcase(task, pattern))
        found = next(matching, None)
        return None if found is None else self.queue(found)


@dataclass(frozen=True, slots=True)
class NameRouter:
    """Celery's router over a table: it knows a task by its name alone, whatever its arguments.

    Attributes:
        table: The declared queues and their patterns.
    """

    table: RoutingTable

    def __call__(self, name: str, /, *_args: Any, **_options: Any) -> dict[str, str] | None:
        """Return Celery's route of a task, None if no pattern matches its name."""
        spec = self.table.for_task(name)
        return None if spec is None else {"queue": spec.name}
