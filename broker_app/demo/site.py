"""A small web site on this machine that answers slowly: the I/O that the demo's tasks wait for.

Run as a program it serves a socket that it inherits: ``python site.py DESCRIPTOR LATENCY_SECONDS KEY``. It needs
the standard library only, and serves until somebody who knows the key asks for ``/stop/KEY``.
"""

from __future__ import annotations

import socket
import sys
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MISSING = "/missing/"
"""Paths below it answer 404."""

STOP = "/stop/"
"""Before the key: ends the site. With another key it is a page as any other."""

ALIVE = "/alive/"
"""Before the key: answers 204, as nothing else does."""


class Site(ThreadingHTTPServer):
    """Serves a page for every path, after a pause.

    Args:
        listener: A socket that listens.
        latency_seconds: The pause before each answer.
        key: As part of a path, what `STOP` and `ALIVE` want to hear.
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
        """Answer with a page of some kilobytes, or 404."""
        if self.path == ALIVE + self.server.key:
            self._answer(HTTPStatus.NO_CONTENT)
        elif self.path == STOP + self.server.key:
            self._answer(HTTPStatus.NO_CONTENT)
            self.server.shutdown()  # it is served in a thread of its own, so this can wait
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
        """Keep quiet: the demo shows what happens."""


if __name__ == "__main__":
    Site(socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2]), sys.argv[3]).serve_forever()
