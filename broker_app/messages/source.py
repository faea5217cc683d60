"""Queue names on the command line: work queues, dead-letter queues, the parking queue and undeclared queues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_app.errors import SelectionError
from broker_app.queues import DeadLetters, Names, QueueSpec
from broker_app.queues.errors import nearest

if TYPE_CHECKING:
    from broker_app.broker.access import Broker
    from broker_app.messages.channel import CallbackChannel

_DEAD = ".dead"


@dataclass(frozen=True, slots=True)
class MessageSource:
    """A queue on the broker.

    Attributes:
        name: Its name without the prefix.
        queue: Its name on the broker.
        home: The work queue itself, or the work queue of a dead-letter queue; None for other queues.
        is_kept: Whether it stores messages for an operator: a dead-letter queue or the parking queue. Its delivery
            limit is too high to be reached by peeking.
    """

    name: str
    queue: str
    home: QueueSpec | None = None
    is_kept: bool = False

    @property
    def is_work(self) -> bool:
        """True for a work queue of the settings."""
        return self.home is not None and not self.is_kept


def known_places(app: Broker) -> dict[str, MessageSource]:
    """Return the queues of the settings by name: work queues, dead-letter queues and the parking queue."""
    sources = {}
    for spec in app.settings.specs():
        sources[spec.name] = MessageSource(spec.name, spec.broker_name, spec)
        if spec.dead_letters is DeadLetters.KEEP:
            name = f"{spec.name}{_DEAD}"
            sources[name] = MessageSource(name, spec.dead_name, spec, is_kept=True)
    unrouted = Names(app.settings.prefix).unrouted
    name = unrouted.removeprefix(app.settings.prefix)
    sources[name] = MessageSource(name, unrouted, is_kept=True)
    return sources


def find_source(app: Broker, link: CallbackChannel, name: str) -> MessageSource:
    """Return the queue of a name, with or without the prefix; it need not be in the settings.

    Raises:
        SelectionError: No such queue, with the nearest known name; a lane; a queue that is not for tasks.
        NotOnBroker: The settings declare it, but it is not on the broker.
        BrokerError: The broker cannot be reached.
    """
    prefix, sources = app.settings.prefix, known_places(app)
    found = sources.get(name) or next((source for source in sources.values() if source.queue == name), None)
    if found is not None:
        link.ask(link.channel.queue_declare, found.queue, passive=True)
        return found
    _check_foreign(name.removeprefix(prefix))
    for queue in dict.fromkeys([prefix + name, name]):
        if queue and link.has_queue(queue):
            return MessageSource(queue.removeprefix(prefix), queue, is_kept=queue.endswith(_DEAD))
    raise SelectionError(
        f"queue {name!r}: expected one of {', '.join(sources)}{nearest(name, sources)}, or another existing queue"
    )


def _check_foreign(name: str) -> None:
    """Refuse delay lanes, whose messages must not be touched, and queues that do not hold tasks."""
    if name.startswith("delay."):
        raise SelectionError(
            f"queue {name!r}: expected a queue of tasks, got a delay lane; `broker-app queues scheduled` shows "
            f"its tasks, `broker-app cancel` cancels them"
        )
    if name in {"tasks.cancelled", "tasks.suspects", "tasks.paused", "tasks.prune", "tasks.migrate"}:
        raise SelectionError(
            f"queue {name!r}: expected a queue of tasks, got one that broker-app needs for itself"
        )
