"""What differs between what is wanted and what stands on the broker, one difference at a time."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from broker_app.broker.declare import queue_exists, queue_state
from broker_app.broker.inventory import is_lane, standings
from broker_app.errors import BrokerLocked, BrokerRefused
from broker_app.queues import Names, Topology
from broker_app.queues.delay import due_pattern
from broker_app.queues.holding import HoldingQueue, held_target
from broker_app.queues.topology import Binding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import amqp

    from broker_app.broker.management import Management

    Facts = Mapping[str, Mapping[str, Any]]


class DifferenceKind(StrEnum):
    """What is the matter."""

    MISSING = "missing"
    DIFFERS = "differs"
    MOVING = "moving"
    EXTRA = "extra"
    UNKNOWN = "unknown"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference.

    Attributes:
        kind: MISSING: it can be created. DIFFERS: it is there with other arguments. MOVING: a migration of it has
            not ended. EXTRA: it is there and the settings do not name it. UNKNOWN: it may not be looked at. LATER:
            a delay lane that the first task which needs it declares; no fault.
        what: ``exchange``, ``queue`` or ``binding``.
        name: On the broker; of a binding ``source -> destination (key)``.
        detail: What was found; empty if there is no more to say.
        cure: What to do; empty for what only has to be created.
    """

    kind: DifferenceKind
    what: str
    name: str
    detail: str = ""
    cure: str = ""

    def __str__(self) -> str:
        rest = "; ".join(filter(None, (self.detail, self.cure)))
        return f"{self.kind:<8} {self.what} {self.name!r}" + (f": {rest}" if rest else "")


def compare_seen(
    connection: amqp.Connection, wanted: Topology, management: Management, prefix: str
) -> list[Difference]:
    """Compare with what the management API tells: arguments, bindings, and what stands besides.

    Raises:
        BrokerError: The API does not answer, or not to this user.
    """
    exchanges, queues = management.exchanges(prefix), management.queues(prefix)
    bindings = [item for exchange in wanted.exchanges for item in management.bindings_from(exchange.name)]
    moving = {target for name in queues if (target := held_target(name, prefix))}
    changes = [*_exchanges(wanted, exchanges), *_queues(wanted, queues, moving, prefix)]
    absent = {change.name for change in changes if change.kind is DifferenceKind.LATER}
    changes += _bindings(wanted, bindings, moving | absent)
    for name in _strangers(wanted, queues, bindings, prefix):
        with suppress(BrokerLocked):  # exclusive to a connection, and gone with it
            changes.append(_extra_queue(connection, name))
    return changes


def compare_blind(connection: amqp.Connection, wanted: Topology, prefix: str) -> Iterator[Difference]:
    """Compare with what AMQP tells: whether it is there, and whether its arguments are ours (406 if not)."""
    for found in standings(connection, wanted):
        if found.kind == "queue" and _is_moving(connection, HoldingQueue(found.name, prefix)):
            yield _moving(found.name)
        elif found.is_missing:
            yield _missing(found.kind, found.name, prefix)
        elif found.is_unknown:
            text = "it cannot be compared without the right to configure it"
            yield Difference(
                DifferenceKind.UNKNOWN, found.kind, found.name, text, "ask as a user who may declare it"
            )
        elif found.fault:
            yield Difference(
                DifferenceKind.DIFFERS, found.kind, found.name, found.fault, _cure(found.kind, found.name, prefix)
            )


def differences(queue: Any, found: Mapping[str, Any]) -> str:
    """Return how a queue stands that is there, against how it is wanted; empty if alike.

    Args:
        queue: The kombu queue that is wanted.
        found: As the management API tells it: ``arguments``, ``type``, ``durable``, ….
    """
    standing = {"x-queue-type": found.get("type", "classic"), **found.get("arguments", {})}
    wanted = queue.queue_arguments or {}
    unlike = [key for key in sorted(standing.keys() | wanted) if standing.get(key) != wanted.get(key)]
    told = [f"{key} is {_word(standing.get(key))}, wanted {_word(wanted.get(key))}" for key in unlike]
    told += [] if found.get("durable", True) else ["it is not durable"]
    told += ["it deletes itself"] if found.get("auto_delete") else []
    return ", ".join(told)


def _exchanges(wanted: Topology, found: Facts) -> Iterator[Difference]:
    exchange: Any
    for exchange in wanted.exchanges:
        standing = found.get(exchange.name)
        if standing is None:
            yield Difference(DifferenceKind.MISSING, "exchange", exchange.name)
            continue
        arguments, ours = standing.get("arguments") or {}, exchange.arguments or {}
        told = (
            []
            if standing["type"] == exchange.type
            else [f"its type is {standing['type']}, wanted {exchange.type}"]
        )
        told += [] if arguments == ours else [f"its arguments are {_word(arguments)}, wanted {_word(ours)}"]
        if told:
            yield Difference(
                DifferenceKind.DIFFERS, "exchange", exchange.name, ", ".join(told), _cure("exchange", "", "")
            )


def _queues(wanted: Topology, found: Facts, moving: Collection[str], prefix: str) -> Iterator[Difference]:
    for queue in wanted.queues:
        if queue.name in moving:
            yield _moving(queue.name)
        elif queue.name not in found:
            yield _missing("queue", queue.name, prefix)
        elif told := differences(queue, found[queue.name]):
            yield Difference(DifferenceKind.DIFFERS, "queue", queue.name, told, _cure("queue", queue.name, prefix))


def _bindings(wanted: Topology, found: list[dict[str, Any]], but: Collection[str]) -> Iterator[Difference]:
    """Compare the bindings of our exchanges with each other, and with our queues.

    Args:
        wanted: What there should be.
        found: What the management API tells.
        but: Queues that are being moved, and lanes that are not there: their bindings come with them.
    """
    standing = {(item["destination_type"], _binding(item)) for item in found}
    ours = {("exchange", binding): None for binding in wanted.exchange_bindings}
    ours |= {("queue", binding): None for binding in wanted.queue_bindings if binding.destination not in but}
    for what, binding in ours:
        if (what, binding) not in standing:
            yield Difference(DifferenceKind.MISSING, "binding", _shown(binding))
    known = {("exchange", exchange.name) for exchange in wanted.exchanges}
    known |= {("queue", queue.name) for queue in wanted.queues if queue.name not in but}
    for what, binding in sorted(standing - ours.keys(), key=str):
        if (what, binding.destination) in known:
            yield Difference(
                DifferenceKind.EXTRA, "binding", _shown(binding), "", _cure_of_binding(binding, wanted)
            )


def _cure_of_binding(binding: Binding, wanted: Topology) -> str:
    """Say what removes a binding; that of a retired queue's scheduled tasks goes with the command that made it."""
    queue = binding.key.removeprefix(due_pattern(""))
    if queue in {it.name for it in wanted.queues} or {"*", "#"} & set(queue):
        return "remove it if nobody needs it: what takes both ways arrives twice"
    return f"`broker-app queues retire {queue}` removes it when nothing is scheduled"


def _strangers(wanted: Topology, found: Facts, bindings: list[dict[str, Any]], prefix: str) -> list[str]:
    """Return the queues that our exchanges lead to, or that lead to our dead letters, and nobody asked for."""
    names = Names(prefix)
    candidates = {item["destination"] for item in bindings if item["destination_type"] == "queue"}
    candidates |= {
        name for name, facts in found.items() if facts["arguments"].get("x-dead-letter-exchange") == names.dead
    }
    known = {queue.name for queue in wanted.queues}
    return sorted(
        name for name in candidates - known if not is_lane(name, prefix) and not held_target(name, prefix)
    )


def _extra_queue(connection: amqp.Connection, name: str) -> Difference:
    state = queue_state(connection, name)
    counts = f"{state.ready} ready messages, {state.consumers} consumers" if state else "it has just gone"
    return Difference(
        DifferenceKind.EXTRA, "queue", name, counts, "declare it, or remove it with `broker-app queues retire`"
    )


def _missing(what: str, name: str, prefix: str) -> Difference:
    if what == "queue" and is_lane(name, prefix):
        return Difference(DifferenceKind.LATER, what, name, "the first task that needs it declares it")
    return Difference(DifferenceKind.MISSING, what, name)


def _is_moving(connection: amqp.Connection, holding: HoldingQueue) -> bool:
    try:
        return queue_exists(connection, holding.name)
    except BrokerRefused:  # RabbitMQ 4.3 does not tell who has no right on it
        return False


def _moving(name: str) -> Difference:
    cure = f"run `broker-app topology migrate {name}` again, or wait for the one that is at work"
    return Difference(DifferenceKind.MOVING, "queue", name, "a migration of it has not ended", cure)


def _cure(what: str, name: str, prefix: str) -> str:
    if what == "exchange":
        return "stop who publishes to it, delete it, and apply again"
    if is_lane(name, prefix):
        return "it goes with `broker-app topology prune` when it is unused, and comes when it is needed"
    if name == Names(prefix).cancelled:
        return "delete it, and apply again: the tasks that were cancelled would run"
    return f"run `broker-app topology migrate {name}`"


def _binding(item: Mapping[str, Any]) -> Binding:
    return Binding(item["source"], item["routing_key"], item["destination"])


def _shown(binding: Binding) -> str:
    return f"{binding.source} -> {binding.destination} ({binding.key})"


def _word(value: object) -> str:
    return "not set" if value is None else json.dumps(value)
