"""A small web site on this machine that answers slowly: the I/O that the demo's tasks wait for.

Run as a module it serves until somebody asks for `STOP`: ``python -m broker_app.demo.site PORT LATENCY_SECONDS``.
"""

from __future__ import annotations

import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MISSING = "/missing/"
"""Paths below it answer 404."""

STOP = "/stop"
"""Asked for, it ends the site: whoever may reach it is on this machine."""


class Site(ThreadingHTTPServer):
    """Serves a page for every path, after a pause, on the loopback interface.

    Args:
        port: 0 for any free one.
        latency_seconds: The pause before each answer.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, latency_seconds: float) -> None:
        self.latency_seconds = latency_seconds
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        """Answer with a page of some kilobytes, or 404."""
        if self.path == STOP:
            threading.Thread(target=self.server.shutdown).start()
        time.sleep(self.server.latency_seconds)
        is_missing = self.path.startswith(MISSING)
        body = b"" if is_missing else f"<title>{self.path}</title>".encode() * 100
        self.send_response(HTTPStatus.NOT_FOUND if is_missing else HTTPStatus.OK)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's signature
        """Keep quiet: the demo shows what happens."""


if __name__ == "__main__":
    Site(int(sys.argv[1]), float(sys.argv[2])).serve_forever()
