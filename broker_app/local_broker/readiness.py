"""Readiness checks: wait until a broker accepts logins, and read its version."""

from __future__ import annotations

import base64
import http
import http.client
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from amqp.exceptions import AMQPError
from kombu.connection import Connection

from broker_app.errors import BrokerNotFound

if TYPE_CHECKING:
    from collections.abc import Callable

_PAUSE_SECONDS = 0.1
_ANSWER_SECONDS = 3.0


def ask_version(url: str) -> str:
    """Log in to the broker once and return its version, such as ``4.3.6``.

    Args:
        url: The broker's URL. If there are several, separated by ``;``, the first that accepts the login is used.

    Raises:
        BrokerNotFound: The broker is unreachable or refused the login; the text does not contain the password.
    """
    *others, last = url.split(";")
    for other in others:
        with suppress(BrokerNotFound):
            return _ask_one(other)
    return _ask_one(last)


def wait_for_version(url: str, deadline_seconds: float, check_alive: Callable[[], None]) -> str:
    """Wait until the broker accepts a login, and return its version.

    Args:
        url: The broker's URL.
        deadline_seconds: Maximum wait.
        check_alive: Called before each attempt; raises if the broker has ended.

    Raises:
        BrokerNotFound: The broker did not accept a login in time; the text gives the last error.
    """
    give_up = time.monotonic() + deadline_seconds
    while True:
        check_alive()
        try:
            return ask_version(url)
        except BrokerNotFound:
            if time.monotonic() >= give_up:
                raise
        time.sleep(_PAUSE_SECONDS)


def wait_for_management(management_url: str, amqp_url: str, deadline_seconds: float) -> bool:
    """Wait until the management API accepts the user of ``amqp_url``, and return whether it did so in time.

    It returns status 500 for about 0.1 s after the first AMQP login (seen on 4.3.6).
    """
    give_up = time.monotonic() + deadline_seconds
    while not (answers := _management_answers(management_url, amqp_url)) and time.monotonic() < give_up:
        time.sleep(_PAUSE_SECONDS)
    return answers


def _ask_one(url: str) -> str:
    connection = Connection(url, connect_timeout=_ANSWER_SECONDS, heartbeat=0)
    try:
        link = connection.transport.establish_connection()
    except (OSError, AMQPError) as error:
        raise BrokerNotFound(
            f"{connection.as_uri()}: expected an accepted login, got {type(error).__name__} ({error}); "
            "start it or correct the URL"
        ) from error
    try:
        return str(link.server_properties["version"])
    finally:
        connection.transport.close_connection(link)


def _management_answers(management_url: str, amqp_url: str) -> bool:
    place, login = urlsplit(management_url), urlsplit(amqp_url)
    credentials = f"{unquote(login.username or '')}:{unquote(login.password or '')}"
    header = {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}
    link = http.client.HTTPConnection(place.hostname or "", place.port, timeout=_ANSWER_SECONDS)
    try:
        link.request("GET", "/api/overview", headers=header)
        return link.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()
