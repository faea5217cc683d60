"""Checks of the settings, and of whether the broker supports them; the broker is never changed."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from amqp import exceptions as amqp_errors

from broker_app.broker.access import connect
from broker_app.broker.declare import wanted_topology
from broker_app.broker.findings import Finding, Level
from broker_app.broker.inventory import inspect_topology, is_lane
from broker_app.broker.management import management_of
from broker_app.broker.permission_probe import listed, missing_rights
from broker_app.broker.policies import judge_policies
from broker_app.errors import BrokerError, NotOnBroker
from broker_app.queues import QueueType, missing_features
from broker_app.queues.rabbitmq import DEFAULT_CONSUMER_TIMEOUT_SECONDS, OLDEST_VERSION, QUORUM_TIMEOUT_VERSION
from broker_app.settings.extras import missing_pool
from broker_app.settings.private_files import OpenToOthersError, check_closed_to_others, is_writable_folder
from broker_app.text import counted
from broker_app.wire.errors import error_text, server_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import amqp

    from broker_app.broker.access import Broker
    from broker_app.broker.inventory import InventoryItem
    from broker_app.broker.management import Management
    from broker_app.broker.permission_probe import MissingPermission
    from broker_app.settings import QueueSettings, Settings


def judge_settings(settings: Settings) -> Iterator[Finding]:
    """Check everything that needs no connection, in settings that have already been validated."""
    yield Finding(Level.OK, "settings", f"{counted(len(settings.queues), 'queue')} declared")
    if not is_writable_folder(settings.state_dir):
        text = f"expected a writable folder, got {settings.state_dir}; change state_dir or its permissions"
        yield Finding(Level.ERROR, "state_dir", text)
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from _judge_others(settings.state_dir)
    fleets = {name: queue.fleet for name, queue in settings.queues.items() if queue.fleet.nodes}
    if fleets and "%" in str(settings.state_dir):
        text = f"expected a path without %, which `celery multi` replaces in it, got {settings.state_dir}"
        yield Finding(Level.ERROR, "state_dir", f"{text}; choose another path")
    for name, fleet in fleets.items():
        if missing := missing_pool(fleet.pool):
            yield Finding(Level.ERROR, f"queues.{name}.fleet.pool", missing)


def _judge_others(folder: Path) -> Iterator[Finding]:
    try:
        check_closed_to_others(folder)
    except OpenToOthersError as error:
        yield Finding(Level.WARNING, "state_dir", f"{folder}: {error.strerror}; fleets and the spool refuse it")
    except PermissionError:
        return  # reported as not writable


def judge_broker(app: Broker) -> Iterator[Finding]:
    """Check the broker that an app's settings name.

    Args:
        app: The app; its settings and its connection are used.

    Yields:
        Findings as they are made. If the broker is unreachable, that is the last finding.
    """
    try:
        with connect(app) as connection:
            yield from _judge(app, connection)
    except BrokerError as error:
        yield Finding(Level.ERROR, "broker", str(error))
    except (amqp_errors.AMQPError, OSError) as error:
        text = f"the connection was lost during the check ({error_text(error)}); try again"
        yield Finding(Level.ERROR, "broker", text)


def _judge(app: Broker, connection: amqp.Connection) -> Iterator[Finding]:
    settings, version = app.settings, server_version(connection)
    product = str(connection.server_properties.get("product", "unknown"))
    yield _judge_version(product, version)
    for text in missing_features(settings.specs(), version):
        where, _, rest = text.partition(": ")
        yield Finding(Level.ERROR, where, rest)
    wanted = wanted_topology(settings)
    found = list(inspect_topology(connection, wanted))
    to_come = {one.name for one in found if one.is_missing and is_lane(one.name, settings.prefix)}
    yield from _judge_inventory([one for one in found if one.name not in to_come])
    if product == "RabbitMQ":  # the probes rely on the order in which RabbitMQ validates a request
        yield from _judge_rights(settings, list(missing_rights(app, connection, wanted, found)))
    management = management_of(app, connection)
    yield from _judge_timeouts(settings, version, management)
    yield from judge_policies(settings, management, version)


def _judge_version(product: str, version: tuple[int, ...]) -> Finding:
    shown, oldest = ".".join(map(str, version)), ".".join(map(str, OLDEST_VERSION))
    if product != "RabbitMQ":
        text = f"expected RabbitMQ, got {product} {shown}, which is untested; permissions are not checked"
        return Finding(Level.WARNING, "version", text)
    if version[:2] < OLDEST_VERSION:
        return Finding(Level.ERROR, "version", f"expected RabbitMQ {oldest} or later, got {shown}; upgrade it")
    return Finding(Level.OK, "version", f"RabbitMQ {shown}")


def _judge_inventory(found: Sequence[InventoryItem]) -> Iterator[Finding]:
    for item in found:
        if item.fault:
            text = f"{item.fault}; set the settings to what exists, or drain and delete it"
            yield Finding(Level.ERROR, str(item), text)
    if missing := [item for item in found if item.is_missing]:
        names = "all of it" if len(missing) == len(found) else listed(missing)
        text = f"not declared yet: {names}; run `broker-app topology declare`, or let first use create it"
        yield Finding(Level.WARNING, "topology", text)
    if unknown := [item for item in found if item.is_unknown]:
        text = f"not comparable without the configure permission: {listed(unknown)}"
        yield Finding(Level.WARNING, "topology", text)
    if alike := sum(item.is_alike for item in found):
        text = f"{alike} of {len(found)} exchanges and queues match the settings"
        yield Finding(Level.OK, "topology", text)


def _judge_rights(settings: Settings, missing: Sequence[MissingPermission]) -> Iterator[Finding]:
    """Report the missing permissions; those that only workers need are a warning if no fleet is configured."""
    has_fleets = any(queue.fleet.nodes for queue in settings.queues.values())
    for right in missing:
        level = Level.ERROR if right.is_for_all or has_fleets else Level.WARNING
        yield Finding(level, "rights", f"the user may not {right.what}; grant {right.needed}")
    if not missing:
        yield Finding(
            Level.OK,
            "rights",
            "the user may declare, bind, publish to and consume everything that the settings name",
        )


def _judge_timeouts(settings: Settings, version: tuple[int, ...], management: Management) -> Iterator[Finding]:
    judged = [
        spec for spec in settings.specs() if spec.type is QueueType.QUORUM or version[:2] < QUORUM_TIMEOUT_VERSION
    ]
    policies = _policies([spec.broker_name for spec in judged], management)
    for spec in judged:
        milliseconds = policies.get(spec.broker_name, {}).get("consumer-timeout")
        yield _judge_run(spec.name, settings.queues[spec.name], milliseconds)


def _policies(queues: Sequence[str], management: Management) -> dict[str, dict[str, Any]]:
    """Return the effective policies of the queues that exist; `judge_policies` reports an unreadable API."""
    found = {}
    for queue in queues:
        try:
            found[queue] = management.effective_policy(queue)
        except NotOnBroker:
            continue
        except BrokerError:
            break
    return found


def _judge_run(name: str, queue: QueueSettings, policy_milliseconds: int | None) -> Finding:
    """Compare the longest time from delivery to acknowledgement with the consumer time-out.

    A worker slot runs its prefetched messages one after the other, so the last one waits for all others:
    ``longest_run_seconds * prefetch``, 900 s with the defaults.
    """
    is_known = policy_milliseconds is not None
    seconds = policy_milliseconds / 1000 if policy_milliseconds is not None else DEFAULT_CONSUMER_TIMEOUT_SECONDS
    longest = queue.longest_run_seconds * queue.least_prefetch
    source = (
        "set by a policy" if is_known else "RabbitMQ's default, assumed because its configuration is not readable"
    )
    facts = f"runs of up to {longest:g} s, a consumer time-out of {seconds:g} s ({source})"
    if longest < seconds:
        return Finding(Level.OK, f"queues.{name}", facts)
    text = (
        f"expected runs below the consumer time-out, or a running task is redelivered; got {facts}; "
        f"lower longest_run_seconds or prefetch, or raise the time-out"
    )
    return Finding(Level.ERROR if is_known else Level.WARNING, f"queues.{name}", text)
