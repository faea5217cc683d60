"""Inventory: compare the exchanges and queues of the settings with the broker, without creating any."""

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
"""The redundant parts of a reply text: "inequivalent arg 'type' for exchange 'tasks' in vhost '/': received …"."""


@dataclass(frozen=True, slots=True)
class InventoryItem:
    """The state of one exchange or queue.

    Attributes:
        kind: ``exchange`` or ``queue``.
        name: Its name on the broker.
        is_missing: True if it does not exist.
        may_declare: True if the user may declare it.
        fault: The broker's reply text if it differs or could not be inspected; else empty.
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
        """True if it exists as wanted."""
        return self.may_declare and not self.is_missing and not self.fault

    @property
    def is_unknown(self) -> bool:
        """True if it may exist but cannot be compared, because that needs the permission to declare it."""
        return not self.may_declare and not self.is_missing


def inspect_topology(connection: amqp.Connection, wanted: Topology) -> Iterator[InventoryItem]:
    """Compare the wanted topology with the broker.

    Args:
        connection: An open py-amqp connection; each probe opens its own channel.
        wanted: The topology; its bindings are not compared, since AMQP cannot list bindings.

    Raises:
        amqp.AMQPError, OSError: The connection was lost.
    """
    for exchange in wanted.exchanges:
        yield _exchange(connection, exchange)
    for queue in wanted.queues:
        yield _queue(connection, queue)


def _exchange(connection: amqp.Connection, exchange: Any) -> InventoryItem:
    return _inspect(
        connection,
        ("exchange", exchange.name),
        look=lambda channel: channel.exchange_declare(exchange.name, exchange.type, passive=True),
        declare=lambda channel: exchange(channel).declare(),
        may_declare=lambda: permission_probe.may_declare_exchange(connection, exchange),
    )


def _queue(connection: amqp.Connection, queue: Any) -> InventoryItem:
    return _inspect(
        connection,
        ("queue", queue.name),
        look=lambda channel: channel.queue_declare(queue.name, passive=True),
        declare=lambda channel: queue(channel).queue_declare(),
        may_declare=lambda: permission_probe.may_declare_queue(connection, queue),
    )


def _inspect(
    connection: amqp.Connection,
    name: tuple[str, str],
    *,
    look: Callable[..., Any],
    declare: Callable[..., Any],
    may_declare: Callable[[], bool],
) -> InventoryItem:
    """Look first and declare only what exists, so the broker just compares the arguments (406)."""
    code, text = answer(connection, look)
    if code == NOT_FOUND:
        return InventoryItem(*name, is_missing=True, may_declare=may_declare())
    if code in {ACCEPTED, REFUSED}:  # RabbitMQ 4.3 answers 403 to a user without any permission on it
        code, text = answer(connection, declare)
    if code == REFUSED:
        return InventoryItem(*name, is_missing=False, may_declare=False)
    fault = _IN_WORDS.sub("", text) if code != ACCEPTED else ""
    return InventoryItem(*name, is_missing=False, may_declare=True, fault=fault)


def is_lane(name: str, prefix: str) -> bool:
    """Return whether a queue is a delay lane; lanes are declared on demand."""
    with suppress(InvalidDelay):
        return Names(prefix).lane(parse_lane(name.removeprefix(f"{prefix}delay."))) == name
    return False
