"""Whether a broker answers, and which version it is."""

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
        url: Where it is; of several, split by ``;``, the first that lets us in is asked.

    Raises:
        BrokerNotFound: It could not be reached or refused the login; the text holds no password.
    """
    *others, last = url.split(";")
    for other in others:
        with suppress(BrokerNotFound):
            return _ask_one(other)
    return _ask_one(last)


def wait_for_version(url: str, deadline_seconds: float, check_alive: Callable[[], None]) -> str:
    """Wait until the broker lets us in, and return its version.

    Args:
        url: Where it will answer.
        deadline_seconds: How long to wait at most.
        check_alive: Called before each attempt; raises when there is nothing left to wait for.

    Raises:
        BrokerNotFound: It did not answer in time; the text says how it failed the last time.
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
    """Wait until the management API lets the user of ``amqp_url`` in, and return whether it did so in time.

    It answers 500 for some 0.1 s after AMQP has let somebody in (seen on 4.3.6).
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
            f"{connection.as_uri()}: expected a broker that lets us in, got {type(error).__name__} ({error}); "
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
