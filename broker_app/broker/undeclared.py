"""Undeclared queues: work queues on the broker that the settings no longer declare."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from broker_app.queues import DeadLetters, Names, QueueSpec, QueueType
from broker_app.queues.errors import InvalidQueueName
from broker_app.queues.holding import held_target
from broker_app.queues.spec import check_queue_name
from broker_app.queues.topology import work_queue_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Facts = Mapping[str, Mapping[str, Any]]
    Bindings = Callable[[str], list[dict[str, Any]]]

DEAD = ".dead"


def removed_queues(
    found: Facts, specs: Iterable[QueueSpec], prefix: str, bindings_from: Bindings
) -> list[QueueSpec]:
    """Return the work queues of earlier settings, sorted, including those with only a dead-letter queue left.

    A queue that keeps dead letters names our exchange in its arguments. Other candidates are recognised by the
    bindings of our exchanges, which are read only if there are such candidates.

    Args:
        found: The queues of the virtual host with their ``arguments``, by name.
        specs: The queues of the settings.
        prefix: The prefix of the names on the broker.
        bindings_from: Returns the bindings of an exchange, as listed by the management API.
    """
    known = {spec.broker_name for spec in specs}
    names = {name.removesuffix(DEAD) for name in found} - known
    candidates = [_spec(name, found, prefix) for name in sorted(names) if name.startswith(prefix)]
    specs = [spec for spec in candidates if spec is not None]
    unsure = {spec.broker_name for spec in specs if not _is_certain(spec, found)}
    if not unsure:
        return specs
    sources = (Names(prefix).tasks, Names(prefix).dead)
    keys = {item["routing_key"] for source in sources for item in bindings_from(source)}
    return [spec for spec in specs if spec.broker_name in keys or spec.broker_name not in unsure]


def _spec(name: str, found: Facts, prefix: str) -> QueueSpec | None:
    """Return the spec that a queue was declared from, or None if it is not one of our queues."""
    short = name.removeprefix(prefix)
    try:
        check_queue_name(short, prefix)
    except InvalidQueueName:  # a lane, a stream, or the dead-letter queue of a dead-letter queue
        return None
    if held_target(name, prefix):
        return None
    if name not in found:
        return QueueSpec(short, prefix) if _is_dead_letter_queue(found[f"{name}{DEAD}"]) else None
    arguments = _arguments(found[name])
    for kind, has_priorities, dead in product(QueueType, (False, True), DeadLetters):
        spec = QueueSpec(short, prefix, kind, has_priorities, dead)
        if work_queue_arguments(spec) == arguments:
            return spec
    return None


def _is_certain(spec: QueueSpec, found: Facts) -> bool:
    return spec.broker_name in found and spec.dead_letters is DeadLetters.KEEP


def _is_dead_letter_queue(facts: Mapping[str, Any]) -> bool:
    return set(_arguments(facts)) <= {"x-queue-type", "x-delivery-limit"}


def _arguments(facts: Mapping[str, Any]) -> dict[str, Any]:
    return dict(facts.get("arguments") or {})
