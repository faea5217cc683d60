"""Cache of the broker's figures: limits how often they are read and how long a caller waits."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDoneError
from typing import TYPE_CHECKING

from broker_app.monitoring.broker_reader import BrokerNumbers

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


class BrokerCache:
    """Reads the figures in a background thread, on demand, once the cached ones have expired.

    Args:
        read: Reads the figures; may be slow.
        cache_seconds: Age at which cached figures expire.
        timeout_seconds: Maximum time a caller waits for fresh figures.
    """

    def __init__(self, read: Callable[[], BrokerNumbers], *, cache_seconds: float, timeout_seconds: float) -> None:
        self._read = read
        self._cache_seconds = cache_seconds
        self._timeout_seconds = timeout_seconds
        self._lock = (
            threading.RLock()
        )  # reentrant: add_done_callback calls `_keep` at once if the read has finished
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="broker")
        self._running: Future[BrokerNumbers] | None = None
        self._last = BrokerNumbers(is_up=False, problem="it has not been read yet")
        self._read_at = float("-inf")

    def numbers(self) -> tuple[BrokerNumbers, float]:
        """Return the figures and their age in seconds.

        If the broker does not answer within ``timeout_seconds``, it is reported as down.
        """
        with self._lock:
            if self._running is None and time.monotonic() - self._read_at >= self._cache_seconds:
                self._running = self._thread.submit(self._look)
                self._running.add_done_callback(self._keep)
            running = self._running
        if running is None:
            return self._last, self._age()
        try:
            return running.result(self._timeout_seconds), 0.0
        except NotDoneError:
            problem = f"it did not answer within {self._timeout_seconds:g} s"
            return BrokerNumbers(is_up=False, seconds=self._last.seconds, problem=problem), self._age()

    def close(self) -> None:
        """Stop the background thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _look(self) -> BrokerNumbers:
        """Read the figures; report the broker as down on any exception."""
        try:
            return self._read()
        except Exception as error:
            logger.exception("the broker's figures cannot be read")
            return BrokerNumbers(is_up=False, problem=str(error))

    def _keep(self, done: Future[BrokerNumbers]) -> None:
        with self._lock:
            self._running = None
            self._read_at = time.monotonic()
            if not done.cancelled():
                self._last = done.result()

    def _age(self) -> float:
        return max(0.0, time.monotonic() - self._read_at) if self._read_at > float("-inf") else 0.0
