"""The lock on the broker that migrations and retirements hold."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from broker_app.broker.declare import exclusive_queue, is_exclusive
from broker_app.errors import BrokerLocked
from broker_app.queues.holding import lock_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    import amqp

_PAUSE_SECONDS = 0.5

_LOCK_SECONDS = 5.0


@contextmanager
def migration_lock(connection: amqp.Connection, prefix: str) -> Iterator[None]:
    """Hold the lock that excludes other migrations and retirements; the broker releases it if the process dies.

    Raises:
        BrokerLocked: Another one is in progress.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    name = lock_name(prefix)
    while is_exclusive(connection, name):
        if time.monotonic() >= deadline:
            raise BrokerLocked("another `topology migrate` or `queues retire` is at work; try again after it")
        time.sleep(_PAUSE_SECONDS)
    with exclusive_queue(connection, name):
        yield
