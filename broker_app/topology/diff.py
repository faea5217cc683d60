"""Topology diff: the differences between the wanted topology and the broker."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from broker_app.broker.declare import queue_exists, queue_state
from broker_app.broker.inventory import inspect_topology, is_lane
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
    """The kind of a difference."""

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
        kind: MISSING: it can be created. DIFFERS: it exists with other arguments. MOVING: its migration has not
            finished. EXTRA: it exists but is not in the settings. UNKNOWN: the user may not inspect it. LATER: a
            delay lane that is declared by the first task that needs it; not a fault.
        what: ``exchange``, ``queue`` or ``binding``.
        name: Its name on the broker; for a binding ``source -> destination (key)``.
        detail: The difference found; may be empty.
        cure: The remedy; empty if it only has to be created.
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
    """Compare through the management API: arguments, bindings, and queues that are not in the settings.

    Raises:
        BrokerError: The API does not answer, or refuses this user.
    """
    exchanges, queues = management.exchanges(prefix), management.queues(prefix)
    bindings = [item for exchange in wanted.exchanges for item in management.bindings_from(exchange.name)]
    moving = {target for name in queues if (target := held_target(name, prefix))}
    changes = [*_exchanges(wanted, exchanges), *_queues(wanted, queues, moving, prefix)]
    absent = {change.name for change in changes if change.kind is DifferenceKind.LATER}
    changes += _bindings(wanted, bindings, moving | absent)
    for name in _undeclared_queues(wanted, queues, bindings, prefix):
        with suppress(BrokerLocked):  # exclusive to a connection and deleted with it
            changes.append(_extra_queue(connection, name))
    return changes


def compare_blind(connection: amqp.Connection, wanted: Topology, prefix: str) -> Iterator[Difference]:
    """Compare through AMQP alone: existence, and arguments (406 if they differ)."""
    for found in inspect_topology(connection, wanted):
        if found.kind == "queue" and _is_moving(connection, HoldingQueue(found.name, prefix)):
            yield _moving(found.name)
        elif found.is_missing:
            yield _missing(found.kind, found.name, prefix)
        elif found.is_unknown:
            text = "it is not comparable without the configure permission"
            yield Difference(
                DifferenceKind.UNKNOWN, found.kind, found.name, text, "run this as a user with that permission"
            )
        elif found.fault:
            yield Difference(
                DifferenceKind.DIFFERS, found.kind, found.name, found.fault, _cure(found.kind, found.name, prefix)
            )


def differences(queue: Any, found: Mapping[str, Any]) -> str:
    """Return the differences of an existing queue from the wanted one; empty if there are no differences.

    Args:
        queue: The wanted kombu queue.
        found: The queue as reported by the management API: ``arguments``, ``type``, ``durable``, ….
    """
    existing = {"x-queue-type": found.get("type", "classic"), **found.get("arguments", {})}
    wanted = queue.queue_arguments or {}
    unlike = [key for key in sorted(existing.keys() | wanted) if existing.get(key) != wanted.get(key)]
    details = [f"{key} is {_word(existing.get(key))}, wanted {_word(wanted.get(key))}" for key in unlike]
    details += [] if found.get("durable", True) else ["it is not durable"]
    details += ["it deletes itself"] if found.get("auto_delete") else []
    return ", ".join(details)


def _exchanges(wanted: Topology, found: Facts) -> Iterator[Difference]:
    exchange: Any
    for exchange in wanted.exchanges:
        existing = found.get(exchange.name)
        if existing is None:
            yield Difference(DifferenceKind.MISSING, "exchange", exchange.name)
            continue
        arguments, ours = existing.get("arguments") or {}, exchange.arguments or {}
        details = (
            []
            if existing["type"] == exchange.type
            else [f"its type is {existing['type']}, wanted {exchange.type}"]
        )
        details += [] if arguments == ours else [f"its arguments are {_word(arguments)}, wanted {_word(ours)}"]
        if details:
            yield Difference(
                DifferenceKind.DIFFERS, "exchange", exchange.name, ", ".join(details), _cure("exchange", "", "")
            )


def _queues(wanted: Topology, found: Facts, moving: Collection[str], prefix: str) -> Iterator[Difference]:
    for queue in wanted.queues:
        if queue.name in moving:
            yield _moving(queue.name)
        elif queue.name not in found:
            yield _missing("queue", queue.name, prefix)
        elif details := differences(queue, found[queue.name]):
            yield Difference(
                DifferenceKind.DIFFERS, "queue", queue.name, details, _cure("queue", queue.name, prefix)
            )


def _bindings(wanted: Topology, found: list[dict[str, Any]], but: Collection[str]) -> Iterator[Difference]:
    """Compare the bindings between our exchanges, and from them to our queues.

    Args:
        wanted: The wanted topology.
        found: The bindings as reported by the management API.
        but: Queues to skip, because their bindings are made with them: queues in migration and missing lanes.
    """
    existing = {(item["destination_type"], _binding(item)) for item in found}
    ours = {("exchange", binding): None for binding in wanted.exchange_bindings}
    ours |= {("queue", binding): None for binding in wanted.queue_bindings if binding.destination not in but}
    for what, binding in ours:
        if (what, binding) not in existing:
            yield Difference(DifferenceKind.MISSING, "binding", _shown(binding))
    known = {("exchange", exchange.name) for exchange in wanted.exchanges}
    known |= {("queue", queue.name) for queue in wanted.queues if queue.name not in but}
    for what, binding in sorted(existing - ours.keys(), key=str):
        if (what, binding.destination) in known:
            yield Difference(
                DifferenceKind.EXTRA, "binding", _shown(binding), "", _cure_of_binding(binding, wanted)
            )


def _cure_of_binding(binding: Binding, wanted: Topology) -> str:
    """Return how to remove a binding; `queues retire` removes the one it keeps for a queue's scheduled tasks."""
    queue = binding.key.removeprefix(due_pattern(""))
    if queue in {it.name for it in wanted.queues} or {"*", "#"} & set(queue):
        return "remove it if it is unused: a message routed through both bindings arrives twice"
    return f"`broker-app queues retire {queue}` removes it when nothing is scheduled"


def _undeclared_queues(wanted: Topology, found: Facts, bindings: list[dict[str, Any]], prefix: str) -> list[str]:
    """Return the queues outside the settings that are bound to our exchanges or dead-letter to our exchange."""
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
    counts = f"{state.ready} ready messages, {state.consumers} consumers" if state else "it was deleted just now"
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
    except BrokerRefused:  # without a permission on the queue RabbitMQ 4.3 answers 403
        return False


def _moving(name: str) -> Difference:
    cure = f"run `broker-app topology migrate {name}` again, or wait for the one in progress"
    return Difference(DifferenceKind.MOVING, "queue", name, "its migration has not finished", cure)


def _cure(what: str, name: str, prefix: str) -> str:
    if what == "exchange":
        return "stop its publishers, delete it, and apply again"
    if is_lane(name, prefix):
        return "`broker-app topology prune` removes it once unused, and it is declared again when needed"
    if name == Names(prefix).cancelled:
        return "delete it and apply again; cancelled tasks that are still queued will then run"
    return f"run `broker-app topology migrate {name}`"


def _binding(item: Mapping[str, Any]) -> Binding:
    return Binding(item["source"], item["routing_key"], item["destination"])


def _shown(binding: Binding) -> str:
    return f"{binding.source} -> {binding.destination} ({binding.key})"


def _word(value: object) -> str:
    return "not set" if value is None else json.dumps(value)
