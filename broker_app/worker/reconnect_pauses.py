"""Refused connections, such as a wrong login: tried again with growing pauses, logged once a minute."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from broker_app.wire.connection import LONGEST_PAUSE_SECONDS
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Callable

LOG_SECONDS = 60.0
"""At most one line for refusals in this time."""

logger = logging.getLogger(__name__)


class Refusals:
    """Pauses after each refusal: 1 s, then a second more each time, up to `LONGEST_PAUSE_SECONDS`.

    Celery tries a refused login again at once, several times a second, with a line for each.
    """

    def __init__(self) -> None:
        self._pause_seconds = 0
        self._logged_at = float("-inf")

    def wait(self, where: str, error: Exception, stop: Callable[[], object]) -> None:
        """Pause, and log the refusal if none was logged in `LOG_SECONDS`.

        Args:
            where: The broker, without a password.
            error: Its answer.
            stop: Called each second; raises if the worker shall end.
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
        """Begin with short pauses again: the broker has let it in."""
        self._pause_seconds = 0
