"""The sample tasks: arithmetic to try things out, and I/O to wait for."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from broker_app.app import app
from broker_app.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from http.client import HTTPResponse

CHUNK_BYTES = 64 * 1024
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
    """Wait without using the processor, as a stand-in for I/O when measuring; return the seconds.

    Raises:
        ValueError: Not 0..3600.
    """
    if not 0 <= seconds <= MAX_SLEEP_SECONDS:
        raise ValueError(f"sleep: seconds must be 0..{MAX_SLEEP_SECONDS:g}, got {seconds!r}")
    time.sleep(seconds)
    return seconds


@app.task(bind=True)
def fetch(self: Any, url: str) -> dict[str, Any]:
    """Download a URL, keeping nothing but its facts; the body is streamed, never held whole.

    Args:
        self: The bound task, for its app's settings.
        url: ``http://`` or ``https://``; redirects are followed.

    Returns:
        ``url``, ``status`` (int), ``bytes`` (int), ``sha256`` (hex) and ``seconds`` (float).

    Raises:
        FetchError: Not such a URL, no connection, a status of 400 and above, or over a limit of the
            settings (``fetch.max_bytes``, ``fetch.timeout_seconds``); the text says where and why.
    """
    if urlsplit(url).scheme not in {"http", "https"}:
        raise FetchError(f"fetch {url}: expected an http:// or https:// URL")
    limits = self.app.settings.fetch
    started = time.monotonic()
    try:
        request = Request(url, headers={"User-Agent": "broker-app"})  # noqa: S310 - the scheme is checked above
        with urlopen(request, timeout=limits.timeout_seconds) as response:  # noqa: S310
            size, digest = _read(response, url, limits.max_bytes, started + limits.timeout_seconds)
            status = response.status
    except (URLError, OSError) as error:
        raise FetchError(f"fetch {url}: {error}") from error
    return {
        "url": url,
        "status": status,
        "bytes": size,
        "sha256": digest,
        "seconds": round(time.monotonic() - started, 6),
    }


def _read(response: HTTPResponse, url: str, max_bytes: int, deadline: float) -> tuple[int, str]:
    """Read to the end and return the size and the SHA-256; ``read1`` returns what is there, so time is kept."""
    size, digest = 0, hashlib.sha256()
    while chunk := response.read1(CHUNK_BYTES):
        size += len(chunk)
        digest.update(chunk)
        if size > max_bytes:
            raise FetchError(f"fetch {url}: over {max_bytes} bytes (fetch.max_bytes)")
        if time.monotonic() > deadline:
            raise FetchError(f"fetch {url}: not done in time (fetch.timeout_seconds), {size} bytes came")
    return size, digest.hexdigest()
