"""One HTTP download: streamed, bounded in size and in time, redirects and slow headers included."""

from __future__ import annotations

import hashlib
import io
import time
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib import request as urllib_request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from broker_app.errors import FetchError

if TYPE_CHECKING:
    import socket

CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Download:
    """What came.

    Attributes:
        status: HTTP's, below 400.
        size_bytes: Of the body.
        sha256: Of the body, in hex.
    """

    status: int
    size_bytes: int
    sha256: str


def download(url: str, timeout_seconds: float, max_bytes: int) -> Download:
    """Read a URL to its end, keeping nothing but its facts.

    Args:
        url: ``http://`` or ``https://``, without user and password; redirects to such URLs are followed.
        timeout_seconds: Bound of all of it, but the look-up of a host's address.
        max_bytes: Bound of the body.

    Raises:
        FetchError: Not such a URL, no connection, a status of 400 and above, cut off, or over a bound; the text
            says where and why.
    """
    _check(url)
    deadline = time.monotonic() + timeout_seconds
    try:
        with _opener(deadline).open(url, timeout=timeout_seconds) as response:
            size, digest = _read(response, url, max_bytes)
            return Download(response.status, size, digest)
    except HTTPError as error:
        error.close()
        raise FetchError(f"fetch {url}: expected a status below 400, got {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            reason = f"not done in {timeout_seconds:g} s (fetch.timeout_seconds)"
        raise FetchError(f"fetch {url}: {reason or type(reason).__name__}") from error


def _check(url: object) -> None:
    try:
        parts = urlsplit(str(url))
    except ValueError as error:
        raise FetchError(f"fetch: expected an http:// or https:// URL, got {url!r}: {error}") from error
    if parts.username is not None or parts.password is not None:
        raise FetchError(f"fetch {parts.hostname}: expected a URL without user and password; leave them out")
    if not isinstance(url, str) or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise FetchError(f"fetch: expected an http:// or https:// URL, got {url!r}")


def _read(response: HTTPResponse, url: str, max_bytes: int) -> tuple[int, str]:
    """Read to the end and return the size and the SHA-256."""
    size, digest = 0, hashlib.sha256()
    while chunk := response.read(CHUNK_BYTES):
        size += len(chunk)
        digest.update(chunk)
        if size > max_bytes:
            raise FetchError(f"fetch {url}: over {max_bytes} bytes (fetch.max_bytes)")
    if response.length:  # http.client takes the end of the connection for the end of the body
        raise FetchError(f"fetch {url}: cut off after {size} of {size + response.length} bytes")
    return size, digest.hexdigest()


def _opener(deadline: float) -> urllib_request.OpenerDirector:
    """Return an opener for HTTP alone: urllib's own follows a redirect to ``ftp://``."""
    opener = urllib_request.OpenerDirector()
    for handler in (
        urllib_request.ProxyHandler(),
        urllib_request.UnknownHandler(),
        urllib_request.HTTPDefaultErrorHandler(),
        urllib_request.HTTPRedirectHandler(),
        urllib_request.HTTPErrorProcessor(),
        _Http(deadline),
        _Https(deadline),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "broker-app")]
    return opener


class _Http(urllib_request.HTTPHandler):
    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib_request.Request) -> HTTPResponse:
        return self.do_open(partial(_connect, HTTPConnection, self._deadline), req)


class _Https(urllib_request.HTTPSHandler):
    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, req: urllib_request.Request) -> HTTPResponse:
        return self.do_open(partial(_connect, HTTPSConnection, self._deadline), req)


def _connect(kind: type[HTTPConnection], deadline: float, host: str, **options: Any) -> HTTPConnection:
    connection = kind(host, **dict(options, timeout=_left(deadline)))
    # typed as a class; http.client only calls it
    connection.response_class = partial(_TimedResponse, deadline)  # type: ignore[assignment]
    return connection


class _TimedResponse(HTTPResponse):
    def __init__(self, deadline: float, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, deadline))


class _TimedReader(io.RawIOBase):
    """Gives each read what is left of the time: a socket's own time-out starts anew with every byte."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self._raw, self._sock, self._deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
