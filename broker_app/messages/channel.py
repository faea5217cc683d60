"""Blocking access to a pika channel: callbacks run inside `wait`, so callers can be written sequentially."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pika
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.connection_workflow import AMQPConnectorStackTimeout
from pika.exceptions import (
    AMQPError,
    ChannelClosedByBroker,
    ChannelWrongStateError,
    ConnectionWrongStateError,
    IncompatibleProtocolError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from broker_app.celery_integration.seams import refuse_broken_seams
from broker_app.errors import BrokerError, BrokerLocked, BrokerRefused, NotOnBroker
from broker_app.messages.pika_floats import floats_kept
from broker_app.wire.errors import error_text, server_version
from broker_app.wire.tls import verifying_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from pika.channel import Channel

    from broker_app.broker.access import Broker

BLOCKED_TIMEOUT_SECONDS = 30.0
"""Time to wait while the broker blocks publishing because of an alarm."""

ANSWER_SECONDS = 30.0
"""Time to wait for any answer."""

_REFUSALS: dict[int, type[BrokerError]] = {cls.code: cls for cls in (NotOnBroker, BrokerRefused, BrokerLocked)}
_NO_ACCESS: dict[type[BaseException], str] = {
    AMQPConnectorStackTimeout: "timed out",
    IncompatibleProtocolError: "no AMQP broker answers there",
    ProbableAccessDeniedError: "no such virtual host, or no access to it",
    ProbableAuthenticationError: "the broker refused the user or password",
}
_TURN_SECONDS = 0.5
_PIKA_LOGGER = logging.getLogger("pika")


class CallbackChannel:
    """A channel whose callbacks run only inside `wait`.

    Attributes:
        channel: The pika channel; wrap its callbacks with `waking`.
        user: The broker user of the connection.
        version: The broker's version, as numbers.
    """

    channel: Channel

    def __init__(self, connection: Any, ioloop: IOLoop) -> None:
        self._connection = connection
        self._ioloop = ioloop
        self._is_woken = False
        self._failure: BaseException | None = None
        self.user = str(connection.params.credentials.username)
        self.version = server_version(connection)
        connection.add_on_close_callback(self.waking(self._on_close))

    def waking(self, callback: Callable[..., Any]) -> Callable[..., None]:
        """Return a callback that also makes `wait` check its condition again."""

        def call(*args: Any) -> None:
            callback(*args)
            if not self._is_woken:
                self._is_woken = True
                self._ioloop.stop()

        return call

    def ask(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a method of the channel, wait for the broker's answer, and return its method frame.

        Raises:
            BrokerError: The broker closed the channel or the connection, or did not answer.
        """
        answers: list[Any] = []
        with self.refusals():
            method(*args, **options, callback=self.waking(answers.append))
        if not self.wait(lambda: bool(answers), ANSWER_SECONDS):
            raise BrokerError(
                f"the broker did not answer within {ANSWER_SECONDS:g} s; look at its alarms and its log"
            )
        return answers[0].method

    def has_queue(self, name: str) -> bool:
        """Return whether a queue exists. If not, the broker closes the channel, and a new one is opened."""
        try:
            self.ask(self.channel.queue_declare, name, passive=True)
        except NotOnBroker:
            self._failure = None
            self.open_channel()
            return False
        return True

    def wait(self, is_done: Callable[[], bool], seconds: float) -> bool:
        """Process events until ``is_done()`` is true; return False if that takes longer than ``seconds``.

        Raises:
            BrokerError: The broker closed the channel or the connection.
        """
        deadline = time.monotonic() + seconds
        while not is_done():
            self.check()
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._turn(min(left, _TURN_SECONDS))
        return True

    def check(self) -> None:
        """Check that the channel and the connection are open.

        Raises:
            BrokerError: One is closed; the class says why.
        """
        if self._failure is not None:
            raise _as_ours(self._failure) from self._failure

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Translate the use of a closed channel into the reason why it was closed."""
        try:
            yield
        except (ChannelWrongStateError, ConnectionWrongStateError) as error:
            raise _as_ours(self._failure or error) from error

    def open_channel(self) -> None:
        """Open the channel."""
        opened: list[Channel] = []
        channel = self._connection.channel(on_open_callback=self.waking(opened.append))
        channel.add_on_close_callback(self.waking(self._on_close))
        if not self.wait(lambda: bool(opened), ANSWER_SECONDS):
            raise BrokerError("the broker did not open a channel; look at its alarms and its log")
        self.channel = channel

    def close(self) -> None:
        """Close the connection; a broker that does not answer is not an error."""
        if self._connection.is_open:
            self._connection.close()
        deadline = time.monotonic() + _TURN_SECONDS * 4
        while not self._connection.is_closed and time.monotonic() < deadline:
            self._turn(_TURN_SECONDS)

    def _turn(self, seconds: float) -> None:
        timer = self._ioloop.call_later(seconds, self._ioloop.stop)
        try:
            self._ioloop.start()
        finally:
            self._is_woken = False
            self._ioloop.remove_timeout(timer)

    def _on_close(self, _subject: object, reason: BaseException) -> None:
        self._failure = self._failure or reason


@contextmanager
def open_link(app: Broker) -> Iterator[CallbackChannel]:
    """Open a dedicated connection to the first broker that answers; it is closed with the block.

    Raises:
        BrokerError: No broker answers, or the broker closed the channel.
        NotOnBroker: A queue does not exist.
    """
    if not _PIKA_LOGGER.handlers:  # without a handler Python prints pika's warnings to stderr
        _PIKA_LOGGER.addHandler(logging.NullHandler())
    refuse_broken_seams("pika")
    with floats_kept():
        ioloop = IOLoop()
        link = CallbackChannel(_connect(app, ioloop), ioloop)
        try:
            link.open_channel()
            with link.refusals():
                yield link
        finally:
            link.close()
            ioloop.close()


def _connect(app: Broker, ioloop: IOLoop) -> Any:
    found: list[Any] = []

    def done(result: Any) -> None:
        found.append(result)
        ioloop.stop()

    pika.SelectConnection.create_connection(_parameters(app), done, ioloop)
    ioloop.start()
    (connection,) = found
    if isinstance(connection, BaseException):
        ioloop.close()
        where = app.connection_for_write().as_uri()
        reason = getattr(connection, "exceptions", [connection])[-1]
        raise BrokerError(f"{where}: no access to the broker ({_words(reason)}); check broker_url") from connection
    return connection


def _words(error: BaseException) -> str:
    """Return the innermost reason in plain words; pika wraps it several times."""
    inner = getattr(error, "exception", None)
    if isinstance(inner, BaseException):
        return _words(inner)
    return _NO_ACCESS.get(type(error)) or error_text(error)


def _as_ours(error: BaseException) -> BrokerError:
    if isinstance(error, ChannelClosedByBroker):
        cls = _REFUSALS.get(error.reply_code, BrokerError)
        advice = "; run `broker-app topology declare`" if cls is NotOnBroker else ""
        return cls(f"the broker answered {error.reply_code} {error.reply_text}{advice}")
    detail = error if isinstance(error, AMQPError | OSError) else type(error).__name__
    return BrokerError(f"the connection was lost, try again: {detail!r}")


def _parameters(app: Broker) -> list[pika.ConnectionParameters]:
    """Return pika's parameters for each broker URL of the settings."""
    connection = app.connection_for_write()
    parameters = []
    for url in connection.alt or [None]:
        one = app.connection_for_write(url) if url else connection
        context = _tls(one.ssl) if one.ssl else None
        parameters.append(
            pika.ConnectionParameters(
                host=one.hostname or "localhost",
                port=one.port or (5671 if one.ssl else 5672),
                virtual_host=one.virtual_host or "/",
                credentials=pika.PlainCredentials(one.userid or "guest", one.password or "guest"),
                ssl_options=pika.SSLOptions(context, one.hostname) if context else None,
                heartbeat=max(1, int(app.settings.heartbeat_seconds)),
                blocked_connection_timeout=BLOCKED_TIMEOUT_SECONDS,
            )
        )
    return parameters


def _tls(options: Any) -> ssl.SSLContext:
    files = options if isinstance(options, dict) else {}  # Celery's broker_use_ssl
    return verifying_context(files.get("ca_certs"), files.get("certfile"), files.get("keyfile"))
