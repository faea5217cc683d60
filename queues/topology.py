"""Topology: the exchanges, queues and bindings on the broker, as kombu entities built from the queue specs.

    producer ── tasks ──────────────── <queue> ── (dead-lettered) ── tasks.dead ── <queue>.dead
        └────── delay ── lanes ── tasks.due ──┘
                            └── (no such queue) ── tasks.unrouted

The arguments of an existing queue cannot be changed, and declaring it with different ones fails (406). Arguments
therefore hold only what never changes; anything an operator tunes is a policy or a rule of the worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kombu.entity import Exchange, Queue

from broker_app.queues.delay import UNITS, Lane, due_pattern
from broker_app.queues.names import Names
from broker_app.queues.rabbitmq import STREAM_CONSUMER, UNLIMITED_DELIVERIES
from broker_app.queues.spec import MAX_PRIORITY, DeadLetters, QueueSpec, QueueType

if TYPE_CHECKING:
    from collections.abc import Iterable


CANCELLED_MAX_AGE = "30D"
"""Retention of cancellations. A cancelled task that becomes due later than this runs after all."""

CANCELLED_MAX_BYTES = 16_000_000
"""Enough for about 100,000 cancelled ids of 150 bytes each."""

SUSPECTS_MAX_AGE = "7D"
"""Retention of crash records. The count of a task that is redelivered later than this starts again from zero."""

SUSPECTS_MAX_BYTES = 16_000_000
"""Enough for about 60,000 crash records of 250 bytes each."""

PAUSED_MAX_BYTES = 16_000_000
"""Enough for about 100,000 pauses and resumptions. No age limit: a pause lasts until the queue is resumed."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding from an exchange to a queue or to another exchange.

    Attributes:
        source: The source exchange.
        key: The routing key or the pattern.
        destination: A queue in `Topology.queue_bindings`, an exchange in `Topology.exchange_bindings`.
    """

    source: str
    key: str
    destination: str


@dataclass(frozen=True, slots=True)
class Topology:
    """A set of broker entities, in an order in which they can be declared."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    exchange_bindings: tuple[Binding, ...]
    queue_bindings: tuple[Binding, ...]


def work_queue(spec: QueueSpec) -> Queue:
    """Return the kombu queue of a spec. Its routing key is its own name, not Celery's default.

    ``alias`` is the name without the prefix, which Celery's ``-Q`` and ``queue=`` resolve. ``no_declare`` keeps
    Celery from declaring the queue implicitly; declare a `Topology`, which includes everything the queue needs.
    """
    return Queue(
        spec.broker_name,
        exchange=Exchange(Names(spec.prefix).tasks, type="topic"),
        routing_key=spec.broker_name,
        alias=spec.name,
        queue_arguments=work_queue_arguments(spec),
        no_declare=True,
    )


def work_queue_arguments(spec: QueueSpec) -> dict[str, Any]:
    """Return the arguments of a work queue.

    Quorum queues use at-least-once dead-lettering, which requires the overflow behaviour ``reject-publish``
    (rabbitmq.com/docs/quorum-queues#activating-at-least-once-dead-lettering). They refuse ``x-max-priority``
    (406); since 4.3 they need no argument for strict priorities.
    """
    arguments: dict[str, Any] = {"x-queue-type": str(spec.type), "x-overflow": "reject-publish"}
    if spec.dead_letters is DeadLetters.KEEP:
        arguments["x-dead-letter-exchange"] = Names(spec.prefix).dead
        arguments["x-dead-letter-routing-key"] = spec.broker_name
        if spec.type is QueueType.QUORUM:
            arguments["x-dead-letter-strategy"] = "at-least-once"
    if spec.type is QueueType.QUORUM:
        arguments["x-delivery-limit"] = UNLIMITED_DELIVERIES
    elif spec.has_priorities:
        arguments["x-max-priority"] = MAX_PRIORITY
    return arguments


def work_topology(specs: Iterable[QueueSpec], prefix: str) -> Topology:
    """Return all entities that must exist before a task is published, except delay lanes."""
    names = Names(prefix)
    streams = [cancelled_stream(prefix), suspects_stream(prefix), paused_stream(prefix)]
    queues = [_queue_without_consumers(names.unrouted, QueueType.QUORUM), *streams]
    bindings = [Binding(queue.name, "", queue.name) for queue in queues]
    for spec in specs:
        queues += (
            [_queue_without_consumers(spec.dead_name, spec.type)] if spec.dead_letters is DeadLetters.KEEP else []
        )
        queues += [work_queue(spec)]
        bindings += _queue_bindings(spec, names)
    return Topology(
        exchanges=tuple(_exchanges(names)),
        queues=tuple(queues),
        exchange_bindings=tuple(_zero_bindings(names)),
        queue_bindings=tuple(bindings),
    )


def lane_topology(lanes: Iterable[Lane], prefix: str) -> Topology:
    """Return the queues and bindings of the lanes; `work_topology` has their exchanges."""
    names, lanes = Names(prefix), tuple(lanes)
    entries = [entry_binding(lane, prefix) for lane in lanes]
    hops = [Binding(names.hop(lane.level), lane.hop_pattern, names.lane(lane)) for lane in lanes if lane.level]
    return Topology(
        exchanges=(),
        queues=tuple(lane_queue(lane, prefix) for lane in lanes),
        exchange_bindings=(),
        queue_bindings=(*entries, *hops),
    )


def entry_binding(lane: Lane, prefix: str) -> Binding:
    """Return the binding for published messages that start in this lane, rather than come from a longer one."""
    names = Names(prefix)
    return Binding(names.delay, lane.entry_pattern, names.lane(lane))


def lane_queue(lane: Lane, prefix: str) -> Queue:
    """Return the queue of a lane. Its messages expire after the lane's time and move to the next level.

    It has no ``x-expires``, because a queue that expires takes its messages with it.
    """
    names = Names(prefix)
    return Queue(
        names.lane(lane),
        queue_arguments={
            "x-queue-type": str(QueueType.QUORUM),
            "x-message-ttl": lane.milliseconds,
            "x-dead-letter-exchange": names.hop(lane.level + 1),
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )


def cancelled_stream(prefix: str) -> Queue:
    """Return the stream of cancelled ids, which every worker reads from the beginning.

    RabbitMQ truncates it at `CANCELLED_MAX_AGE` and `CANCELLED_MAX_BYTES`.
    """
    return _stream(Names(prefix).cancelled, CANCELLED_MAX_AGE, CANCELLED_MAX_BYTES)


def suspects_stream(prefix: str) -> Queue:
    """Return the stream of crash records, which every worker reads from the beginning.

    RabbitMQ truncates it at `SUSPECTS_MAX_AGE` and `SUSPECTS_MAX_BYTES`.
    """
    return _stream(Names(prefix).suspects, SUSPECTS_MAX_AGE, SUSPECTS_MAX_BYTES)


def paused_stream(prefix: str) -> Queue:
    """Return the stream of pauses, which every worker reads from the beginning; limited to `PAUSED_MAX_BYTES`."""
    return _stream(Names(prefix).paused, None, PAUSED_MAX_BYTES)


def _exchanges(names: Names) -> list[Exchange]:
    unrouted = {"alternate-exchange": names.unrouted}
    hops = [names.hop(level) for level in range(1, len(UNITS) + 1)]
    return [
        Exchange(names.unrouted, type="fanout"),
        Exchange(names.cancelled, type="fanout"),
        Exchange(names.suspects, type="fanout"),
        Exchange(names.paused, type="fanout"),
        Exchange(names.tasks, type="topic"),
        Exchange(names.dead, type="topic"),
        Exchange(names.delay, type="topic"),
        *(Exchange(hop, type="topic", arguments=unrouted) for hop in hops),
    ]


def _zero_bindings(names: Names) -> list[Binding]:
    """Return the bindings that forward a message with a zero at one level to the next level's exchange."""
    return [
        Binding(names.hop(level), ".".join(["*"] * level + [f"0{UNITS[level].name}", "#"]), names.hop(level + 1))
        for level in range(1, len(UNITS))
    ]


def _queue_bindings(spec: QueueSpec, names: Names) -> list[Binding]:
    bindings = [
        Binding(names.tasks, spec.broker_name, spec.broker_name),
        Binding(names.due, due_pattern(spec.broker_name), spec.broker_name),
    ]
    if spec.dead_letters is DeadLetters.KEEP:
        bindings.append(Binding(names.dead, spec.broker_name, spec.dead_name))
    return bindings


def _queue_without_consumers(name: str, queue_type: QueueType) -> Queue:
    """Return a queue without consumers, whose messages stay until an operator replays or discards them."""
    limit = (
        {"x-delivery-limit": UNLIMITED_DELIVERIES} if queue_type is QueueType.QUORUM else {}
    )  # classic queues have no delivery limit
    return Queue(name, queue_arguments={"x-queue-type": str(queue_type), **limit})


def _stream(name: str, max_age: str | None, max_bytes: int) -> Queue:
    """Return a bounded stream, whose oldest segments are deleted (rabbitmq.com/docs/streams)."""
    return Queue(
        name,
        queue_arguments={
            "x-queue-type": "stream",
            "x-max-length-bytes": max_bytes,
            "x-stream-max-segment-size-bytes": max_bytes // 16,
            **({} if max_age is None else {"x-max-age": max_age}),
        },
        consumer_arguments=STREAM_CONSUMER,
    )
