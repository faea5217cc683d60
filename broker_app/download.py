"""HTTP downloads: streamed, with limits on size and total time that include redirects and slow headers."""

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
    """The facts of a finished download.

    Attributes:
        status: HTTP status, below 400.
        size_bytes: Size of the body.
        sha256: SHA-256 of the body, in hex.
    """

    status: int
    size_bytes: int
    sha256: str


def download(url: str, timeout_seconds: float, max_bytes: int) -> Download:
    """Download a URL, discard the body, and return its facts.

    Args:
        url: ``http://`` or ``https://``, without user and password; redirects to such URLs are followed.
        timeout_seconds: Time limit of the entire download, except for DNS lookups.
        max_bytes: Size limit of the body.

    Raises:
        FetchError: The URL is invalid, the connection failed, the status is 400 or above, the body is incomplete,
            or a limit was exceeded; the text says where and why.
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
    """Read the body and return its size and SHA-256."""
    size, digest = 0, hashlib.sha256()
    while chunk := response.read(CHUNK_BYTES):
        size += len(chunk)
        digest.update(chunk)
        if size > max_bytes:
            raise FetchError(f"fetch {url}: over {max_bytes} bytes (fetch.max_bytes)")
    if response.length:  # http.client treats the end of the connection as the end of the body
        raise FetchError(f"fetch {url}: cut off after {size} of {size + response.length} bytes")
    return size, digest.hexdigest()


def _opener(deadline: float) -> urllib_request.OpenerDirector:
    """Return an opener for HTTP and HTTPS only; urllib's default opener follows redirects to ``ftp://``."""
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
    # the type says class, but http.client only calls it
    connection.response_class = partial(_TimedResponse, deadline)  # type: ignore[assignment]
    return connection


class _TimedResponse(HTTPResponse):
    def __init__(self, deadline: float, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, deadline))


class _TimedReader(io.RawIOBase):
    """Limits each read to the remaining time, because a socket's own timeout restarts with every byte."""

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
