"""Times of a call: its delay and its expiry, checked before anything is sent."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from numbers import Real
from typing import TYPE_CHECKING

from celery.utils.time import maybe_make_aware

from broker_app.errors import InvalidDelay
from broker_app.queues import NO_DELAY, Delay, split_delay

if TYPE_CHECKING:
    from celery import Celery


def check_expires(expires: object) -> None:
    """Refuse values on which Celery would fail with an unclear error.

    Raises:
        InvalidDelay: It is not a number of seconds, a datetime, an ISO 8601 string or None.
    """
    if expires is None or isinstance(expires, datetime):
        return
    try:
        if isinstance(expires, str):
            datetime.fromisoformat(expires)
            return
        if isinstance(expires, Real) and not isinstance(expires, bool):
            datetime.now(UTC) + timedelta(seconds=float(expires))
            return
    except (ValueError, OverflowError):
        pass
    raise InvalidDelay(f"expires must be a number of seconds, a datetime or an ISO 8601 string, got {expires!r}")


def requested_delay(
    app: Celery, countdown: float | None, eta: datetime | str | None, began: float
) -> tuple[Delay, datetime | None]:
    """Return the delay of a call and its end, None for now.

    Args:
        app: For its clock and time zone.
        countdown: Seconds, at least 0.
        eta: A naive datetime is in the app's time zone; a time in the past means now.
        began: The start of the call, from which the delay counts, on the clock of `time.monotonic`.

    Raises:
        InvalidDelay: Both are given, or one is invalid or too long.
    """
    if countdown is not None and eta is not None:
        raise InvalidDelay("expected a countdown or an eta, got both; leave one of them out")
    if countdown is None and eta is None:
        return NO_DELAY, None
    now = app.now() - timedelta(seconds=time.monotonic() - began)
    if eta is not None:
        seconds = max(0.0, (maybe_make_aware(_checked_eta(eta), app.timezone) - now).total_seconds())
    else:
        seconds = _checked_countdown(countdown)
    delay = split_delay(seconds)
    if not delay.seconds:
        return NO_DELAY, None
    return delay, now + timedelta(seconds=delay.seconds)


def _checked_countdown(countdown: float | None) -> float:
    if isinstance(countdown, bool) or not isinstance(countdown, Real) or countdown < 0:
        raise InvalidDelay(f"a countdown must be a number of seconds, at least 0, got {countdown!r}")
    try:
        return float(countdown)
    except OverflowError:
        return math.inf


def _checked_eta(eta: datetime | str) -> datetime:
    try:
        moment = datetime.fromisoformat(eta) if isinstance(eta, str) else eta
    except ValueError:
        moment = None
    if not isinstance(moment, datetime):
        raise InvalidDelay(f"an eta must be a datetime or an ISO 8601 string, got {eta!r}")
    return moment
