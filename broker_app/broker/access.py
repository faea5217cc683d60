"""Broker access: the `Broker` protocol that other packages depend on, and short-lived connections."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import amqp
from amqp import exceptions as amqp_errors

from broker_app.errors import BrokerError, BrokerRefused, NotOnBroker
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kombu.connection import Connection

    from broker_app.settings import Settings


class Broker(Protocol):
    """The part of an app that lower layers may use: settings and connections. `BrokerApp` implements it.

    Attributes:
        main: The app's name, or None.
        settings: The validated settings.
    """

    main: str | None

    @property
    def settings(self) -> Settings:
        """The validated settings; reads them on first use."""

    def connection_for_write(self, *args: Any, **options: Any) -> Connection:
        """Return a new, unopened connection; takes the same arguments as Celery's method."""


ANSWER_SECONDS = 60.0
"""Longest wait for an answer on such a connection; a busy broker may take long to delete a large queue."""


@contextmanager
def connect(app: Broker) -> Iterator[amqp.Connection]:
    """Open a connection for a few calls, with bounded waits, and close it afterwards.

    Raises:
        BrokerRefused: Wrong credentials.
        NotOnBroker: No such virtual host, or no access to it.
        BrokerError: Nothing answers at that address, or it is not an AMQP broker. In the block: the connection was
            lost, or an answer took longer than `ANSWER_SECONDS`.
    """
    connection = app.connection_for_write()
    where = connection.as_uri()
    try:
        connection.ensure_connection(max_retries=max(0, len(connection.alt) - 1), reraise_as_library_errors=False)
    except amqp_errors.AccessRefused as error:
        raise BrokerRefused(f"{where}: the broker refused the user or password; correct broker_url") from error
    except amqp_errors.NotAllowed as error:
        raise NotOnBroker(f"{where}: {error.reply_text}; correct broker_url or create the virtual host") from error
    except (*connection.connection_errors, amqp_errors.AMQPError) as error:
        raise BrokerError(
            f"{where}: no AMQP broker answers there ({error_text(error)}); start it or correct broker_url"
        ) from error
    with connection, cut_when_interrupted(connection.connection) as opened:
        transport = opened.transport
        transport.sock.settimeout(ANSWER_SECONDS)
        try:
            yield opened
        except (amqp_errors.ConnectionError, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, TimeoutError) and transport.connected:
                raise  # of a file, for example
            raise BrokerError(f"{where}: the connection was lost ({error_text(error)}); run it again") from error


@contextmanager
def cut_when_interrupted(connection: amqp.Connection) -> Iterator[amqp.Connection]:
    """Drop the socket on Ctrl-C, without the AMQP closing handshake.

    The interrupt may arrive in the middle of a frame. The rest of the stream is then unreadable, and waiting for
    the answer to a close would never end.
    """
    try:
        yield connection
    except (KeyboardInterrupt, SystemExit):
        connection.collect()
        raise
