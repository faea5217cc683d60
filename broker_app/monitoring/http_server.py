"""The HTTP server of the metrics: the standard library's, one thread a request, paths in a table.

What it adds is a bound for the whole of a request, and room for those who send theirs at once.
"""

from __future__ import annotations

import base64
import hmac
import io
import json
import logging
import re
import socket
import ssl
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from broker_app.errors import MetricsError
from broker_app.monitoring.hosts import KnownHosts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker_app.settings import MetricsSettings

REQUEST_SECONDS = 10.0
"""How long a client may take for its whole request, the TLS handshake included; and as long to take the answer."""

MAX_REQUESTS = 32
"""At once; for a further one the connection that has been sending its request for the longest is closed."""

_ROOM_SECONDS = 1.0
"""How long a further one waits until a thread has noticed that its connection is closed."""

MAX_BODY_BYTES = 64 * 1024

_POLL_SECONDS = 0.05

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

_LENGTH = re.compile(r"[0-9]{1,12}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What a client asks for.

    Attributes:
        method: ``GET`` or ``POST``; ``HEAD`` comes as ``GET``.
        path: Without the query.
        query: The last value of each name.
        headers: Their names in lower case.
        body: At most `MAX_BODY_BYTES`.
        client: Its address.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    client: str = ""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What it gets.

    Attributes:
        body: In UTF-8.
        content_type: Of it.
        status: HTTP's.
        headers: More of them.
    """

    body: str
    content_type: str = TEXT
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """One path.

    Attributes:
        answer: Makes the response.
        methods: That it takes.
        is_open: Whether it is answered without a password.
    """

    answer: Callable[[HttpRequest], HttpResponse]
    methods: tuple[str, ...] = ("GET",)
    is_open: bool = False


def as_json(value: object, status: HTTPStatus = HTTPStatus.OK) -> HttpResponse:
    """Return a value as a response."""
    return HttpResponse(json.dumps(value) + "\n", JSON, status)


class MetricsServer:
    """Listens from when it is made.

    Args:
        settings: Where, and whom it answers.

    Raises:
        MetricsError: The address cannot be had, or the certificate cannot be used.
    """

    def __init__(self, settings: MetricsSettings) -> None:
        self._tls = _tls(settings)
        where = f"{settings.host}:{settings.port}"
        try:
            family, *_ = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
            self._server = _Server(family, (settings.host, settings.port), self._tls)
        except (OSError, UnicodeError) as error:
            raise MetricsError(
                f"metrics: expected {where} to be an address of this host that is free, got: {error}; stop what "
                f"listens there, or set metrics.host and metrics.port"
            ) from error
        self._server.token = _token(settings)
        self._server.hosts = KnownHosts(settings)

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._server.server_address[:2]
        host = host.decode() if isinstance(host, bytes) else str(host)
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def serve(self, routes: Mapping[str, HttpRoute]) -> None:
        """Answer until `close` is called from another thread.

        Args:
            routes: By path.
        """
        self._server.routes = dict(routes)
        self._server.serve_forever(poll_interval=_POLL_SECONDS)

    def close(self) -> None:
        """Stop answering; only while `serve` runs."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """Takes connections; a TLS handshake is left to the connection's own thread."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, family: int, address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
        self.address_family = family  # an IPv6 address needs it
        self.routes: dict[str, HttpRoute] = {}
        self.token: bytes | None = None
        self.hosts: KnownHosts
        self._room = threading.BoundedSemaphore(MAX_REQUESTS)
        self._sending: dict[socket.socket, None] = {}  # whose request is not complete, the first first
        self._lock = threading.Lock()
        self._tls = tls
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[Any, Any]:
        """Return the next connection."""
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread. Clients that take their time make room: they cannot keep the others out."""
        if self._has_room():
            with self._lock:
                self._sending[request] = None
            super().process_request(request, client_address)
        else:
            logger.warning("%d requests are being answered: one from %s is refused", MAX_REQUESTS, client_address)
            self.shutdown_request(request)

    def is_complete(self, request: Any) -> None:
        """Take note that a request has been read: its connection is not closed for another's sake any more."""
        with self._lock:
            self._sending.pop(request, None)

    def _has_room(self) -> bool:
        """Return whether there is a thread for one more, after the slowest sender has left if need be."""
        if self._room.acquire(blocking=False):
            return True
        with self._lock:
            slowest = next(iter(self._sending), None)
            if slowest is not None:
                del self._sending[slowest]
                with suppress(OSError):  # it has left by itself
                    socket.socket.shutdown(slowest, socket.SHUT_RDWR)  # its thread wakes up
        return self._room.acquire(timeout=_ROOM_SECONDS)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.is_complete(request)
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note a client that went away, or spoke something else."""
        del request
        logger.debug("connection from %s: %r", client_address, sys.exception())


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    timeout = REQUEST_SECONDS
    server_version = "broker-app"
    sys_version = ""
    server: _Server

    def setup(self) -> None:
        """Prepare to read: the bound holds for the whole request, not for each part of it."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Requests(self.connection, REQUEST_SECONDS))

    def do_GET(self) -> None:
        """Answer."""
        self._send(self._response("GET"))

    def do_HEAD(self) -> None:
        """Answer without the body."""
        self._send(self._response("GET"))

    def do_POST(self) -> None:
        """Answer."""
        self._send(self._response("POST"))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Log for whom it looks for it: a scrape every few seconds is no news."""
        logger.debug(format, *args)

    def _response(self, method: str) -> HttpResponse:
        try:
            place = urlsplit(self.path)
        except ValueError:
            return HttpResponse("expected a path\n", status=HTTPStatus.BAD_REQUEST)
        route = self.server.routes.get(place.path)
        if (refusal := self._refusal(route)) is not None:
            return refusal
        if route is None:
            known = " ".join(sorted(self.server.routes))
            return HttpResponse(f"not found; there is: {known}\n", status=HTTPStatus.NOT_FOUND)
        if method not in route.methods:
            return HttpResponse(f"expected {' or '.join(route.methods)}\n", status=HTTPStatus.METHOD_NOT_ALLOWED)
        body = self._body()
        if body is None:
            return HttpResponse("the body is too long\n", status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        self.server.is_complete(self.connection)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query, client = dict(parse_qsl(place.query)), str(self.client_address[0])
        return _answer(route, HttpRequest(method, place.path, query, headers, body, client))

    def _refusal(self, route: HttpRoute | None) -> HttpResponse | None:
        """Return why a client gets nothing; what there is not is nobody's business either."""
        is_open = route is not None and route.is_open
        is_login = self._is_login()
        if not is_open and self.server.token is not None and not is_login:
            return _WHO
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
        body = response.body.encode("utf-8", "backslashreplace")
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
    """What a client sends, within a bound for all of it: a socket's own time-out begins anew with each byte."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._give_up = time.monotonic() + seconds

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has come.

        Raises:
            TimeoutError: The time is over.
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
        return HttpResponse("it failed; the log says why\n", status=HTTPStatus.INTERNAL_SERVER_ERROR)


_WHO = HttpResponse(
    "401: basic authentication required\n",
    status=HTTPStatus.UNAUTHORIZED,
    headers={"WWW-Authenticate": 'Basic realm="broker-app", charset="UTF-8"'},
)


def _token(settings: MetricsSettings) -> bytes | None:
    """Return the header that lets somebody in (RFC 7617), None for everybody."""
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
