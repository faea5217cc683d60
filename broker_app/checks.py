"""Judges the settings, and whether a broker can do what they ask; nothing is changed on it."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from amqp import exceptions as amqp_errors
from kombu.entity import Exchange
from kombu.utils.url import parse_url

from broker_app import rights, topology
from broker_app.errors import BrokerError, NotOnBroker
from broker_app.management import Management
from broker_app.standing import standings
from queues import Delay, Lane, Names, QueueType, missing_features, work_topology
from queues.delay import UNITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import amqp

    from broker_app.app import BrokerApp
    from broker_app.settings import QueueSettings, Settings
    from broker_app.standing import Standing
    from queues import Topology

OLDEST_VERSION = (3, 10)
"""The oldest RabbitMQ that the tests run against."""

DEFAULT_CONSUMER_TIMEOUT_SECONDS = 1_800.0
"""rabbitmq.com/docs/consumers#acknowledgement-timeout: 30 minutes. No API tells the value that is in force."""

QUORUM_TIMEOUT_VERSION = (4, 3)
"""From here on only quorum queues have a consumer time-out (measured; 3.10.8 has it for classic ones too)."""

_SHOWN_NAMES = 6


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was judged.

    Attributes:
        level: An error is something that will not work.
        where: The setting, the queue or the part of the broker.
        text: What was found, and what to do about it.
    """

    level: Level
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8} {self.where}: {self.text}"


def judge_settings(settings: Settings) -> Iterator[Finding]:
    """Judge what needs no connection, of settings that were read without a fault."""
    yield Finding(Level.OK, "settings", f"{len(settings.queues)} queues are declared")
    if not _is_writable(settings.state_dir):
        text = f"expected a folder that can be written, got {settings.state_dir}; set state_dir or its rights"
        yield Finding(Level.ERROR, "state_dir", text)


def judge_broker(app: BrokerApp, management_url: str | None = None) -> Iterator[Finding]:
    """Judge the broker of an app's settings.

    Args:
        app: For its settings and its connection.
        management_url: Where the management API is; None for the usual port of the broker's host.

    Yields:
        Findings as they are made. A broker that cannot be reached is one, and the last.
    """
    try:
        with topology.connect(app) as connection:
            yield from _judge(app, connection, management_url)
    except BrokerError as error:
        yield Finding(Level.ERROR, "broker", str(error))
    except (amqp_errors.AMQPError, OSError) as error:
        text = f"the connection was lost while it was judged ({topology.words(error)}); try again"
        yield Finding(Level.ERROR, "broker", text)


def _judge(app: BrokerApp, connection: amqp.Connection, management_url: str | None) -> Iterator[Finding]:
    settings, version = app.settings, topology.server_version(connection)
    product = str(connection.server_properties.get("product", "unknown"))
    yield _judge_version(product, version)
    for text in missing_features(settings.specs(), version):
        where, _, rest = text.partition(": ")
        yield Finding(Level.ERROR, where, rest)
    wanted = work_topology(settings.specs(), settings.prefix)
    found = list(standings(connection, wanted))
    yield from _judge_standings(found)
    if product == "RabbitMQ":  # the questions rest on the order in which it judges a request
        yield from _judge_rights(app, connection, wanted, found)
    yield from _judge_timeouts(settings, version, Management(_url_of(app, connection), management_url))


def _judge_version(product: str, version: tuple[int, ...]) -> Finding:
    shown, oldest = ".".join(map(str, version)), ".".join(map(str, OLDEST_VERSION))
    if product != "RabbitMQ":
        text = f"expected RabbitMQ, got {product} {shown}, which was never tried; rights are not judged"
        return Finding(Level.WARNING, "version", text)
    if version[:2] < OLDEST_VERSION:
        return Finding(Level.ERROR, "version", f"expected RabbitMQ {oldest} or later, got {shown}; upgrade it")
    return Finding(Level.OK, "version", f"RabbitMQ {shown}")


def _judge_standings(found: Sequence[Standing]) -> Iterator[Finding]:
    faults = [standing for standing in found if standing.fault]
    for standing in faults:
        text = f"{standing.fault}; set the settings to what exists, or drain and delete it"
        yield Finding(Level.ERROR, standing.name, text)
    missing = [standing.name for standing in found if standing.is_missing]
    if missing:
        text = f"not declared yet: {_listed(missing)}; `broker-app topology declare` or any worker does it"
        yield Finding(Level.WARNING, "topology", text)
    elif not faults:
        yield Finding(Level.OK, "topology", f"{len(found)} exchanges and queues are as the settings ask")


def _judge_rights(
    app: BrokerApp, connection: amqp.Connection, wanted: Topology, found: Sequence[Standing]
) -> Iterator[Finding]:
    """Judge what producers and workers do; what only workers do is an error only where fleets run."""
    fleets = {name for name, queue in app.settings.queues.items() if queue.fleet.nodes}
    must_declare = bool(fleets) or any(standing.is_missing for standing in found)
    declare = [standing.name for standing in found if not standing.may_declare]
    yield _right(
        "declare", declare, "configure; for new queues also read, and write to tasks.dead", is_needed=must_declare
    )
    bind = [
        *(b.destination for b in wanted.exchange_bindings if not rights.may_bind_exchange(connection, b)),
        *(b.destination for b in wanted.queue_bindings if not rights.may_bind_queue(connection, b)),
    ]
    yield _right("bind", bind, "write on them, and read on the exchanges", is_needed=must_declare)
    yield _right("publish", _unpublishable(app.settings, connection), "write on the exchanges", is_needed=True)
    unread = [spec for spec in app.settings.specs() if not rights.may_consume(connection, spec.broker_name)]
    is_needed = any(spec.name in fleets for spec in unread)
    yield _right(
        "consume", [f"queue {spec.broker_name!r}" for spec in unread], "read on them", is_needed=is_needed
    )
    if fleets:
        yield _right("control", _uncontrollable(app, connection), "configure on them", is_needed=True)


def _right(verb: str, refused: Sequence[str], needed: str, *, is_needed: bool) -> Finding:
    if not refused:
        return Finding(Level.OK, f"rights.{verb}", "all that the settings need")
    level = Level.ERROR if is_needed else Level.WARNING
    return Finding(level, f"rights.{verb}", f"the user may not {verb} {_listed(refused)}; grant {needed}")


def _unpublishable(settings: Settings, connection: amqp.Connection) -> list[str]:
    """Return where tasks may not be published, at once or with a delay."""
    names, lane = Names(settings.prefix), Delay((Lane(len(UNITS) - 1, 1),), 0.0)
    routes = [(names.tasks, spec.broker_name) for spec in settings.specs()]
    routes += [(names.delay, lane.routing_key(spec.broker_name)) for spec in settings.specs()]
    return [
        f"to exchange {exchange!r} with the key {key!r}"
        for exchange, key in routes
        if not rights.may_publish(connection, exchange, key)
    ]


def _uncontrollable(app: BrokerApp, connection: amqp.Connection) -> list[str]:
    """Return what a worker may not declare of remote control and events; its mailbox is named by its host."""
    mailbox = app.control.mailbox
    queue = mailbox.get_queue(f"check@{socket.gethostname()}")
    events = Exchange(app.conf.event_exchange, type="topic")
    refused = [] if rights.may_declare_queue(connection, queue) else [f"queue {queue.name!r}"]
    return refused + [
        f"exchange {exchange.name!r}"
        for exchange in (mailbox.exchange, mailbox.reply_exchange, events)
        if not rights.may_declare_exchange(connection, exchange)
    ]


def _judge_timeouts(settings: Settings, version: tuple[int, ...], management: Management) -> Iterator[Finding]:
    judged = [
        spec for spec in settings.specs() if spec.type is QueueType.QUORUM or version[:2] < QUORUM_TIMEOUT_VERSION
    ]
    policies, problem = _policies([spec.broker_name for spec in judged], management)
    if problem:
        text = f"{problem}; a consumer time-out that a policy sets could not be read"
        yield Finding(Level.WARNING, "consumer_timeout", text)
    for spec in judged:
        milliseconds = policies.get(spec.broker_name, {}).get("consumer-timeout")
        yield _judge_run(spec.name, settings.queues[spec.name], milliseconds)


def _policies(queues: Sequence[str], management: Management) -> tuple[dict[str, dict[str, Any]], str]:
    """Return the effective policies of the queues that exist, and why there is no more."""
    found = {}
    for queue in queues:
        try:
            found[queue] = management.effective_policy(queue)
        except NotOnBroker:
            continue
        except BrokerError as error:
            return found, str(error)
    return found, ""


def _judge_run(name: str, queue: QueueSettings, policy_milliseconds: int | None) -> Finding:
    """Compare the longest time from delivery to acknowledgement with the time-out.

    A slot of a worker runs its reserved messages one after the other, so the last one waits for all others:
    ``longest_run_seconds * prefetch``, 900 s with the defaults.
    """
    is_known = policy_milliseconds is not None
    seconds = policy_milliseconds / 1000 if policy_milliseconds is not None else DEFAULT_CONSUMER_TIMEOUT_SECONDS
    longest = queue.longest_run_seconds * queue.prefetch
    source = "set by a policy" if is_known else "RabbitMQ's default, assumed: its configuration cannot be read"
    facts = f"longest_run_seconds * prefetch = {longest:g} s; consumer time-out {seconds:g} s ({source})"
    if longest < seconds:
        return Finding(Level.OK, f"queues.{name}", facts)
    text = f"expected it below the time-out, or the task is started again beside itself; got {facts}; change one"
    return Finding(Level.ERROR if is_known else Level.WARNING, f"queues.{name}", text)


def _url_of(app: BrokerApp, connection: amqp.Connection) -> str:
    """Return the URL, among those for fail-over, of the host that was reached."""
    kombu = app.connection_for_write()
    urls = [str(url) for url in kombu.alt] or [kombu.as_uri(include_password=True)]
    reached = [url for url in urls if connection.host.startswith(f"{parse_url(url)['hostname']}:")]
    return (reached or urls)[0]


def _is_writable(folder: Path) -> bool:
    """Whether a folder, or the nearest one above it that exists, can be written; nothing is made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
