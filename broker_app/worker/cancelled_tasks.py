"""Cancelled tasks: fills Celery's set of revoked ids from the stream on the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery.worker import state

from broker_app.broker.cancellations import cancellation_stream

if TYPE_CHECKING:
    from broker_app.broker.access import Broker
    from broker_app.broker.control_streams import Stream

MAX_REMEMBERED = 100_000
"""Cancelled ids that a worker keeps in memory; the oldest are evicted first."""


def remember_cancellations(app: Broker) -> Stream:
    """Make Celery remember revoked ids by number, not for three hours; return the stream that tells the worker.

    Args:
        app: The worker's app.
    """
    state.revoked.maxlen, state.revoked.expires = MAX_REMEMBERED, 0
    return cancellation_stream(app, _learn)


def _learn(identity: str) -> None:
    if identity not in state.revoked:
        state.revoked.add(identity)
