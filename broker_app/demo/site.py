"""A small, slow local web site: the I/O that the demo's tasks wait for.

As a program it serves an inherited socket: ``python site.py DESCRIPTOR LATENCY_SECONDS KEY``. It only needs the
standard library, and runs until it receives a request for ``/stop/KEY``.
"""

from __future__ import annotations

import socket
import sys
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MISSING = "/missing/"
"""Paths with this prefix return 404."""

STOP = "/stop/"
"""Followed by the key: stops the site. With another key, an ordinary page."""

ALIVE = "/alive/"
"""Followed by the key: returns 204, which no other page does."""


class Site(ThreadingHTTPServer):
    """Serves a page for every path, after a delay.

    Args:
        listener: The listening socket.
        latency_seconds: The delay before each response.
        key: The key for `STOP` and `ALIVE`.
    """

    daemon_threads = True

    def __init__(self, listener: socket.socket, latency_seconds: float, key: str) -> None:
        self.latency_seconds = latency_seconds
        self.key = key
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        """Respond with a page of a few kilobytes, or 404."""
        if self.path == ALIVE + self.server.key:
            self._answer(HTTPStatus.NO_CONTENT)
        elif self.path == STOP + self.server.key:
            self._answer(HTTPStatus.NO_CONTENT)
            self.server.shutdown()  # may block: requests run in their own threads
        else:
            time.sleep(self.server.latency_seconds)
            if self.path.startswith(MISSING):
                self._answer(HTTPStatus.NOT_FOUND)
            else:
                self._answer(HTTPStatus.OK, f"<title>{self.path}</title>".encode() * 100)

    def _answer(self, status: HTTPStatus, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's signature
        """Log nothing: the demo shows the progress."""


if __name__ == "__main__":
    Site(socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2]), sys.argv[3]).serve_forever()
