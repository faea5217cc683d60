"""Policy checks: find broker policies that change the behaviour of our queues and delay lanes.

A policy supplies values that the queue's arguments leave open; if both set a number (a time to live, a delivery
limit), RabbitMQ uses the lower one (rabbitmq.com/docs/parameters).
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
"""From the first version up to but not including the second, at-least-once dead-lettering, which the lanes use,
can stall when a quorum queue gains or loses a member (RabbitMQ's release notes of 4.3.3)."""


class _Sort(Enum):
    WORK = auto()
    LANE = auto()
    STORAGE = auto()


_CAPS = ("max-length", "max-length-bytes")
_HARM: Mapping[_Sort, Mapping[str, tuple[Level, str]]] = {
    _Sort.WORK: {
        "message-ttl": (Level.ERROR, "tasks that wait longer are dead-lettered or dropped without running"),
        "expires": (Level.ERROR, "the queue is deleted with its tasks when no worker consumes it for that long"),
        "delivery-limit": (
            Level.ERROR,
            "tasks that workers returned that often are dropped or dead-lettered although they did not fail",
        ),
        **dict.fromkeys(_CAPS, (Level.WARNING, "a call raises QueueFull when it is reached, also for retries")),
        "delayed-retry-type": (Level.WARNING, "tasks that a worker returns (pause, drain) are redelivered late"),
    },
    _Sort.LANE: {
        "message-ttl": (Level.ERROR, "tasks in longer lanes are due too early"),
        "expires": (Level.ERROR, "the lane is deleted with the tasks in it"),
        **dict.fromkeys(_CAPS, (Level.ERROR, "delayed tasks are refused or held up when it is reached")),
    },
    _Sort.STORAGE: {
        "message-ttl": (Level.WARNING, "messages are deleted after that time"),
        "expires": (Level.ERROR, "the queue and its messages are deleted when it is unused for that long"),
        "delivery-limit": (Level.ERROR, "messages that were looked at that often are deleted"),
        **dict.fromkeys(_CAPS, (Level.WARNING, "the oldest messages are deleted when it is reached")),
    },
}
_NO_HARM = {"delayed-retry-type": {"disabled", "failed"}}
"""Values that do not delay the tasks that a worker returns (rabbitmq.com/docs/quorum-queues, delayed retries)."""


def judge_policies(settings: Settings, management: Management, version: tuple[int, ...]) -> Iterator[Finding]:
    """Check the policies on the existing queues: work queues, lanes, dead-letter queues and the parking queue.

    Args:
        settings: The settings, which name the queues.
        management: The broker's management API.
        version: The broker's version.

    Yields:
        One finding per queue and harmful key, a single OK, or a warning that the API is not available.
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
        text = "the policies on queues and lanes, including consumer time-outs, are unknown"
        yield Finding(Level.WARNING, "policies", f"{error}; {text}")
        return
    yield from harms
    lanes = {name: facts for name, facts in found.items() if is_lane(name, settings.prefix)}
    yield from judge_cluster(version, lanes)
    if not harms:
        yield Finding(Level.OK, "policies", "no policy changes how our queues and lanes behave")


def judge_cluster(version: tuple[int, ...], lanes: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Report lanes with several members on a version whose lanes can stall."""
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
    return _Sort.STORAGE if name in kept else None


def _definition(name: str, facts: Mapping[str, Any], management: Management) -> Mapping[str, Any]:
    """Return the effective policy; the list of queues in 3.10 has only its name, so the queue is queried."""
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
