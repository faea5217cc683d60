"""The queues that a person may name: of the settings, their dead letters, what is parked, others."""

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
    """A queue of the broker.

    Attributes:
        name: As people write it, without the prefix.
        queue: On the broker.
        home: The work queue that this is, or whose dead letters these are; None for other queues.
        is_kept: Whether messages only wait here for a person: dead letters, and what is parked. Such a queue has a
            delivery limit that looking does not reach.
    """

    name: str
    queue: str
    home: QueueSpec | None = None
    is_kept: bool = False

    @property
    def is_work(self) -> bool:
        """Whether it is a work queue of the settings."""
        return self.home is not None and not self.is_kept


def known_places(app: Broker) -> dict[str, MessageSource]:
    """Return the places that the settings make, by name: work queues, their dead letters, what is parked."""
    places = {}
    for spec in app.settings.specs():
        places[spec.name] = MessageSource(spec.name, spec.broker_name, spec)
        if spec.dead_letters is DeadLetters.KEEP:
            name = f"{spec.name}{_DEAD}"
            places[name] = MessageSource(name, spec.dead_name, spec, is_kept=True)
    unrouted = Names(app.settings.prefix).unrouted
    name = unrouted.removeprefix(app.settings.prefix)
    places[name] = MessageSource(name, unrouted, is_kept=True)
    return places


def find_place(app: Broker, link: CallbackChannel, name: str) -> MessageSource:
    """Return the place of a name, with or without the prefix; one that only the broker knows is fine too.

    Raises:
        SelectionError: No such queue, with the nearest known name; a lane; a queue that is not for tasks.
        NotOnBroker: The settings declare it, and it is not on the broker.
        BrokerError: The broker cannot be asked.
    """
    prefix, places = app.settings.prefix, known_places(app)
    found = places.get(name) or next((place for place in places.values() if place.queue == name), None)
    if found is not None:
        link.ask(link.channel.queue_declare, found.queue, passive=True)
        return found
    _check_foreign(name.removeprefix(prefix))
    for queue in dict.fromkeys([prefix + name, name]):
        if queue and link.has_queue(queue):
            return MessageSource(queue.removeprefix(prefix), queue, is_kept=queue.endswith(_DEAD))
    raise SelectionError(
        f"queue {name!r}: expected one of {', '.join(places)}{nearest(name, places)}, or another of the broker's"
    )


def _check_foreign(name: str) -> None:
    """Refuse what must not be taken in hand: a lane hands on in time, the others are not for tasks."""
    if name.startswith("delay."):
        raise SelectionError(
            f"queue {name!r}: expected a queue of tasks, got a delay lane; `broker-app queues scheduled` shows "
            f"what waits there, `broker-app cancel` cancels it"
        )
    if name in {"tasks.cancelled", "tasks.suspects", "tasks.paused", "tasks.prune", "tasks.migrate"}:
        raise SelectionError(
            f"queue {name!r}: expected a queue of tasks, got one that broker-app needs for itself"
        )
