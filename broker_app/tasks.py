"""Sample tasks: simple arithmetic, and tasks that wait or download."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from broker_app.app import app
from broker_app.download import download

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SLEEP_SECONDS = 3_600.0


@app.task
def add(x: float, y: float) -> float:
    """Return the sum of two numbers."""
    return x + y


@app.task
def mul(x: float, y: float) -> float:
    """Return the product of two numbers."""
    return x * y


@app.task
def xsum(numbers: Sequence[float]) -> float:
    """Return the sum of a list of numbers."""
    return sum(numbers)


@app.task
def sleep(seconds: float) -> float:
    """Sleep, to simulate I/O in measurements, and return the seconds.

    Raises:
        ValueError: ``seconds`` is not in 0..3600.
    """
    if not 0 <= seconds <= MAX_SLEEP_SECONDS:
        raise ValueError(f"sleep: seconds must be 0..{MAX_SLEEP_SECONDS:g}, got {seconds!r}")
    time.sleep(seconds)
    return seconds


@app.task(bind=True)
def fetch(self: Any, url: str) -> dict[str, Any]:
    """Download a URL, discard the body, and return its facts; the body is streamed, never held in memory at once.

    Args:
        self: The bound task, for its app's settings.
        url: ``http://`` or ``https://``, without user and password; redirects are followed.

    Returns:
        ``url``, ``status`` (int), ``bytes`` (int), ``sha256`` (hex) and ``seconds`` (float).

    Raises:
        FetchError: The URL is invalid, the connection failed, the status is 400 or above, the body is incomplete,
            or a limit was exceeded (``fetch.max_bytes``, ``fetch.timeout_seconds``); the text says where and why.
    """
    limits = self.app.settings.fetch
    started = time.monotonic()
    found = download(url, limits.timeout_seconds, limits.max_bytes)
    return {
        "url": url,
        "status": found.status,
        "bytes": found.size_bytes,
        "sha256": found.sha256,
        "seconds": round(time.monotonic() - started, 6),
    }
