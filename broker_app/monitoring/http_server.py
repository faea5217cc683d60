"""HTTP server for metrics: the standard library's threading server, with a routing table.

It adds a deadline for reading a complete request, and protection against slow clients.
"""

from __future__ import annotations

import base64
import hmac
import io
import logging
import re
import socket
import ssl
import sys
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from broker_app.errors import MetricsError
from broker_app.monitoring.hosts import KnownHosts
from broker_app.monitoring.http_messages import MAX_BODY_BYTES, HttpRequest, HttpResponse, as_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker_app.monitoring.http_messages import HttpRoute
    from broker_app.settings import MetricsSettings

REQUEST_SECONDS = 10.0
"""Deadline for receiving a complete request, including the TLS handshake; the same applies to each send of the
response."""

MAX_REQUESTS = 32
"""Concurrent requests. At the limit, the connection with the oldest incomplete request is closed to make room."""

_ROOM_SECONDS = 1.0
"""Maximum time a new request waits for the thread of a closed connection to end."""

_POLL_SECONDS = 0.05

_LENGTH = re.compile(r"[0-9]{1,12}")

logger = logging.getLogger(__name__)


class MetricsServer:
    """Serves the routing table; listens as soon as it is created.

    Args:
        settings: Address, credentials, certificate, and accepted host names.

    Raises:
        MetricsError: The address is unavailable, or the certificate is unusable.
    """

    def __init__(self, settings: MetricsSettings) -> None:
        self._tls = _tls(settings)
        where = f"{settings.host}:{settings.port}"
        try:
            family, *_ = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
            self._server = _Server(family, (settings.host, settings.port), self._tls)
        except (OSError, UnicodeError) as error:
            raise MetricsError(
                f"metrics: expected {where} to be a free address of this host, got: {error}; stop the "
                f"process that listens there, or set metrics.host and metrics.port"
            ) from error
        self._server.token = _token(settings)
        self._server.hosts = KnownHosts(settings)

    @property
    def url(self) -> str:
        """Base URL of the server."""
        host, port = self._server.server_address[:2]
        host = host.decode() if isinstance(host, bytes) else str(host)
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def port(self) -> int:
        """Port that the server listens on."""
        return int(self._server.server_address[1])

    def serve(self, routes: Mapping[str, HttpRoute]) -> None:
        """Serve requests until `close` is called from another thread.

        Args:
            routes: Routes by path.
        """
        self._server.routes = dict(routes)
        self._server.serve_forever(poll_interval=_POLL_SECONDS)

    def close(self) -> None:
        """Stop the server; call only while `serve` runs."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """Accepts connections; each TLS handshake runs in the thread of its connection."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, family: int, address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
        self.address_family = family  # AF_INET6 for an IPv6 address
        self.routes: dict[str, HttpRoute] = {}
        self.token: bytes | None = None
        self.hosts: KnownHosts
        self._room = threading.BoundedSemaphore(MAX_REQUESTS)
        self._sending: dict[socket.socket, None] = {}  # connections with an incomplete request, oldest first
        self._lock = threading.Lock()
        self._tls = tls
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[Any, Any]:
        """Accept the next connection."""
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle the request in a thread, closing the slowest connection if the limit is reached."""
        if self._has_room():
            with self._lock:
                self._sending[request] = None
            super().process_request(request, client_address)
        else:
            logger.warning("refused a request from %s: %d requests in progress", client_address, MAX_REQUESTS)
            self.shutdown_request(request)

    def is_complete(self, request: Any) -> None:
        """Mark a request as fully read, so that its connection is no longer closed to make room."""
        with self._lock:
            self._sending.pop(request, None)

    def _has_room(self) -> bool:
        """Acquire a slot, closing the slowest connection if necessary; return whether that succeeded."""
        if self._room.acquire(blocking=False):
            return True
        with self._lock:
            slowest = next(iter(self._sending), None)
            if slowest is not None:
                del self._sending[slowest]
                with suppress(OSError):  # the client has disconnected
                    socket.socket.shutdown(slowest, socket.SHUT_RDWR)  # its thread wakes up
        return self._room.acquire(timeout=_ROOM_SECONDS)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle one request and release its slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.is_complete(request)
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a client that disconnected or did not speak HTTP."""
        del request
        logger.debug("connection from %s: %r", client_address, sys.exception())


class _Handler(BaseHTTPRequestHandler):
    """Handles one request."""

    timeout = REQUEST_SECONDS
    server_version = "broker-app"
    sys_version = ""
    server: _Server

    def setup(self) -> None:
        """Apply the deadline to the complete request instead of to each read."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Requests(self.connection, REQUEST_SECONDS))

    def do_GET(self) -> None:
        """Handle GET."""
        self._send(self._response("GET"))

    def do_HEAD(self) -> None:
        """Handle HEAD: a GET without the body."""
        self._send(self._response("GET"))

    def do_POST(self) -> None:
        """Handle POST."""
        self._send(self._response("POST"))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Log at debug level: scrapes arrive every few seconds."""
        logger.debug(format, *args)

    def _response(self, method: str) -> HttpResponse:
        try:
            url = urlsplit(self.path)
        except ValueError:
            return HttpResponse("expected a path\n", status=HTTPStatus.BAD_REQUEST)
        route = self.server.routes.get(url.path)
        if (refusal := self._refusal(route)) is not None:
            return refusal
        if route is None:
            known = " ".join(sorted(self.server.routes))
            return HttpResponse(f"not found; available paths: {known}\n", status=HTTPStatus.NOT_FOUND)
        if method not in route.methods:
            return HttpResponse(f"expected {' or '.join(route.methods)}\n", status=HTTPStatus.METHOD_NOT_ALLOWED)
        body = self._body()
        if body is None:
            return HttpResponse("the body is too long\n", status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        self.server.is_complete(self.connection)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query, client = dict(parse_qsl(url.query)), str(self.client_address[0])
        return _answer(route, HttpRequest(method, url.path, query, headers, body, client))

    def _refusal(self, route: HttpRoute | None) -> HttpResponse | None:
        """Return the refusal of a request, None if it is allowed. Unknown paths need authentication too."""
        is_open = route is not None and route.is_open
        is_login = self._is_login()
        if not is_open and self.server.token is not None and not is_login:
            return _UNAUTHORIZED
        problem = "" if is_login else self.server.hosts.problem(self.headers.get("Host", ""))
        return as_json({"problem": problem}, HTTPStatus.FORBIDDEN) if problem else None

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        if not _LENGTH.fullmatch(length) or int(length) > MAX_BODY_BYTES:
            return None
        return self.rfile.read(int(length))

    def _is_login(self) -> bool:
        token = self.server.token
        given = self.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        return token is not None and hmac.compare_digest(given, token)

    def _send(self, response: HttpResponse) -> None:
        body = response.body
        if isinstance(body, str):
            body = body.encode("utf-8", "backslashreplace")
        self.connection.settimeout(REQUEST_SECONDS)
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Requests(io.RawIOBase):
    """Reads from a socket with one deadline for the complete request; a socket timeout restarts with each read."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._give_up = time.monotonic() + seconds

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the available bytes.

        Raises:
            TimeoutError: The deadline has passed.
        """
        left = self._give_up - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


def _answer(route: HttpRoute, request: HttpRequest) -> HttpResponse:
    try:
        return route.answer(request)
    except Exception:
        logger.exception("%s %s", request.method, request.path)
        return HttpResponse(
            "internal error; the server's log has the details\n", status=HTTPStatus.INTERNAL_SERVER_ERROR
        )


_UNAUTHORIZED = HttpResponse(
    "401: basic authentication required\n",
    status=HTTPStatus.UNAUTHORIZED,
    headers={"WWW-Authenticate": 'Basic realm="broker-app", charset="UTF-8"'},
)


def _token(settings: MetricsSettings) -> bytes | None:
    """Return the expected Authorization header (RFC 7617), None if no authentication is required."""
    if settings.username is None or settings.password is None:
        return None
    login = f"{settings.username}:{settings.password.get_secret_value()}".encode()
    return b"Basic " + base64.b64encode(login)


def _tls(settings: MetricsSettings) -> ssl.SSLContext | None:
    if settings.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.certificate, settings.certificate_key)
    except (OSError, ssl.SSLError) as error:
        raise MetricsError(
            f"metrics.certificate: expected PEM files of a certificate and its key, got: {error}; correct it"
        ) from error
    return context
