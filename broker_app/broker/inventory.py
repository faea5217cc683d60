"""How the exchanges and queues of the settings stand on the broker; nothing is created."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import amqp

from broker_app.broker import permission_probe
from broker_app.broker.ask import ACCEPTED, NOT_FOUND, REFUSED, answer
from broker_app.queues import InvalidDelay, Names, Topology
from broker_app.queues.delay import parse_lane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import amqp

    from broker_app.queues import Topology


Facts = Mapping[str, Mapping[str, Any]]

_IN_WORDS = re.compile(r"^PRECONDITION_FAILED - | for (?:queue|exchange) '.*' in vhost '.*?'")
"""What the broker's words repeat: "inequivalent arg 'type' for exchange 'tasks' in vhost '/': received …"."""


@dataclass(frozen=True, slots=True)
class InventoryItem:
    """How one exchange or queue stands.

    Attributes:
        kind: ``exchange`` or ``queue``.
        name: On the broker.
        is_missing: Whether it is not there.
        may_declare: Whether the user may declare it.
        fault: The broker's words if it is there and differs, or cannot be looked at; else empty.
    """

    kind: str
    name: str
    is_missing: bool
    may_declare: bool
    fault: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"

    @property
    def is_alike(self) -> bool:
        """Whether it is there as it is wanted."""
        return self.may_declare and not self.is_missing and not self.fault

    @property
    def is_unknown(self) -> bool:
        """Whether it may be there and cannot be compared: for that the broker wants the right to declare it."""
        return not self.may_declare and not self.is_missing


def standings(connection: amqp.Connection, wanted: Topology) -> Iterator[InventoryItem]:
    """Compare what is wanted with what is there.

    Args:
        connection: An open py-amqp connection; each question has a channel of its own.
        wanted: Its bindings are not compared: AMQP cannot be asked for them.

    Raises:
        amqp.AMQPError, OSError: The connection was lost.
    """
    for exchange in wanted.exchanges:
        yield _exchange(connection, exchange)
    for queue in wanted.queues:
        yield _queue(connection, queue)


def _exchange(connection: amqp.Connection, exchange: Any) -> InventoryItem:
    return _standing(
        connection,
        ("exchange", exchange.name),
        look=lambda channel: channel.exchange_declare(exchange.name, exchange.type, passive=True),
        declare=lambda channel: exchange(channel).declare(),
        may_declare=lambda: permission_probe.may_declare_exchange(connection, exchange),
    )


def _queue(connection: amqp.Connection, queue: Any) -> InventoryItem:
    return _standing(
        connection,
        ("queue", queue.name),
        look=lambda channel: channel.queue_declare(queue.name, passive=True),
        declare=lambda channel: queue(channel).queue_declare(),
        may_declare=lambda: permission_probe.may_declare_queue(connection, queue),
    )


def _standing(
    connection: amqp.Connection,
    name: tuple[str, str],
    *,
    look: Callable[..., Any],
    declare: Callable[..., Any],
    may_declare: Callable[[], bool],
) -> InventoryItem:
    """Look first, and declare only what is there: the broker then compares the arguments (406), and no more."""
    code, text = answer(connection, look)
    if code == NOT_FOUND:
        return InventoryItem(*name, is_missing=True, may_declare=may_declare())
    if code in {ACCEPTED, REFUSED}:  # RabbitMQ 4.3 answers 403 to who has no right on it at all
        code, text = answer(connection, declare)
    if code == REFUSED:
        return InventoryItem(*name, is_missing=False, may_declare=False)
    fault = _IN_WORDS.sub("", text) if code != ACCEPTED else ""
    return InventoryItem(*name, is_missing=False, may_declare=True, fault=fault)


def is_lane(name: str, prefix: str) -> bool:
    """Return whether a queue is a delay lane: those come when they are needed."""
    with suppress(InvalidDelay):
        return Names(prefix).lane(parse_lane(name.removeprefix(f"{prefix}delay."))) == name
    return False
