"""A delivered task: what is left of its delay when it arrives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from celery.worker import request as celery_request

from broker_app.outgoing import DELAY_HEADER
from queues.delay import MAX_DELAY_SECONDS, split_delay

if TYPE_CHECKING:
    from collections.abc import Mapping


class Request(celery_request.Request):
    """Celery's request, which a worker holds for the fraction of a second that no lane holds, and no longer."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self._eta: datetime | None = remaining_eta(self._eta, self._request_dict, datetime.now(UTC))


def remaining_eta(eta: datetime | None, headers: Mapping[str, Any], now: datetime) -> datetime | None:
    """Return until when the worker's timer holds a task, or None if it runs at once.

    Args:
        eta: When it is due, by the producer's clock.
        headers: The message's; with `DELAY_HEADER` the lanes have held the delay already, so at most their
            fraction is left, whatever this machine's clock says. Without it another client published it,
            and its eta stands as Celery has it.
        now: This machine's clock.
    """
    delay = headers.get(DELAY_HEADER)
    if eta is None or not isinstance(delay, (int, float)) or not 0 <= delay < MAX_DELAY_SECONDS + 1:
        return eta  # a header that no delay made is none of ours
    latest = now + timedelta(seconds=split_delay(delay).fraction)
    until = min(eta, latest)
    return until if until > now else None
