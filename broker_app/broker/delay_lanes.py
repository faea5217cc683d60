"""Delay lanes on the broker: declared before the first message needs them, and never during a prune."""

from __future__ import annotations

import time
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING

from broker_app.broker.declare import declarations, look_for, queue_exists, translated
from broker_app.broker.new_queues import NewQueues
from broker_app.broker.pipeline import carry_out
from broker_app.errors import BrokerError, BrokerLocked, BrokerRefused, NotOnBroker
from broker_app.queues import Lane, Names, lane_topology, work_topology
from broker_app.queues.delay import UNITS

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    import amqp

    from broker_app.broker.pipeline import Refusal, Request
    from broker_app.queues import QueueSpec

TRUST_SECONDS = 20.0
"""Time for which a queue that was seen is assumed to exist. `broker_app.topology.prune` relies on it: a message
published on that assumption stays in its first lane for at least a minute before it needs the next."""

PROBED_DAYS = 60
"""Number of day lanes to probe when the management API is not available to list them."""

_LOCK_PAUSE_SECONDS = 0.2


def ensure(  # noqa: PLR0913 - one is named
    connection: amqp.Connection,
    lanes: Iterable[Lane],
    specs: Iterable[QueueSpec],
    seen: dict[str, float],
    prefix: str,
    deadline: float,
    *,
    new_queues: NewQueues | None = None,
) -> dict[str, BrokerError]:
    """Make sure that lanes and destination queues exist, in at most three round trips.

    Without its next lane a delayed message is parked and late, and a lane accepts messages even if the destination
    queue is missing. Queues that already exist need no configure permission.

    Args:
        connection: An open py-amqp connection.
        lanes: All lanes that the messages pass through.
        specs: The destination queues.
        seen: The `time.monotonic` time at which each queue was last seen; kept with the connection.
        prefix: The prefix of the names on the broker.
        deadline: A `time.monotonic` time.
        new_queues: Learns which destination queues are declared.

    Returns:
        The error for each missing queue, by its name on the broker: its declaration was refused, or it exists with
        other arguments.

    Raises:
        TimeoutError: The broker did not answer in time.
    """
    now, names = time.monotonic(), Names(prefix)
    wanted: dict[str, Lane | QueueSpec] = {names.lane(lane): lane for lane in lanes}
    wanted |= {spec.broker_name: spec for spec in specs}
    unsure = {name: what for name, what in wanted.items() if now - seen.get(name, -inf) > TRUST_SECONDS}
    if not unsure:
        return {}
    absent, faults = _look_for(connection, unsure, deadline)
    if absent:
        absent_lanes = [what for what in absent.values() if isinstance(what, Lane)]
        absent_specs = [what for what in absent.values() if not isinstance(what, Lane)]
        with (new_queues or NewQueues()).declaring(spec.broker_name for spec in absent_specs):
            faults |= _declare_most(connection, absent_lanes, absent_specs, prefix, deadline)
    seen.update((name, now) for name in unsure if name not in faults)
    return faults


def missing(faults: Mapping[str, BrokerError], lanes: Iterable[Lane], end: str, prefix: str) -> str | None:
    """Return why a message cannot take a route, or None if it can.

    Args:
        faults: From `ensure`.
        lanes: The lanes of the route.
        end: The destination queue, by its name on the broker.
        prefix: The prefix of the names on the broker.
    """
    names = [Names(prefix).lane(lane) for lane in lanes]
    for name in (*names, end):
        if (fault := faults.get(name)) is not None:
            what = f"queue {name!r}" if name == end else f"a delay lane of {', '.join(names)}"
            return f"{what} is missing and could not be declared: {fault}"
    return None


def declare(
    connection: amqp.Connection,
    lanes: Iterable[Lane],
    prefix: str,
    deadline: float,
    specs: Iterable[QueueSpec] = (),
) -> None:
    """Declare lanes, their exchanges, and queues, after waiting for a `prune` in progress.

    If a prune has begun meanwhile, it may be removing the new lanes; they are then declared again after it.

    Raises:
        BrokerLocked: A prune still held its lock at the deadline.
        BrokerError: Refused, or the queue exists with other arguments.
        TimeoutError: The broker did not answer in time.
    """
    for fault in _declare_most(connection, lanes, specs, prefix, deadline).values():
        raise fault


def every(most_days: int = PROBED_DAYS) -> list[Lane]:
    """Return every lane of the units below a day, and the first ``most_days`` day lanes."""
    below = (longer.milliseconds // shorter.milliseconds - 1 for longer, shorter in pairwise(UNITS))
    counts = enumerate((most_days, *below))
    return [Lane(level, UNITS[level].step * number) for level, most in counts for number in range(1, most + 1)]


def wait_for_prune(connection: amqp.Connection, prefix: str, deadline: float) -> None:
    """Wait until no prune holds its lock.

    Raises:
        BrokerLocked: A prune still held it at the deadline.
    """
    while is_pruning(connection, prefix, deadline):
        if time.monotonic() + _LOCK_PAUSE_SECONDS >= deadline:
            raise BrokerLocked("`broker-app topology prune` is at work; try again in a few seconds")
        time.sleep(_LOCK_PAUSE_SECONDS)


def is_pruning(connection: amqp.Connection, prefix: str, deadline: float | None = None) -> bool:
    """Return whether a prune holds its lock.

    Raises:
        BrokerRefused: The user has no permission on the lock queue, which RabbitMQ 4.3 requires.
    """
    try:
        return queue_exists(connection, Names(prefix).prune_lock, deadline)
    except BrokerLocked:
        return True


def _look_for(
    connection: amqp.Connection, wanted: Mapping[str, Lane | QueueSpec], deadline: float
) -> tuple[dict[str, Lane | QueueSpec], dict[str, BrokerError]]:
    """Return the queues that do not exist, and the errors of those that could not be looked up."""
    absent, faults = {}, {}
    refusals = carry_out(connection, [[look_for(name)] for name in wanted], deadline)
    for (name, what), refusal in zip(wanted.items(), refusals, strict=True):
        error = None if refusal is None else translated(refusal)
        if isinstance(error, NotOnBroker):
            absent[name] = what
        elif isinstance(error, BrokerRefused) and not isinstance(what, Lane):
            continue  # without a permission on the queue 4.3 answers 403: it may exist
        elif isinstance(error, BrokerError):
            faults[name] = error
        elif error is not None:
            raise error
    return absent, faults


def _declare_most(
    connection: amqp.Connection,
    lanes: Iterable[Lane],
    specs: Iterable[QueueSpec],
    prefix: str,
    deadline: float,
) -> dict[str, BrokerError]:
    """Declare as many lanes and queues as possible, and return the errors of the others by name."""
    lanes = tuple(lanes)
    shared = declarations(work_topology([], prefix))
    left = _parts(lanes, specs, prefix, {request.subject for request in shared})
    lock = [look_for(Names(prefix).prune_lock)] if lanes else []
    faults: dict[str, BrokerError] = {}
    while left:
        requests = shared + [request for part in left.values() for request in part]
        owners = [None for _ in shared] + [name for name, part in left.items() for _ in part]
        try:
            if lanes:
                wait_for_prune(connection, prefix, deadline)
            (refusal,) = carry_out(connection, [requests + lock], deadline)
            if refusal is None or refusal.number == len(requests):
                if not lanes or not _is_held(refusal):
                    break
                continue
            owner, error = owners[refusal.number], translated(refusal)
            if owner is None or not isinstance(error, BrokerError):
                raise error from refusal.error
            faults[owner] = error
            del left[owner]
        except BrokerError as error:
            return faults | dict.fromkeys(left, error)
    return faults


def _parts(
    lanes: Iterable[Lane], specs: Iterable[QueueSpec], prefix: str, shared: Container[str]
) -> dict[str, list[Request]]:
    """Return the requests for each lane and queue by its name on the broker, without the shared declarations."""
    parts = {Names(prefix).lane(lane): lane_topology([lane], prefix) for lane in lanes}
    parts |= {spec.broker_name: work_topology([spec], prefix) for spec in specs}
    return {
        name: [request for request in declarations(part) if request.subject not in shared]
        for name, part in parts.items()
    }


def _is_held(looked: Refusal | None) -> bool:
    """Return whether a prune holds its lock, from the answer to the passive declaration of the lock queue.

    Raises:
        BrokerError: The user has no permission on the lock queue.
    """
    error = None if looked is None else translated(looked)
    if isinstance(error, NotOnBroker):
        return False
    if error is None or isinstance(error, BrokerLocked):
        return True
    raise error
