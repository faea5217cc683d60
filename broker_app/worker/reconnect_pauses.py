"""Reconnect pauses: after a refused connection, such as a wrong login, retries slow down and log once a minute."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from broker_app.wire.connection import LONGEST_PAUSE_SECONDS
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Callable

LOG_SECONDS = 60.0
"""Shortest interval between two log lines about refusals."""

logger = logging.getLogger(__name__)


class Refusals:
    """Pauses after each refusal: 1 s, then one second longer each time, up to `LONGEST_PAUSE_SECONDS`.

    Celery retries a refused login at once, several times a second, and logs each attempt.
    """

    def __init__(self) -> None:
        self._pause_seconds = 0
        self._logged_at = float("-inf")

    def wait(self, where: str, error: Exception, stop: Callable[[], object]) -> None:
        """Pause, and log the refusal unless one was logged within `LOG_SECONDS`.

        Args:
            where: URL of the broker, without the password.
            error: The broker's answer.
            stop: Called once a second; raises if the worker must shut down.
        """
        self._pause_seconds = min(self._pause_seconds + 1, LONGEST_PAUSE_SECONDS)
        if time.monotonic() - self._logged_at >= LOG_SECONDS:
            self._logged_at = time.monotonic()
            logger.error(
                "%s refused the connection: %s; trying again, at most every %d s (logged once a minute)",
                where,
                error_text(error),
                LONGEST_PAUSE_SECONDS,
            )
        for _ in range(self._pause_seconds):
            stop()
            time.sleep(1.0)

    def forget(self) -> None:
        """Reset the pauses after a successful connection."""
        self._pause_seconds = 0
