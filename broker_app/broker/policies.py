"""Policies of the broker that change what our queues and delay lanes do, as the management API tells them.

A policy adds what a queue's arguments do not say; of two numbers (a time to live, a delivery limit) RabbitMQ takes
the lower one (rabbitmq.com/docs/parameters).
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from broker_app.broker.findings import Finding, Level
from broker_app.broker.inventory import is_lane
from broker_app.errors import BrokerError
from broker_app.queues import Names
from broker_app.queues.rabbitmq import UNLIMITED_DELIVERIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from broker_app.broker.management import Management
    from broker_app.settings import Settings

STALLING_VERSIONS = ((4, 3, 0), (4, 3, 3))
"""From the first on, and before the second, at-least-once dead-lettering, which the lanes use, can stall when a
quorum queue gets or loses a member (RabbitMQ's release notes of 4.3.3)."""


class _Sort(Enum):
    WORK = auto()
    LANE = auto()
    KEEPER = auto()


_CAPS = ("max-length", "max-length-bytes")
_HARM: Mapping[_Sort, Mapping[str, tuple[Level, str]]] = {
    _Sort.WORK: {
        "message-ttl": (Level.ERROR, "tasks that wait longer are given up without having run"),
        "expires": (Level.ERROR, "the queue is deleted with its tasks when no worker consumes it for that long"),
        "delivery-limit": (Level.ERROR, "tasks that workers gave back that often are given up without a fault"),
        **dict.fromkeys(_CAPS, (Level.WARNING, "a call raises QueueFull when it is reached, also for retries")),
        "delayed-retry-type": (Level.WARNING, "tasks that a worker gives back (pause, drain) come late"),
    },
    _Sort.LANE: {
        "message-ttl": (Level.ERROR, "tasks in longer lanes are due too early"),
        "expires": (Level.ERROR, "the lane is deleted with the tasks in it"),
        **dict.fromkeys(_CAPS, (Level.ERROR, "delayed tasks are refused or held up when it is reached")),
    },
    _Sort.KEEPER: {
        "message-ttl": (Level.WARNING, "messages are deleted after that time"),
        "expires": (Level.ERROR, "the queue is deleted with its messages when nobody uses it for that long"),
        "delivery-limit": (Level.ERROR, "messages that were looked at that often are deleted"),
        **dict.fromkeys(_CAPS, (Level.WARNING, "the oldest messages are deleted when it is reached")),
    },
}
_NO_HARM = {"delayed-retry-type": {"disabled", "failed"}}
"""Values that leave alone what a worker gives back (rabbitmq.com/docs/quorum-queues, delayed retries)."""


def judge_policies(settings: Settings, management: Management, version: tuple[int, ...]) -> Iterator[Finding]:
    """Judge what policies set on the queues that are there: work queues, lanes, dead letters, what is parked.

    Args:
        settings: They name the queues.
        management: The API of the broker.
        version: The broker's.

    Yields:
        One finding for each key that harms, by queue; one that all is well; or one that nobody could be asked.
    """
    try:
        found = management.queues(settings.prefix)
        harms = [
            finding
            for name, facts in found.items()
            if (sort := _sort(name, settings)) is not None
            for finding in _judge_queue(name, sort, _definition(name, facts, management))
        ]
    except BrokerError as error:
        text = "what policies set on queues and lanes, a consumer time-out too, is not known"
        yield Finding(Level.WARNING, "policies", f"{error}; {text}")
        return
    yield from harms
    lanes = {name: facts for name, facts in found.items() if is_lane(name, settings.prefix)}
    yield from judge_cluster(version, lanes)
    if not harms:
        yield Finding(Level.OK, "policies", "none changes what our queues and lanes do")


def judge_cluster(version: tuple[int, ...], lanes: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Warn of lanes with several members on a version whose lanes can stall."""
    first, fixed = STALLING_VERSIONS
    members = max((len(facts.get("members") or ()) for facts in lanes.values()), default=0)
    if first <= version < fixed and members > 1:
        shown = ".".join(map(str, version))
        text = (
            f"expected RabbitMQ {'.'.join(map(str, fixed))} or later for delay lanes on a cluster, got {shown}: "
            f"tasks can be held up in the lanes after a node joined or left; upgrade it"
        )
        yield Finding(Level.ERROR, "version", text)


def _sort(name: str, settings: Settings) -> _Sort | None:
    specs = settings.specs()
    if name in {spec.broker_name for spec in specs}:
        return _Sort.WORK
    if is_lane(name, settings.prefix):
        return _Sort.LANE
    kept = {*(spec.dead_name for spec in specs), Names(settings.prefix).unrouted}
    return _Sort.KEEPER if name in kept else None


def _definition(name: str, facts: Mapping[str, Any], management: Management) -> Mapping[str, Any]:
    """Return what policies set; on 3.10 the list of queues has the policy's name alone, and the queue is asked."""
    if "effective_policy_definition" in facts:
        definition = facts["effective_policy_definition"]
        return definition if isinstance(definition, dict) else {}
    return management.effective_policy(name) if facts.get("policy") or facts.get("operator_policy") else {}


def _judge_queue(name: str, sort: _Sort, definition: Mapping[str, Any]) -> Iterator[Finding]:
    for key, (level, harm) in _HARM[sort].items():
        value = definition.get(key)
        if value is None or value in _NO_HARM.get(key, ()) or (key == "delivery-limit" and _is_lax(value)):
            continue
        text = f"a policy sets {key} = {value}: {harm}; leave this queue out of the policy's pattern"
        yield Finding(level, f"queue {name!r}", text)


def _is_lax(limit: object) -> bool:
    return not isinstance(limit, int) or limit < 0 or limit >= UNLIMITED_DELIVERIES
