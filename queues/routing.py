"""Routing: resolves task names and queue names to queue specs. Undeclared queues are refused."""

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
    """Maps tasks to queues.

    Attributes:
        queues: Queue specs by name, without the prefix.
        default: The queue for tasks that name none and match no pattern.
        patterns: Queue by task name pattern (``reports.*``). An exact name takes precedence over patterns, an
            earlier pattern over a later one.
    """

    queues: Mapping[str, QueueSpec]
    default: str
    patterns: Mapping[str, str]

    def __iter__(self) -> Iterator[QueueSpec]:
        return iter(self.queues.values())

    def queue(self, name: str) -> QueueSpec:
        """Return the spec of the queue with this name, with or without the prefix.

        Raises:
            UnknownQueue: The settings do not declare it; the message suggests the closest declared name.
        """
        spec = self.queues.get(name)
        if spec is None:
            spec = next((known for known in self if known.broker_name == name), None)
        if spec is None:
            raise UnknownQueue(name, self.queues)
        return spec

    def for_task(self, task: str) -> QueueSpec | None:
        """Return the queue for a task name; None if no pattern matches."""
        if task in self.patterns:
            return self.queue(self.patterns[task])
        matching = (queue for pattern, queue in self.patterns.items() if fnmatchcase(task, pattern))
        found = next(matching, None)
        return None if found is None else self.queue(found)


@dataclass(frozen=True, slots=True)
class NameRouter:
    """Celery router that uses a `RoutingTable`. It looks at the task's name only, not at its arguments.

    Attributes:
        table: The declared queues and their patterns.
    """

    table: RoutingTable

    def __call__(self, name: str, /, *_args: Any, **_options: Any) -> dict[str, str] | None:
        """Return the Celery route of a task; None if no pattern matches its name."""
        spec = self.table.for_task(name)
        return None if spec is None else {"queue": spec.name}
