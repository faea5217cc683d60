"""The slow web site as a process of its own, which a kept demo leaves running."""

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

_opener = build_opener(ProxyHandler({}))  # never through an HTTP proxy: the site is on this machine


def listen(port: int | None) -> socket.socket:
    """Return a socket that listens: on this port; if it is None on the usual one, or if that is taken on another.

    Raises:
        BrokerAppError: The port is taken, or this user may not have it.
    """
    for candidate in (port,) if port else (DEFAULT_PORT, 0):
        try:
            return socket.create_server((_HOST, candidate), backlog=_BACKLOG)
        except OSError as error:
            reason = error.strerror
    raise BrokerAppError(
        f"--port {port}: expected a port that can be had, got: {reason}; choose another, or leave the option out"
    )


def url_of(listener: socket.socket) -> str:
    """Return the URL of the site that serves a socket."""
    return f"http://{_HOST}:{listener.getsockname()[1]}"


def start(listener: socket.socket, key: str, log: Path) -> None:
    """Start the site on a socket and wait until it answers; the socket is the site's from then on, closed here.

    Raises:
        BrokerAppError: It does not answer in time.
    """
    command = [sys.executable, "-I", site.__file__, str(listener.fileno()), str(LATENCY_SECONDS), key]
    with open(log, "wb", opener=open_private) as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # an interrupt from the keyboard is for us, not for the site
        )
    url = url_of(listener)
    listener.close()  # while it is open here, who asks a dead site waits for an answer
    try:
        _wait(process, url, key, log)
    except BaseException:  # an interrupt, too, must leave nothing running
        process.kill()
        process.wait()
        raise


def is_alive(url: str, key: str) -> bool:
    """Return whether this very site answers there; another program on the port does not count."""
    return _ask(f"{url}{site.ALIVE}{key}")


def stop(url: str, key: str) -> None:
    """End the site and wait until nothing listens there; fine if it is gone, or if the port is another's now."""
    if not _ask(f"{url}{site.STOP}{key}"):
        return
    deadline = time.monotonic() + _STOP_SECONDS
    while _is_open(url) and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)


def _wait(process: subprocess.Popen[bytes], url: str, key: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_alive(url, key):
        if process.poll() is not None or time.monotonic() > deadline:
            raise BrokerAppError(f"site: expected an answer in {_START_SECONDS:.0f} s, got none; see {log}")
        time.sleep(_PAUSE_SECONDS)


def _ask(url: str) -> bool:
    try:
        with _opener.open(url, timeout=_ANSWER_SECONDS) as answer:
            return bool(answer.status == HTTPStatus.NO_CONTENT)
    except (OSError, HTTPException):
        return False  # nothing there, no such page, or no web site


def _is_open(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((_HOST, urlsplit(url).port or 0)) == 0
