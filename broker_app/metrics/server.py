"""The HTTP server of the metrics: a small one of the standard library, one thread a request, paths in a table."""

from __future__ import annotations

import base64
import hmac
import json
import logging
import socket
import ssl
import sys
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from broker_app.errors import MetricsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker_app.settings import MetricsSettings

IDLE_SECONDS = 10.0
"""How long a client may take to say what it wants, and to take the answer."""

MAX_REQUESTS = 32
"""At once; a further one is turned away."""

MAX_BODY_BYTES = 64 * 1024

_POLL_SECONDS = 0.05

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
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
class Response:
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
class Route:
    """One path.

    Attributes:
        answer: Makes the response.
        methods: That it takes.
        is_open: Whether it is answered without a password.
    """

    answer: Callable[[Request], Response]
    methods: tuple[str, ...] = ("GET",)
    is_open: bool = False


def as_json(value: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return a value as a response."""
    return Response(json.dumps(value) + "\n", JSON, status)


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

    def serve(self, routes: Mapping[str, Route]) -> None:
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

    def __init__(self, family: int, address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
        self.address_family = family  # an IPv6 address needs it
        self.routes: dict[str, Route] = {}
        self.token: bytes | None = None
        self._room = threading.BoundedSemaphore(MAX_REQUESTS)
        self._tls = tls
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[Any, Any]:
        """Return the next connection."""
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if there is one left."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            logger.warning(
                "more than %d requests at once: one from %s is turned away", MAX_REQUESTS, client_address
            )
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note a client that went away, or spoke something else."""
        del request
        logger.debug("connection from %s: %r", client_address, sys.exception())


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    timeout = IDLE_SECONDS
    server_version = "broker-app"
    sys_version = ""
    server: _Server

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

    def _response(self, method: str) -> Response:
        place = urlsplit(self.path)
        route = self.server.routes.get(place.path)
        is_open = route is not None and route.is_open  # what there is not is nobody's business either
        if not is_open and not self._is_allowed():
            return _WHO
        if route is None:
            known = " ".join(sorted(self.server.routes))
            return Response(f"not found; there is: {known}\n", status=HTTPStatus.NOT_FOUND)
        if method not in route.methods:
            return Response(f"expected {' or '.join(route.methods)}\n", status=HTTPStatus.METHOD_NOT_ALLOWED)
        body = self._body()
        if body is None:
            return Response("the body is too long\n", status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            query, client = dict(parse_qsl(place.query)), str(self.client_address[0])
            return route.answer(Request(method, place.path, query, headers, body, client))
        except Exception:
            logger.exception("%s %s", method, place.path)
            return Response("it failed; the log says why\n", status=HTTPStatus.INTERNAL_SERVER_ERROR)

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return None
        return self.rfile.read(int(length))

    def _is_allowed(self) -> bool:
        token = self.server.token
        given = self.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        return token is None or hmac.compare_digest(given, token)

    def _send(self, response: Response) -> None:
        body = response.body.encode("utf-8", "backslashreplace")
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


_WHO = Response(
    "user and password, please\n",
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
