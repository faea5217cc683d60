"""The process of the slow web site, which a kept demo leaves running."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from broker_app.demo import site
from broker_app.errors import BrokerAppError
from broker_app.settings.private_files import open_private

if TYPE_CHECKING:
    from pathlib import Path

LATENCY_SECONDS = 0.05
DEFAULT_PORT = 8731

_HOST = "127.0.0.1"
_BACKLOG = 128
_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_ANSWER_SECONDS = 5.0
_PAUSE_SECONDS = 0.02

_opener = build_opener(ProxyHandler({}))  # no HTTP proxy: the site is on this machine


def listen(port: int | None) -> socket.socket:
    """Return a listening socket on a port; if None, on the default port, or on any free one if that is taken.

    Raises:
        BrokerAppError: The port is taken or not permitted.
    """
    for candidate in (port,) if port else (DEFAULT_PORT, 0):
        try:
            return socket.create_server((_HOST, candidate), backlog=_BACKLOG)
        except OSError as error:
            reason = error.strerror
    raise BrokerAppError(f"--port {port}: expected a free port, got: {reason}; choose another, or omit the option")


def url_of(listener: socket.socket) -> str:
    """Return the URL of a site on a socket."""
    return f"http://{_HOST}:{listener.getsockname()[1]}"


def start(listener: socket.socket, key: str, log: Path) -> None:
    """Start the site on a socket, close the socket here, and wait until the site responds.

    Raises:
        BrokerAppError: The site does not respond in time.
    """
    command = [sys.executable, "-I", site.__file__, str(listener.fileno()), str(LATENCY_SECONDS), key]
    with open(log, "wb", opener=open_private) as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C must not reach the site
        )
    url = url_of(listener)
    listener.close()  # if left open, requests to a dead site would hang
    try:
        _wait(process, url, key, log)
    except BaseException:  # a KeyboardInterrupt must leave nothing running either
        process.kill()
        process.wait()
        raise


def is_alive(url: str, key: str) -> bool:
    """Return whether this site responds at the URL, rather than another program on the port."""
    return _ask(f"{url}{site.ALIVE}{key}")


def stop(url: str, key: str) -> None:
    """Stop the site and wait until its port is closed; do nothing if it is gone."""
    if not _ask(f"{url}{site.STOP}{key}"):
        return
    deadline = time.monotonic() + _STOP_SECONDS
    while _is_open(url) and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)


def _wait(process: subprocess.Popen[bytes], url: str, key: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_alive(url, key):
        if process.poll() is not None or time.monotonic() > deadline:
            raise BrokerAppError(f"site: expected a response within {_START_SECONDS:.0f} s, got none; see {log}")
        time.sleep(_PAUSE_SECONDS)


def _ask(url: str) -> bool:
    try:
        with _opener.open(url, timeout=_ANSWER_SECONDS) as answer:
            return bool(answer.status == HTTPStatus.NO_CONTENT)
    except (OSError, HTTPException):
        return False  # no site, an error page, or not HTTP


def _is_open(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((_HOST, urlsplit(url).port or 0)) == 0
