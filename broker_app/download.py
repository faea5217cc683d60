"""HTTP downloads: streamed, with limits on size and total time that include redirects and slow headers.

httpx looks at all connections of a client for each request, which with hundreds of them costs more than the
download. So a client makes one download at a time, and then waits for the next one with its open connections.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import ssl
from collections import deque
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

from broker_app.errors import FetchError, shortened

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    import httpx

MAX_REDIRECTS = 10

MAX_IDLE_CLIENTS = 32
"""Clients of a loop that wait for the next download; more are closed."""

KEEPALIVE_SECONDS = 1.0
"""Connections that were idle longer are not used again: web servers close them after a few seconds."""

_is_downloading: ContextVar[bool] = ContextVar("broker_app_is_downloading", default=False)


@dataclass(frozen=True, slots=True)
class Download:
    """The facts of a finished download.

    Attributes:
        status: HTTP status, 200 to 299.
        size_bytes: Size of the body.
        sha256: SHA-256 of the body, in hex.
    """

    status: int
    size_bytes: int
    sha256: str


async def download(url: str, timeout_seconds: float, max_bytes: int) -> Download:
    """Download a URL, discard the body, and return its facts.

    Args:
        url: ``http://`` or ``https://``, without user and password; up to 10 redirects to such URLs are followed.
        timeout_seconds: Time limit of the entire download.
        max_bytes: Size limit of the body, and of the body of each redirect.

    Raises:
        FetchError: The URL is invalid, the connection failed, the status is not 2xx, the body is incomplete,
            or a limit was exceeded; the text says where and why.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            async with _client() as client:
                return await _get(client, url, max_bytes)
    except TimeoutError as error:
        raise FetchError(
            f"fetch {url}: not done in {timeout_seconds:g} s (fetch.timeout_seconds); raise it, or try again later"
        ) from error


async def _get(client: httpx.AsyncClient, url: str, max_bytes: int) -> Download:
    target = _checked(url)
    with _quiet(), _one_error(url):
        for _ in range(MAX_REDIRECTS + 1):
            response = await _send(client, target)
            try:
                following = response.next_request
                if following is None and not response.is_success:
                    got = f"{response.status_code} {response.reason_phrase}"
                    raise FetchError(f"fetch {url}: expected a status 2xx, got {got}; check the URL and its site")
                size, digest = await _read(response, url, max_bytes)
            finally:
                await response.aclose()
            if following is None:
                return Download(response.status_code, size, digest)
            target = _checked(following.url)
    raise FetchError(f"fetch {url}: expected at most {MAX_REDIRECTS} redirects, got more; check the URL")


def _checked(url: httpx.URL | str) -> httpx.URL:
    """Return the URL; an error shows neither user nor password."""
    import httpx  # noqa: PLC0415 - workers that download nothing do not pay for it

    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError):  # its text may be a part of a password
        shown = "a malformed one" if "@" in str(url) else shortened(repr(url))
        raise FetchError(f"fetch: expected a valid http:// or https:// URL, got {shown}") from None
    if parsed.userinfo:
        raise FetchError(f"fetch {parsed.host}: expected a URL without user and password; leave them out")
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise FetchError(f"fetch: expected an http:// or https:// URL, got {shortened(str(url))!r}")
    return parsed


async def _send(client: httpx.AsyncClient, target: httpx.URL) -> httpx.Response:
    """Ask for a URL, again on a new connection if the first fails: the site may just have closed an idle one."""
    import httpx  # noqa: PLC0415 - see _checked

    request = client.build_request("GET", target)
    try:
        return await client.send(request, stream=True)
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
        return await client.send(request, stream=True)


async def _read(response: httpx.Response, url: str, max_bytes: int) -> tuple[int, str]:
    """Read the body and return its size and SHA-256."""
    size, digest = 0, hashlib.sha256()
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > max_bytes:
            raise FetchError(
                f"fetch {url}: over {max_bytes} bytes (fetch.max_bytes); raise it, or do not fetch it"
            )
        digest.update(chunk)
    return size, digest.hexdigest()


@contextmanager
def _one_error(url: str) -> Iterator[None]:
    """Raise what httpx and the layers below it raise as a `FetchError` with the reason."""
    import httpx  # noqa: PLC0415 - see _checked

    try:
        yield
    except TimeoutError:
        raise
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError, ExceptionGroup) as error:
        raise FetchError(f"fetch {url}: {_reason(error)}; check the URL and its site") from error


def _reason(error: BaseException) -> str:
    """Return the text of the first error: those that httpx, httpcore and anyio make of it say less."""
    while (below := _below(error)) is not None:
        error = below
    text = str(error)
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and (error.errno or 0) > 0:
        text = f"[Errno {error.errno}] {os.strerror(error.errno or 0)}"  # asyncio's names the address instead
    return shortened(" ".join(text.split()), 200) or type(error).__name__


def _below(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[0]
    return error.__cause__ or error.__context__


@asynccontextmanager
async def _client() -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the running loop, for one download."""
    idle = await _idle_clients()
    client = idle.pop() if idle else _new_client()
    try:
        yield client
    finally:
        if len(idle) < MAX_IDLE_CLIENTS:
            idle.append(client)
        else:
            await client.aclose()


async def _idle_clients() -> deque[httpx.AsyncClient]:
    """Return the clients of the running loop: no other loop, and so no forked process, uses their sockets."""
    loop = asyncio.get_running_loop()
    if loop not in _loops:
        await asyncio.to_thread(_tls)  # it takes too long for the loop
        for closed in [other for other in list(_loops) if other.is_closed()]:
            _loops.pop(closed, None)
    if loop not in _loops:
        idle: deque[httpx.AsyncClient] = deque()
        _loops[loop] = idle, _close_with_loop(idle)
        await anext(_loops[loop][1])
    return _loops[loop][0]


async def _close_with_loop(idle: deque[httpx.AsyncClient]) -> AsyncGenerator[None]:
    """Close the clients when the loop ends its asynchronous generators, as ``asyncio.run`` does."""
    try:
        yield
    finally:
        while idle:
            await idle.pop().aclose()


def _new_client() -> httpx.AsyncClient:
    import httpx  # noqa: PLC0415 - see _checked

    return httpx.AsyncClient(
        verify=_tls(),
        timeout=None,  # noqa: S113 - `download` limits the time
        headers={"User-Agent": "broker-app", "Accept-Encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        limits=httpx.Limits(max_keepalive_connections=2, keepalive_expiry=KEEPALIVE_SECONDS),
    )


@cache
def _tls() -> ssl.SSLContext:
    """Return the system's certificates, once httpx is imported and its logger is set up."""
    import httpx  # noqa: F401, PLC0415 - see _checked

    logging.getLogger("httpx").addFilter(lambda _record: not _is_downloading.get())
    return ssl.create_default_context()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep a line for each request, with its URL, out of the worker's log."""
    token = _is_downloading.set(True)
    try:
        yield
    finally:
        _is_downloading.reset(token)


_loops: dict[asyncio.AbstractEventLoop, tuple[deque[Any], AsyncGenerator[None]]] = {}
